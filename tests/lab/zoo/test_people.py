"""The stage that tells in the basis's card what people got: what the results say, and nothing that they don't."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lab.zoo import people
from lab.zoo.people import people_section, write_people
from lab.zoo.preferences import BANK_PLAN, ORIGIN, PLAN
from lab.zoo.workshop import Workshop
from personalign.basis import Basis
from personalign.bundled import TINY
from personalign.errors import BasisError
from personalign.train.card import write_basis_card
from personalign.train.plans import Plans
from tests.train.test_card import report, rows

WORKSHOP = Workshop(Path("nowhere"), Path("nowhere"), compile_step=False)


def result(name: str) -> dict[str, Any]:
    """A committed result, to change."""
    return json.loads((people.RESULTS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The card in a copy of the bundled folder, with a copy of the results beside it."""
    copy = shutil.copytree(TINY / "basis", tmp_path / "tiny" / "basis")
    monkeypatch.setattr(people, "TINY", copy.parent)
    monkeypatch.setattr(people, "RESULTS", shutil.copytree(people.RESULTS, tmp_path / "results"))
    return copy / "README.md"


def test_the_card_says_what_the_results_say(card: Path) -> None:
    """The committed card is what the stage makes of the committed results; other results make another one."""
    committed = card.read_bytes()
    write_people(WORKSHOP)
    assert card.read_bytes() == committed
    changed = result("people")
    changed["figures"]["agreement"] = 0.123
    (people.RESULTS / "people.json").write_text(json.dumps(changed), encoding="utf-8")
    write_people(WORKSHOP)
    assert "| 0.123 (" in card.read_text(encoding="utf-8")


def test_a_basis_made_again_gets_its_sections_back(card: Path) -> None:
    """The stage before writes a card without them; once more or twice, everything else stays as it was."""
    sections = card.read_text(encoding="utf-8").partition("## People")[2]
    basis = Basis.load(TINY / "basis")
    write_basis_card(card.parent, basis, report(basis), ORIGIN, Plans(PLAN, BANK_PLAN))
    made = card.read_text(encoding="utf-8")
    assert "## People" not in made
    for _ in range(2):
        write_people(WORKSHOP)
        assert card.read_text(encoding="utf-8").partition("## People")[2] == sections
        assert card.read_text(encoding="utf-8").startswith(made.partition("## Data")[0] + "## People")


@pytest.mark.parametrize("name", ["people", "people_fresh"])
def test_results_of_another_basis_are_refused(card: Path, name: str) -> None:
    """The command that measures again is named, and the card stays as it was."""
    other = result(name)
    other["versions"]["basis"] = "f" * 64
    (people.RESULTS / f"{name}.json").write_text(json.dumps(other), encoding="utf-8")
    before = card.read_bytes()
    with pytest.raises(BasisError, match=f"{name}.json was measured on basis ffffffffffff.*{other['command']}"):
        write_people(WORKSHOP)
    assert card.read_bytes() == before


def test_seeds_and_commands_stand_beside_their_figures() -> None:
    """A column for each range of seeds, with the command that printed it, and each median with its interval."""
    seen, fresh = result("people"), result("people_fresh")
    text = people_section(seen, fresh)
    header, _, agreement, *_ = rows(text)
    assert header[1:] == ["seeds 0–19", "seeds 600–619"]
    for cell, found in zip(agreement[1:], (seen, fresh), strict=True):
        value, low, high = (found["figures"][f"agreement{end}"] for end in ("", ".low", ".high"))
        assert cell == f"{value:.3f} ({low:.3f} to {high:.3f})"
        assert found["command"] in text


@pytest.mark.parametrize(
    ("utilities", "said"),
    [((0.5, 1.4), "2 of 2 a utility"), ((0.49, 1.4), "1 of 2 a utility"), ((-0.2, 0.1), "0 of 2 a utility")],
)
def test_the_demos_pair_is_told_as_it_is(utilities: tuple[float, float], said: str) -> None:
    """Whatever the pair got: who reaches what is asked is counted, and both are named with their figures."""
    seen = result("people")
    for row, utility in zip([row for row in seen["rows"] if row["seed"] == 0], utilities, strict=True):
        row["utility_personal"] = utility
    text = people_section(seen, result("people_fresh"))
    assert said in text
    assert all(f"{utility:+.2f}" in text for utility in utilities)
