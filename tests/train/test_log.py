"""A log of answers: the same from three kinds of file, what is doubtful counted, what is unusable named."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from personalign.errors import InputError, MissingExtra
from personalign.train.log import COLUMNS, AnswerLog, read_log
from personalign.types import CHOICES, MAX_TEXT

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
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = path.with_suffix(".parquet")
    if any(isinstance(r["prompt"], list) for r in rows):  # a column has one type
        rows = as_messages(rows)
    parquet.write_table(arrow.Table.from_pylist(list(rows)), path)
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
plain = texts.filter(lambda text: not text.startswith("[{"))
rows_of_logs = st.lists(
    st.builds(
        lambda user, prompt, pair, choice: row(user, prompt, *pair, choice),
        texts,
        plain | messages,
        pairs,
        st.sampled_from(CHOICES),
    ),
    max_size=6,
).map(lambda rows: [OTHER, row(), *rows])


def told(log: AnswerLog) -> list[Row]:
    return [
        row(u, list(p), a, b, c) for u, p, a, b, c in zip(log.user, log.prompt, log.a, log.b, log.choice, strict=True)
    ]


def as_messages(rows: Sequence[Row]) -> list[Row]:
    return [
        r | {"prompt": r["prompt"] if isinstance(r["prompt"], list) else [{"role": "user", "content": r["prompt"]}]}
        for r in rows
    ]


@pytest.mark.parametrize("name", WRITERS)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows_of_logs)
def test_texts_come_back_to_the_character(name: str, tmp_path: Path, rows: list[Row]) -> None:
    """Commas, quotes, line breaks of every kind, right-to-left text and emoji; prompts as texts and as messages."""
    log = read_log(WRITERS[name](tmp_path / "log", rows))
    found = told(log)
    wanted = as_messages(rows)
    assert all(r in wanted for r in found)
    assert log.counts.rows == len(rows) == len(found) + log.counts.duplicates
    assert log.counts.people == len({r["user"] for r in rows})
    if not log.counts.duplicates:
        assert found == wanted


@pytest.mark.parametrize("name", WRITERS)
def test_a_conversation_is_a_prompt(name: str, tmp_path: Path) -> None:
    """A list of messages comes back as they are, and a text as the user's only message."""
    log = read_log(WRITERS[name](tmp_path / "log", [row(prompt=TALK), OTHER]))
    assert [list(prompt) for prompt in log.prompt] == [TALK, [{"role": "user", "content": "Hello"}]]


def test_a_cell_that_only_looks_like_messages_is_text(tmp_path: Path) -> None:
    """In CSV, what isn't JSON of messages is what the user wrote."""
    cells = ["[{", "[{}]", '[{"role": "user"}]', "[{" * 50_000]
    log = read_log(write_csv(tmp_path / "log", [row(prompt=cell) for cell in cells] + [OTHER]))
    assert [prompt[0]["content"] for prompt in log.prompt] == [*cells, "Hello"]


def test_the_same_answer_is_kept_once(tmp_path: Path) -> None:
    """Repeated, or turned round with its choice; another person's, prompt's or choice is another answer."""
    turned = row(a="Good day.", b="Hi!", choice="b")
    spelt = row(prompt=[{"role": "user", "content": "Hello"}])
    ties = [row(prompt="Bye", choice="tie"), row(prompt="Bye", a="Good day.", b="Hi!", choice="tie")]
    log = read_log(write_jsonl(tmp_path / "log", [row(), row(), turned, spelt, *ties, OTHER]))
    assert told(log) == as_messages([row(), ties[0], OTHER])
    assert (log.counts.rows, log.counts.duplicates, log.counts.contradictions) == (7, 4, 0)
    others = [row(user="cyd"), row(prompt="Hello!"), row(a="Good day.", b="Hi!")]
    log = read_log(write_jsonl(tmp_path / "log", [row(), *others]))
    assert told(log) == as_messages([row(), *others])  # control


def test_contradictions_are_kept_and_counted(tmp_path: Path) -> None:
    """By pair and person; who skipped a pair before they answered it doesn't contradict themselves."""
    rows = [row(choice=choice) for choice in ("a", "b", "tie")] + [row(a="Good day.", b="Hi!", prompt="Bye"), OTHER]
    log = read_log(write_jsonl(tmp_path / "log", [*rows, row(prompt="Bye")]))
    assert (len(log.user), log.counts.contradictions, log.counts.duplicates) == (6, 2, 0)
    log = read_log(write_jsonl(tmp_path / "log", [row(choice="skip"), row(choice="neither"), row(), OTHER]))
    assert (len(log.user), log.counts.contradictions, log.counts.uninformative) == (4, 0, 2)


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
    assert (log.counts.people, log.counts.constant_people, len(log.user)) == (5, 2, len(rows))


BAD_CELLS: dict[str, tuple[Row, str, str, str]] = {  # the cell, where it is by column, what is said
    "an unknown choice": ({"choice": "left"}, "choice", "holds 'left'; expected one of a, b, tie, neither, skip"),
    "a choice in capitals": ({"choice": "A"}, "choice", "holds 'A'; expected one of"),
    "a blank user": ({"user": " "}, "user", "is blank"),
    "an empty prompt": ({"prompt": ""}, "prompt", "is blank"),
    "an empty reply": ({"a": ""}, "a", "is blank"),
    "a blank reply": ({"b": "\u2028\t"}, "b", "is blank"),
    "a novel": ({"b": "x" * (MAX_TEXT + 1)}, "b", "holds a text of 100,001 characters; expected at most 100,000"),
    "a megabyte": ({"prompt": "x" * 1_000_000}, "prompt", "holds a text of 1,000,000 characters"),
    "one reply twice": ({"b": "Hi!"}, "b", "holds the same text as column 'a'"),
    "a conversation of one's own": (
        {"prompt": TALK[:3]},
        "prompt",
        "can't be used: the last message is the assistant's",
    ),
    "an unknown role": (
        {"prompt": [{"role": "me", "content": "hi"}]},
        "prompt",
        "can't be used: message 0 has the role 'me'",
    ),
    "a blank message": (
        {"prompt": [{"role": "user", "content": " "}]},
        "prompt",
        "can't be used: message 0 .user. is blank",
    ),
    "a message that is a novel": (
        {"prompt": [{"role": "user", "content": "x" * (MAX_TEXT + 1)}]},
        "prompt",
        "can't be used: message 0 .user. has 100,001 characters",
    ),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("bad", BAD_CELLS)
def test_a_bad_cell_is_named(bad: str, name: str, tmp_path: Path) -> None:
    """With file, line and column; the same file without it is read (the control)."""
    change, column, said = BAD_CELLS[bad]
    path = WRITERS[name](tmp_path / "log", [OTHER, row(), row() | change])
    line = {"jsonl": "line 3", "csv": "line 4", "parquet": "row 3"}[name]
    with pytest.raises(InputError, match=f"{re.escape(str(path))}, {line}, column '{column}' {said}"):
        read_log(path)
    assert read_log(WRITERS[name](tmp_path / "log", [OTHER, row(), row()])).counts.duplicates == 1


@pytest.mark.parametrize(
    ("cell", "kind"), [(7, "a int"), (None, "nothing .null."), (True, "a bool"), (1.5, "a float"), ({}, "a dict")]
)
@pytest.mark.parametrize("column", COLUMNS)
def test_cells_that_are_no_text_are_named(column: str, cell: Any, kind: str, tmp_path: Path) -> None:
    """A number is not taken for the text that spells it."""
    path = write_jsonl(tmp_path / "log", [OTHER, row() | {column: cell}])
    with pytest.raises(InputError, match=f"line 2, column '{column}' holds {kind}; expected text"):
        read_log(path)


@pytest.mark.parametrize("prompt", [["hi"], [{}], [{"role": "user"}], [{"text": "hi"}], [[]]])
def test_a_list_of_something_else_is_no_prompt(prompt: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2, column 'prompt' holds a list of something else; expected"):
        read_log(write_jsonl(tmp_path / "log", [OTHER, row(prompt=prompt)]))


def test_an_empty_list_is_no_prompt(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 1, column 'prompt' can't be used: found no messages"):
        read_log(write_jsonl(tmp_path / "log", [row(prompt=[])]))


def test_half_a_surrogate_is_named(tmp_path: Path) -> None:
    """JSON can spell what is no character; a whole pair of them is one (the control)."""
    path = tmp_path / "log.jsonl"
    for text, refused in ((r"\ud83d!", True), (r"\ud83d\ude00!", False)):
        path.write_text(json.dumps(OTHER) + "\n" + json.dumps(row(a="@")).replace("@", text))
        if refused:
            with pytest.raises(InputError, match="line 2, column 'a' holds half a surrogate pair at character 1"):
                read_log(path)
        else:
            assert read_log(path).a[1] == "😀!"


LINES = {  # suffix, whole content, what is said
    "no JSON": (".jsonl", b"hello\n", "line 1 is no JSON"),
    "deep JSON": (".jsonl", b"[" * 200_000, "line 1 is no JSON"),
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
        "line 2 begins a row that is no CSV",
    ),
    "a stray quote": (".csv", b'user,prompt,a,b,choice\nu,p,"x"!,y,a\n', "line 2 begins a row that is no CSV"),
    "old line ends": (".csv", b"user,prompt,a,b,choice\ru,p,x,y,a\r", "line 1 begins a row that is no CSV"),
    "a line after a long row": (
        ".csv",
        b'user,prompt,a,b,choice\nu,"p\nq\n",x,y,a\n\nu,p,x,y,?\n',
        "line 6, column 'choice'",
    ),
    "an empty file": (".csv", b"", "has 0 answers of 0 people"),
    "a header only": (".csv", b"user,prompt,a,b,choice\n", "has 0 answers of 0 people"),
    "Latin-1": (".csv", "user,prompt,a,b,choice\nu,p,caf\xe9,y,a\n".encode("latin-1"), "line 2 isn't UTF-8 at byte 8"),
    "UTF-16": (".jsonl", "{}".encode("utf-16"), "line 1 isn't UTF-8 at byte 1"),
    "another suffix": (".xlsx", b"", "has a name that ends in '.xlsx'; expected .jsonl, .csv or .parquet"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_malformed_file_is_named_with_the_line(name: str, tmp_path: Path) -> None:
    suffix, content, said = LINES[name]
    path = tmp_path / f"log{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        read_log(path)
    assert str(path) in str(error.value)


def test_a_well_formed_file_is_read(tmp_path: Path) -> None:
    """The control of the malformed ones: any order of columns, more of them, blank lines, Windows's line ends."""
    path = tmp_path / "log.CSV"
    path.write_bytes(b'\xef\xbb\xbfchoice,b,time,a,prompt,user\r\n\r\na,y,7,"x, ""z""",p,u\r\nb,y,8,x,p,v\r\n')
    log = read_log(path)
    assert told(log) == as_messages([row("u", "p", 'x, "z"', "y", "a"), row("v", "p", "x", "y", "b")])


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
    assert list(log.prompt[0]) == talk
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
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "log.parquet"
    path.write_bytes(b"PAR1 or not")
    with pytest.raises(InputError, match=r"can't be read .*; expected a Parquet file"):
        read_log(path)
    with pytest.raises(InputError, match="can't be read"):
        read_log(tmp_path / "none.parquet")
    table = arrow.Table.from_pylist([row(), OTHER])
    parquet.write_table(table.drop_columns(["b"]), path)
    with pytest.raises(InputError, match="has no column 'b': found 'user'"):
        read_log(path)
    parquet.write_table(table.set_column(0, "user", arrow.array([1, 2])), path)
    with pytest.raises(InputError, match="row 1, column 'user' holds a int; expected text"):
        read_log(path)
    latin = arrow.array([b"Hi", b"caf\xe9"]).view(arrow.string())
    parquet.write_table(table.set_column(2, "a", latin), path)
    with pytest.raises(InputError, match="row 2, column 'a' isn't UTF-8"):
        read_log(path)
    parquet.write_table(table, path)
    assert read_log(path).counts.rows == 2  # control
