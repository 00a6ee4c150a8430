"""No damaged row is believed: one flipped bit anywhere changes nothing that is said, or is a StoreError."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from personalign.errors import StoreError
from personalign.store import Shown, Store, records, schema
from personalign.store.erase import num_damaged
from personalign.store.places import find
from personalign.store.sqlite.database import sqlite_driver
from personalign.store.tables import AnswerRow, PresentationRow, ProfileRow, StatementRow
from personalign.store.values import checksum
from personalign.types import Statement
from tests.store.store_worker import is_known

SECRET = "secret words"
SUMMED = (PresentationRow, AnswerRow, ProfileRow, StatementRow)
COLUMNS = [
    (row.__tablename__, column.name)
    for row in SUMMED
    for column in row.__table__.columns
    if (row, column.name) != (AnswerRow, "id")  # only names the row
]
FLIPS = 6  # of each column


@pytest.fixture
def filled(store: Store, show, fit) -> Store:
    """Two people with answers, feedback, an undone answer and an open question each."""
    store.add_user("ben")
    for user in ("ada", "ben"):
        for number in range(3):
            shown = show(f"q{number}", user=user, a=f"{SECRET} {number}", v=(number, -1.5, 0.25))
            store.commit_answer(user, shown.id, "ab"[number % 2], fit)
        store.undo_answer(user, "basis", fit)
        pair = Shown("edit:1", (), SECRET, "right", swapped=True, v=np.ones(3), kind="edit")
        store.commit_feedback(user, "basis", pair, "b", fit)
    return store


@pytest.fixture
def stated(filled: Store, fit) -> Store:
    """The same two, who also state something, and take part of it back."""
    for user in ("ada", "ben"):
        for axis in ("length", "warmth", "names"):
            filled.commit_statements(user, "basis", {(axis, "said"): Statement(axis, 0.5, "said", SECRET)}, fit)
        filled.commit_statements(user, "basis", {("names", "said"): None}, fit)
    return filled


def say(store: Store, user: str) -> str:
    """All that the store says of a person, but how often others saw a question."""
    state = store.state(user, "basis")
    shown = [store.presentation(user, answer.presentation_id) for answer in state.answers]
    waiting = store.open_presentation(user, "basis")
    # a question that isn't found is asked again, or another in its place
    assert waiting is None or (waiting.user, waiting.question_id, waiting.a) == (user, "q2", f"{SECRET} 2")
    profile = store.profile(user, "basis")
    return repr(
        [
            [(a.choice, a.v.tobytes(), a.seconds, a.answered_at, a.kind, a.question_id) for a in state.answers],
            [(p.a, p.b, p.prompt, p.swapped, p.v.tobytes(), p.shown_at) for p in shown],
            profile and (profile.revision, profile.answers, profile.informative, profile.user),
            profile and (profile.mean.tobytes(), profile.covariance.tobytes(), profile.stated),
            [*store.before_answers(user, "basis")[0].values()],
        ]
    )


def flip(value: Any, draw: random.Random) -> Any:
    """Flip one bit of what a column holds; nothing turns into something."""
    if value in {None, ""}:
        return draw.choice([0, 1, "2026-01-01 00:00:00.000000", b"\xff"])
    if isinstance(value, int):
        return value ^ (1 << draw.randrange(20))
    if isinstance(value, float):
        content = bytearray(np.float64(value).tobytes())
    else:
        content = bytearray(value if isinstance(value, bytes) else value.encode())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    if isinstance(value, float):
        return float(np.frombuffer(bytes(content), dtype=np.float64)[0])
    return bytes(content)


@pytest.fixture
def raw(path) -> Iterator[Any]:
    """A connection that checks nothing."""
    connection = sqlite_driver().connect(str(path), isolation_level=None)
    connection.execute("PRAGMA foreign_keys=0")
    connection.execute("PRAGMA ignore_check_constraints=1")
    yield connection
    connection.close()


def put(raw: Any, table: str, column: str, row: int, value: Any) -> bool:
    """Write a value as it is, text as text even if it is none any more; False where an index refuses it."""
    kind = raw.execute(f"SELECT typeof({column}) FROM {table} WHERE rowid = ?", (row,)).fetchone()[0]
    new = "CAST(? AS TEXT)" if kind == "text" else "?"
    try:
        raw.execute(f"UPDATE {table} SET {column} = {new} WHERE rowid = ?", (value, row))
    except sqlite_driver().IntegrityError:
        return False
    return True


def believed(store: Store, raw: Any, table: str, column: str) -> int:
    """Flip bits in a column of ada's rows; count those that change what is said of her, or anything of ben's."""
    draw = random.Random(f"{table} {column}")
    sound = {user: say(store, user) for user in ("ada", "ben")}
    rows = [row for (row,) in raw.execute(f"SELECT rowid FROM {table} WHERE user_id = 'ada' ORDER BY rowid")]
    wrong = 0
    for _ in range(FLIPS):
        row = draw.choice(rows)
        (before,) = raw.execute(f"SELECT {column} FROM {table} WHERE rowid = ?", (row,)).fetchone()
        if not put(raw, table, column, row, flip(before, draw)):
            continue
        try:
            wrong += say(store, "ada") != sound["ada"]
        except StoreError as error:
            wrong += SECRET in str(error)
        except Exception:  # noqa: BLE001 - an error of another's is no answer
            wrong += 1
        wrong += say(store, "ben") != sound["ben"]
        exported = store.export("ada")
        json.dumps(exported, ensure_ascii=False).encode()  # told as it is, in proper Unicode
        wrong += column != "user_id" and not num_damaged(exported)  # that row is no longer hers
        put(raw, table, column, row, before)
    assert say(store, "ada") == sound["ada"]
    return wrong


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_flipped_bit_is_never_believed(stated: Store, raw, table: str, column: str) -> None:
    """Whatever column it is in: what is said stays, or a StoreError says so; others are neither stopped nor changed."""
    assert believed(stated, raw, table, column) == 0


@pytest.mark.parametrize(("table", "column"), [("answers", "choice"), ("profiles", "revision"), ("presentations", "a")])
def test_without_checksums_it_would_be(filled: Store, raw, monkeypatch, table: str, column: str) -> None:
    """The control: each of the three sums is needed."""
    monkeypatch.setattr(records, "check_row", lambda _: None)
    monkeypatch.setattr(PresentationRow, "digest", property(records._digest))
    assert believed(filled, raw, table, column) > 0


def test_a_damaged_answer_stops_only_what_needs_it(filled: Store, raw, fit) -> None:
    """The profile is served, the open question found, everything exported; only a fit of all answers is refused."""
    raw.execute("UPDATE answers SET choice = 'z' WHERE rowid = 1")
    assert filled.profile("ada", "basis") is not None
    waiting = filled.open_presentation("ada", "basis")
    assert waiting is not None
    answers = filled.export("ada")["tables"]["answers"]
    assert (answers[0]["choice"], answers[0]["damaged"]) == ("z", True)
    assert not any("damaged" in answer for answer in answers[1:])
    with pytest.raises(StoreError, match="answer 1 doesn't match its checksum"):
        filled.commit_answer("ada", waiting.id, "a", fit)
    filled.forget("ada")
    assert not is_known(filled, "ada")


def test_an_answer_that_is_gone_is_missed(filled: Store, raw, fit) -> None:
    """A profile knows how many answers it came from, and that there is one: neither goes without a word."""
    raw.execute("DELETE FROM profiles WHERE user_id = 'ben'")
    with pytest.raises(StoreError, match="profile is missing"):
        filled.profile("ben", "basis")
    raw.execute("DELETE FROM answers WHERE rowid = 1")
    with pytest.raises(StoreError, match="answers of this person are missing"):
        filled.state("ada", "basis")


def test_another_persons_profile_is_not_served(filled: Store, raw) -> None:
    """Moved to another person, or set back to an older revision, a row no longer fits its checksum."""
    raw.execute("DELETE FROM profiles WHERE user_id = 'ben'")
    raw.execute("UPDATE profiles SET user_id = 'ben' WHERE user_id = 'ada'")
    with pytest.raises(StoreError, match="checksum"):
        filled.profile("ben", "basis")


@pytest.mark.parametrize("value", [0, "yesterday", b"\xff", 1e300, "9999-99-99 00:00:00.000000"])
def test_garbage_for_a_time_is_told(filled: Store, raw, value: Any) -> None:
    """Whatever stands where a time should be is a StoreError, and a person whose own is garbage can be erased."""
    raw.execute("UPDATE answers SET answered_at = ? WHERE user_id = 'ada'", (value,))
    with pytest.raises(StoreError):
        filled.state("ada", "basis")
    raw.execute("UPDATE users SET created_at = ?", (value,))
    filled.forget("ada")
    assert not is_known(filled, "ada")


def test_a_migration_seals_what_was_stored_and_blesses_no_damage(filled: Store, raw, url: str) -> None:
    """Down to the schema before whole rows were summed and up again all is said as before; a damaged row stays so."""
    before = {user: say(filled, user) for user in ("ada", "ben")}
    numbers = raw.execute("SELECT number FROM answers ORDER BY id").fetchall()
    filled.close()
    schema.migrate(find(url), "0005")
    raw.execute("UPDATE presentations SET v = zeroblob(24) WHERE user_id = 'ben' AND kind = 'question'")
    schema.migrate(find(url), schema.HEAD)
    assert raw.execute("SELECT number FROM answers ORDER BY id").fetchall() == numbers
    with Store.open(url) as store:
        assert say(store, "ada") == before["ada"]
        assert store.exposures("basis") == {"q0": 2, "q1": 2, "q2": 2}
        with pytest.raises(StoreError, match="checksum"):
            store.state("ben", "basis")


def figured(store: Store) -> list[tuple[str, tuple[Any, ...]]]:
    """The statements that give answers and profiles figures, and checksums over them, as revision 0011 had."""
    statements = []
    tables = (AnswerRow, "id", {"loss": 0.5, "gain": -0.25}), (ProfileRow, "user_id", {"gain": 0.75})
    with store._read() as session:
        for table, key, figures in tables:
            names = ", ".join(f"{name} = ?" for name in figures)
            for row in session.scalars(select(table)):
                values = {name: getattr(row, name) for name in set(row.__table__.columns.keys()) - {"id", "checksum"}}
                sealed = {name: value for name, value in values.items() if name not in {"stated", "logged"} or value}
                statement = f"UPDATE {table.__tablename__} SET {names}, checksum = ? WHERE {key} = ?"
                statements.append((statement, (*figures.values(), checksum(sealed | figures), getattr(row, key))))
    return statements


def test_figures_go_and_nothing_else_changes(filled: Store, raw, url: str, fit) -> None:
    """Rows of 0011 are sound without their figures, and can be refitted; what was damaged is, up and down and up."""
    filled.save_basis("second", "tiny", {})
    filled.commit_statements("ada", "basis", {("length", "set"): Statement("length", 0.5)}, fit)
    sound, statements = say(filled, "ada"), figured(filled)
    filled.close()
    schema.migrate(find(url), "0011")
    for statement in statements:
        raw.execute(*statement)
    figure, choice = raw.execute("SELECT id FROM answers WHERE user_id = 'ben' LIMIT 2").fetchall()
    raw.execute("UPDATE answers SET loss = 0.125 WHERE id = ?", figure)
    raw.execute("UPDATE answers SET choice = 'tie' WHERE id = ?", choice)
    raw.execute("UPDATE profiles SET informative = 9 WHERE user_id = 'ben'")
    for target in (schema.HEAD, "0011", schema.HEAD):
        schema.migrate(find(url), target)
    with Store.open(url) as store:
        assert say(store, "ada") == sound
        assert num_damaged(store.export("ada")) == 0
        damaged = store.export("ben")
        assert [(row["id"],) for row in damaged["tables"]["answers"] if "damaged" in row] == [figure, choice]
        assert num_damaged(damaged) == 3
        with pytest.raises(StoreError, match="checksum"):
            store.profile("ben", "basis")
        assert store.behind("second") == ["ada", "ben"]
        assert store.adopt("ada", "second", lambda shown: shown.v, fit).answers == 2
