"""Drivers, settings of every connection, and forks."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from personalign.errors import StoreError
from personalign.store import Store, doctor, driver, engine, schema

ROOT = Path(__file__).parents[2]
DRIVERS = {"sqlite3", "pysqlite3", "_sqlite3"}


def _imports_driver(source: str) -> bool:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return bool(names & DRIVERS)


def test_the_driver_is_named_in_one_place() -> None:
    """No other file, tests and migrations included, imports a SQLite driver; driver.py does (the control)."""
    found = [
        str(file.relative_to(ROOT))
        for folder in ("personalign", "migrations", "tests", "notebooks")
        for file in (ROOT / folder).rglob("*.py")
        if _imports_driver(file.read_text(encoding="utf-8"))
    ]
    assert found == ["personalign/store/driver.py"]


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
    assert driver.journal_mode(version) == mode


@pytest.mark.parametrize("pool", ["writer", "reader"])
def test_every_connection_has_every_setting(store: Store, pool: str) -> None:
    """What SQLite answers on a pooled connection is what was asked for."""
    with getattr(store._engines, pool).connect() as connection:
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in engine.COMMON}
        assert found == engine.COMMON
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == store._database.journal_mode
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
    with store._engines.reader.connect() as connection, pytest.raises(Exception, match="readonly"):
        connection.exec_driver_sql(statement)
    with store._engines.writer.begin() as connection:
        connection.exec_driver_sql(statement)


def test_a_reader_does_not_wait_for_a_writer(store: Store) -> None:
    """While a write transaction is open, readers see the state before it."""
    if store._database.journal_mode != "wal":
        pytest.skip("readers wait in the rollback journal")
    with store._engines.writer.begin() as connection:
        connection.exec_driver_sql("INSERT INTO users (id, created_at) VALUES ('eve', '2026-01-01 00:00:00.000000')")
        assert not store.has_user("eve")
    assert store.has_user("eve")


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


def test_a_file_that_stood_keeps_its_mode(path: Path, url: str) -> None:
    """An empty file made by the caller becomes a store, with the caller's mode."""
    path.touch(mode=0o640)
    path.chmod(0o640)
    Store.open(url).close()
    assert path.stat().st_mode & 0o777 == 0o640


def test_the_doctor_names_what_matters(store: Store, url: str, path: Path) -> None:
    """The report names driver, version, journal, path, size, mode and schema, and finds no problem."""
    report = doctor.report(url)
    assert report["sqlite"] == driver.sqlite_driver().sqlite_version
    assert report["path"] == str(path)
    assert report["bytes"] > 0
    assert (report["mode"], report["schema"], report["problems"]) == ("0o600", report["schema_expected"], [])
    assert report["journal_mode"] == store._database.journal_mode


def test_a_forked_child_has_connections_of_its_own(worker) -> None:
    """Parent and child go on writing after a fork; nothing is lost, and the parent sees the child's commit."""
    assert worker("fork") == {"child": [1], "parent": 2, "changed": True, "problems": [], "wrong": 0}


def test_a_fork_closes_idle_connections_first(store: Store, monkeypatch) -> None:
    """No connection is idle in the pool when a fork happens; without the hook one is (the control)."""
    store.has_user("ada")
    assert store._engines.reader.pool.checkedin() == 1
    child = os.fork()
    if not child:
        os._exit(store._engines.reader.pool.checkedin() + store._engines.writer.pool.checkedin())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


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
            schema.upgrade(url)
            monkeypatch.setattr(engine, "_first", look)
        return found

    path.touch()
    monkeypatch.setattr(engine, "_first", look)
    Store.open(url).close()
    assert len(looks) > 1
