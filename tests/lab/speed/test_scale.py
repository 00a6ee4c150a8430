"""The log of the benchmark is one that the verb fits, and its figures have names."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lab import captions
from lab.speed.scale import BARS, GROUPS, NUM_ANSWERS, NUM_AXES, Plan, Subject, make_basis
from personalign.scale.files import LogFile, ProfileFile
from personalign.scale.fit import fit_people


def test_its_log_is_fitted(tmp_path: Path) -> None:
    """Everybody in it has ten answers on 32 axes."""
    subject = Subject(Plan(), tmp_path)
    make_basis(subject.ways.basis)
    report = fit_people(
        LogFile(subject.log(30)), subject.ways, ProfileFile(tmp_path / "out.parquet"), tmp_path / "work"
    )
    assert (report.people, report.answers, report.refused) == (30, 30 * NUM_ANSWERS, {})
    assert len(pq.read_table(tmp_path / "out.parquet")["mean"][0]) == NUM_AXES


def test_every_figure_has_a_caption() -> None:
    """What is measured is told on the page."""
    figures = [figure for group in GROUPS for figure in group.figures]
    assert set(BARS) <= set(figures)
    assert set(figures) == set(captions.SCALE)


@pytest.mark.slow
def test_memory_of_all_processes_is_seen(tmp_path: Path) -> None:
    """The verb runs in processes of its own, whose memory counts."""
    from lab.speed.scale import run_verb

    subject = Subject(Plan(), tmp_path)
    make_basis(subject.ways.basis)
    ran = run_verb(subject, 200)
    assert ran.row["people"] == 200
    assert ran.peak_mb > 50
    assert ran.cpu_s > 0
