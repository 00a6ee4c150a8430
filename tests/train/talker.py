"""A tiny model that was taught a few dozen replies: enough to roll out, to ask about and to steer."""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from personalign.train.loop import Recipe, train
from personalign.types import Message
from tests.decode.tiny_models import network, saved, tokenizer

SUBJECTS = ("cat", "hat", "mat", "car", "film", "song", "bus", "room", "tea", "cab", "show", "seat", "bike", "meal")
REPLIES = (
    "Yes.",
    "Where to?",
    "Sure, I found 3 of them!",
    "The {} is nice, and it costs 20 dollars.",
    "I can book the {} or another one. Which one do you like?",
    "Thank you, please confirm: the {} for 2 at 5 pm in Paris.",
    "It's great! You'll love this {}.",
    "No {} today.",
)
ROW = 65


def prompt(subject: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": f"a {subject}"},)


def teach(folder: Path, family: str = "llama") -> Path:
    """Save a model that answers every subject with any of the replies."""
    words = tokenizer()
    dialogues = [
        [*prompt(subject), {"role": "assistant", "content": reply.format(subject)}]
        for subject, reply in product(SUBJECTS, REPLIES)
    ]
    texts = words.apply_chat_template(dialogues, tokenize=False)
    rows = words(texts, add_special_tokens=False, padding="max_length", max_length=ROW)["input_ids"]
    assert max(map(len, rows)) == ROW, "every reply fits"

    def rows_at(step: int) -> Tensor:
        return torch.tensor(random.Random(step).sample(rows, 12))

    model = network(family, 5)
    train(model, rows_at, Recipe(num_steps=150, learning_rate=2e-2, warmup_steps=10), folder / "work", "talker")
    return saved(folder / "talker", model, words)
