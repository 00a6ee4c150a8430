"""What an expert learns from: dialogues and texts of a file as token ids, split, and packed into rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from personalign.decode.load import CausalModel, render
from personalign.errors import InputError, MessageError
from personalign.train.prompts import cut
from personalign.train.rows import Line, read_lines

EXPECTED = '{"messages": [{"role": "user", "content": "Hello"}, …]}, {"turns": ["Hello", …]} or {"text": "…"}'
MIN_TEXTS = 10  # one to choose by, one to test on, the rest to learn from
Ids = list[int]


@dataclass(frozen=True)
class Texts:
    """Token ids of whole dialogues and texts: to learn from, to choose a checkpoint and α by, and to test on."""

    train: Sequence[Ids]
    dev: Sequence[Ids]
    held_out: Sequence[Ids]
    num_repeated: int  # left out because they came before


def read_texts(path: Path, causal: CausalModel, seed: int) -> Texts:
    """Read a file and split it: a tenth to choose by and a tenth to test on, at most 200 each.

    A JSONL file has an object a line, a dialogue or a text; any other file has a text a line.
    """
    lines = list(read_lines(path))
    texts = list({tuple(ids): ids for ids in (_ids(line, causal) for line in lines)}.values())
    if len(texts) < MIN_TEXTS:
        raise InputError(f"{path} holds {len(texts)} different texts, expected at least {MIN_TEXTS}, better thousands")
    num = min(max(len(texts) // 10, 1), 200)
    dev, held_out, train = cut(texts, [num, num], seed)
    return Texts(train, dev, held_out, len(lines) - len(texts))


def _ids(line: Line, causal: CausalModel) -> Ids:
    row = line.row(EXPECTED) if line.is_json else {"text": line.text}
    messages: list[Any]  # which render checks
    match row:
        case {"text": str(text)} if text.strip():
            ids: Ids = causal.tokenizer(text, verbose=False)["input_ids"]
            return ids + list(causal.ends[:1])
        case {"turns": list(turns)}:
            messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
        case {"messages": list(messages)}:
            pass
        case _:
            names = ", ".join(f"{name} ({type(value).__name__})" for name, value in row.items())
            raise InputError(f"{line} has {names or 'nothing in it'}; expected {EXPECTED}")
    try:
        return render(causal.tokenizer, messages, add_generation_prompt=False)
    except MessageError as error:
        raise MessageError(f"{line} isn't a dialogue to learn from: {error}") from error


def rows_at(
    texts: Sequence[Ids], num_rows: int, row_length: int, seed: int, device: torch.device
) -> Callable[[int], Tensor]:
    """Give the token ids [B, T] of any step; each step has a seed of its own, so a resumed run sees the same rows.

    A row is made of stretches of texts in random order, long texts cut into several; however few there are, it fills.
    """
    stretches = [ids[i : i + row_length] for ids in texts for i in range(0, len(ids), row_length)]

    def rows(step: int) -> Tensor:
        rng = np.random.default_rng([seed, step])
        return torch.tensor([row(rng) for _ in range(num_rows)], device=device)

    def row(rng: np.random.Generator) -> Ids:
        ids: Ids = []
        while len(ids) < row_length:
            ids += stretches[int(rng.integers(len(stretches)))]
        return ids[:row_length]

    return rows
