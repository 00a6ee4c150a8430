"""A private PostgreSQL, as tests and benchmarks of the store use it: ``apt-get install postgresql``.

It listens on a socket in a folder of its own and on no port. A guard stops it and removes the folder when this process
ends, however it ends.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, LiteralString

import psycopg
from psycopg.sql import SQL, Composed, Identifier

OWNER = "personalign"  # owns the databases, and is no superuser
ADMIN = "postgres"
PASSWORD = "right"  # noqa: S105 - of the one role that needs any, on a server that lives for a test
LOCKED = "locked"
SETTINGS = {
    "listen_addresses": "",
    "max_connections": 100,
    "log_min_messages": "fatal",
    "dynamic_shared_memory_type": "mmap",
}
ACCESS = f"local all {LOCKED} scram-sha-256\nlocal all all trust\n"
GUARD = 'read _; "$0" stop -s -m immediate -D "$1/data"; rm -rf "$1"'  # its input ends with this process
FORKED: dict[str, Any] = {"user": ADMIN, "cwd": "/"} if os.geteuid() == 0 else {}  # it refuses to run as root


def binaries() -> Path | None:
    """The folder of the newest ``initdb`` and ``pg_ctl``; None where PostgreSQL isn't installed."""
    paths = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")]
    if elsewhere := shutil.which("pg_ctl"):
        paths.append(Path(elsewhere).resolve().parent)
    return max(paths, key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))], default=None)


@dataclass(frozen=True)
class Server:
    """A server that runs: its databases, and what may happen to it."""

    folder: Path
    binaries: Path

    def url(self, name: str, user: str = OWNER, password: str = "") -> str:
        """The address of a database, as ``Store.open`` takes it."""
        secret = f":{password}" if password else ""
        return f"postgresql+psycopg://{user}{secret}@/{name}?host={self.folder}"

    def create(self, name: str, template: str = "template1") -> str:
        """Make a database as a copy of another, and return its address."""
        copy = SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}")
        self._run(copy.format(Identifier(name), Identifier(OWNER), Identifier(template)))
        return self.url(name)

    def drop(self, name: str) -> None:
        """Remove a database, whoever uses it."""
        self._run(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))

    def sql(self, statement: LiteralString, *values: Any, name: str = ADMIN) -> list[Any]:  # noqa: ANN401 - any value of a column
        """Run a statement as the superuser, and return its rows."""
        return self._run(SQL(statement), *values, name=name)

    def control(self, verb: Literal["start", "stop", "restart"], mode: str = "fast") -> None:
        """Start, stop or restart it; ``immediate`` as a loss of power would."""
        ends = ["-m", mode] if verb in {"stop", "restart"} else []
        self.run("pg_ctl", verb, "-s", "-w", "-l", str(self.folder / "log"), *ends)

    def run(self, program: str, *words: str) -> None:
        """Run one of PostgreSQL's own programs on the server's folder."""
        command: list[str | Path] = [self.binaries / program, "-D", self.folder / "data", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **FORKED)  # noqa: S603 - the words are ours

    def _run(self, statement: SQL | Composed, *values: Any, name: str = ADMIN) -> list[Any]:  # noqa: ANN401
        with psycopg.connect(host=str(self.folder), user=ADMIN, dbname=name, autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def postgres(*, durable: bool = True, **settings: Any) -> Iterator[Server]:  # noqa: ANN401 - PostgreSQL's own
    """Run a server with these settings; one that isn't durable is faster, and loses data only with the machine."""
    programs = binaries()
    assert programs is not None, "PostgreSQL isn't installed; run: apt-get install postgresql"
    folder = Path(tempfile.mkdtemp(prefix="personalign-"))
    if FORKED:
        shutil.chown(folder, ADMIN)
    server = Server(folder, programs)
    command: list[str | Path] = ["sh", "-c", GUARD, programs / "pg_ctl", folder]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, **FORKED)  # noqa: S603 - likewise
    try:
        _make(server, SETTINGS | {"unix_socket_directories": folder, "fsync": durable} | settings)
        server.control("start")
        server.sql(f"CREATE ROLE {OWNER} LOGIN CREATEDB")
        server.sql(f"CREATE ROLE {LOCKED} LOGIN PASSWORD '{PASSWORD}'")
        yield server
    finally:
        guard.communicate()


def _make(server: Server, settings: dict[str, Any]) -> None:
    server.run("initdb", "--no-sync", "-U", ADMIN, "-E", "UTF8", "--locale", "C.UTF-8", "-A", "trust")
    data = server.folder / "data"
    (data / "pg_hba.conf").write_text(ACCESS, encoding="utf-8")
    with (data / "postgresql.conf").open("a", encoding="utf-8") as file:
        file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
