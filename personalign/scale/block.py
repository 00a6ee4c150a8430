"""Answers in, profiles out: the one Arrow function that every engine calls.

It is pure, and fits people side by side. A profile is the one that a person's own fit gives: the mean, which is what
steers, to the byte. Of the covariance the diagonal is kept, which a million people have room for.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from personalign.basis import Basis
from personalign.learn.evidence import SETTLED, watch
from personalign.learn.fit import fit_many
from personalign.learn.mixture import Mixture
from personalign.learn.rows import MAX_ANSWERS
from personalign.types import CHOICES, INFORMATIVE, SIDES, Array, Bools, Ints

AT_ONCE = 1 << 22  # numbers of v that are gathered for a fit
_IS_INFORMATIVE = np.array([choice in INFORMATIVE for choice in CHOICES])
_IS_SIDED = np.array([choice in SIDES for choice in CHOICES])


def vectors(num_axes: int) -> pa.DataType:
    """The type of a column with a number for each axis."""
    return pa.list_(pa.float64(), num_axes)


# what a store knows besides: how much each answer counts, and how many its person gave in all
KNOWN = (
    pa.field("weight", pa.float64()),
    pa.field("answers", pa.int32()),
    pa.field("informative", pa.int32()),
)


def answer_schema(num_axes: int, *, is_known: bool = False) -> pa.Schema:
    """What is fitted: who answered, the choice's place in ``types.CHOICES``, and the features, left minus right."""
    user = pa.dictionary(pa.int32(), pa.string())
    columns = [pa.field("user", user), pa.field("choice", pa.int8()), pa.field("v", vectors(num_axes))]
    return pa.schema([*columns, *KNOWN] if is_known else columns)


def profile_schema(num_axes: int) -> pa.Schema:
    """What is made: the posterior's mean and variances, and how many answers there are, and how many say something."""
    posterior = [("mean", vectors(num_axes)), ("variance", vectors(num_axes))]
    return pa.schema([("user", pa.string()), *posterior, ("answers", pa.int32()), ("informative", pa.int32())])


def fit_block(table: pa.Table, basis: Basis) -> pa.Table:
    """Fit the people of a table, each of whom has all answers in it, oldest first; people may be mixed.

    They come out in the order of their first answers. Like anybody who is asked, a person with more than a hundred
    informative answers is fitted to the newest, and after the first ten a change of taste is looked for. Where the
    table says what each answer counts, that is taken instead.
    """
    person, outcome, v = _columns(table, basis.num_axes)
    users, person = np.unique(person, return_inverse=True)
    order = np.argsort(person, kind="stable")
    person, outcome, v_of = person[order], outcome[order], order
    is_informative = _IS_INFORMATIVE[outcome]
    fitted, counts = _newest(person, is_informative, len(users))
    is_known = "weight" in table.column_names
    weight = table["weight"].to_numpy()[order] if is_known else _weights(v, v_of, person, outcome, basis)
    mean, variance = _fit(v, v_of[fitted], outcome[fitted], weight[fitted], counts, basis)
    answers = np.bincount(person, minlength=len(users))
    informative = np.bincount(person[is_informative], minlength=len(users))
    if is_known:
        first = order[np.searchsorted(person, np.arange(len(users)))]
        answers, informative = (table[name].to_numpy()[first] for name in ("answers", "informative"))
    names = table["user"].unify_dictionaries().combine_chunks().dictionary.take(pa.array(users))
    columns = [
        names,
        _listed(mean),
        _listed(variance),
        pa.array(answers, pa.int32()),
        pa.array(informative, pa.int32()),
    ]
    return pa.Table.from_arrays(columns, schema=profile_schema(basis.num_axes))


def matrix(column: pa.ChunkedArray, num_axes: int) -> Array:
    """A column of vectors as (N, d), without a copy where it is in one piece."""
    whole = column.combine_chunks()
    return np.asarray(whole.flatten().to_numpy(), dtype=np.float64).reshape(-1, num_axes)


def _columns(table: pa.Table, num_axes: int) -> tuple[Ints, Ints, Array]:
    whole = table["user"].unify_dictionaries().combine_chunks()
    outcome = table["choice"].to_numpy().astype(np.int64)
    return whole.indices.to_numpy().astype(np.int64), outcome, matrix(table["v"], num_axes)


def _listed(rows: Array) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])


def _newest(person: Ints, is_informative: Bools, num_people: int) -> tuple[Ints, Ints]:
    """Places of each person's newest informative answers, people in order, and how many these are."""
    places = np.flatnonzero(is_informative)
    counts = np.bincount(person[places], minlength=num_people)
    ends = np.cumsum(counts)[person[places]]
    kept_places = places[ends - np.arange(len(places)) <= MAX_ANSWERS]
    return kept_places, np.minimum(counts, MAX_ANSWERS)


def _weights(v: Array, v_of: Ints, person: Ints, outcome: Ints, basis: Basis) -> Array:
    """What each answer counts: the chance that no change of taste came after it."""
    weight = np.ones(len(person))
    sided = np.bincount(person[_IS_SIDED[outcome]], minlength=int(person.max(initial=-1)) + 1)
    for some in np.flatnonzero(sided > SETTLED).tolist():
        first, last = np.searchsorted(person, (some, some + 1))
        choices = [CHOICES[place] for place in outcome[first:last].tolist()]
        drift = watch(v[v_of[first:last]], choices, ["question"] * len(choices), basis.prior)
        weight[first:last] = drift.holds
    return weight


def _fit(v: Array, v_of: Ints, outcome: Ints, weight: Array, counts: Ints, basis: Basis) -> tuple[Array, Array]:
    mean, variance = (np.empty((len(counts), basis.num_axes)) for _ in range(2))
    mean[:], variance[:] = basis.prior.mean, np.diag(basis.prior.covariance)
    starts, mixture = np.cumsum(counts) - counts, Mixture.of_people(basis)
    for people, size in _alike(counts, basis.num_axes):
        rows = starts[people][:, None] + np.arange(size)
        fitted = fit_many(v[v_of[rows]], outcome[rows], mixture, basis.noise, weight[rows])
        mean[people], variance[people] = fitted.mean, fitted.covariance
    return mean, variance


def _alike(counts: Ints, num_axes: int) -> Iterator[tuple[Ints, int]]:
    """People with as many answers each, as many at a time as memory should hold."""
    for size in np.unique(counts[counts > 0]).tolist():
        people = np.flatnonzero(counts == size)
        width = max(1, AT_ONCE // (size * num_axes))
        yield from ((people[i : i + width], size) for i in range(0, len(people), width))
