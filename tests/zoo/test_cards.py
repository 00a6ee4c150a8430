"""The cards: every figure that was measured stands in them, beside where the data comes from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from personalign.basis import Basis, Steering
from personalign.bundled import TINY
from personalign.train.bootstrap import Report
from personalign.train.calibrate import Outcome
from personalign.train.causal import Recipe
from personalign.zoo.cards import closed, table, write_basis_card, write_expert_card, write_model_card
from personalign.zoo.corpus import TOKENS_PER_STEP

BASE, DIRECT = {"hotels": 1.0, "others": 0.5}, {"hotels": 0.6, "others": 0.7}
SWEEP = {0.5: {"hotels": 0.9, "others": 0.51}, 1.0: {"hotels": 0.7, "others": 0.533}}


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


def test_a_models_card_tells_its_size_training_and_bits(tmp_path: Path) -> None:
    """The number of parameters, steps and tokens, and both domains' bits, each as it was given."""
    model, recipe = nn.Linear(1000, 20, bias=False), Recipe(num_steps=1500, learning_rate=1e-3, seed=7)
    write_model_card(tmp_path, "small", model, recipe, {"others": 0.6543, "hotels": 0.9876})
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# tiny/small\n")
    for said in ("0.02 M parameters", "1,500 steps", f"{1500 * TOKENS_PER_STEP / 1e6:.1f} M tokens", "seed 7"):
        assert said in card
    assert "--stage small" in card
    assert [row[1] for row in rows(card)[2:]] == ["0.654", "0.988"]


def test_a_share_of_the_gap_is_zero_for_base_and_one_for_direct_tuning() -> None:
    """Half-way is a half, and worse than base is less than nothing."""
    assert closed(BASE, DIRECT, BASE) == 0
    assert closed(BASE, DIRECT, DIRECT) == 1
    assert closed(BASE, DIRECT, {"hotels": 0.8}) == pytest.approx(0.5)
    assert closed(BASE, DIRECT, {"hotels": 1.2}) == pytest.approx(-0.5)


def test_an_experts_card_tells_the_sweep_beside_its_controls(tmp_path: Path) -> None:
    """A row for base, direct tuning and each α, with what it closes; the same figures stand in the JSON, exactly."""
    expert = nn.ModuleDict({"lora_A": nn.Linear(100, 200, bias=False), "base": nn.Linear(300, 300)})
    recipe = Recipe(num_steps=40, learning_rate=1e-3)
    write_expert_card(tmp_path, expert, recipe, {"base": BASE, "direct": DIRECT}, SWEEP, alpha=0.5)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    _, _, base, direct, half, whole = rows(card)
    assert base == ["base", "1.000", "", "0.500"]
    assert direct[1:] == ["0.600", "100 %", "0.700"]
    assert half == ["base + 0.5 (hotels − small)", "0.900", "25%", "0.510"]
    assert whole == ["base + 1.0 (hotels − small)", "0.700", "75%", "0.533"]
    assert "A LoRA of 0.02 M parameters" in card  # not counting the model that it adapts
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["alpha"] == 0.5
    assert figures["control"] == {"base": BASE, "direct": DIRECT}
    assert {float(alpha): bits for alpha, bits in figures["sweep"].items()} == SWEEP


def test_a_basis_card_tells_every_axis_setting_and_stack(tmp_path: Path, basis: Basis) -> None:
    """Each axis with its own R², each calibrated setting, each α with and without the reward, and the chosen one."""
    chosen = basis.with_steering(Steering(24.0, 5.0, 30))
    write_basis_card(tmp_path, chosen, report(basis))
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    axes = rows(card)[2 : 2 + basis.num_axes]
    assert [row[0] for row in axes] == [axis.name for axis in basis.axes]
    assert [row[3] for row in axes] == [f"{r2:.3f}" for r2 in np.linspace(0.2, 0.4, basis.num_axes)]
    assert [row[4] for row in axes] == [f"{r2:.3f}" for r2 in np.linspace(0.6, 0.8, basis.num_axes)]
    assert "mean\n0.300" in card
    settings, stacks = rows(card)[2 + basis.num_axes :][2:5], rows(card)[-2:]
    assert [row[0] for row in settings] == ["0.000", "1.000", "2.000"]
    assert stacks == [["0.000", "0.125", "1.125", "1.250"], ["0.500", "0.125", "2.125", "2.250"]]
    for said in ("β = 24", "c = 5", "K = 30", "1,234 replies", "56,789 tokens", f"{len(basis.bank)} questions"):
        assert said in " ".join(card.split())


def test_an_axis_that_never_varied_has_no_figure(tmp_path: Path, basis: Basis) -> None:
    """Its cell says so, and the mean is that of the others; where none varied there is no mean either."""
    some, none = np.linspace(0.2, 0.4, basis.num_axes), np.full(basis.num_axes, np.nan)
    some[1] = np.nan
    write_basis_card(tmp_path, basis, report(basis, r2=some, r2_forced=none))
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    cells = [row[3:] for row in rows(card)[2 : 2 + basis.num_axes]]
    assert [cell[0] for cell in cells].index("–") == 1
    assert {cell[1] for cell in cells} == {"–"}
    assert f"mean\n{np.nanmean(some):.3f}" in card
    assert "(mean –)" in card
    assert "nan" not in card


def test_a_card_links_to_the_licence_from_where_it_lies(tmp_path: Path, basis: Basis) -> None:
    """The expert's card lies a folder deeper than the others; each finds the one licence."""
    (tmp_path / "LICENSE").touch()
    base, hotels, made = (tmp_path / name for name in ("base", "experts/hotels", "basis"))
    for folder in (base, hotels, made):
        folder.mkdir(parents=True)
    recipe = Recipe(num_steps=1, learning_rate=1e-3)
    write_model_card(base, "base", nn.Linear(1, 1), recipe, BASE)
    write_expert_card(hotels, nn.Linear(1, 1), recipe, {"base": BASE, "direct": DIRECT}, SWEEP, 0.5)
    write_basis_card(made, basis, report(basis))
    for folder in (base, hotels, made):
        link = (folder / "README.md").read_text(encoding="utf-8").partition("(see `")[2].partition("`")[0]
        assert (folder / link).is_file()
    assert not (base / "../../LICENSE").is_file()  # control: one folder off would not be found


def test_a_table_is_markdown() -> None:
    """A header, a line, and a row each; numbers with three decimals, words and counts as they are."""
    assert table([{"what": "a", "n": 3, "x": 0.12345}, {"what": "b", "n": 4, "x": 1.0}]).splitlines() == [
        "| what | n | x |",
        "|---|---|---|",
        "| a | 3 | 0.123 |",
        "| b | 4 | 1.000 |",
    ]
