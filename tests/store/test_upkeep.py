"""Backups: whole, private, and never a way back for an erased person; a log never goes with another file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from personalign.cli import app
from personalign.errors import InputError, StoreError
from personalign.store import Store, schema, upkeep
from personalign.store.places import find
from personalign.store.sqlite import database
from personalign.store.sqlite.database import locate
from tests.forked import exit_code, forked
from tests.store.store_worker import is_known


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere" / "copy.db"


@pytest.fixture
def saved(store: Store, copy: Path) -> Store:
    """A store with two people, and a backup from before the second was erased."""
    store.add_user("bob")
    store.backup(copy)
    store.forget("bob")
    return store


def _kill(url: str, user: str) -> None:
    """Commit in a process that is killed before it can fold the log in."""

    def commit() -> None:
        opened = Store.open(url)
        opened.add_user(user)
        os.kill(os.getpid(), signal.SIGKILL)

    assert exit_code(forked(commit)) == -signal.SIGKILL


def _people(url: str) -> set[str]:
    with Store.open(url) as opened:
        return {user for user in ("ada", "bob", "eve", "kay") if is_known(opened, user)}


def test_a_backup_is_a_store(saved: Store, copy: Path) -> None:
    """Made while the store is in use, it opens as it is, private, with its key and what was erased before."""
    assert _people(f"sqlite:///{copy}") == {"ada", "bob"}
    assert {file.stat().st_mode & 0o777 for file in copy.parent.iterdir()} == {0o600}
    with pytest.raises(StoreError, match="there already"):
        saved.backup(copy)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal", ".key", ".tombstones", ".lock"])
def test_a_backup_never_takes_the_place_of_the_stores_own_files(store: Store, url: str, suffix: str) -> None:
    """SQLite would take it for a log, and an erasure for a key; the store goes on as it was."""
    path = locate(url).neighbour(suffix)
    with pytest.raises(StoreError, match="or is kept for the store itself; pass another path"):
        store.backup(path)
    assert store.forget("ada")
    assert not _people(url)


@pytest.mark.parametrize("name", ["copy?of=it", "100%41", "copy#2", "a b&c"])
def test_a_backup_may_have_any_name(store: Store, url: str, tmp_path: Path, name: str) -> None:
    """It is restored from the same path, and from no other one that a URL would make of it."""
    store.backup(tmp_path / "copy")
    store.add_user("eve")
    store.backup(tmp_path / name)
    store.forget("ada")
    store.close()
    upkeep.restore(url, tmp_path / name)
    assert _people(url) == {"eve"}


@pytest.mark.parametrize("name", ["loop", "no\0thing"])
def test_a_path_that_leads_nowhere_is_told(store: Store, url: str, tmp_path: Path, name: str) -> None:
    """To back up, and to restore."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for call in (store.backup, lambda path: upkeep.restore(url, path)):
        with pytest.raises((StoreError, InputError), match=r"can't be followed|is there already|expected a name"):
            call(tmp_path / name)


def test_a_backup_holds_what_was_erased_before_it(saved: Store, copy: Path) -> None:
    """A tombstone goes with the copy, so that an older file put in its place is erased again there, too."""
    older = copy.read_bytes()
    again = copy.with_name("again.db")
    saved.backup(again)
    again.write_bytes(older)
    assert _people(f"sqlite:///{again}") == {"ada"}


def test_restoring_brings_nobody_back(saved: Store, url: str, copy: Path) -> None:
    """The store is as the backup was, but for whom was erased since; who came since is gone, other copies too."""
    saved.add_user("eve")
    saved.close()
    upkeep.restore(url, copy)
    assert _people(url) == {"ada"}
    path = locate(url).path
    assert {file.name for file in path.parent.glob("profiles.db*")} == {
        "profiles.db", "profiles.db.key", "profiles.db.tombstones", "profiles.db.lock"
    }  # fmt: skip
    assert upkeep.report(url)["problems"] == []


@pytest.mark.parametrize("lost", ["all", "database", "key", "tombstones", "key and tombstones"])
def test_a_store_that_lost_files_is_restored(saved: Store, url: str, copy: Path, lost: str) -> None:
    """Whatever is missing comes from the backup or from what the database notes; what is known of erasures holds."""
    saved.backup(copy.with_name("newer.db"))
    saved.close()
    path = locate(url).path
    for word, suffix in (("database", ""), ("key", ".key"), ("tombstones", ".tombstones")):
        if word in lost or lost == "all":
            path.with_name(path.name + suffix).unlink()
    upkeep.restore(url, copy.with_name("newer.db"))
    assert _people(url) == {"ada"}


def test_tombstones_that_were_cut_short_are_gathered_again(saved: Store, url: str, copy: Path) -> None:
    """An old backup over a store that lost its tombstones: the database still notes them, and nobody comes back."""
    for user in ("eve", "kay"):
        saved.add_user(user)
        saved.forget(user)
    saved.close()
    tombstones = locate(url).neighbour(".tombstones")
    tombstones.write_bytes(tombstones.read_bytes()[:-200])
    with pytest.raises(StoreError, match="cut short"):
        Store.open(url)
    upkeep.restore(url, copy)
    assert _people(url) == {"ada"}
    assert tombstones.stat().st_size == 112 + 3 * 95


def test_an_older_schema_is_brought_up_to_date(saved: Store, url: str, copy: Path) -> None:
    """A backup of an older release is restored as a store of this one."""
    schema.migrate(find(f"sqlite:///{copy}"), "0006")
    saved.close()
    upkeep.restore(url, copy)
    assert _people(url) == {"ada"}


def _make_foreign(copy: Path) -> None:
    copy.unlink()
    connection = database.sqlite_driver().connect(str(copy))
    connection.execute("CREATE TABLE notes (text)")
    connection.commit()
    connection.close()


def _make_other(copy: Path) -> None:
    for file in copy.parent.iterdir():
        file.unlink()
    with Store.open(f"sqlite:///{copy}") as other:
        other.add_user("eve")
        other.forget("eve")


REFUSED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "missing": ("no backup", lambda copy: copy.unlink()),
    "text": ("isn't a SQLite file", lambda copy: copy.write_text("dear diary, " * 1000)),
    "empty": ("holds no store", lambda copy: copy.write_bytes(b"")),
    "cut": (r"damaged|db restore", lambda copy: copy.write_bytes(copy.read_bytes()[:8192])),
    "noise": (
        r"damaged|db restore",
        lambda copy: copy.write_bytes(copy.read_bytes()[:4096] + os.urandom(len(copy.read_bytes()) - 4096)),
    ),
    "another program's": ("another program", _make_foreign),
    "another store's": ("key", _make_other),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_backup_of_this_store_is_refused(saved: Store, url: str, copy: Path, case: str) -> None:
    """The store is as it was, and nothing is left of the try."""
    saved.close()
    words, spoil = REFUSED[case]
    spoil(copy)
    before = {file.name: file.read_bytes() for file in locate(url).path.parent.glob("profiles*[!k]")}
    with pytest.raises(StoreError, match=words):
        upkeep.restore(url, copy)
    assert {file.name: file.read_bytes() for file in locate(url).path.parent.glob("profiles*[!k]")} == before
    assert _people(url) == {"ada"}


def test_a_store_is_not_restored_from_itself(saved: Store, url: str) -> None:
    """Its own path is refused."""
    saved.close()
    with pytest.raises(StoreError, match="the store itself"):
        upkeep.restore(url, locate(url).path)


def test_a_process_that_has_the_old_file_open_notices(saved: Store, url: str, copy: Path) -> None:
    """What was open before the restore neither writes to the old file nor polls it."""
    upkeep.restore(url, copy)
    for call in (lambda: saved.add_user("eve"), saved.data_version):
        with pytest.raises(StoreError, match="replaced"):
            call()
    saved.close()
    assert _people(url) == {"ada"}


@pytest.mark.parametrize("step", range(4))
def test_a_restore_killed_half_way_leaves_one_store(saved: Store, url: str, copy: Path, step: int) -> None:
    """Killed before any of the files is moved, the store opens as it was or as the backup, and can be restored."""
    saved.close()
    _kill(url, "eve")  # leaves a log

    def restore() -> int:
        moves = 0
        replace, unlink = Path.replace, Path.unlink

        def move(source: Path, target: Path) -> Path:
            nonlocal moves
            moves += 1
            return replace(source, target) if moves <= step else os._exit(0)

        def remove(file: Path, missing_ok: bool = False) -> None:
            return os._exit(0) if file.suffix == ".db-wal" else unlink(file, missing_ok)

        Path.replace, Path.unlink = move, remove  # type: ignore[method-assign]
        upkeep._remove = lambda _: None
        upkeep.restore(url, copy)
        return 1

    assert exit_code(forked(restore)) == 0
    assert _people(url) == ({"ada"} if step == 3 else {"ada", "eve"})
    upkeep.restore(url, copy)
    assert _people(url) == {"ada"}
    assert not list(copy.parent.parent.glob("*.restoring*"))


@pytest.mark.usefixtures("wal")
def test_a_log_of_another_file_is_refused(store: Store, url: str, path: Path, tmp_path: Path) -> None:
    """A backup copied over a database whose log is still there doesn't open; the log's own file does (the control)."""
    store.close()
    shutil.copy(path, tmp_path / "backup")
    with Store.open(url) as opened:
        opened.add_user("bob")
    shutil.copy(path, tmp_path / "sound")
    _kill(url, "eve")
    log = locate(url).neighbour("-wal").read_bytes()
    assert log
    shutil.copy(tmp_path / "backup", path)
    with pytest.raises(StoreError, match="another database"):
        Store.open(url)
    assert locate(url).neighbour("-wal").read_bytes() == log
    shutil.copy(tmp_path / "sound", path)
    assert _people(url) == {"ada", "bob", "eve"}


@pytest.mark.usefixtures("wal")
def test_a_fork_of_the_same_store_is_another_file(store: Store, url: str, path: Path, tmp_path: Path) -> None:
    """Two copies that went on apart, commit for commit, don't take each other's logs."""
    store.close()
    other = tmp_path / "other" / "profiles.db"
    other.parent.mkdir()
    shutil.copy(path, other)
    with Store.open(f"sqlite:///{other}") as apart:
        apart.add_user("bob")
    _kill(url, "eve")
    shutil.copy(other, path)
    with pytest.raises(StoreError, match="another database"):
        Store.open(url)


def test_a_journal_of_another_file_is_refused(store: Store, url: str, path: Path, tmp_path: Path, monkeypatch) -> None:
    """A hot rollback journal isn't rolled back into a file that it wasn't written for; into its own it is."""
    store.close()
    monkeypatch.setattr(database, "journal_mode", lambda _: "truncate")
    shutil.copy(path, tmp_path / "backup")
    with Store.open(url) as opened:
        for number in range(3):
            opened.add_user(f"user-{number}")

    def spill() -> None:
        opened = Store.open(url)
        with opened._connections.writer.connect() as connection:
            connection.exec_driver_sql("PRAGMA cache_size=1").close()
            connection.exec_driver_sql("PRAGMA cache_spill=1").close()
            connection.exec_driver_sql("UPDATE users SET consent = hex(randomblob(20000))").close()
            database.sign_commit(connection.connection.driver_connection)
            connection.exec_driver_sql("UPDATE users SET consent = hex(randomblob(20000))").close()
            os.kill(os.getpid(), signal.SIGKILL)

    assert exit_code(forked(spill)) == -signal.SIGKILL
    assert locate(url).neighbour("-journal").stat().st_size
    shutil.copy(path, tmp_path / "sound")
    shutil.copy(tmp_path / "backup", path)
    with pytest.raises(StoreError, match="another database"):
        Store.open(url)
    shutil.copy(tmp_path / "sound", path)
    assert _people(url) == {"ada"}


@pytest.mark.usefixtures("wal")
def test_other_content_under_a_running_store_is_noticed(store: Store, url: str, path: Path, tmp_path: Path) -> None:
    """A backup that is copied into the open file, not moved to its name, is noticed by the log before a write."""
    store.close()
    subprocess.run(["cp", path, tmp_path / "backup"], check=True)
    with Store.open(url) as running:
        for number in range(3):
            running.add_user(f"user-{number}")
            running.forget("user-0")
        running.add_user("bob")
        subprocess.run(["cp", tmp_path / "backup", path], check=True)
        with pytest.raises(StoreError, match="another database"):
            running.add_user("eve")


def test_every_commit_names_the_one_before(store: Store, sql) -> None:
    """Each change moves the name on, and what changes nothing leaves it."""

    def name() -> list[str]:
        return sql("SELECT value FROM facts WHERE name = 'commit'")[0][0].split()

    before = name()
    store.add_user("bob")
    after = name()
    assert after[3] == before[1] != after[1]
    store.add_user("bob")
    assert name() == after


@pytest.mark.usefixtures("wal")
def test_checkpoints_are_no_change_of_content(store: Store, url: str) -> None:
    """Writers whose log is folded in again and again by others go on, and every write is there."""
    with Store.open(url) as other:
        for number in range(6):
            with store._connections._bare_writer() as writer:
                _, in_log, folded_in = writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            assert folded_in == in_log > 0  # the control: there was something to fold in
            other.add_user(f"a-{number}")
            store.add_user(f"b-{number}")
    with Store.open(url) as opened:
        assert all(is_known(opened, f"{writer}-{number}") for writer in "ab" for number in range(6))


def test_a_file_that_everyone_can_read_is_a_problem(saved: Store, url: str) -> None:
    """The doctor names each such file with the command that mends it, and a private store has no problem."""
    path = locate(url).path
    assert upkeep.report(url)["problems"] == []
    for suffix in ("", ".key", ".tombstones"):
        path.with_name(path.name + suffix).chmod(0o644)
    assert sum("chmod o=" in problem for problem in upkeep.report(url)["problems"]) == 3


def test_the_doctor_finds_damaged_tombstones(saved: Store, url: str) -> None:
    """A record whose sum is wrong is a problem."""
    tombstones = locate(url).neighbour(".tombstones")
    content = bytearray(tombstones.read_bytes())
    content[120] ^= 1
    tombstones.write_bytes(content)
    assert any("record 1" in problem for problem in upkeep.report(url)["problems"])


def test_the_command_line_backs_up_and_restores(saved: Store, url: str, tmp_path: Path) -> None:
    """Both verbs say what they did, a missing store isn't made, and a refusal is exit code 2."""
    run, copy = CliRunner(), tmp_path / "cli.db"
    saved.close()
    done = run.invoke(app, ["db", "backup", str(copy), "--store", url, "--json"])
    assert json.loads(done.stdout) == {"path": str(copy), "bytes": copy.stat().st_size}
    done = run.invoke(app, ["db", "restore", str(copy), "--store", url, "--json"])
    assert json.loads(done.stdout) == {"restored": str(copy)}
    assert _people(url) == {"ada"}
    missing = tmp_path / "missing.db"
    done = run.invoke(app, ["db", "backup", str(tmp_path / "other.db"), "--store", f"sqlite:///{missing}"])
    assert isinstance(done.exception, StoreError) or done.exit_code == 2
    assert not missing.exists()
