"""A store in a fresh folder, a fit that counts, and SQL for what the store's verbs refuse to do."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from personalign.store import Answer, Presentation, Shown, Store, sqlite
from personalign.store.sqlite import engine
from personalign.store.sqlite.database import locate
from personalign.types import Gaussian
from tests.forked import PATIENCE_S

OF_FILES = {"path", "raw", "wal", "worker"}
WORKER = Path(__file__).with_name("store_worker.py")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a module of promises about verbs on both databases, but for what looks at the file itself."""
    is_of_file = OF_FILES & set(metafunc.fixturenames) or metafunc.definition.get_closest_marker("sqlite")
    if getattr(metafunc.module, "ON_BOTH", False) and "url" in metafunc.fixturenames and not is_of_file:
        metafunc.parametrize("database", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str:
    """Which of the two a test runs on."""
    return getattr(request, "param", "sqlite")


@pytest.fixture
def soon(database: str) -> Callable[[Callable[[], bool]], bool]:
    """Whether something holds that another process did: on SQLite at once, on Postgres when the server has told."""

    def wait(holds: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + (PATIENCE_S if database == "postgres" else 0.0)
        while not (is_so := holds()) and time.monotonic() < deadline:
            time.sleep(0.001)
        return is_so

    return wait


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "profiles.db"


@pytest.fixture
def url(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if database == "postgres":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path / 'profiles.db'}"


@pytest.fixture
def wal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log beside the database, also where the driver would choose the rollback journal."""
    monkeypatch.setattr(sqlite.database, "journal_mode", lambda _: "wal")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as opened:
        opened.save_basis("basis", "tiny", {"axes": 3})
        opened.add_user("ada")
        yield opened


@pytest.fixture
def fit() -> Callable[[tuple[Answer, ...]], Gaussian]:
    """The sum of the features that won, and the number of answers on the diagonal."""

    def sum_up(answers: tuple[Answer, ...]) -> Gaussian:
        total = sum((answer.v for answer in answers), np.zeros(3))
        return Gaussian(total, np.eye(3) * (1.0 + len(answers)))

    return sum_up


@pytest.fixture
def show(store: Store) -> Callable[..., Presentation]:
    def present(
        question: str, user: str = "ada", v: Any = (1.0, 2.0, 3.0), a: str = "left", b: str = "right"
    ) -> Presentation:
        prompt = ({"role": "user", "content": "a taxi, please"},)
        shown = Shown(question, prompt, a, b, swapped=False, v=np.array(v, dtype=np.float64))
        return store.present(user, "basis", shown)

    return present


@pytest.fixture
def sql(url: str) -> Callable[..., list[Any]]:
    """Run one statement on a connection of its own, in a transaction."""

    def run(statement: str, *values: Any) -> list[Any]:
        if not url.startswith("sqlite"):
            return _run(url, statement, values)
        writer = engine.writer_engine(locate(url))
        with writer.begin() as connection:
            result = connection.exec_driver_sql(statement, values)
            rows = list(result) if result.returns_rows else []
        writer.dispose()
        return rows

    return run


def _run(url: str, statement: str, values: tuple[Any, ...]) -> list[Any]:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        cursor = connection.execute(statement.replace("?", "%s"), values or None)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def worker(url: str) -> Callable[..., dict[str, Any]]:
    """Run a verb of ``store_worker.py`` in a process that may fork and be killed."""

    def run(verb: str, *, may_crash: bool = False, **options: int) -> dict[str, Any]:
        words = [f"{name}={value}" for name, value in options.items()]
        root = str(WORKER.parents[2])
        done = subprocess.run(
            [sys.executable, "-W", "error", str(WORKER), verb, url, *words],
            capture_output=True,
            text=True,
            timeout=1100,  # before pytest takes the whole process for one that hangs
            check=False,
            env={"PYTHONPATH": root},
        )
        if may_crash and done.returncode < 0:
            return {"signal": -done.returncode}
        assert done.returncode == 0, done.stderr
        print(done.stderr)  # noqa: T201 - seen when the test fails
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    return run
