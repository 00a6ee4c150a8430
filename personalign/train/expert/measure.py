"""Bits per character of held-out texts, for one model or a stack of experts on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

MAX_TOKENS = 480  # of a text; what comes after does not count
ROWS = 16
CPU = torch.device("cpu")
CausalModel = Callable[..., Any]  # input_ids [B, T] -> an output whose logits are [B, T, V]


@torch.inference_mode()
def bits_of(
    model: CausalModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]], device: torch.device = CPU
) -> float:
    """Negative log-likelihood of all tokens but the first, in bits, over characters without special tokens."""
    by_length = sorted(rows, key=len)
    nats = sum(_nats(model, by_length[i : i + ROWS], device) for i in range(0, len(rows), ROWS))
    characters = sum(len(text) for text in tokenizer.batch_decode(by_length, skip_special_tokens=True))
    return nats / characters / math.log(2)


def _nats(model: CausalModel, rows: Sequence[list[int]], device: torch.device) -> float:
    # padding stands on the right, where causal attention can't see it; the padded targets don't count
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long, device=device)
    target = torch.full_like(ids, -100)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = target[i, : len(row)] = torch.tensor(row, device=device)
    scores = model(input_ids=ids).logits[:, :-1].float()
    return float(nn.functional.cross_entropy(scores.flatten(0, 1), target[:, 1:].flatten(), reduction="sum"))
