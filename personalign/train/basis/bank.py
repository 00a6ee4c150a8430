"""Make the question bank: pairs of the model's own replies that a person can read and tell apart, or of known items."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from jaxtyping import Float

from personalign.basis import BankQuestion
from personalign.learn.items import match
from personalign.messages import MAX_REPLIES
from personalign.train.basis.rollouts import Rollouts
from personalign.train.log import ABOUT_ITEMS
from personalign.types import Array, Message

MAX_QUESTIONS = 1000  # about known items
MIN_WORDS, MAX_WORDS = 2, 150
MAX_REPEATED = 0.08  # of a reply's word trigrams; a short reply may repeat none
MAX_SHARED_WORDS = 0.6  # Jaccard index of the two replies' words
MIN_DISTANCE = 0.5  # in the prior's metric, as a share of the median over random pairs


def make_bank(
    prompts: Sequence[Sequence[Message]],
    rollouts: Rollouts,
    features: Float[Array, "N d"],
    shape: Float[Array, "d d"],
    seed: int,
) -> tuple[BankQuestion, ...]:
    """Choose one pair for every prompt that has one.

    Among the prompt's readable replies the pair is taken about which people drawn from the prior feel most
    strongly: the largest vᵀ·shape·v. Which side comes first is drawn by ``seed``.
    """
    rng = np.random.default_rng(seed)
    usable = usable_replies(rollouts)
    whitened = features @ np.linalg.cholesky(shape)  # distances in it are those of the prior's metric
    spread = np.median(np.linalg.norm(np.diff(whitened[rng.integers(len(whitened), size=(2000, 2))], axis=1), axis=2))
    bank = []
    for i, prompt in enumerate(prompts):
        pairs = [
            (j, k) if rng.random() < 0.5 else (k, j)
            for j, k in combinations(usable.get(i, ()), 2)
            if is_distinct(rollouts.text[j], rollouts.text[k])
        ]
        distance = [float(np.linalg.norm(whitened[j] - whitened[k])) for j, k in pairs]
        if pairs and max(distance) >= MIN_DISTANCE * spread:
            j, k = pairs[int(np.argmax(distance))]
            first, second = rollouts.text[j], rollouts.text[k]
            text = "\n".join([*(m["content"] for m in prompt), first, second])
            name = hashlib.sha256(text.encode()).hexdigest()[:16]
            bank.append(BankQuestion(name, tuple(prompt), first, second, features[j], features[k]))
    return with_others(bank, prompts, rollouts, features)


def with_others(
    bank: Sequence[BankQuestion],
    prompts: Sequence[Sequence[Message]],
    rollouts: Rollouts,
    features: Float[Array, "N d"],
) -> tuple[BankQuestion, ...]:
    """Give each question up to two other readable replies to its prompt, so that the best of all can be picked."""
    usable, place = usable_replies(rollouts), {json.dumps(list(prompt)): i for i, prompt in enumerate(prompts)}
    return tuple(
        _with_others(question, rollouts, features, usable.get(place.get(json.dumps(list(question.prompt)), -1), []))
        for question in bank
    )


def _with_others(
    question: BankQuestion, rollouts: Rollouts, features: Float[Array, "N d"], candidates: Sequence[int]
) -> BankQuestion:
    chosen: list[int] = []
    for i in candidates:
        shown = (question.first, question.second, *(rollouts.text[j] for j in chosen))
        if len(shown) < MAX_REPLIES and all(is_distinct(rollouts.text[i], text) for text in shown):
            chosen.append(i)
    texts, measured = tuple(rollouts.text[i] for i in chosen), tuple(features[i] for i in chosen)
    return replace(question, others=texts, other_features=measured)


def item_bank(items: Sequence[str], features: Float[Array, "J d"], seed: int) -> tuple[BankQuestion, ...]:
    """Pair known items at random, each about as often as any other, with two others for a pick."""
    rng = np.random.default_rng(seed)
    everything = np.ones(len(items), dtype=bool)
    pairs = match(everything, min(len(items) - 1, 2 * MAX_QUESTIONS // len(items) + 1), rng)[:MAX_QUESTIONS]
    bank = []
    for j, k in pairs.tolist():
        others = [i for i in rng.permutation(len(items)).tolist() if i not in (j, k)][: MAX_REPLIES - 2]
        texts = tuple(items[i] for i in others)
        name = hashlib.sha256("\n".join([items[j], items[k], *texts]).encode()).hexdigest()[:16]
        more = tuple(features[i] for i in others)
        bank.append(BankQuestion(name, ABOUT_ITEMS, items[j], items[k], features[j], features[k], texts, more))
    return tuple(bank)


SENTENCE_END = re.compile(r"""(?<![\s\d]\d)(?<!^\d)[.?!…]["'”’)*]*(?=\s|$)""")  # not the dot of "2. milk"


def until_last_sentence(rollouts: Rollouts) -> Rollouts:
    """The replies as a person is shown them: one that was cut off ends with its last whole sentence, if it has one."""
    text = tuple(
        reply if is_whole else reply[: max((end.end() for end in SENTENCE_END.finditer(reply)), default=0)]
        for reply, is_whole in zip(rollouts.text, rollouts.complete.tolist(), strict=True)
    )
    return replace(rollouts, text=text, complete=rollouts.complete | np.array([bool(reply) for reply in text]))


def is_readable(text: str) -> bool:
    """Whether a reply is whole, of a length that people read through, and doesn't repeat itself."""
    words = re.findall(r"[\w']+", text.lower())
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return (
        MIN_WORDS <= len(words) <= MAX_WORDS
        and text.replace("\n", "").isprintable()
        and "\N{REPLACEMENT CHARACTER}" not in text
        and re.search(r"""[.?!…]["'”’)]*$""", text.rstrip("\n")) is not None
        and len(trigrams) - len(set(trigrams)) <= MAX_REPEATED * len(trigrams)
        and not re.search(r"\b(\w+) \1\b", text.lower())
    )


def is_distinct(first: str, second: str) -> bool:
    """Whether two replies share few enough words to be seen as different."""
    a, b = (set(re.findall(r"[\w']+", text.lower())) for text in (first, second))
    return len(a & b) <= MAX_SHARED_WORDS * len(a | b)


def usable_replies(rollouts: Rollouts) -> dict[int, list[int]]:
    """The readable, different replies of each prompt."""
    seen: set[tuple[int, str]] = set()
    usable: dict[int, list[int]] = {}
    for i in np.flatnonzero(rollouts.natural & rollouts.complete):
        key = (int(rollouts.prompt[i]), rollouts.text[i])
        if key not in seen and is_readable(rollouts.text[i]):
            seen.add(key)
            usable.setdefault(key[0], []).append(int(i))
    return usable
