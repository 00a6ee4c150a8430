"""Simulated people who differ in how much they like long replies, and in how they like what only embeddings show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from zlib import crc32

import numpy as np

from personalign.learn.axes import measure_many, named_axes
from personalign.types import Message

Embed = Callable[[Sequence[Sequence[Message]], Sequence[str]], np.ndarray]
Row = tuple[str, Sequence[Message], str, str, str]  # user, prompt, a, b, choice
AXES = named_axes("assistant")
LENGTH = [axis.name for axis in AXES].index("reply_length")
WORDS = ("red", "green", "blue", "soup", "bread", "cake", "late", "early", "near", "far", "warm", "cold")
WIDTH = 24
HIDDEN = 5  # the entry of an embedding that people care about


def embed(prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> np.ndarray:
    """A random vector for each text, the same each time."""
    texts = [f"{prompt[-1]['content']}\n{reply}" for prompt, reply in zip(prompts, replies, strict=True)]
    return np.array([np.random.default_rng(crc32(text.encode())).normal(size=WIDTH) for text in texts])


def replies_to(num_prompts: int, each: int, longest: int = 24) -> list[tuple[tuple[Message, ...], list[str]]]:
    """Prompts, with replies of two words and more."""
    rng = np.random.default_rng(0)
    return [
        (
            ({"role": "user", "content": f"question {i}"},),
            [" ".join(rng.choice(WORDS, size=rng.integers(2, longest + 1))) + "." for _ in range(each)],
        )
        for i in range(num_prompts)
    ]


def answers_of(
    people: int,
    each: int,
    texts: Sequence[tuple[Sequence[Message], Sequence[str]]],
    taste: Callable[[Sequence[Message], str], np.ndarray],
    seed: int = 0,
    strength: float = 2.0,
) -> list[Row]:
    """People with normal weights on what ``taste`` gives compare random replies, as a logistic choice."""
    rng = np.random.default_rng([seed, 1])
    of = {(i, j): taste(prompt, reply) for i, (prompt, found) in enumerate(texts) for j, reply in enumerate(found)}
    values = np.array(list(of.values()))
    center, scale = values.mean(axis=0), values.std(axis=0)
    rows = []
    for person in range(people):
        weights = strength * rng.normal(size=values.shape[1])
        for _ in range(each):
            i = int(rng.integers(len(texts)))
            prompt, found = texts[i]
            left, right = rng.choice(len(found), size=2, replace=False)
            u = float(weights @ ((of[i, left] - of[i, right]) / scale))
            choice = "a" if rng.random() < 1 / (1 + np.exp(-u)) else "b"
            rows.append((f"person {person}", prompt, found[left], found[right], choice))
    assert np.isfinite(center).all()
    return rows


def length_and_hidden(prompt: Sequence[Message], reply: str) -> np.ndarray:
    """How long a reply is, and an entry of its embedding."""
    return np.array([measure_many([prompt], [reply], AXES)[0, LENGTH], embed([prompt], [reply])[0, HIDDEN]])
