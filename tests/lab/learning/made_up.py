"""A data folder of made-up people and texts, in the shape of the real sets; the words mean nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
WORDS = [one + other for one in SYLLABLES[::2] for other in SYLLABLES[::7]]


def text(rng: np.random.Generator, most: int = 60) -> str:
    words = [str(word) for word in rng.choice(WORDS, int(rng.integers(3, most)))]
    ends = rng.choice(["", ".", "!", "?", ","], len(words), p=[0.7, 0.15, 0.05, 0.05, 0.05])
    return " ".join(word + end for word, end in zip(words, ends, strict=True)).capitalize()


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def chooses(left: str, right: str, taste: float, rng: np.random.Generator) -> bool:
    """Whether somebody of a taste for length takes the left one."""
    return bool(rng.random() < 1 / (1 + np.exp(-taste * (len(left) - len(right)) / 60)))


def make_ukp(data: Path, rng: np.random.Generator, num_people: int = 40, num_votes: int = 24) -> None:
    arguments = [{"id": f"a{i}", "topic": f"t{i % 8}", "text": text(rng)} for i in range(80)]
    votes = []
    for person in range(num_people):
        for n in range(num_votes):
            one, other = rng.choice(10, 2, replace=False) * 8 + n % 8
            is_left = chooses(arguments[one]["text"], arguments[other]["text"], 1.0, rng)
            choice = "tie" if rng.random() < 0.2 else "a" if is_left else "b"
            votes.append(
                {"user": f"w{person}", "topic": f"t{n % 8}", "a": f"a{one}", "b": f"a{other}", "choice": choice}
                | {"time": f"2016-01-{n % 28 + 1:02d}"}
            )
    write(data / "ukpconvarg1" / "arguments.jsonl", arguments)
    write(data / "ukpconvarg1" / "votes.jsonl", votes)


def make_prism(data: Path, rng: np.random.Generator, num_people: int = 30) -> None:
    turns = []
    for person in range(num_people):
        for _ in range(5):
            responses = [text(rng) for _ in range(3)]
            order = sorted(range(3), key=lambda i: -len(responses[i]))
            pairs = [[order[0], order[1]], [order[0], order[2]]]
            turns.append(
                {"user": f"p{person}", "prompt": text(rng, 10), "responses": responses} | {"preferred_pairs": pairs}
            )
    write(data / "prism_partial" / "interactions.jsonl", turns)


def make_pandalm(data: Path, rng: np.random.Generator, num_pairs: int = 400) -> None:
    pairs = []
    for i in range(num_pairs):
        one, other = text(rng), text(rng)
        said = {f"annotator{k}": 1 if chooses(one, other, 2.0, rng) else 2 for k in (1, 2, 3)}
        pairs.append({"idx": i, "instruction": text(rng, 8), "input": "", "response1": one, "response2": other} | said)
    path = data / "pandalm_testset" / "testset-v1.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(pairs), encoding="utf-8")


def make_jester(data: Path, rng: np.random.Generator, num_people: int = 80, num_jokes: int = 100) -> None:
    funny = rng.normal(size=num_jokes) * 3
    tastes = rng.normal(size=(num_people, 2)) @ rng.normal(size=(2, num_jokes)) * 3
    ratings = np.clip(funny + tastes + rng.normal(size=tastes.shape) * 2, -10, 10)
    names = ",".join(["user", *(f"j{i + 1}" for i in range(num_jokes))])
    rows = [
        ",".join([f"u{i}", *(f"{r:.2f}" if i % 2 or rng.random() < 0.5 else "" for r in row)])
        for i, row in enumerate(ratings)
    ]
    path = data / "jester5k" / "ratings.csv"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join([names, *rows]) + "\n", encoding="utf-8")


def make_alpaca(data: Path, rng: np.random.Generator, num_prompts: int = 60, num_models: int = 4) -> None:
    rows = [
        {
            "instruction": text(rng, 6),
            "outputs": {
                f"m{k}": text(rng, 120) + " thank you, perhaps haha" * int(rng.integers(2)) for k in range(num_models)
            },
        }
        for _ in range(num_prompts)
    ]
    write(data / "alpaca_eval" / "outputs.jsonl", rows)


MAKERS = {
    "ukpconvarg1": make_ukp,
    "prism_partial": make_prism,
    "pandalm_testset": make_pandalm,
    "jester5k": make_jester,
    "alpaca_eval": make_alpaca,
}  # fmt: skip


def make(data: Path, names: Sequence[str] = tuple(MAKERS)) -> Path:
    """Write the named sets."""
    for seed, name in enumerate(MAKERS):
        if name in names:
            MAKERS[name](data, np.random.default_rng(seed))
    return data
