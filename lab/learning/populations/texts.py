"""Shallow features of texts: the named axes, how much there is of it, and what it is about by TF-IDF and SVD."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from personalign.learn.axes import measure_many, named_axes
from personalign.types import Message

NUM_TOPICS = 24
_WORD, _BREAK, _MARKS = re.compile(r"\w+"), re.compile(r"[.!?]+|\n"), re.compile(r"[,;:()\"'“”-]")


def features(prompts: Sequence[str], texts: Sequence[str]) -> Float[NDArray[np.float64], "n F"]:
    """Describe each text, standardised over all of them. No vote goes in, so that no split has to be made for it."""
    asked: list[tuple[Message, ...]] = [({"role": "user", "content": prompt},) if prompt else () for prompt in prompts]
    named = measure_many(asked, texts, named_axes("dialogue"))
    amounts = np.array([_amounts(text) for text in texts])
    raw = np.hstack([named, amounts, _topics(texts)])
    return np.asarray((raw - raw.mean(0)) / np.maximum(raw.std(0), 1e-9))


def _amounts(text: str) -> list[float]:
    """Saturating, but without the named axes' caps: arguments are longer than replies of the bundled model."""
    words = _WORD.findall(text)
    lengths = [len(word) for word in words] or [0]
    return [
        np.log1p(len(words)),
        np.log1p(len({word.lower() for word in words})),
        np.log1p(sum(bool(part.strip()) for part in _BREAK.split(text))),
        np.log1p(len(_MARKS.findall(text))),
        float(np.mean(lengths)),
        float(np.mean([length > 6 for length in lengths])),
        np.log1p(text.count("\n")),
        sum(c.isupper() for c in text) / (len(text) + 1),
        float(text[:1].islower()),
    ]


def _topics(texts: Sequence[str]) -> NDArray[np.float64]:
    tfidf = TfidfVectorizer(max_features=20_000, ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    words = tfidf.fit_transform(texts)
    rank = min(NUM_TOPICS, min(words.shape) - 1)
    return np.asarray(TruncatedSVD(rank, random_state=0).fit_transform(words))
