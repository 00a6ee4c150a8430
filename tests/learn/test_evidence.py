"""What is fitted when there is too much, and what weak answers are worth."""

from __future__ import annotations

import numpy as np
import pytest

from personalign.learn.fit import fit, predict
from personalign.learn.mixture import SELF_AGREEMENT
from personalign.learn.rows import select, weigh
from personalign.messages import FEEDBACK
from personalign.types import WEIGHTS
from tests.learn.people import UNBIASED, answers, prior_of

ASSUMED = {"edit": 0.70, "thumbs": 0.65, "regenerate": 0.60}


def test_weights_are_what_the_assumed_shares_give() -> None:
    """Fisher information near indifference grows with the square of how far an answer is from a coin."""
    assert set(ASSUMED) == set(FEEDBACK) == set(WEIGHTS) - {"question", "check", "trial"}
    for kind, share in ASSUMED.items():
        assert WEIGHTS[kind] == pytest.approx(((2 * share - 1) / (2 * SELF_AGREEMENT - 1)) ** 2)


def test_the_newest_win_and_answers_go_before_feedback() -> None:
    """Of five that say something three are kept, in their order; a skip takes no place."""
    choices = ["a", "b", "skip", "tie", "a", "b"]
    kinds = ["question", "edit", "question", "question", "edit", "edit"]
    assert select(choices, kinds, most=3).tolist() == [0, 3, 5]
    assert select(choices, kinds, most=1).tolist() == [3]
    assert select(choices, kinds).tolist() == [0, 1, 3, 4, 5]
    assert select([], []).tolist() == []
    assert select(["a", "b"], ["question", "check"]).tolist() == [0]


def test_weights_pay_where_feedback_is_as_noisy_as_assumed() -> None:
    """Regenerated replies of which 40 % go against the taste: weighed, they help; taken as answers, they hurt."""
    prior, d = prior_of(6), 6
    losses = {"none": [], "weighed": [], "as answers": []}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        w = rng.multivariate_normal(prior.mean, prior.covariance)
        asked, seen, test = rng.normal(size=(6, d)), rng.normal(size=(30, d)), rng.normal(size=(50, d))
        given = answers(asked @ w, UNBIASED, rng)
        liked = ["a" if (u > 0) == (rng.random() < ASSUMED["regenerate"]) else "b" for u in seen @ w]
        v, choices = np.vstack([asked, seen]), [*given, *liked]
        weight = weigh(["question"] * 6 + ["regenerate"] * 30, ["a"] * 36)
        for name, post in (
            ("none", fit(asked, given, prior, UNBIASED)),
            ("weighed", fit(v, choices, prior, UNBIASED, weight)),
            ("as answers", fit(v, choices, prior, UNBIASED)),
        ):
            prob, truth = predict(test, post, UNBIASED), predict(test, type(post)(w, np.zeros((d, d))), UNBIASED)
            losses[name].append(-(truth * np.log(prob) + (1 - truth) * np.log(1 - prob)).mean())
    mean = {name: np.mean(found) for name, found in losses.items()}
    assert mean["weighed"] < mean["none"]
    assert mean["weighed"] < mean["as answers"]
