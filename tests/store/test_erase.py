"""Erasure: not a byte is left, an old copy doesn't bring a person back, and export names what erasure takes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import numpy as np
import pytest

from personalign.errors import ErasurePending, QuestionError, StoreError
from personalign.store import Shown, Store, erase
from personalign.store.sqlite import connections, engine
from personalign.store.sqlite.database import locate
from personalign.store.sqlite.tombstones import HEADER_BYTES, RECORD_BYTES, FileTombstones
from personalign.store.tables import USER_KEY, Table
from personalign.types import Gaussian, Statement
from tests.store.store_worker import is_known

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
                prompt = ({"role": "user", "content": text},)
                shown = store.present(name, "basis", Shown(f"q{step}", prompt, text, text, swapped=False, v=v))
                store.commit_answer(name, shown.id, "a", lambda answers: Gaussian(answers[-1].v, np.eye(3)))
        for name in (user, *neighbours):
            said = Statement("length", 0.5, "said", f"{name} said so")
            fitted = Gaussian(HEAD if name == user else np.ones(3), np.eye(3))
            store.commit_statements(name, "basis", {("length", "said"): said}, lambda _, fitted=fitted: fitted)
            trial = store.start_trial("basis", ("plain", "words"))
            store.note_failure(store.person(name), trial.id, ("plain", "words"), "a")
        store.undo_answer(user, "basis", lambda _: Gaussian(HEAD, np.eye(3)))

    return leave


def test_nothing_is_left_of_a_person(store: Store, path: Path, live) -> None:
    """After forget no byte of id, texts or head is in the file, its log or anything beside it; before, many are."""
    live(CANARY)
    assert _bytes_left(path) > 50
    store.forget(CANARY)
    assert _bytes_left(path) == 0
    assert not is_known(store, CANARY)
    assert store.profile("neighbour-3", "basis").revision == 5


def test_nothing_is_left_with_the_other_driver(worker) -> None:
    """The rollback journal of an old SQLite keeps nothing either."""
    assert worker("erased", stdlib=1) == {"before": True, "after": 0}


@pytest.mark.usefixtures("wal")
@pytest.mark.parametrize("trap", ["no checkpoint", "no secure delete"])
def test_each_half_of_erasure_is_needed(url: str, path: Path, live, monkeypatch, trap: str, store: Store) -> None:
    """The controls: without the checkpoint, or without secure delete, the canary is found."""
    live(CANARY)
    store.close()
    if trap == "no checkpoint":
        monkeypatch.setattr(erase, "_empty_log", lambda *_: None)
    else:
        monkeypatch.setitem(engine.COMMON, "secure_delete", 0)
    with Store.open(url) as unsound:
        if trap == "no checkpoint":
            unsound.add_user(CANARY, consent=f"{CANARY} again")
        unsound.forget(CANARY)
        assert _bytes_left(path) > 0


@pytest.mark.usefixtures("wal")
def test_a_reader_that_holds_on_makes_erasure_pending(store: Store, path: Path, live, monkeypatch) -> None:
    """While a reader keeps the log, forget says so and not that it is done; afterwards calling it again finishes."""
    monkeypatch.setattr(connections, "TRUNCATE_DEADLINE_S", 0.1)
    live(CANARY)
    with store._connections.reader.connect() as reader:
        reader.exec_driver_sql("SELECT count(*) FROM users").scalar()
        with pytest.raises(ErasurePending, match="erase again"):
            store.forget(CANARY)
    assert not is_known(store, CANARY)
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
        assert not is_known(restored, CANARY)
        assert is_known(restored, "ada")
        assert restored.profile("neighbour-3", "basis") is not None
        assert _bytes_left(path) == 0


@pytest.mark.usefixtures("wal")
def test_an_old_copy_stays_pending_until_its_log_is_empty(
    store: Store, url: str, path: Path, tmp_path: Path, live, monkeypatch
) -> None:
    """A backup that can't be erased to the last byte doesn't open, however often; without the reader it does."""
    monkeypatch.setattr(connections, "TRUNCATE_DEADLINE_S", 0.1)
    live(CANARY)
    store.close()
    shutil.copy(path, tmp_path / "backup")
    with Store.open(url) as opened:
        opened.forget(CANARY)
    (tmp_path / "backup").replace(path)
    pool = engine.reader_engine(locate(url))
    with pool.connect() as reader:
        reader.exec_driver_sql("SELECT count(*) FROM users").scalar()
        for _ in range(2):
            with pytest.raises(ErasurePending):
                Store.open(url)
        assert _bytes_left(path) > 0
        reader.rollback()
        with Store.open(url) as restored:
            assert not is_known(restored, CANARY)
            assert _bytes_left(path) == 0
    pool.dispose()


def test_a_tombstone_spares_who_came_later(store: Store, url: str, sql) -> None:
    """An id that started anew stays, even where the database lacks the tombstone."""
    store.forget("ada")
    store.add_user("ada")
    store.close()
    sql("DELETE FROM tombstones")
    sql("DELETE FROM facts")
    with Store.open(url) as opened:
        assert is_known(opened, "ada")
    assert sql("SELECT count(*) FROM tombstones") == [(1,)]


def test_half_a_tombstone_is_no_tombstone(store: Store, url: str, path: Path) -> None:
    """A record cut by a kill, or what isn't text, is overwritten by the next one."""
    store.forget("ada")
    store.add_user("bob")
    with path.with_name("profiles.db.tombstones").open("ab") as file:
        file.write(b"\xff\xfe\n1790000000000000 0123")
    store.forget("bob")
    store.close()
    assert [record.number for record in FileTombstones(locate(url)).after(0)] == [1, 2]
    Store.open(url).close()


def test_a_tombstone_names_nobody_without_its_key(store: Store, url: str, tmp_path: Path) -> None:
    """The same id has another digest beside another database."""
    store.forget("ada")
    (tmp_path / "other").mkdir()
    with Store.open(f"sqlite:///{tmp_path / 'other' / 'profiles.db'}") as other:
        other.add_user("ada")
        other.forget("ada")
    first, second = (
        FileTombstones(locate(f"sqlite:///{folder / 'profiles.db'}")).after(0)
        for folder in (tmp_path, tmp_path / "other")
    )
    assert first[0].digest != second[0].digest


DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {
    "no key": (".key", lambda _: None),
    "another key": (".key", lambda key: bytes(len(key))),
    "half a key": (".key", lambda key: key[:16]),
    "no tombstones": (".tombstones", lambda _: None),
    "no byte": (".tombstones", lambda _: b""),
    "first line alone": (".tombstones", lambda content: content[:HEADER_BYTES]),
    "last record gone": (".tombstones", lambda content: content[:-RECORD_BYTES]),
    "half of the last gone": (".tombstones", lambda content: content[: -RECORD_BYTES // 2]),
    "first record gone": (
        ".tombstones",
        lambda content: content[:HEADER_BYTES] + content[HEADER_BYTES + RECORD_BYTES :],
    ),
    "a count changed": (".tombstones", lambda content: content.replace(b" 000000000002 ", b" 000000000001 ")),
    "another's": (".tombstones", lambda content: content.replace(content[25:30], b"00000")),
    "text": (".tombstones", lambda _: b"dear diary, " * 30),
}


@pytest.mark.parametrize("copy", ["newest", "backup"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_beside_a_database_is_its_own_or_it_does_not_open(
    store: Store, url: str, path: Path, tmp_path: Path, sql, damage: str, copy: str
) -> None:
    """A lost, wrong or cut key or file of tombstones is refused, heeds nothing, and mended it opens and heeds all."""
    for user in ("bob", "eve"):
        store.add_user(user)
    store.close()
    shutil.copy(path, tmp_path / "backup")
    with Store.open(url) as opened:
        opened.forget("bob")
        opened.forget("ada")
    if copy == "backup":
        shutil.copy(tmp_path / "backup", path)
    suffix, spoil = DAMAGE[damage]
    file = path.with_name(path.name + suffix)
    sound = file.read_bytes()
    spoilt = spoil(sound)
    file.unlink() if spoilt is None else file.write_bytes(spoilt)
    if (damage, copy) == ("no tombstones", "backup"):
        return  # without them nothing tells that there were erasures
    facts = sql("SELECT * FROM facts")
    with pytest.raises(StoreError, match="restore"):
        Store.open(url)
    assert sql("SELECT * FROM facts") == facts
    file.write_bytes(sound)
    with Store.open(url) as opened:
        assert [is_known(opened, user) for user in ("ada", "bob", "eve")] == [False, False, True]


def test_a_damaged_record_is_told_when_it_is_heeded(store: Store, url: str, path: Path, tmp_path: Path) -> None:
    """A bit that flipped in a tombstone is an error for the backup that needs it, and mended it is heeded."""
    store.close()
    shutil.copy(path, tmp_path / "backup")
    with Store.open(url) as opened:
        opened.forget("ada")
    shutil.copy(tmp_path / "backup", path)
    file = path.with_name(path.name + ".tombstones")
    sound = file.read_bytes()
    place = HEADER_BYTES + 5
    file.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
    with pytest.raises(StoreError, match="damaged at record 1"):
        Store.open(url)
    file.write_bytes(sound)
    with Store.open(url) as opened:
        assert not is_known(opened, "ada")


@pytest.mark.parametrize("after", range(len(erase.STEPS) - 1), ids=[step.__name__ for step in erase.STEPS[:-1]])
def test_opening_again_finishes_an_erasure(url: str, path: Path, live, store: Store, monkeypatch, after: int) -> None:
    """Stopped after any step, traces are left where no step has removed them; opening the store removes them."""

    def stop(*_: object) -> None:
        raise InterruptedError

    live(CANARY)
    with monkeypatch.context() as stopped:
        stopped.setattr(erase, erase.STEPS[after + 1].__name__, stop)
        with pytest.raises(InterruptedError):
            store.forget(CANARY)
    has_log = store._connections.database.journal_mode == "wal"
    assert is_known(store, CANARY) == (after == 0)
    assert (_bytes_left(path) > 0) == (after == 0 or (after == 1 and has_log))
    with Store.open(url) as opened:
        assert not is_known(opened, CANARY)
        assert _bytes_left(path) == 0


def test_a_clock_that_goes_back_hides_no_erasure(store: Store, url: str, monkeypatch) -> None:
    """Erased by a process whose clock is behind, after one by a process whose clock is ahead: both are told."""
    for user in ("bob", "eve"):
        store.add_user(user)

    class Behind(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) - timedelta(days=1)

    with Store.open(url) as other:
        other.forget("bob")
        erased, number = store.erased(["bob", "eve"], 0)
        assert (erased, number) == (["bob"], 1)
        monkeypatch.setattr(erase, "datetime", Behind)
        other.forget("eve")
    assert store.erased(["bob", "eve"], number) == (["eve"], 2)


def test_few_tombstones_are_read_of_many(store: Store, url: str, path: Path, sql, monkeypatch) -> None:
    """Opening, and looking for erasures since the last, read what is new and not what was heeded long ago."""
    for number in range(50):
        store.add_user(f"user-{number}")
        store.forget(f"user-{number}")
    store.close()
    read: list[int] = []
    monkeypatch.setattr(FileTombstones, "_record", lambda _, __, number: read.append(number))
    Store.open(url).close()
    assert read == []
    plan = sql("EXPLAIN QUERY PLAN SELECT digest FROM tombstones WHERE number > 49")
    assert "ix_tombstones_number" in str(plan)


@pytest.mark.parametrize("pool", ["reader", "writer"])
def test_no_compiled_statement_keeps_an_id(store: Store, pool: str, live) -> None:
    """After forget the statements that SQLAlchemy keeps hold no id; before, they do (the control)."""
    live(CANARY)
    store.export(CANARY)
    cache = getattr(store._connections, pool)._compiled_cache

    def num_kept() -> int:
        binds = [bind for compiled in list(cache.values()) for bind in compiled.binds.values()]
        return sum(CANARY in str(bind.value) for bind in binds)

    assert num_kept() > 0
    store.forget(CANARY)
    assert num_kept() == 0


def test_forgetting_a_stranger_is_nothing(store: Store) -> None:
    """An unknown id can be forgotten without an error, is told to be unknown, and a known one to be known."""
    assert not store.forget("stranger")
    assert store.forget("ada")
    assert not store.forget("ada")
    assert not is_known(store, "stranger")


def test_every_personal_table_is_exported_and_erased(store: Store, live, sql) -> None:
    """Read from the schema: each table with a user's key has rows in the export, and none after forget."""
    live(CANARY)
    personal = {table.name for table in Table.metadata.sorted_tables if USER_KEY in table.columns}
    shared = {table.name for table in Table.metadata.sorted_tables} - personal
    assert shared == {"users", "bases", "exposures", "tombstones", "facts", "trials", "keys", "writes"}
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
        assert not is_known(restored, "bob")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_erasure_lasts_through_a_link(tmp_path: Path, kind: str) -> None:
    """Erased through a link to the file or its folder, the tombstone is beside the real file and heeded there."""
    real, link = tmp_path / "real" / "profiles.db", tmp_path / "link"
    real.parent.mkdir()
    with Store.open(f"sqlite:///{real}") as opened:
        opened.add_user("bob")
    shutil.copy(real, tmp_path / "backup")
    link.symlink_to(real if kind == "file" else real.parent)
    with Store.open(f"sqlite:///{link if kind == 'file' else link / 'profiles.db'}") as linked:
        linked.forget("bob")
    assert {file.name for file in tmp_path.iterdir()} == {"real", "link", "backup"}
    shutil.copy(tmp_path / "backup", real)
    with Store.open(f"sqlite:///{real}") as restored:
        assert not is_known(restored, "bob")


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
