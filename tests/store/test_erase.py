"""Erasure: not a byte is left, an old copy doesn't bring a person back, and export names what erasure takes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from personalign.errors import ErasurePending, QuestionError, StoreError
from personalign.store import Store, engine, erase
from personalign.store import store as store_module
from personalign.store.tables import USER_KEY, Table
from personalign.types import Gaussian

CANARY = "canary-7f3a"
HEAD = np.array([1.2345678901234567, -9.87654321e-7, 3.0])


def _bytes_left(path: Path) -> int:
    """Count traces of the canary in every file beside the database."""
    traces = (CANARY.encode(), HEAD[:1].tobytes(), HEAD[1:2].tobytes())
    # read by another process: closing a file of ours would drop the locks that SQLite holds on it
    contents = [subprocess.run(["cat", file], capture_output=True, check=True).stdout for file in path.parent.iterdir()]
    return sum(content.count(trace) for content in contents for trace in traces)


@pytest.fixture
def live(store: Store) -> Callable[[str], None]:
    """Let a person leave traces everywhere, among neighbours whose rows lie in the same pages."""

    def leave(user: str) -> None:
        neighbours = [f"neighbour-{number}" for number in range(8)]
        for name in (user, *neighbours):
            store.add_user(name, consent=f"{name} agrees")
        for step in range(4):
            for name in (user, *neighbours):
                text = f"{name} " * (400 if step % 2 else 4)
                v = HEAD if name == user else np.array([float(step), 1.0, 2.0])
                prompt = [{"role": "user", "content": text}]
                shown = store.present(name, "basis", f"q{step}", prompt, text, text, swapped=False, v=v)
                store.commit_answer(name, shown.id, "a", lambda answers: Gaussian(answers[-1].v, np.eye(3)))
        store.undo_answer(user, "basis", lambda _: Gaussian(HEAD, np.eye(3)))

    return leave


def test_nothing_is_left_of_a_person(store: Store, path: Path, live) -> None:
    """After forget no byte of id, texts or head is in the file, its log or anything beside it; before, many are."""
    live(CANARY)
    assert _bytes_left(path) > 50
    store.forget(CANARY)
    assert _bytes_left(path) == 0
    assert not store.has_user(CANARY)
    assert store.profile("neighbour-3", "basis").revision == 4


def test_nothing_is_left_with_the_other_driver(worker) -> None:
    """The rollback journal of an old SQLite keeps nothing either."""
    assert worker("erased", stdlib=1) == {"before": True, "after": 0}


@pytest.mark.parametrize("trap", ["no checkpoint", "no secure delete"])
def test_each_half_of_erasure_is_needed(url: str, path: Path, live, monkeypatch, trap: str, store: Store) -> None:
    """The controls: without the checkpoint, or without secure delete, the canary is found."""
    if store._database.journal_mode != "wal" and trap == "no checkpoint":
        pytest.skip("there is no log to fold in")
    live(CANARY)
    store.close()
    if trap == "no checkpoint":
        monkeypatch.setattr(store_module, "truncate_log", lambda *_: None)
    else:
        monkeypatch.setitem(engine.COMMON, "secure_delete", 0)
    with Store.open(url) as unsound:
        if trap == "no checkpoint":
            unsound.add_user(CANARY, consent=f"{CANARY} again")
        unsound.forget(CANARY)
        assert _bytes_left(path) > 0


def test_a_reader_that_holds_on_makes_erasure_pending(store: Store, path: Path, live, monkeypatch) -> None:
    """While a reader keeps the log, forget says so and not that it is done; afterwards calling it again finishes."""
    if store._database.journal_mode != "wal":
        pytest.skip("there is no log to hold on to")
    monkeypatch.setattr(erase, "TRUNCATE_DEADLINE_S", 0.1)
    live(CANARY)
    with store._engines.reader.connect() as reader:
        reader.exec_driver_sql("SELECT count(*) FROM users").scalar()
        with pytest.raises(ErasurePending, match="erase again"):
            store.forget(CANARY)
    assert not store.has_user(CANARY)
    store.forget(CANARY)
    assert _bytes_left(path) == 0


def test_a_late_answer_does_not_bring_a_person_back(store: Store, show, fit) -> None:
    """What was shown before forget can't be answered after it, even if the id started anew."""
    shown = show("q1")
    store.forget("ada")
    store.add_user("ada")
    with pytest.raises(QuestionError):
        store.commit_answer("ada", shown.id, "a", fit)
    assert store.answers("ada", "basis") == ()
    assert store.asked("ada", "basis") == frozenset()


def test_an_old_copy_does_not_bring_a_person_back(store: Store, url: str, path: Path, tmp_path: Path, live) -> None:
    """Opening a backup from before the erasure erases again, and only that person."""
    live(CANARY)
    store.close()
    copy = tmp_path / "backup"
    shutil.copy(path, copy)
    with Store.open(url) as opened:
        opened.forget(CANARY)
    shutil.copy(copy, path)
    assert _bytes_left(path) > 50
    copy.unlink()
    with Store.open(url) as restored:
        assert not restored.has_user(CANARY)
        assert restored.has_user("ada")
        assert restored.profile("neighbour-3", "basis") is not None
        assert _bytes_left(path) == 0


def test_an_old_copy_stays_pending_until_its_log_is_empty(
    store: Store, url: str, path: Path, tmp_path: Path, live, monkeypatch
) -> None:
    """A backup that can't be erased to the last byte doesn't open, however often; without the reader it does."""
    if store._database.journal_mode != "wal":
        pytest.skip("there is no log to hold on to")
    monkeypatch.setattr(erase, "TRUNCATE_DEADLINE_S", 0.1)
    live(CANARY)
    store.close()
    shutil.copy(path, tmp_path / "backup")
    with Store.open(url) as opened:
        opened.forget(CANARY)
    (tmp_path / "backup").replace(path)
    engines = engine.open_engines(engine.locate(url))
    with engines.reader.connect() as reader:
        reader.exec_driver_sql("SELECT count(*) FROM users").scalar()
        for _ in range(2):
            with pytest.raises(ErasurePending):
                Store.open(url)
        assert _bytes_left(path) > 0
        reader.rollback()
        with Store.open(url) as restored:
            assert not restored.has_user(CANARY)
            assert _bytes_left(path) == 0
    engines.close()


def test_a_tombstone_spares_who_came_later(store: Store, url: str, sql) -> None:
    """An id that started anew stays, even where the database lacks the tombstone."""
    store.forget("ada")
    store.add_user("ada")
    store.close()
    sql("DELETE FROM tombstones")
    with Store.open(url) as opened:
        assert opened.has_user("ada")
    assert sql("SELECT count(*) FROM tombstones") == [(1,)]


def test_half_a_tombstone_is_no_tombstone(store: Store, url: str, path: Path) -> None:
    """A line cut by a kill, or that is no text, is passed over, and the next one stands on its own."""
    store.forget("ada")
    store.add_user("bob")
    tombstones = path.with_name("profiles.db.tombstones")
    with tombstones.open("ab") as file:
        file.write(b"\n\xff\xfe\n1790000000000000 0123")
    store.forget("bob")
    store.close()
    assert len(erase._lines(engine.locate(url))) == 2
    Store.open(url).close()


def test_a_tombstone_names_nobody_without_its_key(store: Store, url: str, path: Path, tmp_path: Path) -> None:
    """The same id has another digest beside another database, and a lost key is an error where it matters."""
    store.forget("ada")
    store.close()
    with Store.open(f"sqlite:///{tmp_path / 'other' / 'profiles.db'}") as other:
        other.add_user("ada")
        other.forget("ada")
    lines = [
        erase._lines(engine.locate(f"sqlite:///{folder / 'profiles.db'}")) for folder in (tmp_path, tmp_path / "other")
    ]
    assert len(lines[0]) == len(lines[1]) == 1
    assert not lines[0].keys() & lines[1].keys()
    path.with_name("profiles.db.key").unlink()
    with Store.open(url) as opened:
        opened.add_user("eve")
        with pytest.raises(StoreError, match="restore the key"):
            opened.forget("eve")
        assert opened.has_user("eve")


def test_forgetting_a_stranger_is_nothing(store: Store) -> None:
    """An unknown id can be forgotten without an error, and is still unknown."""
    store.forget("stranger")
    assert not store.has_user("stranger")


def test_every_personal_table_is_exported_and_erased(store: Store, live, sql) -> None:
    """Read from the schema: each table with a user's key has rows in the export, and none after forget."""
    live(CANARY)
    personal = {table.name for table in Table.metadata.sorted_tables if USER_KEY in table.columns}
    shared = {table.name for table in Table.metadata.sorted_tables} - personal
    assert shared == {"users", "bases", "exposures", "tombstones"}
    exported = store.export(CANARY)["tables"]
    assert exported.keys() == personal | {"users"}
    assert all(exported.values())
    store.forget(CANARY)
    assert not any(store.export(CANARY)["tables"].values())
    for table in personal:
        assert sql(f"SELECT count(*) FROM {table} WHERE {USER_KEY} = ?", CANARY) == [(0,)]
        assert sql(f"SELECT count(*) FROM {table}")[0][0] > 0


def test_an_erasure_lasts_wherever_the_process_went_meanwhile(tmp_path: Path, monkeypatch) -> None:
    """After a relative URL and a chdir, tombstones and key are beside the database, and an old copy stays erased."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    monkeypatch.chdir(one)
    with Store.open("sqlite:///profiles.db") as opened:
        opened.add_user("bob")
    shutil.copy("profiles.db", "backup")
    with Store.open("sqlite:///profiles.db") as opened:
        monkeypatch.chdir(two)
        opened.forget("bob")
    assert list(two.iterdir()) == []
    monkeypatch.chdir(one)
    shutil.move("backup", "profiles.db")
    with Store.open("sqlite:///../one/profiles.db") as restored:
        assert not restored.has_user("bob")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_erasure_lasts_through_a_link(tmp_path: Path, kind: str) -> None:
    """Erased through a link to the file or its folder, the tombstone is beside the real file and heeded there."""
    real, link = tmp_path / "real" / "profiles.db", tmp_path / "link"
    with Store.open(f"sqlite:///{real}") as opened:
        opened.add_user("bob")
    shutil.copy(real, tmp_path / "backup")
    link.symlink_to(real if kind == "file" else real.parent)
    with Store.open(f"sqlite:///{link if kind == 'file' else link / 'profiles.db'}") as linked:
        linked.forget("bob")
    assert {file.name for file in tmp_path.iterdir()} == {"real", "link", "backup"}
    shutil.copy(tmp_path / "backup", real)
    with Store.open(f"sqlite:///{real}") as restored:
        assert not restored.has_user("bob")


def test_a_file_with_two_names_is_refused(url: str, path: Path, tmp_path: Path) -> None:
    """A hard link would have a log and tombstones of its own, so it is refused; without it the store opens."""
    Store.open(url).close()
    (tmp_path / "other").hardlink_to(path)
    with pytest.raises(StoreError, match="hard links"):
        Store.open(url)
    (tmp_path / "other").unlink()
    Store.open(url).close()


def test_a_link_that_leads_nowhere_is_told(path: Path, url: str) -> None:
    """A link to itself is a StoreError."""
    path.symlink_to(path)
    with pytest.raises(StoreError, match="link"):
        Store.open(url)
