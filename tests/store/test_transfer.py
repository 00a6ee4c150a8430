"""Whole stores from one database to another: all of it or nothing, and nobody who was erased comes along."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lab.postgres import Server
from personalign.cli import app
from personalign.errors import SchemaError, StoreError
from personalign.store import Store, schema, upkeep
from personalign.store.places import find
from personalign.types import Statement
from tests.store.store_worker import is_known, kill_child_at

ON_BOTH = True  # databases
PEOPLE = ("ada", "bob", "eve", "kay")


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty place of either kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'target.db'}"
        return
    server: Server = request.getfixturevalue("postgres_server")
    yield server.create("target")
    server.drop("target")


@pytest.fixture
def filled(store: Store, show, fit) -> Store:
    """Rows in every table, and someone who was erased."""
    for step in range(3):
        store.commit_answer("ada", show(f"q{step}", v=(0.1 * step, -0.0, 5e-324), a="Sí, señor").id, "a", fit)
    store.undo_answer("ada", "basis", fit)
    store.commit_statements("ada", "basis", {("length", "set"): Statement("length", -1.0)}, fit)
    store.add_user("bob", "yes")
    store.pause("bob", is_paused=True)
    store.note_failure(store.person("bob"), store.start_trial("basis", ("plain", "words")).id, ("words", "plain"), "a")
    with store.write_once("shop", "key", "consent"):
        store.add_user("bob", "certainly")
    store.add_user("eve")
    store.forget("eve")
    store.keys.create("backend", "shop")
    return store


def _say(store: Store) -> dict[str, Any]:
    """All that a store says, but for the numbers that its database gives to answers."""
    said = {user: store.export(user)["tables"] for user in PEOPLE}
    for tables in said.values():
        for row in tables["answers"]:
            del row["id"]
    others = {"exposures": store.exposures("basis"), "trial": store.newest_trial("basis"), "keys": store.keys.list()}
    return said | others | {"secret": store.keys.secret("links"), "history": store.history("ada")}


def _people(url: str) -> set[str]:
    with Store.open(url) as opened:
        return {user for user in PEOPLE if is_known(opened, user)}


def test_a_copy_says_the_same(filled: Store, url: str, target: str, fit) -> None:
    """Whatever the two are; and it goes on as the other would: what was erased, sent once or asked is known."""
    before = _say(filled)
    assert upkeep.copy(url, target) == 2
    with Store.open(target, create=False) as copied:
        assert _say(copied) == before
        assert upkeep.report(target)["problems"] == upkeep.report(url)["problems"]
        with copied.write_once("shop", "key", "consent") as is_first:
            assert not is_first
        assert copied.undo_answer("ada", "basis", fit).answers == 1
        for user in ("ada", "eve"):
            copied.add_user(user)
            assert copied.forget(user)
        assert not is_known(copied, "ada")
    assert _say(filled) == before


def test_a_copy_of_a_copy_is_the_same_store(filled: Store, url: str, target: str, tmp_path: Path) -> None:
    """There and back again."""
    upkeep.copy(url, target)
    back = f"sqlite:///{tmp_path / 'back.db'}"
    upkeep.copy(target, back)
    with Store.open(back) as opened:
        assert _say(opened) == _say(filled)


def test_a_store_that_is_not_empty_is_left_as_it_is(filled: Store, url: str, target: str) -> None:
    """Nothing is copied over rows, the store's own among them; an empty store takes them (the control)."""
    with Store.open(target) as other:
        other.add_user("kay")
    for place in (target, url):
        with pytest.raises(StoreError, match="expected an empty store"):
            upkeep.copy(url, place)
    assert _people(target) == {"kay"}
    with Store.open(target) as other:
        other.forget("kay")
    with pytest.raises(StoreError, match="key"):
        upkeep.copy(url, target)  # whose tombstones have a key of their own
    assert _people(target) == set()


def test_a_damaged_row_is_not_copied(filled: Store, url: str, target: str, sql) -> None:
    """It is told, by its table alone, and nothing is copied."""
    sql("UPDATE presentations SET a = 'SECRET' WHERE user_id = 'ada'")
    with pytest.raises(StoreError, match="presentations doesn't match its checksum") as refused:
        upkeep.copy(url, target)
    assert "SECRET" not in str(refused.value)
    assert _people(target) == set()


def test_who_was_erased_after_an_old_copy_does_not_come_along(
    store: Store, url: str, path: Path, tmp_path: Path, target: str
) -> None:
    """An old file beside newer tombstones is copied without them."""
    store.add_user("bob")
    store.close()
    shutil.copy(path, tmp_path / "old")
    with Store.open(url) as opened:
        opened.forget("bob")
    shutil.copy(tmp_path / "old", path)
    upkeep.copy(url, target)
    assert _people(target) == {"ada"}


def test_an_old_schema_is_refused(store: Store, url: str, target: str) -> None:
    """With the command that brings it up to date."""
    store.close()
    schema.migrate(find(url), "0012")
    with pytest.raises(SchemaError, match="personalign db upgrade"):
        upkeep.copy(url, target)


@pytest.mark.slow
def test_a_copy_that_is_killed_leaves_nothing(filled: Store, url: str, target: str) -> None:
    """Before any of its statements, but for those after the commit; the next one goes through."""
    filled.close()
    killed = 0
    Store.open(target).close()
    while not (people := _people(target)):
        with Store.open(target) as other:
            assert other.exposures("basis") == {}
        killed += kill_child_at(lambda: upkeep.copy(url, target), 1 + 6 * killed)
    assert killed > 5
    assert people == {"ada", "bob"}


# Backups, which are files whatever they are made from


@pytest.fixture
def saved(store: Store, tmp_path: Path) -> Path:
    """A backup from before somebody was erased, somebody came, and somebody came back."""
    backup = tmp_path / "elsewhere" / "backup.db"
    for user in ("bob", "eve"):
        store.add_user(user)
    store.backup(backup)
    store.forget("bob")
    store.add_user("kay")
    return backup


def test_a_backup_is_a_file_that_is_a_store(filled: Store, tmp_path: Path) -> None:
    """Private, with the key and the tombstones beside it; a path that is taken is refused."""
    backup = tmp_path / "elsewhere" / "backup.db"
    filled.backup(backup)
    assert {file.stat().st_mode & 0o777 for file in backup.parent.iterdir()} == {0o600}
    with Store.open(f"sqlite:///{backup}") as opened:
        assert _say(opened) == _say(filled)
    with pytest.raises(StoreError, match="is there already"):
        filled.backup(backup)


def test_restoring_brings_nobody_back(store: Store, saved: Path, url: str) -> None:
    """All is as the backup has it, but for whom the store erased since; again, too, and with an older schema."""
    store.close()
    for revision in (schema.HEAD, "0006"):
        schema.migrate(find(f"sqlite:///{saved}"), revision)
        upkeep.restore(url, saved)
        assert _people(url) == {"ada", "eve"}
    with Store.open(url) as opened:
        assert opened.forget("eve")
    upkeep.restore(url, saved)
    assert _people(url) == {"ada"}


def test_another_stores_backup_changes_nothing(store: Store, saved: Path, url: str, tmp_path: Path) -> None:
    """Its tombstones have another key."""
    store.close()
    with Store.open(f"sqlite:///{tmp_path / 'other.db'}") as other:
        other.add_user("eve")
        other.forget("eve")
        other.backup(tmp_path / "other-backup.db")
    with pytest.raises(StoreError, match="key"):
        upkeep.restore(url, tmp_path / "other-backup.db")
    assert _people(url) == {"ada", "eve", "kay"}


@pytest.mark.slow
def test_a_restore_that_is_killed_changes_nothing(store: Store, saved: Path, url: str) -> None:
    """Before any statement the store is as it was, or as the backup."""
    store.close()
    step = 1
    while kill_child_at(lambda: upkeep.restore(url, saved), step):
        assert _people(url) in ({"ada", "eve", "kay"}, {"ada", "eve"})
        step += 17
    assert step > 18
    assert _people(url) == {"ada", "eve"}


def test_the_command_line_copies(filled: Store, url: str, target: str) -> None:
    """It says how many people there are; a target that isn't empty is exit code 2, and no password is shown."""
    done = CliRunner().invoke(app, ["db", "copy", url, target, "--json"])
    assert json.loads(done.stdout) == {"people": 2}
    again = CliRunner().invoke(app, ["db", "copy", url, target])
    assert isinstance(again.exception, StoreError) or again.exit_code == 2
