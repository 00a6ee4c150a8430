"""The prompts of the bundled assistant's basis, and those that only the benchmark may see."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

import lab.zoo
from tests.lab.zoo.conftest import REAL

FOLDER = Path(lab.zoo.__file__).parent / "smollm2"
PROMPTS, HELD_OUT = FOLDER / "prompts.jsonl", FOLDER / "held_out.jsonl"


def rows(path: Path) -> list[dict[str, str]]:
    """The lines of a file of prompts."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def texts(path: Path, source: str) -> list[str]:
    """The prompts of one source, in the file's order."""
    return [row["prompt"] for row in rows(path) if row["source"] == source]


@pytest.mark.parametrize(
    ("path", "counts"),
    [
        (PROMPTS, {"own": 434, "gpteacher_roleplay": 200}),
        (HELD_OUT, {"vicuna80": 80, "gpteacher_roleplay": 60}),
    ],
    ids=["prompts", "held out"],
)
def test_each_source_has_its_count(path: Path, counts: dict[str, int]) -> None:
    """The counts are those of the README, and a line has a prompt and a source, nothing else."""
    assert Counter(row["source"] for row in rows(path)) == counts
    assert all(list(row) == ["prompt", "source"] for row in rows(path))


def test_no_prompt_comes_twice() -> None:
    """Within and between the files, whatever the case and the spaces."""
    counts = Counter(" ".join(row["prompt"].casefold().split()) for path in (PROMPTS, HELD_OUT) for row in rows(path))
    assert [prompt for prompt, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("path", [PROMPTS, HELD_OUT], ids=["prompts", "held out"])
def test_no_prompt_is_about_the_bookings_of_the_tiny_model(path: Path) -> None:
    """The tiny model talks about hotels; this one is measured on other ground."""
    assert [row["prompt"] for row in rows(path) if "hotel" in row["prompt"].casefold()] == []


@pytest.mark.parametrize(
    ("path", "source", "shortest", "longest"),
    [(PROMPTS, "own", 3, 45), (PROMPTS, "gpteacher_roleplay", 8, 60), (HELD_OUT, "gpteacher_roleplay", 8, 60)],
)
def test_a_prompt_has_the_length_of_its_source(path: Path, source: str, shortest: int, longest: int) -> None:
    """Counted in words; a prompt has no space at its ends."""
    prompts = texts(path, source)
    assert [text for text in prompts if not shortest <= len(text.split()) <= longest or text != text.strip()] == []


@pytest.mark.skipif(not (REAL / "corpora" / "gpteacher_roleplay.json").exists(), reason=f"no role plays under {REAL}")
def test_foreign_prompts_are_word_for_word_those_of_their_source() -> None:
    """The role plays are in the corpus, and the Vicuna questions are all eighty in their order."""
    corpus = json.loads((REAL / "corpora" / "gpteacher_roleplay.json").read_text(encoding="utf-8"))
    role_plays = {f"{entry['instruction'].strip()}\n\n{entry['input'].strip()}".strip() for entry in corpus}
    assert {text for path in (PROMPTS, HELD_OUT) for text in texts(path, "gpteacher_roleplay")} <= role_plays
    questions = [row["question"] for row in rows(REAL / "qlora_vicuna80" / "outputs.jsonl")]
    assert texts(HELD_OUT, "vicuna80") == questions
