"""From a part's rows to answers that can be fitted: which rows are refused and why, and texts on the basis's axes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from personalign.basis import Basis
from personalign.errors import InputError
from personalign.learn.axes import Embed, features
from personalign.learn.rows import LONGEST
from personalign.messages import MAX_USER, check_user
from personalign.scale.block import KNOWN, answer_schema, matrix
from personalign.scale.parts import FEATURES, TEXTS
from personalign.types import CHOICES, Array, Bools, Ints

AT_ONCE = 4096  # replies that are measured at once
GRADED = {"a": "a+", "b": "b+"}  # what they mean beside "much better"
REPEATED = "an answer that was there before"  # by its id or time
Refused = Counter[str]  # rows by reason


def usable(table: pa.Table, basis: Basis, embed: Embed, *, is_regraded: bool) -> tuple[pa.Table, Refused]:
    """Take what can be fitted of a part, as ``fit_block`` wants it."""
    users, user = _users(table["user"])
    choice = _choices(table["choice"], is_regraded=is_regraded)
    refused: Refused = Counter()
    is_usable = np.ones(table.num_rows, dtype=bool)
    _refuse(user < 0, "an id that can't be stored", is_usable, refused)
    _refuse(choice < 0, "an unknown choice", is_usable, refused)
    if table.schema.names == TEXTS.names:
        _refuse(~_is_first(table), REPEATED, is_usable, refused)
        v, is_known = _measured(table, basis, embed)
        _refuse(~is_known, "a reply that the basis doesn't know", is_usable, refused)
    else:
        v = _read(table, basis.num_axes)
        if not (v.min(initial=0.0) >= -LONGEST and v.max(initial=0.0) <= LONGEST):
            is_far = np.asarray(~(np.abs(v) <= LONGEST).all(axis=1))
            _refuse(is_far, "features that aren't finite numbers", is_usable, refused)
    rows = np.flatnonzero(is_usable) if not is_usable.all() else slice(None)
    names = pa.DictionaryArray.from_arrays(pa.array(user[rows], pa.int32()), users)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(v[rows].ravel()), basis.num_axes)
    is_stored = KNOWN[0].name in table.column_names
    known = [
        table[field.name].combine_chunks().take(pa.array(np.flatnonzero(is_usable))) for field in KNOWN if is_stored
    ]
    columns = [names, pa.array(choice[rows], pa.int8()), vectors, *known]
    return pa.Table.from_arrays(columns, schema=answer_schema(basis.num_axes, is_known=is_stored)), refused


def _refuse(is_bad: Bools, reason: str, is_usable: Bools, refused: Refused) -> None:
    """Count what is wrong with rows that were usable until here."""
    if num := int((is_bad & is_usable).sum()):
        refused[reason] += num
        is_usable &= ~is_bad


def _users(column: pa.ChunkedArray) -> tuple[pa.Array, Ints]:
    """The different people, and each row's, −1 where it has none or one whose id can't be stored."""
    whole = column.combine_chunks().cast(pa.string()).cast(pa.binary()).dictionary_encode()
    names = [_name(name) for name in whole.dictionary.to_pylist()]
    place_of = np.array([-1 if name is None else i for i, name in enumerate(names)] + [-1], dtype=np.int64)
    return pa.array([name or "" for name in names], pa.string()), place_of[whole.indices.fill_null(-1).to_numpy()]


def _name(name: bytes) -> str | None:
    if name.isalnum() and len(name) <= MAX_USER:  # ASCII, as most are: sound without a further look
        return name.decode()
    with suppress(InputError, UnicodeDecodeError):
        return check_user(name.decode())
    return None


def _choices(column: pa.ChunkedArray, *, is_regraded: bool) -> Ints:
    """Places in ``types.CHOICES``, −1 for what isn't there."""
    places = pc.index_in(column.combine_chunks().cast(pa.string()), pa.array(CHOICES)).fill_null(-1)
    fine = [CHOICES.index(GRADED.get(choice, choice) if is_regraded else choice) for choice in CHOICES]
    return np.asarray(np.array([*fine, -1], dtype=np.int64)[places.to_numpy()])


def _read(table: pa.Table, num_axes: int) -> Array:
    if FEATURES in table.column_names:
        column = table[FEATURES].cast(pa.list_(pa.float64()))
        lengths = pc.list_value_length(column).fill_null(-1)
        if not (lengths.to_numpy() == num_axes).all():
            raise InputError(f"the log has lists of features of another length than the basis's {num_axes} axes")
        return matrix(column, num_axes)
    v = np.empty((table.num_rows, num_axes))
    for j in range(num_axes):
        v[:, j] = table[f"{FEATURES}_{j}"].cast(pa.float64()).to_numpy()  # no number is NaN
    return v


def _is_first(table: pa.Table) -> Bools:
    """False where an id or a time says that the row's answer was there before."""
    pairs = zip(*(table[name].to_pylist() for name in ("user", "prompt", "a", "b", "event")), strict=True)
    events: set[object] = set()
    is_first = np.ones(table.num_rows, dtype=bool)
    for i, (user, prompt, a, b, event) in enumerate(pairs):
        key = (user, prompt, min(a, b), max(a, b), event if event != "[]" else i)
        is_first[i] = key not in events
        events.add(key)
    return is_first


def _measured(table: pa.Table, basis: Basis, embed: Embed) -> tuple[Array, Bools]:
    """Left minus right, each different reply measured once; and whether the basis can measure both."""
    prompts = table["prompt"].to_pylist()
    sides = [list(zip(prompts, table[side].to_pylist(), strict=True)) for side in ("a", "b")]
    places = {reply: i for i, reply in enumerate(dict.fromkeys(sides[0] + sides[1]))}
    replies = list(places)
    is_known = np.array([basis.can_measure([text]) for _, text in replies], dtype=bool)
    phi = np.zeros((len(replies), basis.num_axes))
    known = np.flatnonzero(is_known)
    for i in range(0, len(known), AT_ONCE):
        some = known[i : i + AT_ONCE]
        phi[some] = _features([replies[j] for j in some.tolist()], basis, embed)
    left, right = (np.array([places[reply] for reply in side], dtype=np.int64) for side in sides)
    return phi[left] - phi[right], is_known[left] & is_known[right]


def _features(replies: Sequence[tuple[str, str]], basis: Basis, embed: Embed) -> Array:
    return np.asarray(
        features(basis, [json.loads(prompt) for prompt, _ in replies], [text for _, text in replies], embed)
    )
