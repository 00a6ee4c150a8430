"""Questions that are nearly the same: a person who was asked one of them isn't asked the other."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from personalign.basis import BankQuestion, Basis
from personalign.types import Array, Bools, Ints

PARALLEL = 0.98  # the cosine of two differences from which on they ask about the same, as the prior measures them


@dataclass(frozen=True, eq=False)
class Likeness:
    """What makes questions of a bank alike: their prompt, the words of their replies, the direction they differ in."""

    prompt: Int[Ints, "m"]  # the same number for the same prompt
    words: Int[Ints, "m"]  # the same number for replies that are equal but for case and punctuation
    direction: Float[Array, "m d"]  # of length 1, or 0, in the prior's metric

    @classmethod
    def measure(cls, basis: Basis) -> Likeness:
        """Compare the bank of a basis."""
        differences = basis.pool @ np.linalg.cholesky(basis.prior.covariance)
        length = np.linalg.norm(differences, axis=1, keepdims=True)
        return cls(
            _numbered([json.dumps(question.prompt) for question in basis.bank]),
            _numbered([_words(question) for question in basis.bank]),
            differences / np.maximum(length, 1e-12),
        )

    def repeats(self, asked: Bool[Bools, "m"]) -> Bool[Bools, "m"]:
        """Which questions are asked already, or nearly so.

        Nearly: both replies have the same words, or the prompt is the same and what the replies differ in, too.
        """
        parallel = np.abs(self.direction @ self.direction[asked].T) >= PARALLEL
        is_same = parallel & (self.prompt[:, None] == self.prompt[asked])
        return np.asarray(asked | is_same.any(axis=1) | np.isin(self.words, self.words[asked]))


def _numbered(keys: Sequence[Hashable]) -> Int[Ints, "m"]:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _words(question: BankQuestion) -> frozenset[str]:
    """Both replies without case, punctuation and order; a reply without any word, such as an emoji, stays as it is."""
    replies = (question.first, question.second)
    return frozenset(" ".join(re.findall(r"\w+", reply.casefold())) or reply for reply in replies)
