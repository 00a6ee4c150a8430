"""What goes into decoding and what comes out, and the bounds of what may go in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from personalign.basis import Steering
from personalign.decode.rewards import Guidance
from personalign.errors import InputError, ProfileError
from personalign.types import FinishReason, Message, Sampling


@dataclass(frozen=True, eq=False)
class Request:
    """One reply to write. ``alpha=None`` is the expert's own; without an expert it means nothing."""

    messages: Sequence[Message]
    sampling: Sampling = field(default_factory=Sampling)
    guidance: Guidance | None = None
    expert: str | None = None
    alpha: float | None = None


@dataclass(frozen=True)
class Piece:
    """What one step of a stream adds; a token that ends inside a character adds its text later."""

    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Generated:
    """A finished reply. ``ids`` leave out the token that ended it, ``text`` all special tokens.

    ``kl`` is the mean over the tokens drawn, the end included, of KL(steered ‖ unsteered) in nats at temperature 1.
    ``reason`` says why the reply isn't guided: "no_answers" (no guidance, or confidence 0), "strength_zero" (β or
    strength is 0), or "non_finite_reward" (from the first such token on it was written without guidance).
    """

    ids: tuple[int, ...]
    text: str
    kl: float
    guided: bool
    reason: str | None
    finish_reason: FinishReason
    prompt_tokens: int
    first_token_s: float | None = None


def reason(request: Request, steering: Steering) -> str:
    """Say why a reply isn't guided."""
    guidance = request.guidance
    if guidance is None or guidance.confidence <= 0:
        return "no_answers"
    return "non_finite_reward" if guidance.gain(steering) > 0 else "strength_zero"


def check_sampling(sampling: Sampling) -> None:
    """Refuse settings that mean nothing."""
    _within("temperature", sampling.temperature, 0.0, 10.0)
    _within("top_p", sampling.top_p, 0.0, 1.0)
    if sampling.top_p == 0:
        raise InputError("top_p is 0, expected more than 0; for greedy decoding pass temperature=0")
    _whole("max_tokens", sampling.max_tokens, 1, 2**31 - 1)
    _whole("seed", sampling.seed, 0, 2**63 - 1)


def check_alpha(alpha: float) -> None:
    """Refuse a weight of an expert that is negative, huge or not a number."""
    _within("alpha", alpha, 0.0, 10.0)


def check_strength(strength: float) -> None:
    """Refuse a multiple of β that is negative, huge or not a number."""
    _within("strength", strength, 0.0, 100.0)


def check_guidance(guidance: Guidance, num_axes: int) -> None:
    """Refuse weights of another basis or with NaN, and a strength or confidence out of range."""
    check_strength(guidance.strength)
    _within("confidence", guidance.confidence, -1e-6, 1 + 1e-6)
    if guidance.weights.shape != (num_axes,):
        raise ProfileError(
            f"the weights have shape {guidance.weights.shape}, expected ({num_axes},); use this basis's profile"
        )
    if not np.isfinite(guidance.weights).all():
        raise ProfileError("the weights hold NaN or Inf, expected finite numbers; undo the last answer or forget it")


def _within(name: str, value: object, low: float, high: float) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not low <= value <= high
    ):
        raise InputError(f"{name} is {value!r}, expected a number from {low:g} to {high:g}")


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{name} is {value!r}, expected a whole number from {low} to {high}")
