"""A store in a fresh folder, a fit that counts, and SQL for what the store's verbs refuse to do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from personalign.store import Answer, Presentation, Shown, Store
from personalign.store.sqlite import database, engine
from personalign.store.sqlite.database import locate
from personalign.types import Gaussian

WORKER = Path(__file__).with_name("store_worker.py")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "profiles.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture
def wal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log beside the database, also where the driver would choose the rollback journal."""
    monkeypatch.setattr(database, "journal_mode", lambda _: "wal")


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
        writer = engine.writer_engine(locate(url))
        with writer.begin() as connection:
            result = connection.exec_driver_sql(statement, values)
            rows = list(result) if result.returns_rows else []
        writer.dispose()
        return rows

    return run


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
            timeout=1800,
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
