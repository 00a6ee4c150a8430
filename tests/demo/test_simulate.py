"""Simulated people: tastes that the axes don't hold, opposites, and answers of which one in seven is wrong."""

from __future__ import annotations

import ast
import inspect
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression

from personalign.basis import Basis
from personalign.bundled import TINY
from personalign.demo import simulate
from personalign.demo.simulate import FLIPPED, SimulatedPerson, opposite_pair
from personalign.errors import InputError
from personalign.types import Message

SEEDS = (*range(20), *range(200, 220))  # those of `personalign bench people`, and of `--first 200`


@cache
def bank() -> tuple[list[tuple[Message, ...]], list[str], NDArray[np.float64]]:
    """The prompts, replies and features of the bundled questions."""
    questions = Basis.load(TINY / "basis").bank
    prompts = [q.prompt for q in questions for _ in range(2)]
    replies = [text for q in questions for text in (q.first, q.second)]
    return prompts, replies, np.array([f for q in questions for f in (q.first_features, q.second_features)])


def person(seed: int) -> SimulatedPerson:
    prompts, replies, _ = bank()
    return opposite_pair(seed, prompts, replies)[0]


def utilities(of: SimulatedPerson) -> NDArray[np.float64]:
    prompts, replies, _ = bank()
    return np.array([of.utility(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)])


def explained(utility: NDArray[np.float64]) -> float:
    """R² of the best linear function of the axes."""
    features = bank()[2]
    return float(LinearRegression().fit(features, utility).score(features, utility))


def test_tastes_know_nothing_of_the_axes() -> None:
    """The module imports neither the axes nor anything that measures them."""
    nodes = ast.walk(ast.parse(inspect.getsource(simulate)))
    imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported.isdisjoint({"personalign.learn", "personalign.learn.axes", "personalign.basis"})
    assert "personalign.errors" in imported  # control: imports are seen


@pytest.mark.slow
def test_a_third_of_every_taste_lies_outside_the_axes() -> None:
    """Nothing linear in the axes explains more than two thirds of a hidden utility's variance."""
    assert max(explained(utilities(person(seed))) for seed in SEEDS) <= 2 / 3
    linear = bank()[2] @ np.random.default_rng(0).standard_normal(bank()[2].shape[1])
    assert explained(linear) > 0.99  # control


def test_utilities_are_standardised_and_opposites_negate_them() -> None:
    """Mean 0 and standard deviation 1 over the replies a person was made with."""
    prompts, replies, _ = bank()
    one, other = opposite_pair(3, prompts, replies)
    found = utilities(one)
    assert found.mean() == pytest.approx(0, abs=1e-9)
    assert found.std() == pytest.approx(1)
    np.testing.assert_allclose(utilities(other), -found, atol=1e-12)
    assert np.abs(utilities(person(4)) - found).max() > 0.5  # control: another seed, another taste


@pytest.mark.slow
def test_a_share_of_the_answers_is_flipped() -> None:
    """Over many answers about one pair the share is that of ``FLIPPED``, whichever side is better."""
    prompts, replies, _ = bank()
    someone, rng = person(0), np.random.default_rng(0)
    best, worst = (replies[i] for i in (utilities(someone).argmax(), utilities(someone).argmin()))
    for left, right, right_answer in ((best, worst, "a"), (worst, best, "b")):
        wrong = [someone.choose(prompts[0], left, right, rng) != right_answer for _ in range(2000)]
        assert np.mean(wrong) == pytest.approx(FLIPPED, abs=0.03)


def test_people_need_replies_to_be_made_with() -> None:
    """One reply has no spread, and every reply needs its prompt."""
    prompts, replies, _ = bank()
    for some_prompts, some_replies in ((prompts[:1], replies[:1]), (prompts[:3], replies[:2])):
        with pytest.raises(InputError, match="two at least"):
            opposite_pair(0, some_prompts, some_replies)
