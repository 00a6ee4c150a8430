"""Pairs of replies and which was preferred, as a reward model learns from them. Read ``reward.py`` next."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from personalign.decode.load import CausalModel, render
from personalign.errors import InputError, MessageError
from personalign.train.split import hold_out
from personalign.types import Message


@dataclass(frozen=True)
class Pair:
    """Two replies to one prompt; ``target`` is P(first preferred) on each axis, NaN where nobody knows.

    By default the first one was chosen, on the only axis there is.
    """

    prompt: tuple[Message, ...]
    first: str
    second: str
    target: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, eq=False)
class Comparison:
    """A pair in tokens, prompts included, and the positions at which its rows are compared.

    Position by position from the first one that differs; where one row has ended, its last position is compared with
    the rest of the other's. So the last entry of ``at`` compares the whole replies, the others their prefixes.
    """

    first: list[int]
    second: list[int]
    at: list[tuple[int, int]]


def soft_choices(
    first: Float[NDArray[np.float64], "N d"], second: Float[NDArray[np.float64], "N d"]
) -> Float[NDArray[np.float64], "N d"]:
    """P(first preferred) by someone who cares for one axis only, with weight 1: σ(φ(first) − φ(second))."""
    return 1 / (1 + np.exp(second - first))


def comparison(base: CausalModel, pair: Pair) -> Comparison:
    """Turn a pair into tokens, as ``base`` would have written them.

    Raises:
        MessageError: a reply is blank, both are the same, or they don't fit into the model's context.
    """
    first, second = (_reply(base, pair.prompt, text) for text in (pair.first, pair.second))
    if first == second:
        raise MessageError(f"{pair.first!r} is compared with itself; expected two replies; leave the pair out")
    prompt, longest = render(base.tokenizer, pair.prompt), max(len(first), len(second))
    if base.context is not None and len(prompt) + longest > base.context:
        raise MessageError(
            f"prompt and reply come to {len(prompt) + longest} tokens, and {base.name} reads at most {base.context}; "
            "shorten them or leave the pair out"
        )
    differ = next(i for i in range(longest) if first[: i + 1] != second[: i + 1])
    last = [len(prompt) + len(reply) - 1 for reply in (first, second)]
    at = [(min(i, last[0]), min(i, last[1])) for i in range(len(prompt) + differ, len(prompt) + longest)]
    return Comparison(prompt + first, prompt + second, at)


def _reply(base: CausalModel, prompt: Sequence[Message], text: str) -> list[int]:
    """The text's tokens and the one by which the template ends a turn, which is the last that decoding draws."""
    turn = render(base.tokenizer, [*prompt, {"role": "assistant", "content": text}], add_generation_prompt=False)
    end = [token for token in turn if token in base.ends][-1:]
    ids: list[int] = base.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids + end


def split(
    pairs: Sequence[Pair], dev_share: float, seed: int
) -> tuple[Int[NDArray[np.int64], "train"], Int[NDArray[np.int64], "dev"]]:
    """Indices of training and dev pairs; all pairs of one prompt are on one side.

    Raises:
        InputError: there are fewer than two prompts.
    """
    prompts = [json.dumps(pair.prompt) for pair in pairs]
    distinct = sorted(set(prompts))
    if len(distinct) < 2:
        raise InputError(f"the pairs are about {len(distinct)} prompts; expected at least 2, one of them for dev")
    held_out = hold_out(distinct, dev_share, seed)
    is_dev = np.array([prompt in held_out for prompt in prompts])
    return np.flatnonzero(~is_dev), np.flatnonzero(is_dev)
