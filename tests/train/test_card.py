"""A basis's card: every figure that was measured stands in it, and how to open the basis."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from personalign.basis import Basis
from personalign.bundled import TINY
from personalign.train.card import Origin, Outcome, Report, table, write_basis_card
from personalign.train.plans import Plan, Plans
from personalign.types import Steering

ORIGIN = Origin("mine", "my-model", "made so", "three prompts", 'model="my-model"', "## Licence\n\nMine.\n")
PLANS = Plans(Plan(1, 8, 20, "hotels", (0.0, 0.5)), Plan(1, 8, 20))


@pytest.fixture(scope="module")
def basis() -> Basis:
    return Basis.load(TINY / "basis")


def report(basis: Basis, **changes: object) -> Report:
    """Figures that are all different."""
    outcomes = [Outcome(Steering(float(i), 3.0, 20), i + 0.125, i + 0.25, 0.0, 0.0, 0.0) for i in range(3)]
    found = Report(
        num_replies=1234,
        num_tokens=56789,
        r2=np.linspace(0.2, 0.4, basis.num_axes),
        r2_forced=np.linspace(0.6, 0.8, basis.num_axes),
        grid=outcomes,
        by_alpha={0.0: (outcomes[0], outcomes[1]), 0.5: (outcomes[0], outcomes[2])},
    )
    return replace(found, **changes)


def rows(card: str) -> list[list[str]]:
    """The cells of every line of every table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("|")]


def test_a_basis_card_tells_every_axis_setting_and_stack(tmp_path: Path, basis: Basis) -> None:
    """Each axis with its own R², each calibrated setting, each α with and without the reward, and the chosen one."""
    chosen = replace(basis, steering=Steering(24.0, 5.0, 30))
    write_basis_card(tmp_path, chosen, report(basis), ORIGIN, PLANS)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    axes = rows(card)[2 : 2 + basis.num_axes]
    assert [row[0] for row in axes] == [axis.name for axis in basis.axes]
    assert [row[3] for row in axes] == [f"{r2:.3f}" for r2 in np.linspace(0.2, 0.4, basis.num_axes)]
    assert [row[4] for row in axes] == [f"{r2:.3f}" for r2 in np.linspace(0.6, 0.8, basis.num_axes)]
    assert "mean\n0.300" in card
    settings, stacks = rows(card)[2 + basis.num_axes :][2:5], rows(card)[-2:]
    assert [row[0] for row in settings] == ["0.000", "1.000", "2.000"]
    assert stacks == [["0.000", "0.125", "1.125", "1.250"], ["0.500", "0.125", "2.125", "2.250"]]
    for said in (
        "β = 24",
        "c = 5",
        "K = 30",
        "1,234 replies",
        "56,789 tokens",
        "three prompts",
        "α = 0, 0.5 of the hotels expert",
        f"{len(basis.bank)} questions",
    ):
        assert said in " ".join(card.split())


def test_an_axis_that_never_varied_has_no_figure(tmp_path: Path, basis: Basis) -> None:
    """Its cell says so, and the mean is that of the others; where none varied there is no mean either."""
    some, none = np.linspace(0.2, 0.4, basis.num_axes), np.full(basis.num_axes, np.nan)
    some[1] = np.nan
    write_basis_card(tmp_path, basis, report(basis, r2=some, r2_forced=none), ORIGIN, PLANS)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    cells = [row[3:] for row in rows(card)[2 : 2 + basis.num_axes]]
    assert [cell[0] for cell in cells].index("–") == 1
    assert {cell[1] for cell in cells} == {"–"}
    assert f"mean\n{np.nanmean(some):.3f}" in card
    assert "(mean –)" in card
    assert "nan" not in card


def test_a_basis_card_says_how_it_is_used(tmp_path: Path, basis: Basis) -> None:
    """Title, model, licence, whose basis it is and the call that opens it; without an expert none is spoken of."""
    plans = Plans(Plan(1, 8, 20), Plan(1, 8, 20))
    write_basis_card(tmp_path, basis, report(basis), ORIGIN, plans)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# mine\n")
    assert card.endswith("Mine.\n")
    for said in ("`my-model`", 'Personalign.open(model="my-model")', basis.fingerprints.model[:12], "Other simulated"):
        assert said in card
    assert "expert" not in card


def test_a_basis_that_steers_nothing_says_so(tmp_path: Path, basis: Basis) -> None:
    """Where the calibration allowed nothing, that is the first thing said of its strength; not otherwise (control)."""
    for beta in (0.0, 8.0):
        write_basis_card(tmp_path, replace(basis, steering=Steering(beta, 3.0, 10)), report(basis), ORIGIN, PLANS)
        assert ("doesn't steer" in (tmp_path / "README.md").read_text(encoding="utf-8")) == (beta == 0)


def test_a_table_is_markdown() -> None:
    """A header, a line, and a row each; numbers with three decimals, words and counts as they are."""
    assert table([{"what": "a", "n": 3, "x": 0.12345}, {"what": "b", "n": 4, "x": 1.0}]).splitlines() == [
        "| what | n | x |",
        "|---|---|---|",
        "| a | 3 | 0.123 |",
        "| b | 4 | 1.000 |",
    ]
