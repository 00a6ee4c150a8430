"""The waist of decoding: a steer is a plain callable from logits to logits, and the engine loops over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor


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


@runtime_checkable
class Reader(Protocol):
    """A steer, or the base model, that reads prompts and replies with a model of its own."""

    def read(self, slot: int) -> int:
        """Read the next chunk of the slot's prompt; give the number of tokens, 0 when all are read."""

    def accept(self, tokens: Int[Tensor, "b"], active: Bool[Tensor, "b"]) -> None:
        """Take the drawn tokens, in the slots whose reply they belong to, as what the next step reads."""
