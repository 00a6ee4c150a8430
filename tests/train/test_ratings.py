"""A log of ratings: the same answers from three kinds of file, the last rating counts, what is unusable is named."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from personalign.errors import InputError
from personalign.train.log import ABOUT_ITEMS, Answer, AnswerLog, BadRows, LogCounts, read_log

Row = dict[str, Any]
PEOPLE, JOKES = 6, ["Knock, knock.", 'A man said: "Who?"', "שלום 👋🏽", "Two\nlines", "Why? Because.", " blank ", "007"]
ANSWER = {"user": "eve", "prompt": "Hello", "a": "Hi!", "b": "Good day.", "choice": "a"}


def row(user: Any = "ada", item: Any = "Why? Because.", rating: Any = 3.5) -> Row:
    return {"user": user, "item": item, "rating": rating}


def crowd() -> list[Row]:
    """Whole ratings, a few of them missing, in no order."""
    rng = np.random.default_rng(0)
    rated = [(f"person {i}", joke) for i in range(PEOPLE) for joke in JOKES if rng.random() < 0.9]
    return [row(*rated[i], int(rng.integers(1, 6))) for i in rng.permutation(len(rated))]


def write_jsonl(path: Path, rows: Sequence[Row]) -> Path:
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: Sequence[Row]) -> Path:
    path = path.with_suffix(".csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: Sequence[Row]) -> Path:
    path = path.with_suffix(".parquet")
    parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


WRITERS: dict[str, Callable[[Path, Sequence[Row]], Path]] = {
    "jsonl": write_jsonl,
    "csv": write_csv,
    "parquet": write_parquet,
}


def ratings_of(log: AnswerLog) -> dict[tuple[str, str], float]:
    """What each person gave each item."""
    assert log.ratings is not None
    given = log.ratings
    return {
        (user, item): given.ratings[i, j]
        for i, user in enumerate(given.users)
        for j, item in enumerate(given.items)
        if not np.isnan(given.ratings[i, j])
    }


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("name", WRITERS)
def test_ratings_come_back_as_pairs_that_were_rated_apart(name: str, tmp_path: Path) -> None:
    """From each kind of file the same: all ratings, and answers of which each says what the ratings say."""
    rows = crowd()
    log = read_log(WRITERS[name](tmp_path / "log", rows))
    given = {(r["user"], r["item"]): r["rating"] for r in rows}
    assert ratings_of(log) == given
    assert log.counts == LogCounts(len(rows), PEOPLE, 0, 0, 0, 0, 0, {})
    assert len(log.answers) >= 2 * PEOPLE
    for answer in log.answers:
        better, worse = (answer.a, answer.b) if answer.choice == "a" else (answer.b, answer.a)
        assert given[answer.user, better] > given[answer.user, worse]
        assert answer.prompt == ABOUT_ITEMS
    shown = [(answer.user, text) for answer in log.answers for text in (answer.a, answer.b)]
    assert len(shown) == len(set(shown))
    assert log.answers == read_log(write_jsonl(tmp_path / "again", rows)).answers


def test_the_order_of_the_rows_says_nothing(tmp_path: Path) -> None:
    """People and items are numbered by name; other ratings, the control, make other answers."""
    rows = crowd()
    log, turned = (read_log(write_jsonl(tmp_path / "log", some)) for some in (rows, rows[::-1]))
    other = read_log(write_jsonl(tmp_path / "log", [r | {"rating": -r["rating"]} for r in rows]))
    assert log.answers == turned.answers != other.answers


@pytest.mark.parametrize("cell", ["-3", " 2.5\t", "1e3", -3, 0.25, 10**20])
def test_any_finite_number_is_a_rating(cell: str | float, tmp_path: Path) -> None:
    """As text or as a number, on any scale."""
    log = read_log(write_jsonl(tmp_path / "log", [row(rating=cell), row("ben")]), strict=True)
    assert ratings_of(log)["ada", "Why? Because."] == float(cell)


@pytest.mark.parametrize("name", WRITERS)
def test_of_repeated_ratings_the_last_counts(name: str, tmp_path: Path) -> None:
    """And each one before it is a repeat; another person's rating, or of another item, is none."""
    others = [row("ben", rating=1.0), row(item="007", rating=2.0)]
    log = read_log(WRITERS[name](tmp_path / "log", [row(), *others, row(rating=1.0), row(rating=4.0)]))
    assert ratings_of(log) == {
        ("ada", "Why? Because."): 4.0,
        ("ben", "Why? Because."): 1.0,
        ("ada", "007"): 2.0,
    }
    assert (log.counts.rows, log.counts.repeats, log.counts.duplicates) == (5, 2, 0)
    (answer,) = log.answers
    assert {answer.a: "a", answer.b: "b"}["Why? Because."] == answer.choice
    turned = read_log(WRITERS[name](tmp_path / "log", [row(rating=4.0), *others, row(rating=1.0)]))
    assert {turned.answers[0].a: "a", turned.answers[0].b: "b"}["007"] == turned.answers[0].choice  # control


@pytest.mark.parametrize("column", ["id", "time"])
def test_an_id_or_a_time_tells_a_copy_from_a_repeat(column: str, tmp_path: Path) -> None:
    """The same rating twice is a duplicate; at another time it is a repeat."""
    events = [row() | {column: "7"}, row() | {column: "7"}, row() | {column: "8"}, row("ben") | {column: "7"}]
    counts = read_log(write_csv(tmp_path / "log", events)).counts
    assert (counts.rows, counts.duplicates, counts.repeats) == (4, 1, 1)


def test_people_who_rate_everything_alike_are_counted(tmp_path: Path) -> None:
    """They have no pairs, and their ratings are kept."""
    rows = [row(user, item, rating) for user, rating in (("ada", 1.0), ("ben", 2.0)) for item in JOKES[:6]]
    rows[-1]["rating"] = 3.0
    log = read_log(write_jsonl(tmp_path / "log", rows))
    assert log.counts.constant_people == 1
    assert [answer.user for answer in log.answers] == ["ben"]
    assert len(ratings_of(log)) == len(rows)


# ---------------------------------------------------------------- what can't be used


BAD = {
    "user": ("", " \n", "\t"),
    "item": ("", " ", '[{"role": "user", "content": "Hi"}]'),
    "rating": ("", "many", "4 stars", "3,5", "nan", "NaN", "inf", "-Infinity", "1e999", "True", "None"),
}


@pytest.mark.parametrize(("column", "cell"), [(column, cell) for column, cells in BAD.items() for cell in cells])
@pytest.mark.parametrize("name", ["jsonl", "csv"])
def test_a_cell_that_cannot_be_used_is_named(name: str, column: str, cell: str, tmp_path: Path) -> None:
    """With file, line and column; unless it is strict, the row is left out and counted with its reason."""
    path = WRITERS[name](tmp_path / "log", [row("ben"), row() | {column: cell}, *crowd()])
    place = {"jsonl": "line 2", "csv": "line 3"}[name]
    with pytest.raises(InputError, match=f"{re.escape(str(path))}, {place}, column '{column}' "):
        read_log(path, strict=True)
    log = read_log(path)
    assert list(log.counts.bad.values()) == [BadRows(1, place)]
    assert log.counts.rows == len(crowd()) + 2
    assert ratings_of(log).keys() == {("ben", "Why? Because."), *((r["user"], r["item"]) for r in crowd())}


@pytest.mark.parametrize("cell", [True, False, None, [3], {"stars": 3}, float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_named(cell: Any, tmp_path: Path) -> None:
    """True is no 1, and a list of a number no number."""
    path = write_jsonl(tmp_path / "log", [row("ben"), row(rating=cell)])
    with pytest.raises(InputError, match=r"line 2, column 'rating' holds .*; expected a number, higher for better"):
        read_log(path, strict=True)


def test_a_number_beyond_all_others_is_named(tmp_path: Path) -> None:
    """As 1e999 is."""
    path = write_jsonl(tmp_path / "log", [row("ben"), row(rating=10**400)])
    with pytest.raises(InputError, match="line 2, column 'rating' holds"):
        read_log(path, strict=True)


@pytest.mark.parametrize("cell", [7, 1.5, True, ["a"]])
@pytest.mark.parametrize("column", ["user", "item"])
def test_people_and_items_are_named_by_texts(column: str, cell: Any, tmp_path: Path) -> None:
    """A number is not taken for the text that spells it, which is a name (the control)."""
    with pytest.raises(InputError, match=f"line 2, column '{column}' "):
        read_log(write_jsonl(tmp_path / "log", [row("ben"), row() | {column: cell}]), strict=True)
    assert read_log(write_jsonl(tmp_path / "log", [row("ben"), row() | {column: "7"}]), strict=True).counts.rows == 2


def test_too_many_unusable_rows_are_refused(tmp_path: Path) -> None:
    """One in ten may be left out, as in a log of answers; with the first of each kind."""
    path = write_jsonl(tmp_path / "log", [*crowd(), *[row(rating="?")] * 8, row(user="")])
    with pytest.raises(InputError, match=r"9 unusable rows of (?s:.*)1 have an empty cell.*(?s:.*)8 have no number"):
        read_log(path)
    assert read_log(path, bad_rows=0.5).counts.bad["no number as rating"].rows == 8


def test_answers_and_ratings_in_one_file_are_refused(tmp_path: Path) -> None:
    """Whichever come first; each kind alone is read (the control)."""
    answers, ratings = [ANSWER, ANSWER | {"user": "fay"}], crowd()
    for rows in ([*answers, *ratings], [*ratings, *answers]):
        with pytest.raises(InputError, match=f"has 2 answers and {len(ratings)} ratings; expected rows of one kind"):
            read_log(write_jsonl(tmp_path / "log", rows))
    assert read_log(write_jsonl(tmp_path / "log", answers)).ratings is None
    assert read_log(write_jsonl(tmp_path / "log", ratings)).ratings is not None


def test_one_persons_ratings_are_no_population(tmp_path: Path) -> None:
    """However many; two people's are one (the control)."""
    rows = [row(item=f"joke {i}", rating=i) for i in range(30)]
    with pytest.raises(InputError, match="has 30 ratings of 1 people; expected those of at least 2"):
        read_log(write_jsonl(tmp_path / "log", rows))
    assert read_log(write_jsonl(tmp_path / "log", [*rows, row("ben")])).counts.people == 2


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("column", ["user", "item", "rating"])
def test_a_missing_column_is_named_with_what_a_log_may_have(column: str, name: str, tmp_path: Path) -> None:
    """Both sets of columns, as nobody knows which was meant."""
    rows = [{key: cell for key, cell in r.items() if key != column} for r in crowd()]
    path = WRITERS[name](tmp_path / "log", rows)
    said = f"has no column '{column}': found .*; expected user, prompt, a, b, choice, or user, item, rating$"
    with pytest.raises(InputError, match=said):
        read_log(path, strict=True)


def test_a_column_that_is_there_twice_is_named(tmp_path: Path) -> None:
    """Nobody knows which counts."""
    path = tmp_path / "log.csv"
    path.write_text("user,item,rating,rating\nada,x,1,2\nben,x,1,2\n")
    with pytest.raises(InputError, match="line 1 has the column 'rating' more than once"):
        read_log(path)


# ---------------------------------------------------------------- numbers


def test_people_and_replies_of_answers_are_numbered(tmp_path: Path) -> None:
    """People by name, replies to a prompt as they appear; what says nothing isn't there, and rows are the log's."""
    rows = [
        ANSWER | {"user": "eve", "choice": "skip"},
        ANSWER | {"user": "fay"},
        ANSWER | {"user": "ada", "a": "Good day.", "b": "Hey.", "choice": "tie"},
        ANSWER | {"user": "fay", "prompt": "Bye", "choice": "b"},
    ]
    numbered = read_log(write_jsonl(tmp_path / "log", rows)).numbered()
    assert list(numbered.user) == ["ada", "fay"]
    assert numbered.person.tolist() == [1, 0, 1]
    assert list(numbered.row) == [1, 2, 3]
    assert numbered.pair.tolist() == [[0, 1], [1, 2], [3, 4]]  # the same text to another prompt is another reply
    assert list(numbered.texts) == ["Hi!", "Good day.", "Hey.", "Hi!", "Good day."]
    assert [prompt[0]["content"] for prompt in numbered.prompts] == ["Hello"] * 3 + ["Bye"] * 2
    assert numbered.choice.tolist() == ["a", "tie", "b"]
    features = np.arange(5.0)[:, np.newaxis] ** 2
    assert numbered.differences(features, np.array([0, 2])).tolist() == [[-1.0], [-7.0]]


def test_pairs_of_ratings_are_numbered_likewise(tmp_path: Path) -> None:
    """Every answer is there, by its texts; whoever rated nothing apart has no number."""
    rows = [*crowd(), row("a single one")]
    log = read_log(write_jsonl(tmp_path / "log", rows))
    numbered = log.numbered()
    assert list(numbered.user) == sorted({answer.user for answer in log.answers})
    assert "a single one" not in numbered.user
    assert log.counts.people == len(numbered.user) + 1
    again = [
        Answer(numbered.user[person], ABOUT_ITEMS, numbered.texts[a], numbered.texts[b], choice)
        for person, (a, b), choice in zip(numbered.person, numbered.pair, numbered.choice, strict=True)
    ]
    assert tuple(again) == log.answers


def test_a_log_of_answers_that_say_nothing_has_no_numbers() -> None:
    """Nobody, no reply, and no error."""
    numbered = AnswerLog((), LogCounts(0, 0, 0, 0, 0, 0, 0, {}), "log").numbered()
    assert (list(numbered.user), numbered.pair.shape, list(numbered.texts)) == ([], (0, 2), [])
