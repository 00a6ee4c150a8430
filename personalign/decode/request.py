"""What goes into decoding and what comes out, and the bounds of what may go in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from personalign.errors import InputError, ProfileError
from personalign.types import Guidance, Message, Sampling, Steering

MAX_STOPS, MAX_STOP = 16, 256  # strings, and characters of each
MAX_LOGPROBS = 20


@dataclass(frozen=True, eq=False)
class Request:
    """One reply to write. ``alpha=None`` is the expert's own; without an expert it means nothing.

    ``rule`` says what gives the rewards: the basis's successor head, or for "args" the reward model. The
    reply keeps to a JSON ``schema`` (a mapping, or its JSON text) or matches a ``regex`` as a whole, if one of
    them is given.
    """

    messages: Sequence[Message]
    sampling: Sampling = field(default_factory=Sampling)
    guidance: Guidance | None = None
    expert: str | None = None
    alpha: float | None = None
    schema: Mapping[str, object] | str | None = None
    regex: str | None = None
    rule: str = "successor"
    user: str = ""  # whose turn it takes up; "" is somebody of their own

    @property
    def is_shadow(self) -> bool:
        """Whether guidance is only accounted for."""
        return self.guidance is not None and self.guidance.is_shadow


@dataclass(frozen=True)
class Piece:
    """What one step of a stream adds; a token that ends inside a character adds its text later."""

    ids: tuple[int, ...]
    text: str


def gain(guidance: Guidance | None, steering: Steering) -> float:
    """β·ρ·strength, what a person's reward is multiplied by; 0 means plain decoding."""
    return 0.0 if guidance is None else steering.beta * max(0.0, guidance.confidence) * guidance.strength


def reason(request: Request, steering: Steering, *, is_sound: bool, is_shadow: bool) -> str:
    """Say why a reply isn't guided.

    ``is_sound`` says that no reward was NaN or infinite, ``is_shadow`` that otherwise it would have been guided.
    """
    if is_shadow:
        return "shadow"
    guidance = request.guidance
    if not is_sound:
        return "non_finite_reward"
    if guidance is None or guidance.confidence <= 0:
        return "no_answers" if guidance is None or guidance.is_personal else "nothing_personal"
    is_off = guidance.strength <= 0 if request.rule == "args" else gain(guidance, steering) <= 0
    return "strength_zero" if is_off else "forgotten"


def check_sampling(sampling: Sampling, num_tokens: int = 2**31 - 1) -> None:
    """Refuse settings that mean nothing; ``num_tokens`` is how many ids the vocabulary has."""
    _within("temperature", sampling.temperature, 0.0, 10.0)
    _within("top_p", sampling.top_p, 0.0, 1.0)
    if sampling.top_p == 0:
        raise InputError("top_p is 0, expected more than 0; for greedy decoding pass temperature=0")
    _within("min_p", sampling.min_p, 0.0, 1.0)
    _whole("top_k", sampling.top_k, 0, 2**31 - 1)
    _whole("max_tokens", sampling.max_tokens, 1, 2**31 - 1)
    _whole("seed", sampling.seed, 0, 2**63 - 1)
    _within("repetition_penalty", sampling.repetition_penalty, 0.1, 10.0)
    _within("presence_penalty", sampling.presence_penalty, -2.0, 2.0)
    _within("frequency_penalty", sampling.frequency_penalty, -2.0, 2.0)
    _whole("logprobs", sampling.logprobs, 0, MAX_LOGPROBS)
    _check_bias(sampling.logit_bias, num_tokens)
    _check_stop(sampling.stop)


def _check_bias(bias: object, num_tokens: int) -> None:
    if not isinstance(bias, Mapping):
        raise InputError(f"logit_bias is {bias!r}, expected a mapping from token ids to numbers, such as {{17: -5.0}}")
    for token, amount in bias.items():
        _whole("a token id in logit_bias", token, 0, num_tokens - 1)
        _within(f"logit_bias[{token}]", amount, -100.0, 100.0)


def _check_stop(stop: object) -> None:
    if not isinstance(stop, tuple) or not all(isinstance(text, str) for text in stop):
        raise InputError(f"stop is {stop!r}, expected a tuple of strings, such as ('###',)")
    if len(stop) > MAX_STOPS:
        raise InputError(f"stop holds {len(stop)} strings, expected at most {MAX_STOPS}; leave some out")
    if (longest := max(map(len, stop), default=0)) > MAX_STOP:
        raise InputError(
            f"stop holds a string of {longest} characters, expected at most {MAX_STOP}; its beginning will do"
        )
    if "" in stop:
        raise InputError("stop holds an empty string, which every reply begins with; expected text; leave it out")


def check_constraint(schema: object, regex: object) -> None:
    """Refuse a schema and a regex at once, and what is neither; whether they can be met is found by compiling them."""
    if schema is not None and regex is not None:
        raise InputError("schema and regex are both given, expected one of them; put the pattern into the schema")
    if schema is not None and not isinstance(schema, Mapping | str):
        raise InputError(f"schema is {schema!r}, expected a mapping such as {{'type': 'object'}}, or its JSON text")
    if regex is not None and not isinstance(regex, str):
        raise InputError(f"regex is {regex!r}, expected a pattern such as '[0-9]+'")


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
        raise ProfileError(
            "the weights hold NaN or Inf, expected finite numbers; undo the last answer, or call forget(user)"
        )


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
