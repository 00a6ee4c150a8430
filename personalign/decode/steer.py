"""The waist of decoding: a steer is a plain callable from logits to logits, and the engine loops over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BLOCK, FEW_BLOCKS = 64, 128  # logits in one; so few are ranked at once


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """What a steer may know of the tokens about to be drawn, one a row; b rows are computed, not all of them kept."""

    hidden: Float[Tensor, "b H"]  # the base model's, at the last position
    index: Int[Tensor, "b"]  # of the token in its reply, 0 for the first
    request: Int[Tensor, "b"]  # the number of the request a row belongs to, in order of admission
    active: Bool[Tensor, "b"]  # rows with a reply in them
    writing: Sequence[int]  # the same, for the host
    has_first: bool  # whether any active row draws its reply's first token


Steer = Callable[[Tensor, Step], Tensor]  # logits (b, V) -> logits (b, V)


class Tilt(NamedTuple):
    """What a reward does to a short list of tokens."""

    delta: Float[Tensor, "B K"]  # what is added to the logits
    kl: Float[Tensor, "B"]  # KL(q ‖ p) in nats, within the short list
    finite: Bool[Tensor, "B"]  # whether the rewards of all possible candidates are; without that the rest is void
    gained: Float[Tensor, "B"]  # Σ q Q − Σ p Q


@runtime_checkable
class Reader(Protocol):
    """A steer, or the base model, that reads prompts and replies with a model of its own."""

    def read(self, slot: int) -> int:
        """Read the next chunk of the slot's prompt; give the number of tokens, 0 when all are read."""

    def accept(self, tokens: Int[Tensor, "b"], active: Bool[Tensor, "b"]) -> None:
        """Take the drawn tokens, in the slots whose reply they belong to, as what the next step reads."""


def not_empty(logits: Float[Tensor, "B V"], step: Step | None, ends: Int[Tensor, "E"]) -> Float[Tensor, "B V"]:
    """Rule out the end as first token where the row's own first choice is another; without a step it is the first."""
    if step is not None and not step.has_first:
        return logits
    keeps = torch.isin(logits.argmax(-1), ends)
    if step is not None:
        keeps = keeps | (step.index > 0)
    return torch.where(keeps[:, None], logits, logits.index_fill(-1, ends, -math.inf))


def shortlist(logits: Float[Tensor, "B V"], num: int) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
    """The K likeliest tokens, the best first, and their ids: ``topk``, in half the time for a large V on a CPU.

    They are in the K blocks whose best are the best, or behind the last whole block.
    """
    b, size = logits.shape
    num_blocks = size // BLOCK
    if logits.device.type != "cpu" or num_blocks < FEW_BLOCKS or num >= num_blocks:
        return logits.topk(min(num, size))
    best = logits[:, : num_blocks * BLOCK].view(b, num_blocks, BLOCK).amax(-1)
    blocks = best.topk(num, sorted=False).indices
    ids = (blocks[:, :, None] * BLOCK + torch.arange(BLOCK)).flatten(1)
    ids = torch.cat([ids, torch.arange(num_blocks * BLOCK, size).expand(b, -1)], dim=1)
    top, places = logits.gather(-1, ids).topk(num)
    return top, ids.gather(-1, places)


def cut_kl(logits: Float[Tensor, "B V"], top: Float[Tensor, "B K"]) -> Float[Tensor, "B"]:
    """−log of the short list's share of all probability: what KL over the whole vocabulary adds to that within it."""
    return (logits.logsumexp(-1) - top.logsumexp(-1)).clamp_min(0.0)
