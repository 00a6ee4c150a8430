"""What may be asked of a reply: one frozen value from the door to the engine, checked when it is made.

Every check here raises an ``InputError`` that names the argument, what it is and what was expected.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Literal, TypedDict, TypeVar, get_args

from personalign.errors import ConstraintError, InputError
from personalign.messages import check_unicode, shown

Rule = Literal["successor", "args", "blocks", "best_of"]
RULES: tuple[Rule, ...] = get_args(Rule)
SIBLING_RULES: tuple[Rule, ...] = ("blocks", "best_of")  # keep the best of what the model itself draws
MAX_SIBLINGS = 16
MAX_BLOCK = 256  # tokens
MAX_STOPS = 16
MAX_STOP = 256  # characters: all of it may have to be held back from a stream
MAX_LOGPROBS = 20
MAX_CONSTRAINT = 100_000  # characters of a schema or a regex
LARGEST = 2**31 - 1
T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """How a reply is steered, drawn and ended: temperature 0 is greedy, and the rest is off by default.

    Args:
        max_tokens: of the reply; None writes as many as fit beside the prompt.
        temperature: divides the logits of a draw.
        top_p: draws from the likeliest tokens that make up so much probability.
        seed: makes a draw repeatable; None draws a fresh one, which ``reply.seed`` gives.
        top_k: draws from the k likeliest tokens; 0 is off.
        min_p: draws from tokens at least that fraction as likely as the best.
        repetition_penalty: divides a token's logit, or multiplies a negative one, once it stands in prompt or reply
            (as Hugging Face's; 1 is off).
        presence_penalty: is taken off the logit of every token of the reply (as OpenAI's).
        frequency_penalty: is taken off once for each time the token stands in the reply (as OpenAI's).
        logit_bias: is added by token id (as OpenAI's).
        stop: strings that end the reply and are cut from its text.
        logprobs: how many of the likeliest tokens are reported beside each one drawn.
        strength: multiplies the calibrated β, or the reward's weight; 0 is plain decoding.
        rule: "successor", to tilt every token by the basis's head; "args", to ask the reward model that was opened
            about every candidate; "blocks", to keep the best of some siblings at the end of each block, or "best_of",
            at the end of the reply.
        num_siblings: how many versions "blocks" and "best_of" choose from, each in a slot; 1 is plain decoding.
        block_tokens: how many tokens "blocks" writes between two choices.
        expert: a domain expert to stack under the reward.
        alpha: the expert's weight; None means its own.
        schema: a JSON schema that the reply keeps to: a mapping, or its JSON text.
        regex: a pattern that the whole reply matches.

    Raises:
        InputError: a value has another type or is out of its range; ConstraintError for the last two.
    """

    max_tokens: int | None = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    stop: Sequence[str] = ()
    logprobs: int = 0
    strength: float = 1.0
    rule: Rule = "successor"
    num_siblings: int = 4
    block_tokens: int = 16
    expert: str | None = None
    alpha: float | None = None
    schema: Mapping[str, Any] | str | None = field(default=None, hash=False)
    regex: str | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            check_whole("max_tokens", self.max_tokens, 1, LARGEST)
        check_number("temperature", self.temperature, 0.0, 10.0)
        check_number("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0:
            raise InputError("top_p is 0, expected more than 0; for greedy decoding pass temperature=0")
        if self.seed is not None:
            check_whole("seed", self.seed, 0, 2**63 - 1)
        check_whole("top_k", self.top_k, 0, LARGEST)
        check_number("min_p", self.min_p, 0.0, 1.0)
        check_number("repetition_penalty", self.repetition_penalty, 0.1, 10.0)
        check_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        check_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        check_whole("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        check_number("strength", self.strength, 0.0, 100.0)
        check_choice("rule", self.rule, RULES)
        check_whole("num_siblings", self.num_siblings, 1, MAX_SIBLINGS)
        check_whole("block_tokens", self.block_tokens, 1, MAX_BLOCK)
        if self.has_siblings and self.temperature == 0:
            raise InputError(
                f'temperature is 0, at which all siblings of the rule "{self.rule}" are equal; expected more than 0; '
                "pass temperature=0.7, or num_siblings=1"
            )
        if self.alpha is not None:
            check_number("alpha", self.alpha, 0.0, 10.0)
        if self.expert is not None and not isinstance(self.expert, str):
            raise InputError(f"expert is {shown(self.expert)}, expected a name such as 'hotels', or None")
        object.__setattr__(self, "logit_bias", _own_bias(self.logit_bias))
        object.__setattr__(self, "stop", _own_stop(self.stop))
        _check_constraint(self.schema, self.regex)

    @classmethod
    def from_keywords(cls, keywords: Mapping[str, Any]) -> Options:
        """Make them of a caller's keywords; an unknown one is answered with the nearest."""
        names = [option.name for option in fields(cls)]
        for keyword in keywords:
            check_name("option", keyword, names)
        return cls(**keywords)

    @property
    def has_siblings(self) -> bool:
        """Whether the rule chooses, and has something to choose from."""
        return self.rule in SIBLING_RULES and self.num_siblings > 1

    @property
    def most_tokens(self) -> int:
        """``max_tokens`` of a request whose prompt is known."""
        assert self.max_tokens is not None, "how many fit is found out when the prompt is"
        return self.max_tokens

    @property
    def block(self) -> int:
        """How many tokens siblings write before the best is kept."""
        return self.block_tokens if self.rule == "blocks" else self.most_tokens

    def check_vocabulary(self, num_tokens: int) -> None:
        """Refuse a bias on a token that a vocabulary doesn't have."""
        for token in self.logit_bias:
            check_whole("a token id in logit_bias", token, 0, num_tokens - 1)


@dataclass(frozen=True)
class Capacity:
    """How much is written at once, as ``Personalign.open`` says."""

    slots: int = 32
    waiting: int = 256
    max_length: int | None = None

    def __post_init__(self) -> None:
        check_whole("slots", self.slots, 1, LARGEST)
        check_whole("waiting", self.waiting, 1, LARGEST)
        if self.max_length is not None:
            check_whole("max_length", self.max_length, 1, LARGEST)


class OptionsDict(TypedDict, total=False):
    """``Options`` as keywords of ``chat``, ``stream``, ``chat_many`` and ``shift``."""

    max_tokens: int | None
    temperature: float
    top_p: float
    seed: int | None
    top_k: int
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    stop: Sequence[str]
    logprobs: int
    strength: float
    rule: Rule
    num_siblings: int
    block_tokens: int
    expert: str | None
    alpha: float | None
    schema: Mapping[str, Any] | str | None
    regex: str | None


def check_name(kind: str, name: str, names: Sequence[str]) -> None:
    """Refuse a name that isn't known, with the nearest."""
    if name not in names:
        near = get_close_matches(name, names, 1, 0.5)
        advice = f"did you mean {near[0]}?" if near else f"expected some of {', '.join(names)}"
        raise InputError(f"found the {kind} {shown(name)}, which is unknown; {advice}")


def check_number(name: str, value: object, low: float, high: float) -> None:
    """Refuse what isn't a number in a range."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InputError(f"{name} is {shown(value)}, expected a number from {low:g} to {high:g}; pass one")


def check_whole(name: str, value: object, low: int, high: int) -> None:
    """Refuse what isn't a whole number in a range."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{name} is {shown(value)}, expected a whole number from {low} to {high}; pass one")


def check_list(name: str, values: Sequence[T]) -> Sequence[T]:
    """Refuse what isn't a list, a text above all."""
    if not isinstance(values, list | tuple):
        raise InputError(f"{name} is {shown(values)}, expected a list; put it into brackets")
    return values


def check_mapping(name: str, value: Mapping[str, float]) -> Mapping[str, float]:
    """Refuse what isn't a mapping from names to numbers."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{name} is {shown(value)}, expected a mapping from names to numbers, such as {{'length': 0}}")
    return value


def check_lone(name: str, value: str, **others: object) -> None:
    """Refuse what doesn't go with an argument that is given."""
    for other, given in others.items():
        if given:
            raise InputError(f"{name} is {shown(value)} and {other} is given, too; expected one of them; leave one out")


def check_switch(name: str, value: object) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool):
        raise InputError(f"{name} is {shown(value)}, expected True or False; pass one of them")


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """Refuse what isn't one of a few words."""
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} is {shown(value)}, expected one of {', '.join(choices)}; pass one of them")
    return value


def _own_bias(bias: object) -> Mapping[int, float]:
    if not isinstance(bias, Mapping):
        raise InputError(
            f"logit_bias is {shown(bias)}, expected a mapping from token ids to numbers, such as {{17: -5.0}}"
        )
    for token, amount in bias.items():
        check_whole("a token id in logit_bias", token, 0, LARGEST)
        check_number(f"logit_bias[{token}]", amount, -100.0, 100.0)
    return MappingProxyType(dict(bias))


def _own_stop(stop: object) -> tuple[str, ...]:
    if not isinstance(stop, list | tuple) or not all(isinstance(text, str) for text in stop):
        raise InputError(f"stop is {shown(stop)}, expected a list of strings, such as ['###']")
    if len(stop) > MAX_STOPS:
        raise InputError(f"stop holds {len(stop)} strings, expected at most {MAX_STOPS}; leave some out")
    for text in stop:
        if not 1 <= len(text) <= MAX_STOP:
            raise InputError(f"stop holds a string of {len(text):,} characters, expected 1 to {MAX_STOP}; shorten it")
        check_unicode("stop", text)
    return tuple(stop)


def _check_constraint(schema: object, regex: object) -> None:
    """Refuse both at once, and what is neither; compiling them shows whether they can be met."""
    if schema is not None and regex is not None:
        raise ConstraintError("schema and regex are both given, expected one of them; put the pattern into the schema")
    if schema is not None and not isinstance(schema, Mapping | str):
        raise ConstraintError(
            f"schema is {shown(schema)}, expected a mapping such as {{'type': 'object'}}, or its JSON text"
        )
    if regex is not None and not isinstance(regex, str):
        raise ConstraintError(f"regex is {shown(regex)}, expected a pattern such as '[0-9]+'")
    _check_size("schema", _json_text(schema) if isinstance(schema, Mapping) else schema)
    _check_size("regex", regex)


def _json_text(schema: Mapping[str, Any]) -> str:
    try:
        return json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConstraintError(
            f"the schema can't be written as JSON ({error}); expected mappings, lists, text, numbers, booleans and None"
        ) from error


def _check_size(name: str, text: object) -> None:
    if isinstance(text, str):
        if len(text) > MAX_CONSTRAINT:
            raise ConstraintError(f"the {name} has {len(text):,} characters, expected at most {MAX_CONSTRAINT:,}")
        check_unicode(f"the {name}", text)
