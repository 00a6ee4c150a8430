"""``personalign bench scale``: how long everybody's fit takes, in how much memory, and a store that takes all of it.

The verb runs in processes of its own, as a person starts it, over a log in Parquet of people who gave ten answers each
on 32 axes. The features of 20,000 people are written again under other names, which changes no work.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from lab.bootstrap import quantile
from lab.harness import Bar, Group, Report, Row, choose, turns
from lab.postgres import Server, postgres
from lab.speed.timings import NOISE, NUM_ANSWERS, NUM_AXES, people, prior
from lab.wheel import MOST_MB, build
from personalign.basis import Basis
from personalign.bundled import ZOO
from personalign.learn.axes import features
from personalign.scale.engines import ENGINES, EngineName, num_cores
from personalign.scale.files import LogFile, ProfileFile
from personalign.scale.fit import Ways, fit_people
from personalign.scale.stores import StoreSink
from personalign.store import Store
from personalign.types import CHOICES
from personalign.words import Axis

MILLION = 1_000_000
BARS: Mapping[str, Bar] = {
    "local_fit_s": Bar("≤", 60),
    "local_peak_mb": Bar("≤", 2000),
    "local_peak_growth": Bar("≤", 5),  # %
    "ray_over_local": Bar("≤", 1.5),
    "postgres_heads_s": Bar("≤", 30),
    "postgres_read_ms": Bar("≤", 0.3),
    "wheel_mb": Bar("≤", MOST_MB),
}
BLOCK = 20_000  # people whose features are drawn
PART = 25_000  # people of a file of profiles
LOOK_S = 0.05  # between two looks at the memory
Facts = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    num_people: int = MILLION
    num_grown: int = MILLION  # the larger of two logs whose memory is compared; the other one has a quarter of them
    num_ray: int = 100_000
    num_rounds: int = 3  # of Ray and this machine's processes in turns
    num_reads: int = 5000


@dataclass(frozen=True)
class Subject:
    """Where the logs and the basis are."""

    plan: Plan
    folder: Path

    @property
    def ways(self) -> Ways:
        """The basis of the log's features."""
        return Ways(self.folder / "basis")

    def log(self, num: int) -> Path:
        """The log of so many people, written once."""
        path = self.folder / f"log-{num}.parquet"
        if not path.exists():
            write_log(path, num)
        return path


def run_scale(plan: Plan, only: str = "", out: Path | None = None) -> dict[str, Any]:
    """Measure the figures whose names begin with ``only``; ``out`` is renewed with each row."""
    packages = ("numpy", "pyarrow", "sqlalchemy", "personalign")
    report = Report("personalign bench scale", "cpu", packages, bars=dict(BARS), out=out)
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(plan, Path(folder))
        make_basis(subject.ways.basis)
        for group in choose(GROUPS, only):
            report.extend(group.measure(subject))
    return report.to_json()


def make_basis(folder: Path) -> None:
    """A basis of 32 axes, with the prior and the noise of the other speeds."""
    bundled = Basis.load(ZOO / "tiny" / "basis")
    axes = tuple(Axis(f"axis_{j}", "made up", "low", "high") for j in range(NUM_AXES))
    reference = people(50)[0].reshape(-1, NUM_AXES)
    made = replace(
        bundled,
        axes=axes,
        center=np.zeros(NUM_AXES),
        scale=np.ones(NUM_AXES),
        prior=prior().normal,
        noise=NOISE,
        reference=reference,
        bank=(),
        head=None,
    )
    made.save(folder)


def write_log(path: Path, num: int) -> None:
    """Write a log that is sorted by user, a column for each axis."""
    v, outcome = people(min(num, BLOCK))
    features = dict(zip([f"v_{j}" for j in range(NUM_AXES)], v.reshape(-1, NUM_AXES).T, strict=True))
    block = pa.table({"choice": np.array(CHOICES)[outcome.ravel()]} | features)
    schema = pa.schema([("user", pa.string()), *block.schema])
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=["user", "choice"]) as writer:
        for start in range(0, num, len(v)):
            size = min(len(v), num - start)
            users = np.repeat(names(start, size), NUM_ANSWERS)
            writer.write_table(block.slice(0, size * NUM_ANSWERS).add_column(0, "user", pa.array(users)))


def names(start: int, num: int) -> list[str]:
    """Users from a number on, in the order of their names."""
    return [f"u{number:08}" for number in range(start, start + num)]


# The fit


@dataclass(frozen=True)
class Ran:
    """What the verb said, and what it took."""

    row: Facts
    seconds: float
    cpu_s: float
    peak_mb: float
    load: float  # of the machine, before

    @property
    def facts(self) -> Facts:
        """What stands beside a figure."""
        counted = {name: self.row[name] for name in ("people", "answers", "parts")}
        return counted | {"seconds": self.seconds, "cpu_s": self.cpu_s, "load_before": self.load, "cores": num_cores()}


@cache
def run_verb(subject: Subject, num: int) -> Ran:
    """Fit so many people by the command line, once, and watch the memory of all its processes."""
    log, out = subject.log(num), subject.folder / f"out-{next(NUMBERS)}.parquet"
    words = ["fit", str(log), "--out", str(out), "--basis", str(subject.ways.basis), "--json"]
    load, before, started = os.getloadavg()[0], _cpu_s(), time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", "personalign.cli", *words], stdout=subprocess.PIPE) as process:  # noqa: S603 - our own verb
        peak = _peak_mb(process)
        row = json.loads(process.communicate()[0])
    seconds = time.perf_counter() - started
    out.unlink()
    return Ran(row, seconds, _cpu_s() - before, peak, load)


NUMBERS = count(1)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _peak_mb(process: subprocess.Popen[bytes]) -> float:
    """Look at the resident memory of a process and its children until it ends; what they share counts for each."""
    root, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        total = 0
        for member in [root, *root.children(recursive=True)]:
            try:
                total += member.memory_info().rss
            except psutil.Error:  # it ended meanwhile
                continue
        peak = max(peak, total)
        time.sleep(LOOK_S)
    return peak / 1e6


def _fit(subject: Subject) -> Iterator[Row]:
    ran = run_verb(subject, subject.plan.num_people)
    part = ran.row["people"] / MILLION
    speed = {"people_per_s": ran.row["people"] / ran.seconds, "people_per_cpu_s": ran.row["people"] / ran.cpu_s}
    yield Row("local_fit_s", ran.seconds / part, facts=ran.facts | speed)
    yield Row("local_peak_mb", ran.peak_mb, facts=ran.facts)


def _growth(subject: Subject) -> Iterator[Row]:
    """How much more memory four times as many people take, in per cent."""
    grown = subject.plan.num_grown
    small, large = (run_verb(subject, num) for num in (grown // 4, grown))
    facts = {"people": [small.row["people"], large.row["people"]], "peaks_mb": [small.peak_mb, large.peak_mb]}
    yield Row("local_peak_growth", 100 * (large.peak_mb / small.peak_mb - 1), facts=facts | {"seconds": large.seconds})


def _ray(subject: Subject) -> Iterator[Row]:
    """Both engines in turns; Ray is started and warm, and the processes of this machine are started each time."""
    import ray

    log, load = subject.log(subject.plan.num_ray), os.getloadavg()[0]
    ray.init(num_cpus=num_cores(), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        _timed(subject, subject.log(2 * BLOCK), "ray")
        pairs = [
            [_timed(subject, log, engine) for engine in ENGINES]
            for _ in turns(subject.plan.num_rounds, "this machine's processes and Ray")
        ]
    finally:
        ray.shutdown()
    ratios = [ray_s / local_s for (local_s, _), (ray_s, _) in pairs]
    contents = {content for pair in pairs for _, content in pair}
    assert len(contents) == 1, "both engines write the same bytes"
    facts = {"people": subject.plan.num_ray, "same_bytes": True, "load_before": load}
    yield Row.estimated("ray_over_local", quantile(ratios), facts)


def _timed(subject: Subject, log: Path, engine: EngineName) -> tuple[float, bytes]:
    """Seconds of a fit, and what it wrote."""
    out = subject.folder / f"{engine}.parquet"
    started = time.perf_counter()
    fit_people(LogFile(log), subject.ways, ProfileFile(out), subject.folder / "work", engine)
    seconds = time.perf_counter() - started
    content = out.read_bytes()
    out.unlink()
    return seconds, content


# The store


def _postgres(subject: Subject) -> Iterator[Row]:
    """A Postgres that takes everybody's profiles, and gives single ones; what one core of its server takes for each."""
    plan, basis, paths = subject.plan, Basis.load(subject.ways.basis), _profiles(subject)
    with postgres() as server:
        sink = StoreSink(server.create("scale"))
        sink.check()
        load, started, used = os.getloadavg()[0], time.perf_counter(), _server_cpu_s(server)
        facts: Facts = dict(sink.put(paths, basis))
        seconds = time.perf_counter() - started
        assert facts["written"] == plan.num_people, "all are newcomers"
        of_each = {"server_us": 1e6 * (_server_cpu_s(server) - used) / plan.num_people, "row_bytes": _row_bytes(server)}
        facts |= of_each | {"load_before": load}
        yield Row("postgres_heads_s", seconds * MILLION / plan.num_people, facts=facts)
        with Store.open(sink.url) as store:
            used = _server_cpu_s(server)
            taken = _reads(store, basis.id, plan)
            server_us = 1e6 * (_server_cpu_s(server) - used) / len(taken)
    facts = {"people": plan.num_people, "server_us": server_us, "load_before": load}
    yield Row.estimated("postgres_read_ms", quantile(taken), facts)


def _server_cpu_s(server: Server) -> float:
    """What the server's processes have used, those that ended included."""
    number = int((server.folder / "data" / "postmaster.pid").read_text("utf-8").split()[0])
    parent = psutil.Process(number)
    ended = parent.cpu_times()
    seconds = ended.children_user + ended.children_system
    for process in [parent, *parent.children()]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
            times = process.cpu_times()
            seconds += times.user + times.system
    return float(seconds)


def _row_bytes(server: Server) -> float:
    """Of the disk for each person, indexes included."""
    sizes = (
        "SELECT (pg_total_relation_size('profiles') + pg_total_relation_size('users'))::float8 / count(*) FROM profiles"
    )
    return next(float(size) for (size,) in server.sql(sizes, name="scale"))


def _reads(store: Store, basis_id: str, plan: Plan) -> list[float]:
    """Milliseconds to read each of some people's profiles."""
    taken = []
    for number in np.random.default_rng(0).integers(plan.num_people, size=plan.num_reads).tolist():
        started = time.perf_counter()
        profile = store.profile(names(number, 1)[0], basis_id)
        taken.append(1e3 * (time.perf_counter() - started))
        assert profile is not None, "everybody has a profile"
    return taken


def _profiles(subject: Subject) -> Sequence[Path]:
    """Files of everybody's profiles: those of one fit under all names."""
    out = subject.folder / "profiles.parquet"
    fit_people(LogFile(subject.log(BLOCK)), subject.ways, ProfileFile(out), subject.folder / "work")
    fitted, num = pq.read_table(out), subject.plan.num_people
    some = fitted.take(pa.array(np.arange(PART) % fitted.num_rows))
    paths = []
    for start in range(0, num, PART):
        part = some.slice(0, min(PART, num - start))
        paths.append(subject.folder / f"part-{start:08}.parquet")
        pq.write_table(part.set_column(0, "user", pa.array(names(start, part.num_rows))), paths[-1], compression="none")
    return paths


def _measuring(subject: Subject) -> Iterator[Row]:  # noqa: ARG001 - as every group has it
    """How many replies one core measures on the bundled named axes."""
    basis = Basis.load(ZOO / "tiny" / "basis")
    shown = [(question.prompt, reply) for question in basis.bank for reply in question.replies]
    prompts, replies = [prompt for prompt, _ in shown], [reply for _, reply in shown]
    started = time.process_time()
    features(basis, prompts, replies)
    yield Row("replies_per_s", len(replies) / (time.process_time() - started), facts={"axes": basis.num_axes})


def _wheel(subject: Subject) -> Iterator[Row]:
    yield Row("wheel_mb", build(subject.folder).stat().st_size / 1e6)


GROUPS = (
    Group(("local_fit_s", "local_peak_mb"), _fit),
    Group(("local_peak_growth",), _growth),
    Group(("ray_over_local",), _ray),
    Group(("postgres_heads_s", "postgres_read_ms"), _postgres),
    Group(("replies_per_s",), _measuring),
    Group(("wheel_mb",), _wheel),
)
