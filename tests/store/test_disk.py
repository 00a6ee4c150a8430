"""A disk that is full or fails at any step of a write: the write is refused as a whole, and goes through with room.

The kernel lets no file grow past a limit, so SQLite meets writes cut short (a full disk) and writes that fail (an I/O
error), in every file and wherever the limit is moved to.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection, event, text

from personalign.errors import ErasurePending, StoreError
from personalign.store import Answer, Shown, Store, schema
from personalign.store.sqlite import database, engine
from personalign.store.sqlite.database import locate
from personalign.types import Gaussian
from tests.store.store_worker import is_known

LONG = "long " * 4_000  # takes several pages
NUM_AXES = 60
NO_LIMIT = 1_073_741_823  # pages
# bytes: the small ones fall into the files beside the database, the others between and into pages
LIMITS = (*range(0, 200, 20), *range(200, 600_000, 12_301))


def fit(answers: tuple[Answer, ...]) -> Gaussian:
    """A fit that takes several pages."""
    return Gaussian(np.full(NUM_AXES, float(len(answers))), np.eye(NUM_AXES))


def ask(store: Store, user: str, question: str) -> str:
    return store.present(user, "basis", Shown(question, (), LONG, "right", swapped=False, v=np.ones(NUM_AXES))).id


WRITES: dict[str, Callable[[Store], object]] = {
    "basis": lambda store: store.save_basis("other", "tiny", {"words": LONG}),
    "person": lambda store: store.add_user("bob"),
    "consent": lambda store: store.add_user("ada", consent=LONG),
    "question": lambda store: ask(store, "eve", "q2"),
    "answer": lambda store: store.commit_answer("ada", store.open_presentation("ada", "basis").id, "a", fit),
    "undo": lambda store: store.undo_answer("eve", "basis", fit),
    "erasure": lambda store: store.forget("ada"),
}


@pytest.fixture(params=["wal", "truncate"])
def journal(monkeypatch, request) -> str:
    """Each kind of journal, whichever the driver would choose."""
    monkeypatch.setattr(database, "journal_mode", lambda _: request.param)
    return request.param


@pytest.fixture
def filled(url: str, journal: str) -> Iterator[Store]:
    """A store where ada has answered and has an open question, and eve has answered; its journal begins empty."""
    with Store.open(url) as store:
        store.save_basis("basis", "tiny", {})
        for user in ("ada", "eve"):
            store.add_user(user)
            store.commit_answer(user, ask(store, user, "q1"), "a", fit)
        ask(store, "ada", "q2")
    with Store.open(url) as store:
        yield store


@contextmanager
def room(size: int) -> Iterator[None]:
    """Let no file grow past this size."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def rows(url: str) -> dict[str, list[Any]]:
    """Everything that a new connection sees, once SQLite has found nothing wrong with the file."""
    reader = engine.reader_engine(locate(url))
    try:
        with reader.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall() == []
            names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars()
            return {name: connection.exec_driver_sql(f"SELECT * FROM {name}").fetchall() for name in list(names)}
    finally:
        reader.dispose()


def limit_pages(store: Store, pages: int) -> None:
    """Let the database have no more pages; as many as it has, where it has more."""
    with store._connections.writer.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}").scalar()


def fill(store: Store) -> None:
    """Take the database's last page, and what was left of the others."""
    limit_pages(store, 1)

    def add_people() -> None:
        for number in range(1_000):
            store.add_user(f"filler-{number}")

    with pytest.raises(StoreError, match="full"):
        add_people()


@dataclass
class Sweep:
    """What happened to a write that was given ever more room."""

    refused: int = 0
    traces: int = 0  # refusals after which the rows had changed
    pending: int = 0  # erasures of which only the rows are gone


def sweep(write: Callable[[], object], url: str) -> Sweep:
    """Give a write ever more room until it goes through."""
    found = Sweep()
    before = rows(url)
    for size in LIMITS:
        try:
            with room(size):
                write()
        except ErasurePending:
            found.pending += 1
            before = rows(url)
        except StoreError:
            found.refused += 1
            found.traces += rows(url) != before
        else:
            assert rows(url) != before or found.pending
            return found
    raise AssertionError("the write never went through")


@pytest.mark.parametrize("verb", WRITES)
def test_a_write_is_refused_as_a_whole(filled: Store, url: str, verb: str) -> None:
    """Wherever a file can't grow, each verb is a StoreError without a trace; with room the same store goes on."""
    found = sweep(lambda: WRITES[verb](filled), url)
    assert found.refused > 1
    assert found.traces == 0


def test_half_a_write_would_be_seen(filled: Store, url: str) -> None:
    """The control: a writer that commits statement by statement leaves one of two consents."""

    def consent() -> None:
        with filled._write() as session:
            for user, words in (("ada", "short"), ("eve", LONG)):
                session.execute(
                    text("UPDATE users SET consent = :words WHERE id = :user"), {"words": words, "user": user}
                )

    @event.listens_for(filled._connections.writer, "after_cursor_execute")
    def commit(connection: Connection, *_: object) -> None:
        connection.connection.commit()

    assert sweep(consent, url).traces > 0


def test_a_person_is_not_kept_by_a_full_disk(filled: Store, url: str) -> None:
    """An erasure that was refused after its tombstone was written is made good when the store is next opened."""
    with room(300), pytest.raises(StoreError):
        filled.forget("ada")
    assert is_known(filled, "ada")
    filled.close()
    with Store.open(url) as opened:
        assert not is_known(opened, "ada")
        assert is_known(opened, "eve")


@pytest.mark.parametrize("journal", ["wal"], indirect=True)
def test_a_log_that_cannot_be_folded_in_makes_erasure_pending(filled: Store, url: str) -> None:
    """Where the disk fails after the rows are gone, forget says so, not that it is done; called again it finishes."""
    assert sweep(lambda: filled.forget("ada"), url).pending > 0
    assert not locate(url).neighbour("-wal").stat().st_size


def test_reading_needs_no_room(filled: Store) -> None:
    """What is stored is read, and exported, while nothing can be written."""
    before = filled.export("ada")
    with room(0):
        assert filled.export("ada") == before
        assert filled.profile("ada", "basis").revision == 1
        with pytest.raises(StoreError):
            filled.add_user("bob")


def test_a_first_schema_is_made_whole(tmp_path: Path, journal: str) -> None:
    """Wherever a new file can't grow it holds no tables, and with room it becomes a store."""
    refused = 0
    for size in LIMITS[::2]:
        url = f"sqlite:///{tmp_path / str(size)}"
        try:
            with room(size):
                Store.open(url).close()
        except StoreError:
            refused += 1
            assert rows(url) == {}
            Store.open(url).close()
        assert rows(url)["alembic_version"] == [(schema.HEAD,)]
    assert 1 < refused < len(LIMITS[::2])


def test_an_old_copy_is_not_opened_before_it_is_erased_again(filled: Store, url: str, tmp_path: Path) -> None:
    """A backup from before an erasure opens when there is room to erase again, and not with half of it erased."""
    path = locate(url).path
    filled.close()
    shutil.copy(path, tmp_path / "backup")
    with Store.open(url) as opened:
        opened.forget("ada")
    shutil.copy(tmp_path / "backup", path)
    found = sweep(lambda: Store.open(url).close(), url)
    assert found.refused > 1
    assert found.traces == 0
    assert [user for user, *_ in rows(url)["users"]] == ["eve"]


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_an_erasure_whose_tombstone_is_not_on_the_disk_is_refused(
    filled: Store, url: str, monkeypatch, call: str, number: int
) -> None:
    """Where key or tombstone can't be written nobody is erased and no draft is left; later it goes through."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    before = rows(url)
    with monkeypatch.context() as failing:
        failing.setattr(os, call, fail)
        with pytest.raises(StoreError, match="can't be written"):
            filled.forget("ada")
    assert rows(url) == before
    filled.forget("ada")
    assert rows(url) != before
    path = locate(url).path
    assert {file.suffix for file in path.parent.glob(f"{path.name}.*")} == {".key", ".lock", ".tombstones"}


@pytest.mark.parametrize("suffix", [".key", ".tombstones"])
def test_a_file_beside_the_database_that_cannot_be_read_is_told(filled: Store, url: str, suffix: str) -> None:
    """A key or tombstones that can't be read are a StoreError wherever they are needed, and readable ones aren't."""
    filled.forget("eve")
    filled.close()
    Store.open(url).close()
    path = locate(url).neighbour(suffix)
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError, match="can't be"), Store.open(url) as opened:
        opened.forget("ada")


@pytest.mark.parametrize("verb", [verb for verb in WRITES if verb != "erasure"])
def test_a_full_database_refuses_as_a_whole(filled: Store, url: str, verb: str) -> None:
    """Without a page to spare each verb is a StoreError without a trace; with pages the same store goes on."""
    fill(filled)
    before = rows(url)
    with pytest.raises(StoreError, match="free some space"):
        WRITES[verb](filled)
    assert rows(url) == before
    limit_pages(filled, NO_LIMIT)
    WRITES[verb](filled)
    assert rows(url) != before


def test_a_person_leaves_a_full_database(filled: Store) -> None:
    """Erasing needs no page, and makes room for others."""
    fill(filled)
    filled.forget("ada")
    filled.add_user("bob")
    assert is_known(filled, "bob")
