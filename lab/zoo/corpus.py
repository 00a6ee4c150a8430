"""What the bundled model learns from: dialogues as token ids, packed into rows. Read ``train.py`` next."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from lab.zoo.dialogues import Dialogue, render
from personalign.errors import InputError

TOKENS_PER_STEP = 4096
ROW_LENGTH, LONG_ROW_LENGTH, LONG_SHARE = 256, 512, 0.25  # short rows cost less attention; the last quarter is long
CHAT_SHARE = 0.1  # of the rows of base and small
SYSTEM_SHARE = 0.05
SYSTEM_TEXTS = (
    "You are a helpful assistant.",
    "You help people find and book things.",
    "Answer the user in a friendly way.",
    "You are a booking assistant. Be brief.",
)


def encode(tokenizer: PreTrainedTokenizerFast, dialogues: Iterable[Dialogue], seed: int) -> list[np.ndarray]:
    """Token ids of whole dialogues through the chat template; a few carry a system message."""
    rng = random.Random(seed)
    conversations = []
    for dialogue in dialogues:
        messages = dialogue.messages()
        if rng.random() < SYSTEM_SHARE:
            messages.insert(0, {"role": "system", "content": rng.choice(SYSTEM_TEXTS)})
        conversations.append(messages)
    texts = render(tokenizer, conversations)
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [np.asarray(row, dtype=np.int64) for row in rows]


def rows_at(
    documents: Sequence[np.ndarray], others: Sequence[np.ndarray], share: float, num_steps: int, seed: int
) -> Callable[[int], Tensor]:
    """Give the token ids [B, T] of any step; each step has a seed of its own, so a resumed run sees the same rows.

    Args:
        documents: token ids of the dialogues to learn from.
        others: token ids of dialogues mixed in.
        share: of the rows that ``others`` give; they may be empty where it is 0.
        num_steps: of the whole training: its last quarter has long rows.
        seed: of the training.

    Raises:
        InputError: when a step is asked for that the dialogues are too few for.
    """

    def rows(step: int) -> Tensor:
        length = LONG_ROW_LENGTH if step >= num_steps * (1 - LONG_SHARE) else ROW_LENGTH
        step_seed = seed * 1_000_003 + step
        picks = np.random.default_rng(step_seed).random(TOKENS_PER_STEP // length) < share
        own_rows, mixed_in = _pack(documents, length, step_seed), _pack(others, length, step_seed)
        try:
            packed = [next(mixed_in if is_other else own_rows) for is_other in picks]
        except StopIteration:
            raise InputError(
                f"{len(documents)} dialogues and {len(others)} to mix in don't fill a step's {len(picks)} rows of "
                f"{length} tokens, expected enough for any step; pass a larger corpus"
            ) from None
        return torch.from_numpy(np.stack(packed))

    return rows


def _pack(documents: Sequence[np.ndarray], row_length: int, seed: int) -> Iterator[np.ndarray]:
    """Rows of whole documents in random order, the last of a row cut, until the documents run out."""
    row: list[np.ndarray] = []
    length = 0
    for i in np.random.default_rng(seed).permutation(len(documents)):
        row.append(documents[i])
        length += len(documents[i])
        if length >= row_length:
            yield np.concatenate(row)[:row_length]
            row, length = [], 0
