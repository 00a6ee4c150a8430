"""What of a log's rows is fitted, and what is refused, by reason."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from personalign.errors import InputError
from personalign.learn.axes import features
from personalign.scale.parts import TEXTS
from personalign.scale.rows import REPEATED, usable
from personalign.types import CHOICES, Array, Message
from tests.scale.logs import BASIS, D, raw

PROMPT = '[{"role": "user", "content": "I need a hotel"}]'


def no_embeddings(prompts: object, replies: object) -> Array:
    raise AssertionError("named axes are measured in the text")


def read(table: pa.Table, *, is_regraded: bool = False) -> tuple[pa.Table, dict[str, int]]:
    table, refused = usable(table, BASIS, no_embeddings, is_regraded=is_regraded)
    return table, dict(refused)


def texts(*rows: tuple[str, ...]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(TEXTS.names, row, strict=True)) for row in rows], schema=TEXTS)


def test_bad_rows_are_refused_by_reason() -> None:
    """A row is left out for its first fault, and the others stay as they are."""
    v = np.ones((6, D))
    v[4, 3], v[5, 0] = np.nan, np.inf
    table, refused = read(raw(["ada", None, "x\n", "ben", "eve", "eve"], ["a", "a", "b", "left", "a", "b"], v))
    assert refused == {
        "an id that can't be stored": 2,
        "an unknown choice": 1,
        "features that aren't finite numbers": 2,
    }
    assert table["user"].to_pylist() == ["ada"]


def test_all_is_well() -> None:
    """Of sound rows nothing is refused: the control of the test above."""
    table, refused = read(raw(["ada", "ben"], ["a", "tie"], np.ones((2, D))))
    assert (table.num_rows, refused) == (2, {})


def test_lists_of_features() -> None:
    """A column of lists is read like columns of numbers, and refused where a list has another length."""
    v = np.random.default_rng(0).normal(size=(2, D))
    wide, _ = read(raw(["ada", "ben"], ["a", "b"], v))
    lists, _ = read(pa.table({"user": ["ada", "ben"], "choice": ["a", "b"], "v": v.tolist()}))
    assert lists.equals(wide)
    with pytest.raises(InputError, match="another length"):
        read(pa.table({"user": ["ada"], "choice": ["a"], "v": [v[0, 1:].tolist()]}))


def test_grades() -> None:
    """Beside "much better" a plain side is a little better, where the log says so."""
    table, _ = read(raw(["ada", "ada"], ["a", "b++"], np.ones((2, D))), is_regraded=True)
    assert [CHOICES[i] for i in table["choice"].to_pylist()] == ["a+", "b++"]


def test_texts_are_measured() -> None:
    """A text's features are those that the product measures, left minus right."""
    table, _ = read(texts(("ada", PROMPT, "Sure! Which city?", "No.", "a", "[]")))
    prompt: list[list[Message]] = [[{"role": "user", "content": "I need a hotel"}]] * 2
    left, right = features(BASIS, prompt, ["Sure! Which city?", "No."])
    np.testing.assert_array_equal(table["v"].to_pylist()[0], left - right)


def test_answers_are_counted_once() -> None:
    """The same answer again, by its id or time, is left out; without either it counts, as people may repeat it."""
    row = ("ada", PROMPT, "Yes.", "No.", "a")
    table, refused = read(texts((*row, '["id 1"]'), (*row, '["id 1"]'), (*row, "[]"), (*row, "[]")))
    assert (table.num_rows, refused) == (3, {REPEATED: 1})
