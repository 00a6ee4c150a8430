"""Pairs of replies and which was preferred: as a reward model compares them, learns from them and is measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from personalign.decode.load import CausalModel, render
from personalign.decode.reward_model import last_hidden
from personalign.errors import InputError, MessageError
from personalign.train.prompts import cut
from personalign.types import Array, Ints, Message

Units = Literal["replies", "prefixes"]
EVALUATION_BATCH = 32


@dataclass(frozen=True)
class Pair:
    """Two replies to one prompt; ``target`` is P(first preferred) on each axis, NaN where it isn't known.

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
    the rest of the other's. So the last of ``places`` compares the whole replies, the others their prefixes.
    """

    first: list[int]
    second: list[int]
    places: list[tuple[int, int]]


def soft_choices(first: Float[Array, "N d"], second: Float[Array, "N d"]) -> Float[Array, "N d"]:
    """P(first preferred) by someone who cares for one axis only, with weight 1: σ(φ(first) − φ(second))."""
    return 1 / (1 + np.exp(second - first))


def comparison(base: CausalModel, pair: Pair) -> Comparison:
    """Turn a pair into tokens, as ``base`` would have written them."""
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
    places = [(min(i, last[0]), min(i, last[1])) for i in range(len(prompt) + differ, len(prompt) + longest)]
    return Comparison(prompt + first, prompt + second, places)


def _reply(base: CausalModel, prompt: Sequence[Message], text: str) -> list[int]:
    """The text's tokens and the one by which the template ends a turn, which is the last that decoding draws."""
    turn = render(base.tokenizer, [*prompt, {"role": "assistant", "content": text}], add_generation_prompt=False)
    end = [token for token in turn if token in base.ends][-1:]
    ids: list[int] = base.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids + end


def split(names: Sequence[str], share: float, seed: int, what: str) -> tuple[Int[Ints, "train"], Int[Ints, "dev"]]:
    """Indices of training and dev pairs; all pairs of one name are on one side."""
    held_out = hold_out(names, share, seed)
    if not held_out:
        raise InputError(f"the pairs are about {len(set(names))} {what}; expected at least 2, one of them for dev")
    is_dev = np.array([name in held_out for name in names])
    return np.flatnonzero(~is_dev), np.flatnonzero(is_dev)


def hold_out(names: Iterable[str], share: float, seed: int) -> set[str]:
    """Draw a share of the different names: at least one of them, and not all; nobody where there are fewer than two."""
    distinct = sorted(set(names))
    num = min(max(round(share * len(distinct)), 1), len(distinct) - 1)
    return set(cut(distinct, [num], seed)[0]) if num > 0 else set()


@dataclass(frozen=True, eq=False)
class Measured:
    """How well the reward's differences predict preferences, by axis; NaN where there are none.

    ``replies`` and ``prefixes`` are the share whose sign is right; ``prefixes`` counts every position of a pair that
    ``Comparison`` names, each pair the same. ``log_loss`` is −log P of what was preferred between whole replies, in
    nats; there a tie is half of each, and a coin has log 2 of whatever is known.
    """

    replies: Float[Array, "d"]
    prefixes: Float[Array, "d"]
    log_loss: Float[Array, "d"]


@torch.no_grad()
def measure(
    decoder: nn.Module,
    head: nn.Linear,
    comparisons: Sequence[Comparison],
    target: Float[Tensor, "N d"],
    rows: Int[Ints, "m"],
) -> Measured:
    """Measure a reward on the pairs of these rows."""
    right, right_prefixes, decided, entropy, known = torch.zeros(5, target.shape[1], device=target.device)
    for batch in np.array_split(rows, -(-len(rows) // EVALUATION_BATCH)):
        difference, pair = differences(decoder, head, [comparisons[i] for i in batch], "prefixes")
        wanted, places = target[batch], pair.bincount()
        whole = difference[places.cumsum(0) - 1]  # the last place of a pair compares the whole replies
        preferred = (wanted - 0.5).nan_to_num().sign()  # 1 the first, -1 the second, 0 neither
        right += _right(whole, preferred).sum(0)
        right_prefixes += (_right(difference, preferred[pair]) / places[pair][:, None]).sum(0)
        decided += preferred.abs().sum(0)
        entropy += _entropy(whole, wanted).sum(0)
        known += wanted.isfinite().sum(0)
    shares = (right / decided, right_prefixes / decided, entropy / known)
    return Measured(*(share.double().cpu().numpy() for share in shares))


def differences(
    decoder: nn.Module, head: nn.Linear, batch: Sequence[Comparison], units: Units
) -> tuple[Float[Tensor, "M d"], Int[Tensor, "M"]]:
    """r(first) − r(second) at the M places where the batch's pairs are compared, and whose places they are."""
    ids, mask = _right_padded([c.first for c in batch] + [c.second for c in batch], head.weight.device)
    rewards = head(last_hidden(decoder, ids, mask).float())
    places = [(i, *p) for i, c in enumerate(batch) for p in (c.places if units == "prefixes" else c.places[-1:])]
    pair, at_first, at_second = torch.tensor(places, device=rewards.device).T
    return rewards[pair, at_first] - rewards[len(batch) + pair, at_second], pair


def _right_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    tensors = [torch.tensor(row, device=device) for row in rows]
    ids = nn.utils.rnn.pad_sequence(tensors, batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in tensors], batch_first=True)
    return ids, mask


def pair_loss(
    difference: Float[Tensor, "M d"], target: Float[Tensor, "B d"], pair: Int[Tensor, "M"]
) -> Float[Tensor, ""]:
    """Cross-entropy of σ(difference), averaged over each pair's places, then over what is known of the pairs."""
    wanted = target[pair]
    weight = wanted.isfinite() / pair.bincount()[pair][:, None]
    return (weight * _entropy(difference, wanted)).sum() / weight.sum().clamp_min(1)


def _right(difference: Float[Tensor, "M d"], preferred: Float[Tensor, "M d"]) -> Float[Tensor, "M d"]:
    """1 where the preferred one has the higher reward, ½ where both have the same, 0 where none is preferred, too."""
    return preferred.abs() * (1 + preferred * difference.sign()) / 2


def _entropy(difference: Float[Tensor, "M d"], wanted: Float[Tensor, "M d"]) -> Float[Tensor, "M d"]:
    """Cross-entropy of σ(difference) in nats; 0 where nothing is known."""
    entropy = nn.functional.binary_cross_entropy_with_logits(difference, wanted.nan_to_num(), reduction="none")
    return entropy * wanted.isfinite()
