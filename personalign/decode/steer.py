"""The waist of decoding: a steer is a plain callable from logits to logits, and the loop loops over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """What a steer may know of the token about to be drawn."""

    index: int  # 0 for the first token of the replies
    hidden: Float[Tensor, "B H"]  # the base model's, at the last position
    tokens: Int[Tensor, "B"] | None  # those drawn in the step before; None at the first
    active: Bool[Tensor, "B"]  # rows whose reply hasn't ended; the others are computed but not kept


Steer = Callable[[Tensor, Step], Tensor]  # logits (B, V) -> logits (B, V)
