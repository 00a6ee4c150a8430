# ruff: noqa: T201
"""A single-threaded process that forks: what many processes, and killed ones, do to one store.

Run as ``python store_worker.py VERB URL KEY=VALUE…``; prints one JSON line. ``broken=1`` puts a known trap back,
so that a test can see its own alarm go off.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from sqlalchemy import Connection, Engine, event, text

from personalign.errors import StoreError
from personalign.store import Answer, Shown, Store, once, schema, upkeep
from personalign.store.fork import Gate
from personalign.store.places import find
from personalign.store.schema import known_revisions, migrate
from personalign.store.sqlite import engine
from personalign.store.sqlite import turn as turn_module
from personalign.store.sqlite.database import Database, locate, sqlite_driver
from personalign.store.sqlite.files import make_file
from personalign.store.sqlite.turn import Turns
from personalign.types import Gaussian
from tests.forked import PATIENCE_S, exit_code, forked

BASIS = "basis"
WORK_S = 1000  # of a process that does much: after so long an alarm ends it
MOST_KILLS = 60  # of what is sent again: more than it has statements


def count(answers: tuple[Answer, ...]) -> Gaussian:
    """A fit that any lost answer would change."""
    return Gaussian(np.array([float(len(answers)), sum(answer.v[0] for answer in answers)]), np.eye(2))


def pair(question: str, text: str = "text", size: float = 1.0) -> Shown:
    """Two replies of the same text, and by how much they differ."""
    return Shown(question, (), text, text, swapped=False, v=np.full(2, size))


def answer_rounds(url: str, seed: int, rounds: int, users: int) -> int:
    """Answer this many questions of people chosen at random; return how often the store refused."""
    draw = random.Random(seed)
    refused = 0
    with Store.open(url) as store:
        for step in range(rounds):
            user = f"user-{draw.randrange(users)}"
            try:
                shown = store.present(user, BASIS, pair(f"{seed}-{step}"))
                store.commit_answer(user, shown.id, "a", count)
            except StoreError:
                refused += 1
    return refused


def prepare(url: str, users: int) -> None:
    """Make a store with these people."""
    with Store.open(url) as store:
        store.save_basis(BASIS, "tiny", {})
        for number in range(users):
            store.add_user(f"user-{number}")


def at_once(jobs: list[Callable[[], int]]) -> list[int]:
    """Run each job in a process of its own, all released at the same moment; return their exit codes."""
    wait, release = os.pipe()

    def released(job: Callable[[], int]) -> int:
        os.close(release)
        os.read(wait, 1)
        return job()

    children = [forked(lambda job=job: released(job), WORK_S) for job in jobs]  # type: ignore[misc]
    os.close(wait)
    os.close(release)
    return [exit_code(child) for child in children]


def kill_child_at(job: Callable[[], object], statement: int) -> bool:
    """Fork, and kill -9 right before this statement; tell whether the job got that far."""

    def counted() -> None:
        seen = 0

        def countdown(*_: object) -> None:
            nonlocal seen
            seen += 1
            if seen == statement:
                os.kill(os.getpid(), signal.SIGKILL)

        event.listen(Engine, "before_cursor_execute", countdown)
        event.listen(Engine, "commit", countdown)
        job()

    return exit_code(forked(counted)) == -signal.SIGKILL


def kill_child_after(job: Callable[[], object], seconds: float, holds: Callable[[], bool] = lambda: True) -> None:
    """Fork, and kill -9 so long after this holds."""
    child = forked(lambda: (job(), 0)[1])
    until = time.monotonic() + PATIENCE_S
    try:
        while not holds():
            assert time.monotonic() < until, "what the kill waits for never happens"
            time.sleep(0.001)
        time.sleep(seconds)
    finally:
        os.kill(child, signal.SIGKILL)
        exit_code(child)


# ---- verbs ----


def answers(url: str, processes: int = 8, rounds: int = 10, users: int = 2, broken: int = 0) -> dict[str, object]:
    """Several processes answer for the same people."""
    prepare(url, users)
    if broken:
        _begin_deferred()
    codes = at_once(
        [lambda seed=seed: answer_rounds(url, seed, rounds, users) for seed in range(processes)]  # type: ignore[misc]
    )
    return {"refused": sum(codes), "wrong": wrong_profiles(url, users)}


def opens(url: str, processes: int = 8, rounds: int = 3) -> dict[str, object]:
    """Several processes open a store that isn't there yet, again and again."""
    failed = 0
    for turn in range(rounds):
        fresh = f"{url}-{turn}"
        failed += sum(at_once([lambda fresh=fresh: is_known(Store.open(fresh), "nobody")] * processes))  # type: ignore[misc]
    return {"failed": failed}


def kill_writes(url: str, kills: int = 0, seed: int = 0) -> dict[str, object]:
    """Kill a writer at each statement, or at random times; every acknowledged revision stays, and nothing half does."""
    users = kills // 10 + 1
    prepare(url, users)
    draw = random.Random(seed)
    log = Path(url.removeprefix("sqlite:///")).with_name("acknowledged")
    lost = promised = turn = 0
    is_killed = True
    while is_killed:
        user = f"user-{turn // 10 % users}"
        log.write_text("0\n")

        def job(turn: int = turn, user: str = user) -> None:
            with Store.open(url) as store, log.open("a") as acknowledged:
                for step in range(1000 if kills else 1):
                    shown = store.present(user, BASIS, pair(f"{turn}-{step}"))
                    profile = store.commit_answer(user, shown.id, "a", count)
                    acknowledged.write(f"{profile.revision}\n")
                    acknowledged.flush()

        turn += 1
        if kills:
            lines = draw.randrange(20)
            kill_child_after(job, draw.uniform(0.0, 0.02), lambda: log.read_text().count("\n") > lines)  # noqa: B023
            is_killed = turn < kills
        else:
            is_killed = kill_child_at(job, statement=turn)
        newest = int(log.read_text().splitlines()[-1])
        promised += len(log.read_text().splitlines()) - 1
        with Store.open(url) as store:
            profile = store.profile(user, BASIS)
        lost += (profile.revision if profile else 0) < newest
    return {
        "lost": lost,
        "wrong": wrong_profiles(url, users),
        "problems": integrity(url),
        "promised": promised,
        "kills": turn - (not kills),
    }


def kill_migrations(
    url: str, stride: int = 1, kills: int = 0, seed: int = 0, broken: int = 0, new: int = 0
) -> dict[str, object]:
    """Kill an upgrade from the first revision at every statement, or at random times; the next one must go through.

    What is broken is left once two of them have failed. ``new`` upgrades a file without any schema.
    """
    draw = random.Random(seed)
    path = Path(url.removeprefix("sqlite:///"))
    assert at_once([lambda: _make_oldest(url)]) == [0]
    oldest = path.read_bytes()
    if broken:
        _commit_each_statement()
    killed = wedged = 0
    for turn in range(kills or 1000):
        if broken and wedged > 1:
            break
        for file in path.parent.glob(path.name + "*"):
            file.unlink()
        if not new:
            path.write_bytes(oldest)
            path.chmod(0o600)
        if kills:
            kill_child_after(lambda: upkeep.upgrade(url), draw.uniform(0.0, 0.1))
            killed += 1
        elif kill_child_at(lambda: upkeep.upgrade(url), statement=1 + turn * stride):
            killed += 1
        else:
            break
        wedged += at_once([lambda: upkeep.upgrade(url) != schema.HEAD or len(wrong_tables(url))]) != [0]
    return {"killed": killed, "wedged": wedged}


def _make_oldest(url: str) -> int:
    make_file(locate(url).path)
    migrate(find(url), known_revisions()[0])
    return 0


def kill_refits(url: str, stride: int = 1, users: int = 2, broken: int = 0) -> dict[str, object]:
    """Kill a refit of everybody at every statement; the next one must end where one in peace does.

    What is broken is left at the first wrong end.
    """
    assert at_once([lambda: _give_answers(url, users)]) == [0]
    if broken:
        _commit_each_statement()
    path = Path(url.removeprefix("sqlite:///"))
    answered = path.read_bytes()
    killed = wrong = 0
    is_killed = True
    while is_killed and not (broken and wrong):
        for file in path.parent.glob(path.name + "*"):
            file.unlink()
        path.write_bytes(answered)
        is_killed = kill_child_at(lambda: _refit_all(url), statement=1 + killed * stride)
        killed += is_killed
        wrong += at_once([lambda: _refit_all(url) or _wrong_refits(url, users)]) != [0]
    return {"killed": killed, "wrong": wrong}


def _give_answers(url: str, users: int) -> int:
    prepare(url, users)
    with Store.open(url) as store:
        for user, step in [(f"user-{number}", step) for number in range(users) for step in range(3)]:
            shown = store.present(user, BASIS, pair(f"q{step}", size=step))
            store.commit_answer(user, shown.id, "a", count)
    return 0


def _refit_all(url: str) -> int:
    with Store.open(url) as store:
        store.save_basis("new", "tiny", {})
        for user in store.behind("new"):
            store.adopt(user, "new", lambda shown: 2 * shown.v, count)
    return 0


def _wrong_refits(url: str, users: int) -> int:
    """Count the people who aren't as a refit in peace leaves them, or whose old profile changed."""
    wrong = 0
    with Store.open(url) as store:
        for user in (f"user-{number}" for number in range(users)):
            old, new = store.profile(user, BASIS), store.profile(user, "new")
            profiles = [(profile.revision, profile.answers, profile.mean.tolist()) for profile in (old, new) if profile]
            choices = [answer.choice for answer in store.answers(user, "new")]
            wrong += profiles != [(3, 3, [3.0, 3.0]), (1, 3, [3.0, 6.0])] or choices != ["a"] * 3
    return wrong


def kill_sent(url: str, first: int = 1, stride: int = 1, keyless: int = 0, broken: int = 0) -> dict[str, object]:
    """Kill an undo at its statements, from the first on, send it again, and count those for whom it isn't done once.

    What is broken is left at the first of them.
    """
    if broken:
        once.note = lambda _: None
    assert at_once([lambda: _give_answers(url, MOST_KILLS // stride)]) == [0]
    killed = wrong = 0
    is_killed = True
    while is_killed and not ((broken or keyless) and wrong):
        user = f"user-{killed}"

        def send(key: str, user: str = user) -> int:
            with Store.open(url) as store:
                with store.write_once("caller", key, "undo") as is_first:
                    if is_first:
                        store.undo_answer(user, BASIS, count)
                        if broken:
                            _note_apart(store, key)
                return len(store.answers(user, BASIS))  # whose statements come after the commit

        is_killed = kill_child_at(lambda: send(user), statement=first + killed * stride)  # noqa: B023
        killed += is_killed
        key = f"{user} again" if keyless else user
        wrong += at_once([lambda key=key: send(key)]) != [2]  # type: ignore[misc]
    return {"killed": killed, "wrong": wrong}


def _note_apart(store: Store, key: str) -> None:
    with store._connections.write() as session:
        once.claim(session, once.seal(store.keys.secret("writes"), "caller", key, "undo"))


def fork(url: str) -> dict[str, object]:
    """A parent with open connections forks; both go on writing."""
    prepare(url, 1)
    with Store.open(url) as store:
        store.data_version()
        shown = store.present("user-0", BASIS, pair("q"))
        child = at_once([lambda: store.commit_answer("user-0", shown.id, "a", count).revision])
        before = store.data_version()
        again = store.present("user-0", BASIS, pair("q2"))
        parent = store.commit_answer("user-0", again.id, "b", count).revision
        changed = store.data_version() != before
    return {
        "child": child,
        "parent": parent,
        "changed": changed,
        "problems": integrity(url),
        "wrong": wrong_profiles(url, 1),
    }


def fork_storm(
    url: str, forks: int = 40, threads: int = 4, patience_s: int = WORK_S, broken: int = 0
) -> dict[str, object]:
    """Fork again and again while threads use the store without a pause; each child uses it, too."""
    prepare(url, threads)
    if broken:
        Gate.shut = lambda gate: gate._lock.acquire() and gate.before()  # type: ignore[method-assign]
        signal.alarm(forks * patience_s + 60)  # the process itself may hang, too
    is_over = threading.Event()
    stuck = num_calls = 0

    def use(user: str) -> None:
        nonlocal num_calls
        while not is_over.is_set():
            store.add_user(user, consent=str(num_calls))
            store.data_version()
            is_known(store, user)
            num_calls += 1

    with Store.open(url) as store:
        users = [threading.Thread(target=use, args=(f"user-{number}",)) for number in range(threads)]
        for thread in users:
            thread.start()
        for turn in range(forks):
            child = forked(lambda turn=turn: (store.add_user(f"child-{turn}"), store.data_version(), 0)[2], patience_s)  # type: ignore[misc]
            stuck += exit_code(child) != 0
        is_over.set()
        for thread in users:
            thread.join()
        children = sum(is_known(store, f"child-{turn}") for turn in range(forks))
    return {"stuck": stuck, "children": children, "calls": num_calls > 0, "problems": integrity(url)}


def turns(url: str, processes: int = 6, rounds: int = 8, broken: int = 0) -> dict[str, object]:
    """Processes write without a pause; count how often one got its turn before another that had come earlier."""
    prepare(url, 1)
    log = Path(url.removeprefix("sqlite:///")).with_name("turns")
    if broken:
        Turns._queue = lambda _: None  # type: ignore[method-assign]

    coming, opened, lock_soon = log.with_name("coming"), log.with_name("opened"), turn_module._lock_soon
    coming.touch()

    def note(file: Path, number: int) -> None:
        with file.open("a") as lines:
            lines.write(f"{number}\n")

    def wait_for_others(number: int) -> None:
        """Keep the turn until everybody else who has turns left waits for the next one."""
        had = log.read_text().split()
        others = sum(had.count(str(other)) < rounds for other in range(processes) if other != number)
        for _ in range(20 if broken else 50_000):
            if len(coming.read_text().split()) >= len(had) + others:
                break
            time.sleep(0.001)

    def write(number: int) -> int:
        def wait_in_queue(file: int, start: int, length: int) -> None:
            if start:  # behind the byte that is locked to draw a number
                note(coming, number)
            lock_soon(file, start, length)

        with Store.open(url) as store:
            note(opened, number)
            for _ in range(50_000):  # who starts slowly would let those wait for too long who hold a turn
                if len(opened.read_text().split()) == processes:
                    break
                time.sleep(0.001)
            turn_module._lock_soon = wait_in_queue
            for step in range(rounds):
                with store._connections.write() as session:
                    note(log, number)
                    session.execute(text("UPDATE users SET consent = :word"), {"word": f"{number}-{step}"})
                    wait_for_others(number)
        return 0

    codes = at_once([lambda number=number: write(number) for number in range(processes)])  # type: ignore[misc]
    order = log.read_text().split()
    # while all are busy, whoever had a turn gets the next one after all the others
    busy = order[processes : processes * (rounds - 2)]
    early = sum(len(set(busy[start : start + processes])) < processes for start in range(len(busy) - processes + 1))
    return {"failed": sum(codes), "turns": len(order), "early": early}


def full_disk(url: str) -> dict[str, object]:
    """Let no file grow past ever smaller limits: writes are refused with a StoreError, and go on once there is room."""
    prepare(url, 1)
    path = Path(url.removeprefix("sqlite:///"))
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    refused = recovered = 0
    with Store.open(url) as store:
        for spare in (60_000, 20_000, 5_000, 1_000):
            largest = max(file.stat().st_size for file in path.parent.glob(path.name + "*"))
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest + spare, most))
            try:
                for step in range(1000):
                    shown = store.present("user-0", BASIS, pair(f"{spare}-{step}", "l" * 5000))
                    store.commit_answer("user-0", shown.id, "a", count)
            except StoreError as error:
                print(error, file=sys.stderr)
                refused += 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            shown = store.present("user-0", BASIS, pair(f"{spare}-more"))
            recovered += store.commit_answer("user-0", shown.id, "a", count).revision > 0
    return {"refused": refused, "recovered": recovered, "wrong": wrong_profiles(url, 1), "problems": integrity(url)}


def erased(url: str) -> dict[str, object]:
    """Look for a canary in all files, before and after it is forgotten."""
    prepare(url, 8)
    folder = Path(url.removeprefix("sqlite:///")).parent

    def traces() -> int:
        # another process reads: closing a file of ours would drop the locks that SQLite holds on it
        return sum(
            subprocess.run(["cat", file], capture_output=True, check=True).stdout.count(b"canary")
            for file in folder.iterdir()
        )

    with Store.open(url) as store:
        for step in range(4):
            for user in ("canary", *(f"user-{number}" for number in range(8))):
                store.add_user(user)
                words = f"{user} " * 200
                shown = store.present(user, BASIS, pair(f"q{step}", words))
                store.commit_answer(user, shown.id, "a", count)
        before = traces()
        store.forget("canary")
        return {"before": before > 50, "after": traces()}


def unclosed(url: str) -> dict[str, object]:
    """Write, and end without closing."""
    prepare(url, 1)
    global left_open  # noqa: PLW0603 - so that only the end of the process takes it down
    left_open = Store.open(url)
    left_open.add_user("ada")
    return {"version": left_open.data_version() > 0, "sqlite": sqlite_driver().sqlite_version}


# ---- what must hold ----


def is_known(store: Store, user: str) -> bool:
    """Tell whether there is such a person."""
    return store.person(user).created_at is not None


def wrong_profiles(url: str, users: int) -> int:
    """Count people whose profile doesn't hold each of their answers once."""
    wrong = 0
    with Store.open(url) as store:
        for number in range(users):
            tables = store.export(f"user-{number}")["tables"]
            num_answers = len(tables["answers"])
            steps = [(row["revision"], row["answers"], row["mean"][0]) for row in tables["profiles"]]
            wrong += steps != [(n, n, float(n)) for n in [num_answers] if n]
    return wrong


def integrity(url: str) -> list[str]:
    """What SQLite finds wrong with the file."""
    reader = engine.reader_engine(locate(url))
    with reader.connect() as connection:
        found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check")]
        found += [str(row) for row in connection.exec_driver_sql("PRAGMA foreign_key_check")]
    reader.dispose()
    return [] if found == ["ok"] else found


def wrong_tables(url: str) -> list[str]:
    """What differs between the file and the models, after a trip down and up."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from personalign.store.tables import Table

    for target in ("base", known_revisions()[-1]):
        migrate(find(url), target)
    reader = engine.reader_engine(locate(url))
    with reader.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found = [str(step) for step in compare_metadata(context, Table.metadata)]
    reader.dispose()
    return found


# ---- the traps, put back ----


def _begin_deferred() -> None:
    Turns.turn = lambda _: nullcontext()  # which would keep writers of one machine apart by themselves
    sound = engine._engine
    Turns._queue = lambda _: None  # type: ignore[method-assign]
    engine._engine = lambda database, _begin, pragmas, **pool: sound(
        database, "BEGIN", pragmas | {"busy_timeout": 50}, **pool
    )


def _commit_each_statement() -> None:
    sound = engine._engine

    def unsound(database: Database, begin: str, pragmas: dict[str, int | str], **pool: object) -> Engine:
        made = sound(database, "SELECT 1", pragmas, **pool)

        @event.listens_for(made, "after_cursor_execute")
        def commit(connection: Connection, *_: object) -> None:
            connection.connection.commit()

        return made

    engine._engine = unsound


if __name__ == "__main__":
    verb, url, *options = sys.argv[1:]
    numbers = {name.partition("=")[0]: int(name.partition("=")[2]) for name in options}
    if numbers.pop("stdlib", 0):
        sys.modules["pysqlite3"] = None  # type: ignore[assignment]
    print(json.dumps(globals()[verb](url, **numbers)))
