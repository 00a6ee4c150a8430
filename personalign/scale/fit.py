"""From a log of any length to everybody's profile: cut it into parts, fit them side by side, and put them together.

Each part's profiles are a file of the work folder, with a line of the manifest that says what is in it. A run that was
killed goes on after the parts that are there. What is asked for comes into being whole, at the end.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from personalign.basis import Basis
from personalign.errors import InputError, PersonalignError
from personalign.learn.axes import Embed
from personalign.options import check_choice, check_number
from personalign.scale.block import fit_block
from personalign.scale.engines import ENGINES, EngineName
from personalign.scale.parts import Part, Plan, read_part
from personalign.scale.rows import REPEATED, usable
from personalign.train.work import bar, identity
from personalign.types import Array, Message

MANIFEST, PLAN = "manifest.jsonl", "plan.json"


@dataclass(frozen=True)
class Ways:
    """How a log is fitted, in whatever process."""

    basis: Path  # its folder
    model: str = ""  # what embeds for learnt axes is loaded beside this
    embedder: str | None = None  # the operator's, in place of the basis's own
    device: str = "cpu"


@dataclass(frozen=True)
class Done:
    """A part that is fitted: how many people and answers are in it, and which rows were refused."""

    part: int
    people: int
    answers: int
    refused: Mapping[str, int]
    digest: str  # SHA-256 of its file


@dataclass(frozen=True)
class Report:
    """What was counted and refused, and how long it took."""

    people: int
    answers: int
    rows: int
    refused: Mapping[str, int]
    parts: int
    resumed: int  # parts that an earlier run had finished
    seconds: float
    engine: str
    out: str
    stored: Mapping[str, int]  # profiles written into a store, and people left as they are there

    def row(self) -> dict[str, Any]:
        """As JSON values."""
        speed = {"people_per_s": round(self.people / max(self.seconds, 1e-9))}
        return asdict(self) | {"seconds": round(self.seconds, 2)} | speed


class Source(Protocol):
    """Where answers come from: a file, or a store."""

    @property
    def name(self) -> str:
        """As errors say it."""

    def state(self, basis: Basis) -> list[object]:
        """What tells it from others, and from what it was."""

    def plan(self, work: Path, basis: Basis) -> Plan:
        """Cut it into parts; those that have to be written are put into the folder ``work``."""


class Sink(Protocol):
    """Where profiles go: a file, or a store."""

    @property
    def name(self) -> str:
        """As the report says it."""

    def check(self) -> None:
        """Refuse before any work what can't be written."""

    def put(self, parts: Sequence[Path], basis: Basis) -> Mapping[str, int]:
        """Take the files of all parts, in order, and tell what became of them."""


def fit_people(
    source: Source, ways: Ways, sink: Sink, work: Path, engine: EngineName = "local", bad_rows: float = 0.0
) -> Report:
    """Fit the people of a log or a store, and put their profiles where they should be.

    Raises:
        InputError: no log, no answers in it, too many rows that can't be used, or something where the result should be.
        EngineError: a worker was lost; run it again to go on.
        MissingExtra: the engine isn't installed.
    """
    started = time.perf_counter()
    check_choice("engine", engine, tuple(ENGINES))
    check_number("bad_rows", bad_rows, 0.0, 1.0)
    sink.check()
    basis = Basis.load(ways.basis)
    work = work / identity(source.state(basis), basis.id, ways.embedder)
    plan = _plan(source, work, basis)
    known = _finished(work)
    done = {item.part: item for item in known}
    todo = [(i, part) for i, part in enumerate(plan.parts) if i not in done]
    with bar("fitting", len(plan.parts), len(done)) as advance:
        for item in ENGINES[engine](partial(fit_part, ways, work, plan.regrades), todo):
            _note(work, item)
            done[item.part] = item
            _check_refused(plan, done, bad_rows)
            advance()
    _check_refused(plan, done, bad_rows)
    people = sum(item.people for item in done.values())
    if not people:
        raise InputError(
            f"{source.name} has no answer that can be used of {plan.rows:,} rows; {_reasons(_refused(plan, done))}"
        )
    stored = sink.put([_place(work, i) for i in range(len(plan.parts))], basis)
    shutil.rmtree(work)
    with suppress(OSError):
        work.parent.rmdir()  # unless another log's is in it
    answers = sum(item.answers for item in done.values())
    seconds = time.perf_counter() - started
    return Report(
        people,
        answers,
        plan.rows,
        _refused(plan, done),
        len(plan.parts),
        len(known),
        seconds,
        engine,
        sink.name,
        stored,
    )


def fit_part(ways: Ways, work: Path, regrades: bool, numbered: tuple[int, Part]) -> Done:
    """Fit the people of one part, on one thread, and leave their profiles in the work folder."""
    number, part = numbered
    basis = _basis(ways.basis)
    with threadpool_limits(1):
        answers, refused = usable(read_part(part), basis, partial(_embed, ways), is_regraded=regrades)
        profiles = fit_block(answers, basis)
    path = _place(work, number)
    unfinished = path.with_suffix(".partial")
    pq.write_table(profiles, unfinished, compression="none", use_dictionary=False)
    digest = _digest(unfinished)
    unfinished.replace(path)
    pa.default_memory_pool().release_unused()
    return Done(number, profiles.num_rows, answers.num_rows, dict(refused), digest)


@cache
def _basis(folder: Path) -> Basis:
    return Basis.load(folder)


def _embed(ways: Ways, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> Array:
    return _embedder(ways)(prompts, replies)


@cache
def _embedder(ways: Ways) -> Embed:
    """What a basis with learnt axes measures in; it is loaded for texts alone."""
    import torch

    from personalign.decode.embed import load_embedder
    from personalign.decode.load import load_causal

    torch.set_num_threads(1)
    basis, causal = _basis(ways.basis), load_causal(ways.model, ways.device)
    basis.check_model(causal.fingerprints)
    assert basis.learnt is not None, "named axes need no embeddings"
    return load_embedder(ways.embedder or basis.learnt.embedder, causal, is_trusted=ways.embedder is not None)


def _plan(source: Source, work: Path, basis: Basis) -> Plan:
    if not (work / PLAN).exists():
        shutil.rmtree(work, ignore_errors=True)  # a pass that was cut off
        work.mkdir(parents=True)
        try:
            source.plan(work, basis).save(work / PLAN)
        except PersonalignError:
            shutil.rmtree(work)
            raise
    return Plan.load(work / PLAN)


def _place(work: Path, number: int) -> Path:
    return work / f"profiles-{number:05}.parquet"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _note(work: Path, done: Done) -> None:
    with (work / MANIFEST).open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(asdict(done)) + "\n")


def _finished(work: Path) -> list[Done]:
    """The parts that an earlier run left whole."""
    manifest = work / MANIFEST
    lines = manifest.read_text(encoding="utf-8").splitlines() if manifest.exists() else []
    done: dict[int, Done] = {}
    for line in lines:
        with suppress(ValueError, TypeError):  # the last one may be torn
            item = Done(**json.loads(line))
            path = _place(work, item.part)
            if path.exists() and _digest(path) == item.digest:
                done[item.part] = item
    return list(done.values())


def _refused(plan: Plan, done: Mapping[int, Done]) -> dict[str, int]:
    total = Counter(plan.refused)
    for item in done.values():
        total.update(item.refused)
    return dict(total)


def _check_refused(plan: Plan, done: Mapping[int, Done], most: float) -> None:
    refused = _refused(plan, done)
    num_bad = sum(rows for reason, rows in refused.items() if reason != REPEATED)
    if num_bad > most * plan.rows:
        raise InputError(
            f"the log has {num_bad:,} unusable rows, or more, of {plan.rows:,}, expected {most:.0%} at most; mend "
            f"them, or let more be left out with --bad-rows. {_reasons(refused)}"
        )


def _reasons(refused: Mapping[str, int]) -> str:
    ranked = sorted(refused.items(), key=lambda item: -item[1])
    return "; ".join(f"{rows:,} have {reason}" for reason, rows in ranked) or "no row was refused"
