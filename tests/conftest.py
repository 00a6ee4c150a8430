"""One thread, checked shapes, drawn cases that repeat, and the bundled model with a store of its own.

Annotations are checked while the quick tests run, in the modules that state shapes; an int may stand where a float is
asked for. The slow tests take a third less time without (``UNCHECKED=1``).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from lab.postgres import Server
    from personalign import Personalign
    from tests.decode.gate import Gate

# Before torch is loaded, here and in processes that tests start: a product of matrices that is split over threads puts
# rows of one batch into blocks of different shapes, and their bits differ.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

settings.register_profile("house", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

NUMBERS = itertools.count(1)  # of databases
STORE = "store"  # the database that the others are copies of
ROOT = Path(__file__).parents[1]


def _state_shapes() -> Iterator[str]:
    """The modules whose annotations say more than mypy can check."""
    for path in sorted((*ROOT.glob("personalign/**/*.py"), *ROOT.glob("lab/**/*.py"))):
        if "from jaxtyping import" in path.read_text(encoding="utf-8"):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts)


if not os.environ.get("UNCHECKED"):
    install_import_hook(
        [*_state_shapes()], "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
    ).__enter__()


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[..., Personalign]]:
    """Open the bundled model over one file, again and again; all are closed in the end."""
    from personalign import Personalign

    opened: list[Personalign] = []

    def open_one(**keywords: Any) -> Personalign:
        opened.append(Personalign.open(f"sqlite:///{tmp_path / 'p.db'}", **keywords))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


@pytest.fixture
def p(open_store: Callable[..., Personalign]) -> Personalign:
    return open_store()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A PostgreSQL of this test run."""
    from lab.postgres import binaries, postgres

    if binaries() is None:
        pytest.skip("PostgreSQL isn't installed: apt-get install postgresql")
    from personalign.store import upkeep

    with postgres(durable=False, autovacuum="off") as server:  # whose commits would be counted
        upkeep.upgrade(server.create(STORE))
        yield server


@pytest.fixture
def postgres_url(postgres_server: Server) -> Iterator[str]:
    """The address of a fresh store."""
    name = f"test_{next(NUMBERS)}"
    yield postgres_server.create(name, STORE)
    postgres_server.drop(name)


@pytest.fixture
def gate(p: Personalign) -> Iterator[Gate]:
    """Loads the model; its engine's steps wait for the test."""
    from tests.decode.gate import Gate

    gate = Gate(p._replies.worker._engine)
    yield gate
    gate.open()
