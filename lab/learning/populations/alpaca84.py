"""Eighty-four simulated tastes over real replies (PReF's population, arXiv 2503.06358): the truth is known.

A taste is two of seven attributes of a text, each wanted more or less; utility is 1.5 times their sum, in standard
deviations, and people answer by a logistic. Sixty people answer 400 pairs of one half of the prompts; the other
twenty-four are new, are asked from 600 pairs of that half and judged on 500 of the other. The attributes are hidden
among the features: noise of ½ is added to them, word statistics stand beside them, and all is rotated at random.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from lab.learning.populations.asked import NewPerson, Population, choices
from lab.learning.populations.votes import read_lines
from personalign.bundled import TINY
from personalign.decode import load_causal
from personalign.decode.embed import embed_replies
from personalign.types import Message

MUCH = 1 / 3  # of the answers are "much better", where that is offered
STRENGTH = 1.5  # utility of a standard deviation of a wanted attribute
HIDING = 0.5  # standard deviation of the noise on the attributes
SEEN, SEEN_TESTS, TESTS = 60, 300, 500
WORD_AXES = 32
ENCODED, ENCODED_TEXT = 64, 400  # dimensions of an encoder's that are kept, and characters that it reads

Taste = tuple[tuple[int, int], tuple[int, int]]  # attribute and sign, twice


@dataclass(frozen=True)
class Sizes:
    """How much is drawn: PReF's protocol by default."""

    answers: int = 400  # of each one who is seen
    pool: int = 600  # pairs that new people may be asked about
    new: int = 24  # people


@dataclass(frozen=True)
class Grades:
    """Who says "much better", of the pairs that are furthest apart in their eyes, a third of those of the people seen.

    ``spread`` is the standard deviation of the logarithm of a person's own cut over everybody's.
    """

    seen: bool = False
    new: bool = False
    spread: float = 0.0


@dataclass(frozen=True, eq=False)
class Replies:
    """Every model's reply to every prompt, with its attributes and word statistics, standardised."""

    prompts: Sequence[str]  # of each reply
    texts: Sequence[str]
    attributes: Float[NDArray[np.float64], "prompts models attributes"]
    words: Float[NDArray[np.float64], "prompts models words"]

    def encoded(self) -> Float[NDArray[np.float64], "prompts models dims"]:
        """What the smaller bundled model makes of how each reply begins: features that no attribute was put into."""
        asked: list[list[Message]] = [[{"role": "user", "content": prompt[:ENCODED_TEXT]}] for prompt in self.prompts]
        texts = [text[:ENCODED_TEXT] for text in self.texts]
        states = embed_replies(load_causal(TINY / "small", "cpu"), asked, texts)
        reduced = PCA(min(ENCODED, *states.shape), svd_solver="covariance_eigh").fit_transform(states)
        return _standardise(reduced).reshape(*self.words.shape[:2], -1)


def load(data: Path) -> Replies:
    """Read the replies of the models that answered every prompt, and measure them.

    Raises:
        MissingData: the folder doesn't hold the set.
    """
    lines = list(read_lines(data / "alpaca_eval" / "outputs.jsonl"))
    rows = [line["outputs"] for line in lines]
    models = sorted(set.intersection(*[set(row) for row in rows]))
    texts = [row[model] or "" for row in rows for model in models]
    prompts = [line["instruction"] for line in lines for _ in models]
    shape = (len(rows), len(models), -1)
    attributes = _standardise(np.array([_attributes(text) for text in texts])).reshape(shape)
    return Replies(prompts, texts, attributes, _standardise(_word_axes(texts)).reshape(shape))


def population(
    replies: Replies,
    seed: int,
    unseen: int | None = None,
    encoded: Float[NDArray[np.float64], "prompts models dims"] | None = None,
    grades: Grades = Grades(),
    sizes: Sizes = Sizes(),
) -> Population:
    """Draw who is seen, what they and the new ones are shown, and what they say.

    The order of draws is the protocol's, so that a seed's people are the same wherever it is followed. ``unseen`` is
    an attribute that none of the people seen care about, while all new ones do. ``encoded`` takes the features' place.
    """
    rng = np.random.default_rng(seed)
    features = _features(replies, rng)
    features = features if encoded is None else encoded
    num_prompts = len(features)
    tastes = _tastes()
    seen, others = _split(rng.permutation(len(tastes)), unseen)
    new = others[: sizes.new]
    half = num_prompts // 2 + 1
    shown = _Shown(replies.attributes, rng)
    train, test = np.arange(half), np.arange(half, num_prompts)
    answers = [shown.answer(taste, shown.pairs(train, sizes.answers)) for taste in seen]
    _ = [shown.answer(taste, shown.pairs(test, SEEN_TESTS)) for taste in seen]  # the protocol draws them, too
    tests = [shown.answer(taste, shown.pairs(test, TESTS)) for taste in new]
    pool = shown.pairs(train, sizes.pool)
    asked = [shown.answer(taste, pool) for taste in new]
    everybody = [*answers, *asked]
    much = _much(everybody, np.quantile(np.abs([a.margin for a in answers]), 1 - MUCH), grades.spread, seed)
    much_seen, much_new = np.concatenate(much[:SEEN]), much[SEEN:]
    num_models = features.shape[1]
    return Population(
        np.repeat(np.arange(num_prompts), num_models),
        features.reshape(num_prompts * num_models, -1),
        np.repeat(np.arange(SEEN), sizes.answers),
        np.concatenate([a.pairs.rows(num_models) for a in answers]),
        choices(np.concatenate([a.left for a in answers]), much_seen if grades.seen else None),
        pool.rows(num_models),
        [
            NewPerson(q.left, t.pairs.rows(num_models), t.left, float(t.agrees.mean()), m if grades.new else None)
            for q, t, m in zip(asked, tests, much_new, strict=True)
        ],
        _kinds(features, replies.attributes, tastes),
    )


@dataclass(frozen=True, eq=False)
class _Answers:
    pairs: _Pairs
    margin: NDArray[np.float64]  # by which the left was better in a person's eyes when they answered
    left: NDArray[np.bool_]  # the left was chosen
    agrees: NDArray[np.bool_]  # and that is what the hidden utility says


@dataclass(frozen=True, eq=False)
class _Pairs:
    prompt: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]

    def rows(self, num_models: int) -> NDArray[np.int64]:
        """Both replies' numbers, (n, 2)."""
        return np.stack([self.prompt * num_models + side for side in (self.left, self.right)], axis=1)


@dataclass(frozen=True, eq=False)
class _Shown:
    """Replies as people see them."""

    attributes: NDArray[np.float64]
    rng: np.random.Generator

    def pairs(self, prompts: NDArray[np.int64], num: int) -> _Pairs:
        """Two different models' replies to one prompt."""
        models = self.attributes.shape[1]
        prompt = self.rng.choice(prompts, num)
        left = self.rng.integers(models, size=num)
        return _Pairs(prompt, left, (left + self.rng.integers(1, models, size=num)) % models)

    def answer(self, taste: Taste, pairs: _Pairs) -> _Answers:
        """Choose by a logistic of the hidden utility's difference."""
        (one, sign), (other, turn) = taste
        liked = STRENGTH * (sign * self.attributes[:, :, one] + turn * self.attributes[:, :, other])
        difference = liked[pairs.prompt, pairs.left] - liked[pairs.prompt, pairs.right]
        margin = difference - logit(self.rng.random(len(difference)))
        left = margin > 0
        return _Answers(pairs, margin, left, left == (difference > 0))


def _much(answers: Sequence[_Answers], cut: float, spread: float, seed: int) -> list[NDArray[np.bool_]]:
    """Which pairs are further apart than each person's own cut; apart from the protocol's draws."""
    cuts = cut * np.exp(spread * np.random.default_rng([seed, 84]).standard_normal(len(answers)))
    return [np.abs(a.margin) > own for a, own in zip(answers, cuts, strict=True)]


def _tastes() -> list[Taste]:
    """Every two different attributes, each liked or disliked: 84."""
    wishes = [(attribute, sign) for attribute in range(7) for sign in (1, -1)]
    return [(one, other) for one, other in combinations(wishes, 2) if one[0] != other[0]]


def _split(order: NDArray[np.int64], unseen: int | None) -> tuple[list[Taste], list[Taste]]:
    """The tastes of those who are seen, and of the new ones."""
    tastes = _tastes()
    drawn = [tastes[i] for i in order]
    if unseen is not None:  # as many lack one of the seven as are seen
        drawn.sort(key=lambda taste: unseen in {attribute for attribute, _ in taste})
    return drawn[:SEEN], drawn[SEEN:]


def _kinds(features: NDArray[np.float64], attributes: NDArray[np.float64], tastes: list[Taste]) -> NDArray[np.float64]:
    """Each taste's weights on the features, by least squares, drawn in for what they leave of its utility unsaid."""
    x, y = features.reshape(-1, features.shape[-1]), attributes.reshape(-1, attributes.shape[-1])
    x = x - x.mean(axis=0)
    wishes = np.zeros((len(tastes), y.shape[1]))
    for wish, ((one, sign), (other, turn)) in zip(wishes, tastes, strict=True):
        wish[one], wish[other] = STRENGTH * sign, STRENGTH * turn
    weights = np.linalg.lstsq(x, y, rcond=None)[0]
    unsaid = 2 * ((y - x @ weights) @ wishes.T).var(axis=0)  # of a pair's difference
    return np.asarray(wishes @ weights.T / np.sqrt(1 + np.pi * unsaid / 8)[:, None])


def _features(replies: Replies, rng: np.random.Generator) -> NDArray[np.float64]:
    hidden = replies.attributes + HIDING * rng.standard_normal(replies.attributes.shape)
    features = np.concatenate([replies.words, hidden], axis=-1)
    turn, _ = np.linalg.qr(rng.standard_normal((features.shape[-1], features.shape[-1])))
    return np.asarray(features @ turn)


def _standardise(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((values - values.mean(0)) / values.std(0))


def _word_axes(texts: list[str]) -> NDArray[np.float64]:
    """Words and pairs of words by weight, reduced."""
    weigh = TfidfVectorizer(
        max_features=30000,
        ngram_range=(1, 2),
        token_pattern=r"(?u)\b\w+\b|[!?*#:;,.()\-]",  # noqa: S106 - words and marks
        sublinear_tf=True,
        norm=None,
        min_df=3,
    )
    weighed = weigh.fit_transform([text[:4000] for text in texts])
    return np.asarray(TruncatedSVD(WORD_AXES, random_state=0).fit_transform(weighed))


def _count(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text, flags=re.IGNORECASE))


def _attributes(text: str) -> list[float]:
    """Length, long words, humour, engagement, politeness, enthusiasm and certainty."""
    words = max(1, len(text.split()))
    letters = [len(word) for word in re.findall(r"[A-Za-z]+", text)] or [4]
    contractions = _count(r"\b\w+'(?:s|re|ll|ve|t|m|d)\b", text)
    humour = _count(r"haha|joke|funny|silly|laugh|pun\b|giggle", text)
    offers = _count(r"let me know|would you like|feel free", text)
    praise = _count(r"great|amazing|exciting|love|wonderful|fantastic", text)
    doubts = _count(r"\bmay\b|might|could|perhaps|possibly|generally|often|seems|likely|however", text)
    exclamations = text.count("!")
    return [
        float(np.log1p(words)),
        float(np.mean(letters)) - 20 * contractions / words,
        float(np.log1p(3 * humour + 0.3 * exclamations)),
        float(np.log1p(2 * text[-300:].count("?") + 2 * offers)),
        float(np.log1p(_count(r"please|thank|glad|happy to|sorry|appreciate|welcome", text))),
        float(np.log1p(exclamations + praise)),
        -float(np.log1p(100 * doubts / words)),
    ]
