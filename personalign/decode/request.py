"""What goes into decoding and what comes out, and the bounds of what may go in."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from personalign.errors import ProfileError
from personalign.options import SIBLING_RULES, Options, check_number
from personalign.types import Guidance, Message, Reason, Reply, Steering, TokenLogprobs

DEFAULT = Options()
MAX_SEED = 2**53  # of those drawn for a request: a number that JSON carries exactly


@dataclass(frozen=True, eq=False)
class Request:
    """One reply to write. Without a seed it gets one of its own."""

    messages: Sequence[Message]
    options: Options = field(default_factory=Options)
    guidance: Guidance | None = None
    user: str = ""  # whose turn it takes up; "" takes turns on its own
    has_basis: bool = True  # whether there is one that people could be guided by
    is_paused: bool = False  # whether the person wants no guidance for now

    def __post_init__(self) -> None:
        if self.options.seed is None:
            object.__setattr__(self, "options", replace(self.options, seed=secrets.randbelow(MAX_SEED)))

    @property
    def is_shadow(self) -> bool:
        """Whether guidance is only accounted for."""
        return self.guidance is not None and self.guidance.is_shadow


@dataclass(frozen=True)
class Piece:
    """What one step of a stream adds; a token that ends inside a character adds its text later."""

    ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()  # of the ids, where they were asked for


@dataclass(frozen=True)
class Account:
    """What guidance did to a reply, or in shadow would have done: sums over its tokens, of what ``Reply`` averages."""

    guided: bool = False
    is_sound: bool = True  # no reward was NaN or infinite
    kl: float = 0.0
    tilt_kl: float = 0.0
    changed: float = 0.0
    gained: float = 0.0


def reply_of(request: Request, account: Account, steering: Steering, num_drawn: int, **written: Any) -> Reply:  # noqa: ANN401 - the other fields of a reply
    """The reply to a request: what guidance did to its tokens, and what was ``written``."""
    guidance, options = request.guidance, request.options
    is_shadow = account.guided and request.is_shadow
    guided = account.guided and not is_shadow
    why: Reason | None = "population" if guidance is not None and guidance.is_population else None
    if not guided:
        strength = gain(guidance, steering, options)
        state = {"is_sound": account.is_sound, "is_shadow": is_shadow}
        why = reason(guidance, strength, has_basis=request.has_basis, is_paused=request.is_paused, **state)
    return Reply(
        guided=guided,
        reason=why,
        revision=guidance.revision if guidance else 0,
        kl=account.kl / num_drawn,
        tilt_kl=account.tilt_kl / num_drawn,
        changed=account.changed / num_drawn,
        gained=account.gained / num_drawn,
        seed=options.seed if options.temperature > 0 else None,
        **written,
    )


def gain(guidance: Guidance | None, steering: Steering, options: Options = DEFAULT) -> float:
    """β·strength, what a person's reward is multiplied by, or the strength by other rules; 0 means plain decoding.

    A choice goes by the sign alone, and isn't one where there is nothing to choose from.
    """
    beta = steering.beta if options.rule == "successor" else 1.0
    if options.rule in SIBLING_RULES and not options.has_siblings:
        beta = 0.0
    return 0.0 if guidance is None else beta * guidance.is_personal * guidance.strength


def reason(
    guidance: Guidance | None,
    gain: float,
    *,
    is_sound: bool,
    is_shadow: bool = False,
    has_basis: bool = True,
    is_paused: bool = False,
) -> Reason:
    """Say why a reply isn't guided.

    ``is_sound`` says that no reward was NaN or infinite, ``is_shadow`` that otherwise it would have been guided.
    """
    if guidance is None and not has_basis:
        return "no_basis"
    if is_shadow:
        return "shadow"
    if not is_sound:
        return "non_finite_reward"
    if guidance is None:
        return "paused" if is_paused else "no_answers"
    if not guidance.is_personal:
        return "nothing_personal"
    return "forgotten" if gain > 0 else "strength_zero"


def check_guidance(guidance: Guidance, num_axes: int) -> None:
    """Refuse weights of another basis or with NaN, and a strength out of range."""
    check_number("strength", guidance.strength, 0.0, 100.0)
    if guidance.weights.shape != (num_axes,):
        raise ProfileError(
            f"the weights have shape {guidance.weights.shape}, expected ({num_axes},); use this basis's profile"
        )
    if not np.isfinite(guidance.weights).all():
        raise ProfileError(
            "the weights hold NaN or Inf, expected finite numbers; undo the last answer, or call forget(user)"
        )
