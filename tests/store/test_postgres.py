"""What a Postgres server may refuse: an error says what to do, quotes no row, and nothing is left half done."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime

import psycopg
import pytest
from sqlalchemy import text

from lab.postgres import LOCKED, PASSWORD, Server, postgres
from personalign.errors import InputError, MissingExtra, StoreError
from personalign.store import Store, schema, upkeep
from personalign.store.postgres import connections, engine
from personalign.store.tables import Table, UserRow
from tests.forked import PATIENCE_S
from tests.store.store_worker import answers, at_once, count, is_known, pair

SOUND = {"refused": 0, "wrong": 0}


@pytest.fixture
def database() -> str:
    return "postgres"


def _name(url: str) -> str:
    return url.partition("@/")[2].partition("?")[0]


@pytest.fixture
def blank(postgres_server: Server) -> Iterator[str]:
    """A database without any table."""
    yield postgres_server.create("blank")
    postgres_server.drop("blank")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://ada:secret@host/base", r"begins with postgresql://, expected postgresql\+psycopg://"),
        ("postgres://ada:secret@host/base", r"begins with postgres://, expected postgresql\+psycopg://"),
        ("postgresql+psycopg2://ada:secret@host/base", r"expected postgresql\+psycopg://"),
        ("postgresql+psycopg://ada:secret@host", "names no database"),
        ("postgresql+psycopg://ada:secret@host/ba\nse", "expected a name or a path"),
        ("postgresql+psycopg://ada:secret@[::/base", "can't be read"),
        ("postgresql+psycopg://ada:secret@/base?host=/no/such/folder", "check that the server runs"),
    ],
)
def test_an_address_that_leads_nowhere_is_told_without_its_password(url: str, words: str) -> None:
    """By every verb that takes one."""
    for verb in (Store.open, upkeep.upgrade, upkeep.report):
        with pytest.raises((StoreError, InputError), match=words) as refused:
            verb(url)
        assert "secret" not in "".join(traceback.format_exception(refused.value))


def test_a_database_that_is_not_there_is_told(postgres_server: Server) -> None:
    """Making one is its operator's."""
    with pytest.raises(StoreError, match="createdb"):
        Store.open(postgres_server.url("nowhere"))


def test_a_wrong_password_is_refused_and_never_printed(postgres_server: Server, postgres_url: str) -> None:
    """The right one is let in (the control), and a role without rights is told which it lacks."""
    name, wrong = _name(postgres_url), PASSWORD[::-1]
    with pytest.raises(StoreError, match="check the name and the password") as refused:
        Store.open(postgres_server.url(name, LOCKED, wrong))
    assert wrong not in "".join(traceback.format_exception(refused.value))
    with pytest.raises(StoreError, match="grant it the rights"):
        Store.open(postgres_server.url(name, LOCKED, PASSWORD))


@pytest.mark.parametrize(
    ("version", "encoding", "words"),
    [(12_00_22, "UTF8", "PostgreSQL 12, expected 13 or newer"), (15_00_18, "SQL_ASCII", "SQL_ASCII, expected UTF8")],
)
def test_a_server_that_can_hold_no_store_is_refused(version: int, encoding: str, words: str) -> None:
    """Too old, or with an encoding that can't hold every text; 13 with UTF8 is taken (the control)."""
    engine.check_server(13_00_00, "UTF8")
    with pytest.raises(StoreError, match=words):
        engine.check_server(version, encoding)


def test_an_encoding_is_looked_at_when_a_connection_is_made(postgres_server: Server) -> None:
    """A database in Latin 1 is refused before anything is made in it."""
    postgres_server.sql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(StoreError, match="LATIN1, expected UTF8"):
            Store.open(postgres_server.url("latin"))
    finally:
        postgres_server.drop("latin")


def test_another_programs_tables_are_left_alone(postgres_server: Server, blank: str) -> None:
    """Whatever they are, alembic's own among them; an empty database becomes a store (the control)."""
    for name in ("notes", "alembic_version"):
        postgres_server.sql("CREATE TABLE notes (text text)".replace("notes", name), name="blank")
        for verb in (Store.open, upkeep.upgrade, upkeep.report):
            with pytest.raises(StoreError, match="1 tables of another program"):
                verb(blank)
        postgres_server.sql("DROP TABLE notes".replace("notes", name), name="blank")
    Store.open(blank).close()


def test_without_the_driver_the_extra_is_named(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the package does without it."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtra, match=r"personalign\[postgres\]"):
        Store.open(postgres_url)


def test_a_database_that_is_read_only_can_be_read(store: Store, url: str, postgres_server: Server) -> None:
    """As on a standby: a write says what to pass instead, and what is asked goes on; then writes do, too."""
    place = f"DATABASE {_name(url)}"
    postgres_server.sql(f"ALTER {place} SET default_transaction_read_only = on")
    try:
        with Store.open(url) as opened:
            assert is_known(opened, "ada")
            for write in (
                lambda: opened.add_user("bob"),
                lambda: opened.commit_feedback("ada", "basis", pair("q"), "a", count),
                lambda: opened.forget("ada"),
            ):
                with pytest.raises(StoreError, match="URL of the primary"):
                    write()
            assert upkeep.report(url)["problems"] == [
                "the database is read-only, so nothing can be stored; pass the URL of the primary"
            ]
    finally:
        postgres_server.sql(f"ALTER {place} RESET default_transaction_read_only")
    with Store.open(url) as opened:
        assert opened.forget("ada")


def test_a_server_that_is_full_names_its_limit(postgres_server: Server, postgres_url: str) -> None:
    """With every connection taken; when one is free the store opens."""
    with ExitStack() as taken:
        with suppress(psycopg.OperationalError):
            while True:
                address = postgres_url.replace("+psycopg", "")
                taken.enter_context(psycopg.connect(address))
        with pytest.raises(StoreError, match=r"max_connections\), and a process of personalign uses up to 11"):
            Store.open(postgres_url)
    while postgres_server.sql("SELECT 1 FROM pg_stat_activity WHERE datname = %s", _name(postgres_url)):
        time.sleep(0.01)  # a connection that was closed here ends there a little later
    Store.open(postgres_url).close()


def test_a_pool_that_is_empty_says_so(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With each of its connections in use; afterwards they are used again."""
    monkeypatch.setitem(engine.POOL, "pool_timeout", 0.1)
    with Store.open(url) as store:
        with ExitStack() as taken:
            for _ in range(10):
                taken.enter_context(store._connections.read()).connection()
            with pytest.raises(StoreError, match="all 10 connections of this process's pool"):
                store.num_people()
        assert store.num_people() == 0


def test_text_that_it_cannot_hold_is_refused(store: Store) -> None:
    """NUL and half a surrogate pair; the person's other answers go on."""
    for words in ("no\0", "half\ud83d"):
        with pytest.raises(InputError, match=r"NUL character|half a surrogate"):
            store.commit_feedback("ada", "basis", pair("q", words), "a", count)
    assert store.commit_feedback("ada", "basis", pair("q"), "a", count).revision == 1


def test_an_error_quotes_no_row(store: Store) -> None:
    """The server's details name the person; neither the message nor its traceback does."""

    def add_again() -> None:
        with store._connections.write() as session:
            session.add(UserRow(id="ada", created_at=datetime.now(UTC)))

    with pytest.raises(StoreError, match="pk_users") as refused:
        add_again()
    assert "ada" not in "".join(traceback.format_exception_only(refused.value))
    assert "(ada)" not in "".join(traceback.format_exception(refused.value))


def test_a_lock_that_is_kept_is_waited_for_only_so_long(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same person's writes wait for each other, and say so when it takes too long; others' don't wait."""
    monkeypatch.setitem(engine.SETTINGS, "lock_timeout", "100ms")
    store._connections._close_idle()
    with store._connections.write("ada"):
        with pytest.raises(StoreError, match="kept a lock for too long"):
            store.pause("ada", is_paused=True)
        store.pause("bob", is_paused=True)
    store.pause("ada", is_paused=True)


def test_every_connection_has_every_setting(store: Store) -> None:
    """Whatever the server's own are; reads see one state, and can't write."""
    with store._connections.write() as session:
        for name, value in {**engine.SETTINGS, "synchronous_commit": "on"}.items():
            assert session.connection().exec_driver_sql(f"SHOW {name}").scalar() == value
    with store._connections.read() as session:
        assert session.connection().exec_driver_sql("SHOW transaction_isolation").scalar() == "repeatable read"
        with pytest.raises(Exception, match="read-only transaction"):
            session.connection().exec_driver_sql("UPDATE users SET consent = 'x'")


def test_four_processes_migrate_at_once(blank: str) -> None:
    """Each of them ends with the newest schema."""
    upgrade: Callable[[], int] = lambda: upkeep.upgrade(blank) != schema.HEAD  # noqa: E731
    assert at_once([upgrade] * 4) == [0] * 4


def test_a_server_that_restarts_in_mid_write_loses_no_answer() -> None:
    """As if the power had failed, twice: a write succeeds or is a StoreError, and the same store goes on by itself."""
    acknowledged = {"ada": 0, "bob": 0}
    refused: list[Exception] = []
    is_over = threading.Event()

    def answer(store: Store, user: str) -> None:
        step = 0
        while not is_over.is_set():
            step += 1
            try:
                shown = store.present(user, "basis", pair(f"q{step}"))
                acknowledged[user] = store.commit_answer(user, shown.id, "a", count).revision
            except Exception as error:  # noqa: BLE001 - looked at below
                refused.append(error)
                time.sleep(0.01)

    with postgres(durable=False) as server, Store.open(server.create("store")) as store:
        store.save_basis("basis", "tiny", {})
        for user in acknowledged:
            store.add_user(user)
        threads = [threading.Thread(target=answer, args=(store, user)) for user in acknowledged]
        for thread in threads:
            thread.start()
        try:
            for _ in range(2):
                time.sleep(0.5)
                server.control("restart", "immediate")
            before = dict(acknowledged)
            deadline = time.monotonic() + PATIENCE_S
            while any(acknowledged[user] <= before[user] for user in before) and time.monotonic() < deadline:
                time.sleep(0.01)
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
        assert all(acknowledged[user] > before[user] for user in before)
        assert refused, "the control: the restarts were noticed"
        assert all(isinstance(error, StoreError) for error in refused)
        for user, revision in acknowledged.items():
            assert store.profile(user, "basis").revision >= revision
            assert len(store.answers(user, "basis")) == store.profile(user, "basis").answers


@pytest.mark.parametrize("is_locked", [True, False], ids=["ours", "control"])
def test_no_update_is_lost(postgres_url: str, monkeypatch: pytest.MonkeyPatch, *, is_locked: bool) -> None:
    """Four processes answer for the same person: no refusal, and every revision holds one answer more."""
    if not is_locked:
        monkeypatch.setattr(connections, "LOCK_ONE", text("SELECT :everything, :person"))
    assert (answers(postgres_url, processes=4, rounds=8, users=1) == SOUND) == is_locked


@pytest.mark.slow
@pytest.mark.parametrize(("rounds", "users"), [(50, 2), (200, 100)])
def test_no_update_is_lost_in_sixteen_hundred(postgres_url: str, rounds: int, users: int) -> None:
    """Eight processes: none lost, no error."""
    assert answers(postgres_url, 8, rounds, users) == SOUND


def test_nothing_but_a_hash_is_left_of_a_person(store: Store, url: str, sql) -> None:
    """No row of any table has the id or the texts; before, rows of four have."""
    tables = [table.name for table in Table.metadata.sorted_tables]

    def traces() -> set[str]:
        return {table for table in tables if sql(f"SELECT 1 FROM {table} AS row WHERE row::text LIKE '%canary%'")}

    store.add_user("canary", consent="canary agrees")
    shown = store.present("canary", "basis", pair("q", "canary sings"))
    store.commit_answer("canary", shown.id, "a", count)
    assert traces() == {"users", "presentations", "answers", "profiles"}
    assert store.forget("canary")
    assert traces() == set()
    assert sql("SELECT count(*) FROM tombstones") == [(1,)]
    with Store.open(url) as other:
        assert not is_known(other, "canary")
