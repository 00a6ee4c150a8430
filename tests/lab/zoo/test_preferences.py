"""The stage that makes the bundled basis: whose words it learns from, and what it leaves in the folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lab.zoo import preferences
from lab.zoo.dialogues import Dialogue
from lab.zoo.preferences import BANK_PLAN, MAX_PROMPT_CHARACTERS, NUM_PROMPTS, PLAN, make_basis
from lab.zoo.workshop import Workshop
from personalign.basis import Basis
from personalign.bundled import TINY
from personalign.decode import load_causal
from personalign.train.plans import GRID, Calibration, HeadRecipe, Plans
from personalign.train.prompts import Prompts

NUM_DIALOGUES = 8_000
SMALL = Plans(
    replace(PLAN, replies_per_prompt=2, max_tokens=32, alphas=(0.0, 1.0)),
    replace(BANK_PLAN, replies_per_prompt=4, max_tokens=32),
    HeadRecipe(rank=8, hidden=32, epochs=2),
    Calibration(GRID[:1], num_people=1),
)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Thousands of dialogues in which every word tells where it stands: service, dialogue and turn."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "corpora").mkdir()
    with (folder / "corpora" / "sgd_dialogues.jsonl").open("w") as lines:
        for i in range(NUM_DIALOGUES):
            service = ("Hotels_1", "Buses_1", "Media_1")[i % 3]
            long = "x" * (MAX_PROMPT_CHARACTERS if i % 5 == 0 else 3)
            turns = [f"{service} {i} {turn} {long if turn else ''}" for turn in range(2 + i % 6)]
            lines.write(json.dumps({"services": [service], "turns": turns}) + "\n")
    (folder / "corpora" / "self_dialogue.jsonl").write_text('{"turns": ["Hello.", "Hi."]}\n')
    return Workshop(folder, folder / "work", compile_step=False)


@pytest.fixture(scope="module")
def prompts(workshop: Workshop) -> Prompts:
    return preferences.basis_prompts(workshop.data)


def dialogue_of(prompt: tuple) -> int:
    return int(prompt[0]["content"].split()[1])


def part_of(number: int, workshop: Workshop) -> str:
    row = json.loads((workshop.data / "corpora" / "sgd_dialogues.jsonl").read_text().splitlines()[number])
    return Dialogue((), tuple(turn.strip() for turn in row["turns"])).part


def test_nothing_that_is_tested_on_is_learnt_from(prompts: Prompts, workshop: Workshop) -> None:
    """The three lists share no dialogue, and those to learn from are none that the models never saw."""
    lists = [{dialogue_of(p) for p in part} for part in (prompts.train, prompts.held_out, prompts.dev)]
    assert [len(part) for part in lists] == [NUM_PROMPTS, 60, 32]
    assert len(set.union(*lists)) == sum(map(len, lists))
    assert not {part_of(i, workshop) for i in list(lists[0])[:50]} & {"held_out"}
    assert not {part_of(i, workshop) for i in lists[1] | lists[2]} & {"train"}


def test_hotels_have_their_share(prompts: Prompts) -> None:
    """Some of the prompts are about what the expert knows, and most about what the base knows."""
    hotels = np.mean([p[0]["content"].startswith("Hotels") for p in prompts.train])
    assert hotels == pytest.approx(preferences.HOTEL_SHARE)
    assert 0 < np.mean([p[0]["content"].startswith("Hotels") for p in prompts.held_out]) < 0.5


def test_a_prompt_ends_with_the_user_and_is_short(prompts: Prompts) -> None:
    """One, three or five turns, none cut; there are longer dialogues and such that end otherwise (the control)."""
    everything = [*prompts.train, *prompts.held_out, *prompts.dev]
    assert {len(p) for p in everything} == {1, 3, 5}
    assert {p[-1]["role"] for p in everything} == {"user"}
    assert max(sum(len(m["content"]) for m in p) for p in everything) <= MAX_PROMPT_CHARACTERS
    numbers = {dialogue_of(p) for p in everything if len(p) > 1}
    assert not any(number % 5 == 0 for number in numbers)
    assert any(dialogue_of(p) % 6 == 0 for p in everything if len(p) == 1)


def test_the_prompts_are_the_same_each_time(prompts: Prompts, workshop: Workshop) -> None:
    """Made anew from the same data they are the same, so that roll-outs of a killed run fit."""
    assert preferences.basis_prompts(workshop.data) == prompts


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundled models without their basis, and twenty-nine prompts."""
    copy = shutil.copytree(TINY, tmp_path / "tiny", ignore=shutil.ignore_patterns("basis", "prompts.jsonl"))
    spoken = [tuple(json.loads(line)) for line in (TINY / "prompts.jsonl").read_text("utf-8").splitlines()]
    monkeypatch.setattr(preferences, "TINY", copy)
    monkeypatch.setattr(preferences, "basis_prompts", lambda _: Prompts(spoken[:22], spoken[22:28], spoken[28:29]))
    return copy


@pytest.mark.slow
def test_the_stage_leaves_a_basis_its_card_and_prompts(tiny: Path, workshop: Workshop) -> None:
    """Of the bundled base, with a card that names its axes; called again it does nothing."""
    make_basis(workshop, SMALL)
    basis = Basis.load(tiny / "basis")
    basis.check_model(load_causal(tiny / "base", "cpu").fingerprints)
    assert basis.model == "tiny"
    card = (tiny / "basis" / "README.md").read_text("utf-8")
    assert all(axis.name in card for axis in basis.axes)
    shipped = [json.loads(line) for line in (tiny / "prompts.jsonl").read_text("utf-8").splitlines()]
    assert shipped == [list(prompt) for prompt in preferences.basis_prompts(workshop.data).held_out]

    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
    shutil.rmtree(workshop.work)
    make_basis(workshop, SMALL)
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*")} == before
    assert not workshop.work.exists()
