"""Parts of a log: all of it, and each person in one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from personalign.errors import InputError
from personalign.scale import parts, texts
from personalign.scale.parts import Plan, plan_features, read_part
from tests.scale.logs import D, drawn, raw, shuffled, written


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 20_000)


def check_whole(plan: Plan, users: list[str], v: np.ndarray) -> None:
    """Everybody's rows are in one part, in the log's order."""
    tables = [read_part(part) for part in plan.parts]
    assert len(tables) > 2, "else the test says nothing"
    people = [set(table["user"].to_pylist()) for table in tables]
    assert sum(map(len, people)) == len(set(users)), "nobody is in two"
    for user in set(users):
        rows = [
            x
            for table in tables
            for name, x in zip(*(table[c].to_pylist() for c in ("user", "v_0")), strict=True)
            if name == user
        ]
        assert rows == [v[i, 0] for i, name in enumerate(users) if name == user]


@pytest.mark.parametrize("group", [7, 100, 5000])
def test_sorted_log_is_cut_where_it_is(tmp_path: Path, group: int) -> None:
    """A sorted log is read in place, however long its row groups are."""
    users, choices, v = drawn(60, 9)
    plan = plan_features(written(tmp_path / "log.parquet", raw(users, choices, v), group), tmp_path, D)
    assert plan is not None
    assert plan.rows == 540
    check_whole(plan, users, v)
    assert {part.path for part in plan.parts} == {str(tmp_path / "log.parquet")} or group == 5000


def test_unsorted_log_is_scattered(tmp_path: Path) -> None:
    """An unsorted log is written anew, each person's rows together."""
    users, choices, v, _ = shuffled(*drawn(60, 9))
    plan = plan_features(written(tmp_path / "log.parquet", raw(users, choices, v), 100), tmp_path, D)
    assert plan is not None
    check_whole(plan, users, v)


def test_plan_is_read_again(tmp_path: Path) -> None:
    """A plan is the same after it was written."""
    plan = Plan((parts.Part("log.parquet", 0, 5),), 5, regrades=True, refused={"no CSV": 2})
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


def test_grades_are_noticed(tmp_path: Path) -> None:
    """Whether plain sides are graded is a matter of the whole log."""
    log = written(tmp_path / "log.parquet", raw(["ada", "ben"], ["a", "b++"], np.ones((2, D))))
    plan = plan_features(log, tmp_path, D)
    assert plan is not None
    assert plan.regrades


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pa.table({"user": ["a"], "choice": ["a"], "v_0": [1.0]}), "no column v_1, v_2"),
        (pa.table({"choice": ["a"], "v": [[1.0] * D]}), "no column user"),
        (pa.table({"user": [1], "choice": ["a"], "v": [[1.0] * D]}), "'user' holds int64, expected text"),
        (pa.table({"user": ["a"], "choice": [0], "v": [[1.0] * D]}), "'choice' holds int64"),
        (pa.table({"user": ["a"], "choice": ["a"], "v": ["x"]}), "'v' holds string"),
        (raw(["a"], ["a"], np.ones((1, D + 1))), f"{D + 1} columns of features"),
    ],
)
def test_columns_that_do_not_fit(tmp_path: Path, table: pa.Table, words: str) -> None:
    """A log whose columns can't be used is refused by their names."""
    with pytest.raises(InputError, match=words):
        plan_features(written(tmp_path / "log.parquet", table), tmp_path, D)


def test_what_is_no_log(tmp_path: Path) -> None:
    """A folder, nothing, and half a file are refused."""
    with pytest.raises(InputError, match="is a folder"):
        plan_features(tmp_path, tmp_path, D)
    with pytest.raises(InputError, match="not there"):
        plan_features(tmp_path / "log.parquet", tmp_path, D)
    log = written(tmp_path / "log.parquet", raw(*drawn(5, 5)))
    log.write_bytes(log.read_bytes()[:-9])
    with pytest.raises(InputError, match="expected a whole Parquet file"):
        plan_features(log, tmp_path, D)


def test_ratings_are_refused(tmp_path: Path) -> None:
    """A log of ratings has no answers."""
    log = tmp_path / "log.jsonl"
    log.write_text('{"user": "ada", "item": "x", "rating": 3}\n')
    with pytest.raises(InputError, match="has ratings"):
        texts.plan_texts(log, tmp_path)
