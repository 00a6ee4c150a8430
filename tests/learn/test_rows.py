"""Answers in canonical order: equal records have equal rows, and nothing an answer says is lost."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
import pytest

from personalign.errors import InputError, QuestionError
from personalign.learn.fit import Record, fit
from personalign.learn.likelihood import LITTLE, MUCH, TIE, A
from personalign.learn.rows import (
    MAX_ANSWERS,
    MAX_AXES,
    canonical,
    check_answers,
    encode,
    says_something,
)
from personalign.types import CHOICES
from tests.learn.people import Array, prior_of, record_of, reorder, swap

BIASED, UNBIASED = 0.3, 0.0


@dataclass(frozen=True)
class One:
    """One person's rows."""

    v: Array
    verdict: Array
    side: Array
    weight: Array
    turn: float


def rows_of(record: Record, side: float = BIASED) -> One:
    outcome = encode(record.choice)
    weight = np.ones(len(outcome)) if record.weight is None else record.weight
    size = int(says_something(outcome, weight).sum())
    rows = canonical(record.v[None], outcome[None], weight[None], size, side > 0)
    return One(rows.v[0], rows.verdict[0], rows.side[0], rows.weight[0], float(rows.turn[0]))


def bytes_of(rows: One) -> tuple[bytes, ...]:
    return tuple(part.tobytes() for part in (rows.v, rows.verdict, rows.side + 0.0, rows.weight))


def test_only_what_says_something_is_kept() -> None:
    """A, b, their grades and tie make rows; neither, skip and weight 0 don't."""
    choices = ["a", "skip", "b", "neither", "tie", "a", "b+", "a++", "b++"]
    rows = rows_of(Record(np.eye(9), choices, np.array([1.0, 1, 1, 1, 1, 0, 1, 1, 1])))
    assert sorted(rows.verdict.tolist()) == [A, A, TIE, LITTLE, MUCH, MUCH]
    assert rows.v.shape == (6, 9)


def test_nothing_said_is_told_apart() -> None:
    """Neither, skip and weight 0 say nothing; a, b, their grades and tie do."""
    weight = np.array([1.0, 1, 0, 1, 1, 1, 1, 1])
    said = says_something(encode(["skip", "neither", "a", "a", "b", "tie", "a+", "b++"]), weight)
    assert said.tolist() == [False, False, False, True, True, True, True, True]


def test_the_winner_is_turned_to_the_left() -> None:
    """Preferring b over a is preferring the negated pair, seen from the other side."""
    left, right = rows_of(Record(np.array([[1.0, 2.0]]), ["a"])), rows_of(Record(np.array([[1.0, 2.0]]), ["b"]))
    np.testing.assert_array_equal(left.v, [[1.0, 2.0]])
    np.testing.assert_array_equal(right.v, [[-1.0, -2.0]])
    assert left.side[0] * left.turn == -right.side[0] * right.turn != 0


def test_any_order_has_the_same_rows() -> None:
    """All orders of five answers give one record; the control is that all are different to begin with."""
    record = record_of(5, 2, choices=("a", "b", "tie"), weighted=True)
    orders = [reorder(record, order) for order in permutations(range(5))]
    assert len({o.v.tobytes() for o in orders}) == 120
    assert len({(*bytes_of(rows_of(o)), rows_of(o).turn) for o in orders}) == 1


def test_a_mirrored_record_has_the_same_rows_and_the_opposite_turn() -> None:
    """Everything shown the other way round differs in the turn alone."""
    record = record_of(7, 2, choices=("a", "b", "tie"))
    there, back = rows_of(record), rows_of(swap(record))
    assert bytes_of(there) == bytes_of(back)
    assert there.turn == -back.turn != 0


def test_a_lone_swap_is_another_record_unless_sides_are_forgotten() -> None:
    """With a side bias each swap of some pairs is a record of its own; without one they all are the same."""
    record = record_of(4, 2, choices=("a", "b", "tie"))
    some = [swap(record, which) for which in product([False, True], repeat=4)]
    assert len({(*bytes_of(rows_of(s)), rows_of(s).turn) for s in some}) == 16
    assert len({bytes_of(rows_of(s, UNBIASED)) for s in some}) == 1
    assert {rows_of(s, UNBIASED).turn for s in some} == {0.0}


PAIR_BOTH_WAYS = np.array([[1.0, 0.0], [-1.0, 0.0]])


@pytest.mark.parametrize(
    ("v", "choice", "is_own_mirror"),
    [
        (np.zeros((1, 2)), ["tie"], True),
        (PAIR_BOTH_WAYS, ["a", "b"], True),
        (PAIR_BOTH_WAYS, ["tie", "tie"], True),
        (PAIR_BOTH_WAYS, ["a", "a"], False),
        (np.zeros((1, 2)), ["a"], False),
    ],
)
def test_a_record_that_is_its_own_mirror_image_tells_no_side(v: Array, choice: list[str], is_own_mirror: bool) -> None:
    """One mind about the same pair on both sides leaves no side to lean to: the turn is 0, and only then."""
    assert (rows_of(Record(v, choice)).turn == 0) == is_own_mirror


def test_minus_zero_is_zero() -> None:
    """A feature of −0.0 has the bytes of 0.0, so a swapped zero stays the same."""
    assert bytes_of(rows_of(Record(np.array([[-0.0, 1.0]]), ["a"]))) == bytes_of(
        rows_of(Record(np.array([[0.0, 1.0]]), ["a"]))
    )
    assert np.array([-0.0]).tobytes() != np.array([0.0]).tobytes()  # the control


def test_weights_go_with_their_answers() -> None:
    """Sorting carries each weight along."""
    record = record_of(9, 1, choices=("a",), weighted=True)
    assert record.weight is not None
    rows = rows_of(record)
    assert dict(zip(rows.v[:, 0], rows.weight, strict=True)) == dict(zip(record.v[:, 0], record.weight, strict=True))


@pytest.mark.parametrize(
    ("v", "choice", "weight", "num_axes", "error"),
    [
        (np.ones((2, 3)), ["a"], None, 3, InputError),
        (np.ones((1, 3)), ["a"], None, 2, InputError),
        (np.ones(3), ["a"], None, 3, InputError),
        (np.full((1, 3), np.inf), ["a"], None, 3, InputError),
        (np.ones((MAX_ANSWERS + 1, 1)), ["a"] * (MAX_ANSWERS + 1), None, 1, InputError),
        (np.ones((1, MAX_AXES + 1)), ["a"], None, MAX_AXES + 1, InputError),
        (np.ones((1, 3)), ["a"], np.ones(2), 3, InputError),
        (np.ones((1, 3)), ["a"], np.array([-1.0]), 3, InputError),
        (np.ones((1, 3)), ["A"], None, 3, QuestionError),
        (np.ones((1, 3)), [""], None, 3, QuestionError),
    ],
)
def test_what_cant_be_fitted_is_refused(
    v: Array, choice: list[str], weight: Array | None, num_axes: int, error: type[Exception]
) -> None:
    """Shapes, limits, NaN and choices are checked at the door."""
    with pytest.raises(error, match="expected"):
        check_answers(v, encode(choice), weight, num_axes)


@pytest.mark.parametrize(
    ("v", "choice", "weight"),
    [
        (np.ones((len(CHOICES), 2)), CHOICES, np.zeros(len(CHOICES))),
        (np.ones((MAX_ANSWERS, MAX_AXES)), ["a"] * MAX_ANSWERS, None),
        (np.ones((0, 2)), [], None),
    ],
)
def test_what_can_be_fitted_is_fitted(v: Array, choice: list[str], weight: Array | None) -> None:
    """The control: every choice, at the limits, and no answers at all."""
    prior = prior_of(v.shape[1])
    post = fit(v, choice, prior, weight=weight)
    assert np.isfinite(post.mean).all()
    assert (post is prior) == (weight is not None or not choice)  # weight 0 says nothing, either
