"""A log of answers: the same from three kinds of file, what is doubtful counted, what is unusable named."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from personalign.errors import InputError, MissingExtra
from personalign.learn.factors import factorise
from personalign.messages import MAX_TEXT
from personalign.train.log import Answer, AnswerLog, BadRows, read_log
from personalign.train.rows import REQUIRED as COLUMNS
from personalign.types import CHOICES

Row = dict[str, Any]
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "שלום 👋🏽"},
    {"role": "assistant", "content": 'Hi,\n"you"'},
    {"role": "user", "content": "a\u2028b"},
]


def row(user: str = "ada", prompt: Any = "Hello", a: Any = "Hi!", b: Any = "Good day.", choice: Any = "a") -> Row:
    return dict(zip(COLUMNS, (user, prompt, a, b, choice), strict=True))


OTHER = row(user="ben", choice="b")


def write_jsonl(path: Path, rows: Sequence[Row]) -> Path:
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8", newline="")
    return path


def write_csv(path: Path, rows: Sequence[Row]) -> Path:
    path = path.with_suffix(".csv")
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([value if isinstance(value, str) else json.dumps(value) for value in r.values()] for r in rows)
    return path


def write_parquet(path: Path, rows: Sequence[Row]) -> Path:
    path = path.with_suffix(".parquet")
    if any(isinstance(r["prompt"], list) for r in rows):  # a column has one type
        rows = as_messages(rows)
    parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


WRITERS: dict[str, Callable[[Path, Sequence[Row]], Path]] = {
    "jsonl": write_jsonl,
    "csv": write_csv,
    "parquet": write_parquet,
}

characters = st.characters(exclude_categories=["Cs"]) | st.sampled_from(list("\u2028\u2029\x85,;\"'\n\r\t😀שُ\u200f|["))
texts = st.text(characters, min_size=1, max_size=20).filter(str.strip)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": texts}), max_size=2
).map(lambda before: [*before, {"role": "user", "content": "And?"}])
pairs = st.tuples(texts, texts).filter(lambda pair: pair[0] != pair[1])
plain = texts
rows_of_logs = st.lists(
    st.builds(
        lambda user, prompt, pair, choice: row(user, prompt, *pair, choice),
        texts,
        plain | messages,
        pairs,
        st.sampled_from(CHOICES[:5]),
    ),
    max_size=6,
).map(lambda rows: [OTHER, row(), *rows])


def answers_of(log: AnswerLog) -> list[Row]:
    return [row(answer.user, list(answer.prompt), answer.a, answer.b, answer.choice) for answer in log.answers]


def as_messages(rows: Sequence[Row]) -> list[Row]:
    return [
        r | {"prompt": r["prompt"] if isinstance(r["prompt"], list) else [{"role": "user", "content": r["prompt"]}]}
        for r in rows
    ]


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows_of_logs)
def test_texts_come_back_to_the_character(name: str, tmp_path: Path, rows: list[Row]) -> None:
    """Commas, quotes, line breaks of every kind, right-to-left text and emoji; prompts as texts and as messages."""
    log = read_log(WRITERS[name](tmp_path / "log", rows))
    assert answers_of(log) == as_messages(rows)
    assert (log.counts.rows, log.counts.duplicates, log.counts.bad) == (len(rows), 0, {})
    assert log.counts.people == len({r["user"] for r in rows})


@pytest.mark.parametrize("name", WRITERS)
def test_a_conversation_is_a_prompt(name: str, tmp_path: Path) -> None:
    """A list of messages comes back as they are, and a text as the user's only message."""
    log = read_log(WRITERS[name](tmp_path / "log", [row(prompt=TALK), OTHER]))
    assert [list(answer.prompt) for answer in log.answers] == [TALK, [{"role": "user", "content": "Hello"}]]


SPELT_OUT = {  # a conversation's cell as text, in any file
    "compact": json.dumps(TALK),
    "indented": json.dumps(TALK, indent=2, ensure_ascii=False),
    "after blanks": " \n\t" + json.dumps(TALK) + "\n",
    "after marks that nobody sees": "\ufeff\u200b" + json.dumps(TALK),
    "with other keys": json.dumps([message | {"name": "x", "weight": 1} for message in TALK]),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("cell", SPELT_OUT)
def test_the_json_of_a_conversation_is_one(cell: str, name: str, tmp_path: Path) -> None:
    """However it was written, and whatever the file."""
    log = read_log(WRITERS[name](tmp_path / "log", [row(prompt=SPELT_OUT[cell]), OTHER]))
    assert list(log.answers[0].prompt) == TALK


TEXTS = [
    "[{", "[{}]", "[]", "[1, 2]", "[{" * 9_000, "[{'a': 1}]", '[{"name": "x", "value": 3}]', '{"value": 3}', "{'role'",
    "f(role=3)", "[value: 3]", "role: user", '{"from": "Rome", "to": "Oslo"}', "[x for x in content]", "array([1, 2])",
]  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_a_cell_that_only_looks_like_messages_is_text(name: str, tmp_path: Path) -> None:
    """JSON of something else, code and brackets are what the user wrote, or a reply."""
    rows = [row(prompt=text) for text in TEXTS] + [row(a=text) for text in TEXTS]
    log = read_log(WRITERS[name](tmp_path / "log", [*rows, OTHER]))
    assert [answer.prompt[0]["content"] for answer in log.answers[: len(TEXTS)]] == TEXTS
    assert [answer.a for answer in log.answers[len(TEXTS) : -1]] == TEXTS


ARRAY = "array([{'content': 'I need a hotel', 'role': 'user'},\n {'content': 'Hi', 'role': 'assistant'}], dtype=object)"
PRINTED = {  # conversations that were printed, not written as JSON
    "pandas": str([{"role": "user", "content": "I need a hotel"}]),
    "numpy": ARRAY,
    "numpy's short form": ARRAY.removeprefix("array(").removesuffix(", dtype=object)").replace("},", "}"),
    "ShareGPT": json.dumps([{"from": "human", "value": "I need a hotel"}]),
    "a message without its text": '[{"role": "user"}]',
    "cut off": json.dumps(TALK)[:60],
    "one message": json.dumps({"role": "user", "content": "I need a hotel"}),
    "a record": json.dumps({"messages": TALK}),
    "a class": "[ChatMessage(role='user', content='I need a hotel')]",
    "twice JSON": json.dumps(json.dumps(TALK)),
    "JavaScript": "[{role: 'user', content: 'I need a hotel'}]",
    "a tuple": str(({"role": "user", "content": "I need a hotel"},)),
    "a deque": "deque([{'role': 'user', 'content': 'I need a hotel'}])",
    "ordered": "[OrderedDict([('role', 'user'), ('content', 'I need a hotel')])]",
    "doubled quotes": json.dumps(TALK).replace('"', '""'),
    "HTML": json.dumps(TALK).replace('"', "&quot;"),
    "pairs": json.dumps([["user", "I need a hotel"]]),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("column", ["prompt", "a", "b"])
def test_a_printed_conversation_is_never_taken_for_text(column: str, name: str, tmp_path: Path) -> None:
    """Each is counted, with its place, as prompt and as reply; the others of the log are read."""
    rows = [row(f"u{i}", f"Hello {i}") for i in range(180)]
    rows[1:1] = [row(**{column: cell}) for cell in PRINTED.values()]
    path = WRITERS[name](tmp_path / "log", rows)
    log = read_log(path)
    first = {"jsonl": "line 2", "csv": "line 3", "parquet": "row 2"}[name]
    (bad,) = log.counts.bad.values()
    assert bad == BadRows(len(PRINTED), first)
    assert len(log.answers) == 180
    with pytest.raises(InputError, match=f"{first}, column '{column}'.* begins like a list of messages"):
        read_log(path, strict=True)


def test_every_answer_is_kept_however_often_it_was_given(tmp_path: Path) -> None:
    """Agreement as well as contradiction, turned round or not, and counted as repeats."""
    turned = row(a="Good day.", b="Hi!", choice="b")
    rows = [row(), row(), turned, row(choice="b"), row(choice="tie"), row(user="cyd"), OTHER]
    log = read_log(write_jsonl(tmp_path / "log", rows))
    assert answers_of(log) == as_messages(rows)
    counts = log.counts
    assert (counts.rows, counts.repeats, counts.duplicates, counts.contradictions) == (7, 4, 0, 1)
    once = read_log(write_jsonl(tmp_path / "log", [row(), row(user="cyd"), OTHER])).counts
    assert (once.repeats, once.contradictions) == (0, 0)  # control


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("columns", [("id",), ("time",), ("id", "time")])
def test_an_id_or_a_time_tells_a_copy_from_a_retest(columns: tuple, name: str, tmp_path: Path) -> None:
    """Only the same person, pair, id and time are one answer; which choice it says decides nothing."""
    events = [row() | dict.fromkeys(columns, "7"), row() | dict.fromkeys(columns, "8")]
    other_choice = row(choice="b") | dict.fromkeys(columns, "7")
    unknown = [row() | dict.fromkeys(columns, ""), row() | dict.fromkeys(columns, "")]
    rows = [*events, *events, other_choice, *unknown, OTHER | dict.fromkeys(columns, "7")]
    path = WRITERS[name](tmp_path / "log", rows)
    if name == "csv":
        path.write_text(path.read_text("utf-8-sig").replace("choice", ",".join(["choice", *columns]), 1), "utf-8")
    log = read_log(path)
    assert answers_of(log) == as_messages([row(), row(), row(), row(), OTHER])
    assert (log.counts.duplicates, log.counts.repeats) == (3, 3)


@pytest.mark.parametrize("cell", [" ", "NaN", "null", "NaT", None, float("nan")])
def test_no_id_makes_no_copy(cell: object, tmp_path: Path) -> None:
    """However a file says that there is none, both answers are kept; a 0 is an id (the control)."""
    rows = [row(), OTHER]
    for event, kept in ((cell, 3), (0, 2)):
        log = read_log(write_jsonl(tmp_path / "log", [r | {"id": event} for r in [rows[0], *rows]]))
        assert len(answers_of(log)) == kept


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_of_bad_rows_is_a_share(share: float, tmp_path: Path) -> None:
    """What isn't one is refused before the log is read."""
    with pytest.raises(InputError, match=r"bad_rows is .*, expected a number from 0 to 1"):
        read_log(tmp_path / "none.jsonl", bad_rows=share)


def test_retests_do_not_shrink_what_people_differ_in(tmp_path: Path) -> None:
    """The spread of people's weights stays where every pair is asked three times; filtered by agreement it falls."""
    rng = np.random.default_rng(0)
    value = {f"reply {i}": float(x) for i, x in enumerate(rng.normal(size=12))}
    rows = []
    for person in range(60):
        weight = 2 * rng.normal()
        for _ in range(12):
            a, b = rng.choice([*value], size=2, replace=False)
            for _ in range(3):
                left = rng.random() < 1 / (1 + np.exp(-weight * (value[a] - value[b])))
                rows.append(row(f"p{person}", "Hello", str(a), str(b), "a" if left else "b"))

    def spread(answers: Sequence[Answer]) -> float:
        v = np.array([[value[answer.a] - value[answer.b]] for answer in answers])
        factors = factorise([answer.user for answer in answers], v, [answer.choice for answer in answers], 1)
        return float(np.sqrt(factors.prior.covariance[0, 0]) * np.abs(factors.projection[0, 0]))

    log = read_log(write_jsonl(tmp_path / "log", rows))
    once = [*{(answer.user, answer.a, answer.b, answer.choice): answer for answer in log.answers}.values()]
    everything = spread(log.answers)
    assert 1.5 < everything < 2.6
    assert spread(once) < 0.7 * everything  # control: what was kept before


@pytest.mark.parametrize("name", WRITERS)
def test_beside_much_better_a_and_b_are_a_little_better(name: str, tmp_path: Path) -> None:
    """Not where nobody said "much better", and not where a log tells itself what is a little better."""

    def choices(*given: str) -> list[str]:
        rows = [row(prompt=f"Hello {i}", choice=choice) for i, choice in enumerate(given)] + [OTHER]
        return [answer.choice for answer in read_log(WRITERS[name](tmp_path / "log", rows)).answers]

    assert choices("a", "a++", "tie", "skip") == ["a+", "a++", "tie", "skip", "b+"]
    assert choices("a", "tie") == ["a", "tie", "b"]
    assert choices("a", "a++", "b+") == ["a", "a++", "b+", "b"]


def test_contradictions_are_counted(tmp_path: Path) -> None:
    """By pair and person; somebody who skipped a pair before they answered it doesn't contradict themselves."""
    rows = [row(choice=choice) for choice in ("a", "b", "tie")] + [row(a="Good day.", b="Hi!", prompt="Bye"), OTHER]
    log = read_log(write_jsonl(tmp_path / "log", [*rows, row(prompt="Bye")]))
    assert (len(log.answers), log.counts.contradictions, log.counts.duplicates) == (6, 2, 0)
    log = read_log(write_jsonl(tmp_path / "log", [row(choice="skip"), row(choice="neither"), row(), OTHER]))
    assert (len(log.answers), log.counts.contradictions, log.counts.uninformative) == (4, 0, 2)
    grades = [row(), row(choice="a++"), row(a="Good day.", b="Hi!", choice="b++"), OTHER]  # of one side
    assert read_log(write_jsonl(tmp_path / "log", grades)).counts.contradictions == 0


def test_people_who_always_choose_one_side_are_kept_and_counted(tmp_path: Path) -> None:
    """Five answers or more; one for the other side, or a tie, is enough to be no such person."""

    def answers(user: str, choices: str) -> list[Row]:
        return [row(user, f"Hello {i}", choice=choice) for i, choice in enumerate(choices.split())]

    people = {
        "left": "a a a a a skip",
        "right": "b b b b b",
        "few": "a a a a",
        "both": "a a a a b",
        "tied": "b b b b b tie",
    }
    rows = [answer for user, choices in people.items() for answer in answers(user, choices)]
    log = read_log(write_jsonl(tmp_path / "log", rows))
    assert (log.counts.people, log.counts.constant_people, len(log.answers)) == (5, 2, len(rows))


UNUSABLE = "a prompt that can't be used"
BAD_CELLS: dict[str, tuple[Row, str, str, str]] = {  # the cell, where it is by column, what is said, the reason
    "an unknown choice": ({"choice": "left"}, "choice", "holds 'left'; expected one of a, b, tie", "an unknown choice"),
    "a choice in capitals": ({"choice": "A"}, "choice", "holds 'A'; expected one of", "an unknown choice"),
    "a blank user": ({"user": " "}, "user", "is blank", "an empty cell"),
    "an empty prompt": ({"prompt": ""}, "prompt", "is blank", "an empty cell"),
    "an empty reply": ({"a": ""}, "a", "is blank", "an empty cell"),
    "a blank reply": ({"b": "\u2028\t"}, "b", "is blank", "an empty cell"),
    "a novel": ({"b": "x" * (MAX_TEXT + 1)}, "b", "has 100,001 characters", "a text that can't be used"),
    "a megabyte": ({"prompt": "x" * 1_000_000}, "prompt", "can't be used: .* 1,000,000 characters", UNUSABLE),
    "one reply twice": ({"b": "Hi!"}, "b", "holds the same text as column 'a'", "the same reply twice"),
    "a conversation of one's own": (
        {"prompt": TALK[:3]}, "prompt", "can't be used: the last message is the assistant's", UNUSABLE,
    ),
    "an unknown role": (
        {"prompt": [{"role": "me", "content": "hi"}]}, "prompt", "can't be used: message 0 has the role 'me'",
        UNUSABLE,
    ),
    "a blank message": (
        {"prompt": [{"role": "user", "content": " "}]}, "prompt", "can't be used: message 0 .user. is blank",
        UNUSABLE,
    ),
    "a message that is a novel": (
        {"prompt": [{"role": "user", "content": "x" * (MAX_TEXT + 1)}]}, "prompt", "can't be used: .* 100,001 char",
        UNUSABLE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("bad", BAD_CELLS)
def test_a_bad_row_is_named_or_left_out(bad: str, name: str, tmp_path: Path) -> None:
    """Strictly it is named with file, line and column; else it is counted by its reason; the others are read."""
    change, column, said, reason = BAD_CELLS[bad]
    good = [OTHER, *(row(prompt=f"Hello {i}") for i in range(20))]
    path = WRITERS[name](tmp_path / "log", [*good[:2], row() | change, *good[2:]])
    place = {"jsonl": "line 3", "csv": "line 4", "parquet": "row 3"}[name]
    with pytest.raises(InputError, match=f"{re.escape(str(path))}, {place}, column '{column}' {said}"):
        read_log(path, strict=True)
    log = read_log(path)
    assert answers_of(log) == as_messages(good)
    assert log.counts.bad == {reason: BadRows(1, place)}
    assert (log.counts.rows, log.counts.people) == (22, 2)
    with pytest.raises(InputError, match=r"1 unusable rows of 22, expected 4% at most(?s:.*)--bad-rows") as error:
        read_log(path, bad_rows=0.04)
    assert f"1 have {reason}: {path}, {place}" in str(error.value)


def test_a_tenth_may_be_bad_and_no_more(tmp_path: Path) -> None:
    """The kinds are counted with the first of each, the most frequent one first in the phrase."""
    rows = [row(f"u{i}", f"Hello {i}") for i in range(27)]
    odd = [row(a="Good day."), row(choice="?"), row(b="Hi!")]
    counts = read_log(write_jsonl(tmp_path / "log", [*odd, *rows])).counts
    assert counts.bad == {"the same reply twice": BadRows(2, "line 1"), "an unknown choice": BadRows(1, "line 2")}
    assert counts.describe_bad() == (
        "2 have the same reply twice (the first is line 1); 1 have an unknown choice (the first is line 2)"
    )
    with pytest.raises(InputError, match="4 unusable rows of 31, expected 10% at most"):
        read_log(write_jsonl(tmp_path / "log", [*odd, *rows, row(choice="?")]))
    assert len(read_log(write_jsonl(tmp_path / "log", [*odd, *rows, row(choice="?")]), 0.2).answers) == 27


def test_a_quote_left_open_counts_all_the_lines_it_takes(tmp_path: Path) -> None:
    """Half of a file isn't lost for one stray quote: it is refused, with the line of the quote."""
    lines = [f"u{i},Hello {i},Hi!,Bye,a" for i in range(40)]
    path = tmp_path / "log.csv"
    path.write_text("\n".join([",".join(COLUMNS), *lines[:20], 'u,p,"x,y,a', *lines[20:]]) + "\n")
    with pytest.raises(InputError, match=r"21 unusable rows of 41(?s:.*)line 22 begins a row that isn't CSV"):
        read_log(path)
    path.write_text("\n".join([",".join(COLUMNS), *lines[:20], 'u,p,"x"!,y,a', *lines[20:]]) + "\n")
    log = read_log(path)  # control: one that is closed takes one line
    assert (len(log.answers), log.counts.bad) == (40, {"no CSV": BadRows(1, "line 22")})


@pytest.mark.parametrize(
    ("cell", "kind"), [(7, "is 7,"), (None, "is blank"), (True, "is True,"), (1.5, "is 1.5,"), ({}, "is {},")]
)
@pytest.mark.parametrize("column", COLUMNS)
def test_cells_that_are_not_text_are_named(column: str, cell: Any, kind: str, tmp_path: Path) -> None:
    """A number is not taken for the text that spells it."""
    path = write_jsonl(tmp_path / "log", [OTHER, row() | {column: cell}])
    with pytest.raises(InputError, match=f"line 2, column '{column}' {re.escape(kind)}"):
        read_log(path, strict=True)


@pytest.mark.parametrize("prompt", [["hi"], [{}], [{"role": "user"}], [{"text": "hi"}], [[]], []])
def test_a_list_of_something_else_is_no_prompt(prompt: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 2, column 'prompt' can't be used: .*message"):
        read_log(write_jsonl(tmp_path / "log", [OTHER, row(prompt=prompt)]), strict=True)


def test_half_a_surrogate_is_named(tmp_path: Path) -> None:
    """JSON can spell what is no character; a whole pair of them is one (the control)."""
    path = tmp_path / "log.jsonl"
    for text, refused in ((r"\ud83d!", True), (r"\ud83d\ude00!", False)):
        path.write_text(json.dumps(OTHER) + "\n" + json.dumps(row(a="@")).replace("@", text))
        if refused:
            with pytest.raises(InputError, match="line 2, column 'a' holds half a surrogate pair at character 1"):
                read_log(path, strict=True)
        else:
            assert read_log(path).answers[1].a == "😀!"


LINES = {  # suffix, whole content, what is said
    "no JSON": (".jsonl", b"hello\n", "line 1 isn't JSON"),
    "deep JSON": (".jsonl", b"[" * 200_000, "line 1 isn't JSON"),
    "a list": (".jsonl", b"[1]\n", "line 1 holds a list"),
    "no columns": (".jsonl", b"\n{}", "line 2 has no column 'user', 'prompt', 'a', 'b', 'choice': found none"),
    "no column": (
        ".jsonl",
        b'{"user": "u", "prompt": "p", "a": "x", "b": "y"}',
        "line 1 has no column 'choice': found",
    ),
    "no header": (".csv", b"ada,Hello,Hi!,Bye,a\n", "line 1 has no column 'user', .* found 'ada', 'Hello'"),
    "semicolons": (".csv", b"user;prompt;a;b;choice\n", "line 1 has no column .* found 'user;prompt;a;b;choice'"),
    "a column twice": (".csv", b"user,prompt,a,b,choice,a\n", "line 1 has the column 'a' more than once"),
    "a cell too many": (
        ".csv",
        b"user,prompt,a,b,choice\nu,p,x,y,a\nu,p,x, or z,y,a\n",
        "line 3 has 6 cells; expected 5",
    ),
    "a cell too few": (".csv", b"user,prompt,a,b,choice\nu,p,x,y\n", "line 2 has 4 cells; expected 5"),
    "a quote left open": (
        ".csv",
        b'user,prompt,a,b,choice\nu,p,"x,y,a\nv,p,x,y,a\n',
        "line 2 begins a row that isn't CSV",
    ),
    "a stray quote": (".csv", b'user,prompt,a,b,choice\nu,p,"x"!,y,a\n', "line 2 begins a row that isn't CSV"),
    "old line ends": (".csv", b"user,prompt,a,b,choice\ru,p,x,y,a\r", "line 1 begins a row that isn't CSV"),
    "a line after a long row": (
        ".csv",
        b'user,prompt,a,b,choice\nu,"p\nq\n",x,y,a\n\nu,p,x,y,?\n',
        "line 6, column 'choice'",
    ),
    "an empty file": (".csv", b"", "has 0 answers of 0 people"),
    "a header only": (".csv", b"user,prompt,a,b,choice\n", "has 0 answers of 0 people"),
    "Latin-1": (
        ".csv",
        "user,prompt,a,b,choice\nu,p,caf\xe9,y,a\n".encode("latin-1"),
        "line 2 isn't UTF-8",
    ),
    "UTF-16": (".jsonl", "{}".encode("utf-16"), "line 1 isn't UTF-8"),
    "another suffix": (".xlsx", b"", "has a name that ends in '.xlsx'; expected .jsonl, .csv or .parquet"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_malformed_file_is_named_with_the_line(name: str, tmp_path: Path) -> None:
    suffix, content, said = LINES[name]
    path = tmp_path / f"log{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        read_log(path, strict=True)
    assert str(path) in str(error.value)


def test_a_well_formed_file_is_read(tmp_path: Path) -> None:
    """The control of the malformed ones: any order of columns, more of them, blank lines, Windows's line ends."""
    path = tmp_path / "log.CSV"
    path.write_bytes(b'\xef\xbb\xbfchoice,b,time,a,prompt,user\r\n\r\na,y,7,"x, ""z""",p,u\r\nb,y,8,x,p,v\r\n')
    log = read_log(path)
    assert answers_of(log) == as_messages([row("u", "p", 'x, "z"', "y", "a"), row("v", "p", "x", "y", "b")])


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name in ("none.jsonl", "none.csv", "folder.csv"):
        with pytest.raises(InputError, match=f"{name} can't be read"):
            read_log(tmp_path / name)


def test_one_persons_answers_are_no_population(tmp_path: Path) -> None:
    """However many; two people's are one (the control)."""
    rows = [row(prompt=f"Hello {i}") for i in range(30)]
    with pytest.raises(InputError, match="has 30 answers of 1 people; expected those of at least 2"):
        read_log(write_jsonl(tmp_path / "log", rows))
    assert read_log(write_jsonl(tmp_path / "log", [*rows, OTHER])).counts.people == 2


def test_a_wide_cell_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    """A conversation may be wider than what csv reads by default; that limit is the process's, and stays."""
    before = csv.field_size_limit()
    talk = [{"role": "user", "content": "x" * 90_000}] * 3
    log = read_log(write_csv(tmp_path / "log", [row(prompt=talk), OTHER]))
    assert list(log.answers[0].prompt) == talk
    with pytest.raises(InputError, match="column 'a'"):
        read_log(write_csv(tmp_path / "log", [row(a="x" * 1_000_000), OTHER]))
    assert csv.field_size_limit() == before < 180_000


def test_without_pyarrow_the_command_to_install_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other kinds don't need it."""
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=re.escape("pip install 'personalign[parquet]'")):
        read_log(tmp_path / "log.parquet")
    assert read_log(write_jsonl(tmp_path / "log", [row(), OTHER])).counts.rows == 2


def test_parquet_that_is_none_or_lacks_columns_is_named(tmp_path: Path) -> None:
    """A broken file, a missing column, a number, bytes that aren't UTF-8; with the row where there is one."""
    path = tmp_path / "log.parquet"
    path.write_bytes(b"PAR1 or not")
    with pytest.raises(InputError, match=r"can't be read .*; expected a Parquet file"):
        read_log(path)
    with pytest.raises(InputError, match="can't be read"):
        read_log(tmp_path / "none.parquet")
    table = pa.Table.from_pylist([row(), OTHER])
    parquet.write_table(table.drop_columns(["b"]), path)
    with pytest.raises(InputError, match="has no column 'b': found 'user'"):
        read_log(path)
    parquet.write_table(table.set_column(0, "user", pa.array([1, 2])), path)
    with pytest.raises(InputError, match="row 1, column 'user' is 1, expected text"):
        read_log(path)
    latin = pa.array([b"Hi", b"caf\xe9"]).view(pa.string())
    parquet.write_table(table.set_column(2, "a", latin), path)
    with pytest.raises(InputError, match="row 2, column 'a' isn't UTF-8"):
        read_log(path, strict=True)
    for times in (pa.array([1, 2], pa.time64("ns")), pa.array([2**31 - 1, 0], pa.date32())):
        parquet.write_table(table.append_column("time", times), path)
        assert not read_log(path).counts.bad  # Python has no value for these
    parquet.write_table(table, path)
    assert read_log(path).counts.rows == 2  # control
