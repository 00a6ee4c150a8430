"""Drivers, settings of every connection, and forks."""

from __future__ import annotations

import ast
import fcntl
import gc
import os
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FrameType

import pytest

from personalign.errors import PersonalignError, StoreError
from personalign.store import Store, fork, upkeep
from personalign.store.sqlite import database, engine, turn
from personalign.store.sqlite.database import sqlite_driver
from tests.forked import exit_code, forked
from tests.store.store_worker import is_known

ROOT = Path(__file__).parents[2]
DRIVERS = {"sqlite3", "pysqlite3", "_sqlite3"}

CALM = {"stuck": 0, "children": 24, "calls": True, "problems": []}


def _imports_driver(source: str) -> bool:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return bool(names & DRIVERS)


def test_the_driver_is_named_in_one_place() -> None:
    """No other file, tests and migrations included, imports a SQLite driver; database.py does (the control)."""
    found = [
        str(file.relative_to(ROOT))
        for folder in ("personalign", "migrations", "tests", "notebooks")
        for file in (ROOT / folder).rglob("*.py")
        if _imports_driver(file.read_text(encoding="utf-8"))
    ]
    assert found == ["personalign/store/sqlite/database.py"]


@pytest.mark.parametrize(
    ("version", "mode"),
    [
        ((3, 7, 0), "truncate"),
        ((3, 40, 1), "truncate"),
        ((3, 51, 2), "truncate"),
        ((3, 51, 3), "wal"),
        ((3, 53, 4), "wal"),
    ],
)
def test_wal_only_where_it_is_safe(version: tuple[int, ...], mode: str) -> None:
    """A SQLite with the WAL-reset bug gets the rollback journal."""
    assert database.journal_mode(version) == mode


@pytest.mark.parametrize("pool", ["writer", "reader"])
def test_every_connection_has_every_setting(store: Store, pool: str) -> None:
    """What SQLite answers on a pooled connection is what was asked for."""
    with getattr(store._connections, pool).connect() as connection:
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in engine.COMMON}
        assert found == engine.COMMON
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == store._connections.database.journal_mode
        assert connection.exec_driver_sql("PRAGMA query_only").scalar() == int(pool == "reader")


def test_a_setting_that_does_not_take_is_refused(url: str, store: Store, monkeypatch) -> None:
    """A setting that SQLite ignores stops the store from opening; with those it knows it opens (the control)."""
    Store.open(url).close()
    monkeypatch.setitem(engine.COMMON, "no_such_setting", 1)
    with pytest.raises(StoreError, match="no_such_setting=None where 1 is needed"):
        Store.open(url)


def test_readers_cannot_write(store: Store) -> None:
    """A reader's connection refuses to write; the writer's doesn't (the control)."""
    statement = "UPDATE users SET consent = 'x'"
    with store._connections.reader.connect() as connection, pytest.raises(Exception, match="readonly"):
        connection.exec_driver_sql(statement)
    with store._connections.writer.begin() as connection:
        connection.exec_driver_sql(statement)


@pytest.mark.usefixtures("wal")
def test_a_reader_does_not_wait_for_a_writer(store: Store) -> None:
    """While a write transaction is open, readers see the state before it."""
    with store._connections.writer.begin() as connection:
        connection.exec_driver_sql("INSERT INTO users (id, created_at) VALUES ('eve', '2026-01-01 00:00:00.000000')")
        assert not is_known(store, "eve")
    assert is_known(store, "eve")


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?mode=memory&uri=true",
        "mysql://x/y",
        "profiles.db",
        "sqlite:///x.db?a=1",
    ],
)
def test_a_url_that_is_no_file_is_refused(url: str) -> None:
    """Memory, other databases and nonsense are refused with an example of a good URL."""
    with pytest.raises(StoreError, match=r"sqlite:///profiles\.db"):
        Store.open(url)


def test_a_new_store_is_private_and_a_folder_that_stood_is_left(tmp_path: Path, fit) -> None:
    """What we make is 0600 and 0700, and every file beside the database too; the caller's folder keeps its mode."""
    tmp_path.chmod(0o755)
    path = tmp_path / "made" / "deep" / "profiles.db"
    before = os.umask(0)
    try:
        upkeep.upgrade(f"sqlite:///{path}")
        with Store.open(f"sqlite:///{path}") as store:
            store.add_user("ada")
            store.forget("ada")
            modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert {"profiles.db", "profiles.db.key", "profiles.db.tombstones"} <= modes.keys()
    assert set(modes.values()) == {0o600}
    assert path.parent.stat().st_mode & 0o777 == path.parent.parent.stat().st_mode & 0o777 == 0o700
    assert tmp_path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("name", ["\0", "x\ud800", "x" * 300])
def test_a_name_that_no_file_can_have_is_refused(name: str) -> None:
    """By every verb that takes a URL, before the system is asked."""
    for verb in (Store.open, upkeep.upgrade, upkeep.report):
        with pytest.raises(PersonalignError, match="store is 'sqlite:///"):
            verb(f"sqlite:///{name}")


def test_a_missing_folder_is_named_and_not_made(tmp_path: Path) -> None:
    """It may be misspelt; a store in a folder that is there is made (the control)."""
    with pytest.raises(StoreError, match=re.escape(f"there is no folder {tmp_path / 'no' / 'such'}")):
        Store.open(f"sqlite:///{tmp_path / 'no' / 'such' / 'profiles.db'}")
    assert not list(tmp_path.iterdir())
    Store.open(f"sqlite:///{tmp_path / 'profiles.db'}").close()
    assert (tmp_path / "profiles.db").exists()


def test_a_file_that_stood_keeps_its_mode(path: Path, url: str) -> None:
    """An empty file made by the caller becomes a store, with the caller's mode."""
    path.touch(mode=0o640)
    path.chmod(0o640)
    Store.open(url).close()
    assert path.stat().st_mode & 0o777 == 0o640


def test_the_doctor_names_what_matters(store: Store, url: str, path: Path) -> None:
    """The report names driver, version, journal, path, size, mode and schema, and finds no problem."""
    report = upkeep.report(url)
    assert report["sqlite"] == sqlite_driver().sqlite_version
    assert report["path"] == str(path)
    assert report["bytes"] > 0
    assert (report["mode"], report["schema"], report["problems"]) == ("0o600", report["schema_expected"], [])
    assert report["journal_mode"] == store._connections.database.journal_mode


def test_a_forked_child_has_connections_of_its_own(worker) -> None:
    """Parent and child go on writing after a fork; nothing is lost, and the parent sees the child's commit."""
    assert worker("fork") == {"child": [1], "parent": 2, "changed": True, "problems": [], "wrong": 0}


def test_a_fork_closes_idle_connections_first(store: Store, monkeypatch) -> None:
    """No connection is idle in the pool when a fork happens; without the hook one is (the control)."""
    is_known(store, "ada")
    assert store._connections.reader.pool.checkedin() == 1
    reader, writer = store._connections.reader, store._connections.writer
    assert exit_code(forked(lambda: reader.pool.checkedin() + writer.pool.checkedin())) == 0


def test_threads_may_use_the_store_while_the_process_forks(worker) -> None:
    """Two dozen forks amid four threads that never pause: no child hangs, no write is lost, the file is sound."""
    assert worker("fork_storm", forks=24) == CALM


@pytest.mark.slow
def test_a_fork_that_waits_for_no_call_would_be_seen(worker) -> None:
    """The control: without waiting for the calls inside, processes hang on locks that no thread holds, or crash."""
    assert worker("fork_storm", may_crash=True, forks=24, patience_s=3, broken=1) != CALM


def test_a_closed_store_takes_no_part_in_forks(url: str) -> None:
    """However many stores were opened and closed, a fork runs the hooks of those that are open."""
    gc.collect()  # of other tests' stores, which would go in between
    before = len(fork._gates().members)
    for _ in range(5):
        with Store.open(url):
            assert len(fork._gates().members) == before + 1
    assert len(fork._gates().members) == before


def test_a_fork_inside_a_call_does_not_wait_for_itself(store: Store) -> None:
    """A thread that forks in the middle of its own call goes on."""
    with store._connections.read():
        assert exit_code(forked(lambda: None)) == 0


def test_a_closed_store_says_so(store: Store) -> None:
    """After close each verb is a StoreError; closing twice is nothing."""
    store.close()
    for call in (lambda: store.add_user("bob"), lambda: store.profile("ada", "basis"), store.data_version):
        with pytest.raises(StoreError, match="closed"):
            call()


def test_processes_write_in_the_order_they_came(worker) -> None:
    """Six processes that write without a pause: none gets a second turn before the others had one."""
    assert worker("turns") == {"failed": 0, "turns": 48, "early": 0}


def test_overtaking_would_be_seen(worker) -> None:
    """The control: by SQLite's own wait some write twice while others wait."""
    assert worker("turns", broken=1)["early"] > 0


def test_many_processes_are_never_refused(worker) -> None:
    """Twelve processes at two people: no write is refused and none is lost."""
    assert worker("answers", processes=12, rounds=5) == {"refused": 0, "wrong": 0}


@pytest.mark.slow
def test_two_dozen_processes_are_never_refused(worker) -> None:
    """Twenty-four processes of sixty answers each."""
    assert worker("answers", processes=24, rounds=60, users=100) == {"refused": 0, "wrong": 0}


def test_a_stopped_process_keeps_its_turn_only_for_a_while(store: Store, monkeypatch) -> None:
    """A byte that another process holds for ever is waited for once, and the write goes through."""
    monkeypatch.setattr(turn, "BUSY_TIMEOUT_MS", 50)
    store.add_user("bob")
    holding, ready = os.pipe()

    def hold() -> None:
        file = os.open(store._connections.database.neighbour(".lock"), os.O_RDWR)
        fcntl.lockf(file, fcntl.LOCK_EX, 0, 1)
        os.write(ready, b"!")
        signal.pause()

    child = forked(hold)
    os.close(ready)
    assert os.read(holding, 1) == b"!"
    store.add_user("eve")
    os.kill(child, signal.SIGKILL)
    assert exit_code(child) == -signal.SIGKILL
    os.close(holding)
    assert is_known(store, "eve")


def _interrupt_at(call: Callable[[], object], step: int) -> int:
    """Raise KeyboardInterrupt at the start of this call of a Python function; return how many were begun."""
    begun = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal begun
        if event == "call":
            begun += 1
            if begun == step:
                raise KeyboardInterrupt

    with suppress(KeyboardInterrupt, AssertionError):  # the latter is SQLAlchemy's, where its commit was interrupted
        sys.setprofile(count)
        try:
            call()
        finally:
            sys.setprofile(None)
    return begun


@pytest.mark.parametrize("verb", ["add_user", "forget", "person"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_leaves_the_store_usable(store: Store, url: str, monkeypatch, verb: str) -> None:
    """Interrupted at any of forty moments of a verb, other threads, this one and other stores go on writing."""
    monkeypatch.setattr(turn, "BUSY_TIMEOUT_MS", 500)

    def call() -> None:
        getattr(store, verb)("bob")

    num_calls = _interrupt_at(call, 0)
    with Store.open(url) as other:
        for step in range(1, num_calls, max(1, num_calls // 40)):
            store.add_user("bob")
            _interrupt_at(call, step)
            with ThreadPoolExecutor(1) as thread:
                thread.submit(store.add_user, f"after-{step}").result()
            store.add_user(f"here-{step}")
            other.add_user(f"other-{step}")
            assert is_known(store, f"other-{step}")


def test_a_writer_that_an_interrupt_lost_is_made_anew(store: Store) -> None:
    """Where the pool's only connection is gone, in the middle of a transaction too, the next write gets another."""
    lost = store._connections.writer.connect()
    lost.exec_driver_sql("UPDATE users SET consent = 'half'")
    store.add_user("bob")
    assert is_known(store, "bob")
    assert store.export("ada")["tables"]["users"][0]["consent"] is None


def test_a_turn_that_an_interrupt_kept_is_taken_over(store: Store) -> None:
    """Where a traceback keeps an interrupted call's frames, the same thread writes all the same."""
    kept = store._connections._turns.turn()
    kept.__enter__()
    store.add_user("bob")
    kept.__exit__(None, None, None)
    store.add_user("eve")
    assert is_known(store, "eve")


def test_a_file_that_was_replaced_is_noticed_before_a_write(store: Store, url: str, path: Path, tmp_path: Path) -> None:
    """With another file in its place neither a write nor a poll goes on; opened again the store is the new file."""
    store._connections.close()
    with Store.open(url) as running:
        shutil.copy(path, tmp_path / "copy")
        (tmp_path / "copy").replace(path)
        for call in (lambda: running.add_user("bob"), running.data_version, lambda: running.forget("ada")):
            with pytest.raises(StoreError, match="replaced"):
                call()
    with Store.open(url) as opened:
        opened.add_user("bob")
        assert is_known(opened, "ada")


def test_a_damaged_text_is_quoted_nowhere(store: Store) -> None:
    """Neither the message nor the traceback of an error that quotes a text has it."""
    driver = store._connections.database.driver
    with (
        pytest.raises(StoreError, match="personalign db restore") as refused,
        engine.typed_errors(store._connections.database),
    ):
        raise driver.OperationalError("Could not decode to UTF-8 column 'a' with text 'SECRET'")
    assert "SECRET" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize("stdlib", [0, 1])
def test_a_process_that_never_closes_ends(worker, stdlib: int) -> None:
    """An open store keeps no process alive, with either driver."""
    assert worker("unclosed", stdlib=stdlib)["version"]


def test_a_store_that_another_process_just_made_is_not_foreign(url: str, path: Path, monkeypatch) -> None:
    """However another process's first migration falls between our looks at the file, it isn't taken for foreign."""
    sound = engine._first
    looks: list[str] = []

    def look(connection: object, statement: str) -> object:
        found = sound(connection, statement)
        looks.append(statement)
        if len(looks) == 1:
            monkeypatch.setattr(engine, "_first", sound)
            upkeep.upgrade(url)
            monkeypatch.setattr(engine, "_first", look)
        return found

    path.touch()
    monkeypatch.setattr(engine, "_first", look)
    Store.open(url).close()
    assert len(looks) > 1
