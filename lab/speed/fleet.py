"""A fleet on paper, checked by simulation: ``python -m lab.speed.fleet``.

Requests of many people arrive at servers that share one Postgres. A server reads a profile anew when anything was
committed since it read it last, as ``store.recent`` does, or when too many others were asked for meanwhile. What that
asks of the database, and how long a read waits for one of its cores, is simulated with the times that ``bench scale``
measured.
"""

from __future__ import annotations

import heapq
import json
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import typer

from personalign.store.recent import CAPACITY

RESULTS = Path(__file__).parents[1] / "results"
READS = 2  # a request reads the profile, and whether its person paused; both are taken to cost as much
LONG_S = 20.0


@dataclass(frozen=True)
class Fleet:
    """What is asked of how many machines."""

    people: int = 1_000_000
    requests_per_s: float = 10_000
    commits_per_s: float = 200  # one request in fifty ends with an answer, or with feedback
    servers: int = 100
    has_homes: bool = False  # whether a person's requests all go to one server
    database_cores: int = 8
    read_us: float = 0.0  # of a core of the database, for all that a request reads

    @property
    def gap_s(self) -> float:
        """Between two requests of a person at one server, the mean."""
        return self.people / self.requests_per_s * (1 if self.has_homes else self.servers)

    @property
    def life_s(self) -> float:
        """For how long a server has a profile at hand that nobody asks for."""
        is_roomy = self.has_homes and self.people <= CAPACITY * self.servers
        return inf if is_roomy else CAPACITY * self.servers / self.requests_per_s


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    reads_per_s: float  # of requests that found no fresh profile at hand
    used: float  # share of the database's cores
    wait_p50_ms: float  # of a read, its own time included
    wait_p99_ms: float


def simulate(fleet: Fleet, seconds: float = LONG_S, seed: int = 0) -> Outcome:
    """Let requests come at random for some time; people are as likely as each other."""
    rng = np.random.default_rng(seed)
    num = rng.poisson(fleet.requests_per_s * seconds)
    gaps = rng.exponential(fleet.gap_s, num)
    is_fresh = (gaps < fleet.life_s) & (rng.random(num) < np.exp(-fleet.commits_per_s * gaps))
    times = np.sort(rng.uniform(0, seconds, int((~is_fresh).sum())))
    # first come, first served, by as many cores as there are
    free, waits = [0.0] * fleet.database_cores, []
    for time in times.tolist():
        begin = max(time, heapq.heappop(free))
        heapq.heappush(free, begin + fleet.read_us / 1e6)
        waits.append(1e3 * (begin - time) + fleet.read_us / 1e3)
    p50, p99 = np.quantile(waits or [0.0], [0.5, 0.99])
    reads = len(waits) / seconds
    return Outcome(reads, reads * fleet.read_us / 1e6 / fleet.database_cores, float(p50), float(p99))


def on_paper() -> list[list[str]]:
    """What the fleet takes, and the constant that it follows from."""
    scale, learn, decode = (constants(name) for name in ("scale", "learn", "decode"))
    people, commits, servers = Fleet.people, Fleet.commits_per_s, Fleet.servers
    heads, read = scale["postgres_heads_s"], scale["postgres_read_ms"]
    fit_cores = commits * learn["fit_ms"]["value"] / 1e3
    resident = decode["bytes_10000_heads"]["value"] / 10_000
    return [
        [
            "disk of the database",
            f"{people * heads['row_bytes'] / 1e9:.1f} GB",
            f"{heads['row_bytes']:.0f} bytes a person",
        ],
        ["memory of a server, 10,000 people in it", f"{resident / 100:.1f} MB", f"{resident:.0f} bytes a person"],
        [
            f"answers, at one in fifty requests: {commits:.0f} a second",
            f"{fit_cores:.1f} cores for the fits",
            f"{learn['fit_ms']['value']:.1f} ms a fit",
        ],
        ["servers told of them", f"{commits * servers:,.0f} notes a second", f"{servers} servers, one note a commit"],
        [
            "profiles read, at each request",
            f"{READS * Fleet.requests_per_s * read['server_us'] / 1e6:.1f} cores of the database",
            f"{read['server_us']:.0f} µs of a core a read, two reads",
        ],
        [
            "a new basis, from features",
            f"{scale['local_fit_s']['value'] + heads['value']:.0f} s on two cores",
            "the fit and the store of `bench scale`",
        ],
        [
            "measuring 20 replies of each person for it",
            f"{20 * people / scale['replies_per_s']['value'] / 60 / 2:.0f} minutes more, on two cores",
            f"{scale['replies_per_s']['value']:,.0f} replies a second and core",
        ],
    ]


def simulated() -> list[list[str]]:
    """Reads of profiles, by where a person's requests go, the rate of commits, and the database's cores."""
    read_us = READS * constants("scale")["postgres_read_ms"]["server_us"]
    rows = []
    for has_homes, commits, cores in ((False, 200.0, 8), (True, 200.0, 8), (True, 0.01, 8), (False, 200.0, 2)):
        fleet = Fleet(commits_per_s=commits, has_homes=has_homes, database_cores=cores, read_us=read_us)
        outcome = simulate(fleet)
        place = "one server" if has_homes else "any server"
        waits = f"{outcome.wait_p50_ms:.2g} and {outcome.wait_p99_ms:,.2g}"
        rows.append([place, f"{commits:g}", str(cores), f"{outcome.reads_per_s:,.0f}", f"{outcome.used:.0%}", waits])
    return rows


def constants(name: str) -> dict[str, dict[str, Any]]:
    """The rows of a result, by figure."""
    rows = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    return {row["figure"]: row for row in rows}


if __name__ == "__main__":
    for line in [*on_paper(), *simulated()]:
        typer.echo(" | ".join(line))
