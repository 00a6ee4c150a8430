"""A fleet on paper, checked by simulation: ``python -m lab.speed.fleet``.

Requests of many people arrive at servers that share one Postgres. A server reads a profile anew when anything was
committed since it read it last, as ``store.recent`` does, or when too many others were asked for meanwhile. What that
asks of the database, and how long a read waits for one of its cores, is simulated with the times that ``bench scale``
measured.
"""

from __future__ import annotations

import heapq
import json
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from personalign.store.recent import CAPACITY

RESULTS = Path(__file__).parents[1] / "results"
WARM_S = 0.5  # of the time is left out at first


@dataclass(frozen=True)
class Fleet:
    """What is asked of how many machines."""

    people: int = 1_000_000
    requests_per_s: float = 10_000
    commits_per_s: float = 200  # one request in fifty ends with an answer, or with feedback
    servers: int = 100
    database_cores: int = 8
    read_us: float = 0.0  # of a core of the database, for one profile


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    reads_per_s: float
    used: float  # share of the database's cores
    wait_p50_ms: float  # of a read, its own time included
    wait_p99_ms: float

    def row(self) -> dict[str, float]:
        """As JSON values."""
        return {name: round(value, 4) for name, value in vars(self).items()}


def simulate(fleet: Fleet, seconds: float = 4.0, seed: int = 0) -> Outcome:
    """Let requests come for some time; people are as likely as each other, and go to any server."""
    rng = np.random.default_rng(seed)
    num = rng.poisson(fleet.requests_per_s * seconds)
    times = np.sort(rng.uniform(0, seconds, num))
    who, where = rng.integers(fleet.people, size=num).tolist(), rng.integers(fleet.servers, size=num).tolist()
    commits = np.sort(rng.uniform(0, seconds, rng.poisson(fleet.commits_per_s * seconds)))
    version = np.searchsorted(commits, times).tolist()
    caches: list[OrderedDict[int, int]] = [OrderedDict() for _ in range(fleet.servers)]
    read_at = []
    for time, person, server, newest in zip(times.tolist(), who, where, version, strict=True):
        cache = caches[server]
        if cache.get(person) != newest:
            read_at.append(time)
        cache[person] = newest
        cache.move_to_end(person)
        if len(cache) > CAPACITY:
            cache.popitem(last=False)
    return _served(read_at, fleet, seconds)


def _served(read_at: list[float], fleet: Fleet, seconds: float) -> Outcome:
    """First come, first served, by as many cores as there are."""
    free = [0.0] * fleet.database_cores
    waits = []
    for time in read_at:
        begin = max(time, heapq.heappop(free))
        heapq.heappush(free, begin + fleet.read_us / 1e6)
        if time > WARM_S:
            waits.append(1e3 * (begin - time) + fleet.read_us / 1e3)
    p50, p99 = np.quantile(waits or [0.0], [0.5, 0.99])
    reads = len(read_at) / seconds
    return Outcome(reads, reads * fleet.read_us / 1e6 / fleet.database_cores, float(p50), float(p99))


def constants() -> dict[str, dict[str, Any]]:
    """The rows that ``bench scale`` measured, by figure."""
    rows = json.loads((RESULTS / "scale.json").read_text(encoding="utf-8"))["rows"]
    return {row["figure"]: row for row in rows}


def main(cores: Annotated[int, typer.Option(min=1, help="cores of the database's machine")] = 8) -> None:
    """Simulate the fleet at several rates of commits, and print one line of JSON."""
    read_us = constants()["postgres_read_ms"]["server_us"]
    rows = []
    for commits in (0.0, 0.01, 1.0, 200.0):
        fleet = Fleet(commits_per_s=commits, database_cores=cores, read_us=read_us)
        rows.append({"commits_per_s": commits} | simulate(fleet).row())
    typer.echo(json.dumps({"command": "python -m lab.speed.fleet", "read_us": read_us, "cores": cores, "rows": rows}))


if __name__ == "__main__":
    typer.run(main)
