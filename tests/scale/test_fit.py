"""From a log to everybody's profile: whole or not at all, and from where it was."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from personalign.errors import EngineError, InputError
from personalign.scale import engines, fit, parts
from personalign.scale.files import LogFile, ProfileFile
from personalign.scale.fit import fit_people
from tests.commands import run_verb
from tests.forked import PATIENCE_S
from tests.scale.logs import FOLDER, WAYS, drawn, means, raw, shuffled, written

LINE = {"user": "ada", "prompt": "I need a hotel", "a": "Sure! Which city?", "b": "No.", "choice": "a"}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return written(tmp_path / "log.parquet", raw(*drawn(40, 6)), 60)


def fitted(log: Path, name: str = "out.parquet", bad_rows: float = 0.1) -> fit.Report:
    return fit_people(LogFile(log), WAYS, ProfileFile(log.with_name(name)), log.with_name("work"), bad_rows=bad_rows)


def test_log_becomes_profiles(capfd: pytest.CaptureFixture[str], log: Path, tmp_path: Path) -> None:
    """The verb writes everybody's profile, tells what it counted, and leaves nothing else."""
    out = tmp_path / "out.parquet"
    row = run_verb(capfd, "fit", str(log), "--out", str(out), "--basis", str(FOLDER), "--json").row()
    assert {name: row[name] for name in ("people", "answers", "rows", "refused", "resumed")} == {
        "people": 40,
        "answers": 240,
        "rows": 240,
        "refused": {},
        "resumed": 0,
    }
    assert pq.read_table(out).num_rows == 40
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.parquet", "out.parquet"]


def test_order_of_people_changes_nothing(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unsorted log, in many parts, gives everybody the same bytes."""
    monkeypatch.setattr(fit, "ENGINES", {"local": map})
    fitted(log)
    users, choices, v, _ = shuffled(*drawn(40, 6))
    monkeypatch.setattr(parts, "PART_BYTES", 5000)
    other = fitted(written(log.with_name("other.parquet"), raw(users, choices, v)), "other_out.parquet")
    assert other.parts > 2
    assert means(pq.read_table(log.with_name("other_out.parquet"))) == means(
        pq.read_table(log.with_name("out.parquet"))
    )


def test_torn_last_row(tmp_path: Path) -> None:
    """A line that was cut off is refused, and counted; without its share of bad rows the log is refused."""
    log = tmp_path / "log.jsonl"
    lines = [json.dumps(LINE | {"user": f"u{i}"}) for i in range(11)]
    log.write_text("\n".join(lines)[:-9])
    report = fitted(log)
    assert (report.people, report.rows, report.refused) == (10, 11, {"no object with these columns": 1})
    with pytest.raises(InputError, match="1 unusable rows, or more, of 11, expected 0% at most"):
        fitted(log, "other.parquet", bad_rows=0.0)
    assert not (tmp_path / "other.parquet").exists()


def test_nothing_in_it(tmp_path: Path) -> None:
    """A log without a row is refused, and nothing is written."""
    log = tmp_path / "log.jsonl"
    log.write_text("")
    with pytest.raises(InputError, match="no answer that can be used of 0 rows"):
        fitted(log)
    with pytest.raises(InputError, match="of 0 rows"):
        fitted(written(tmp_path / "log.parquet", raw(*drawn(1, 1)).slice(1)))
    assert not (tmp_path / "out.parquet").exists()


def test_results_are_kept(log: Path) -> None:
    """What is there already stays, and a place that isn't there is refused before any work."""
    log.with_name("out.parquet").write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        fitted(log)
    assert log.with_name("out.parquet").read_text() == "mine"
    with pytest.raises(InputError, match="isn't there; make it"):
        fit_people(LogFile(log), WAYS, ProfileFile(log.parent / "no" / "out.parquet"), log.with_name("work"))


def test_where_the_profiles_go(capfd: pytest.CaptureFixture[str], log: Path) -> None:
    """One place has to be named."""
    ran = run_verb(capfd, "fit", str(log), "--basis", str(FOLDER))
    assert ran.code == 2
    assert "--out FILE.parquet or --store URL" in ran.err.replace("\n", " ")


def test_goes_on_where_it_was(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole parts of a run that stopped are taken over; a damaged one is made again."""
    whole = fitted(log, "whole.parquet")

    def two_parts(work, items):
        yield from map(work, items[:2])
        raise EngineError("the power went")

    monkeypatch.setattr(parts, "PART_BYTES", 5000)
    monkeypatch.setattr(fit, "ENGINES", {"local": two_parts})
    with pytest.raises(EngineError):
        fitted(log)
    made = sorted(log.with_name("work").rglob("profiles-*.parquet"))
    assert len(made) == 2
    made[1].write_bytes(made[1].read_bytes()[:-1])
    monkeypatch.setattr(fit, "ENGINES", {"local": map})
    report = fitted(log)
    assert (report.people, report.resumed) == (whole.people, 1)
    tables = [pq.read_table(log.with_name(name)) for name in ("whole.parquet", "out.parquet")]
    assert tables[0].equals(tables[1])
    assert not log.with_name("work").exists()


def test_another_log_is_begun_anew(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made of a log that has changed since isn't taken."""
    monkeypatch.setattr(fit, "ENGINES", {"local": map})
    monkeypatch.setattr(ProfileFile, "put", lambda *_: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(OSError, match="no space"):
        fitted(log)
    monkeypatch.undo()
    written(log, raw(*drawn(40, 6, seed=1)), 60)
    assert fitted(log).resumed == 0


def test_full_disk_leaves_nothing_half_written(log: Path) -> None:
    """Where a file can't grow any more, an error says so, and there is no result."""
    code = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); from personalign.cli import main; main()"
    words = ["fit", str(log), "--out", str(log.with_name("out.parquet")), "--basis", str(FOLDER)]
    ran = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
        check=False,
    )
    assert ran.returncode == 1, ran.stderr
    assert "the output is not complete" in ran.stderr.replace("\n", " ")
    assert not [path.name for path in log.parent.glob("*out.parquet*") if path.is_file()]


def killed_at_last(is_one_done: Path, last, work, item):
    """Work on a part; the last one's process is killed as soon as another part is done."""
    if item == last:
        for _ in range(100 * PATIENCE_S):
            if is_one_done.exists():
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.01)
    return work(item)


@pytest.mark.slow
def test_killed_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is killed is an error that says what to do, and the same run again goes on."""
    log = written(tmp_path / "log.parquet", raw(*drawn(400, 6)), 60)
    monkeypatch.setattr(parts, "PART_BYTES", 20_000)
    is_one_done = tmp_path / "one is done"

    def killing(work, items):
        for result in engines.run_local(partial(killed_at_last, is_one_done, items[-1], work), items):
            is_one_done.touch()
            yield result

    monkeypatch.setattr(fit, "ENGINES", {"local": killing})
    with pytest.raises(EngineError, match="a worker ended before its part was done"):
        fitted(log)
    assert not (tmp_path / "out.parquet").exists()
    monkeypatch.undo()
    report = fitted(log)
    assert report.people == 400
    assert report.resumed > 0


@pytest.mark.slow
def test_ray_is_local(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray gives the same file as this machine's cores do."""
    pytest.importorskip("ray", reason="Ray isn't installed: pip install 'personalign[ray]'")
    monkeypatch.setattr(parts, "PART_BYTES", 10_000)
    for engine in ("local", "ray"):
        out = log.with_name(f"{engine}.parquet")
        ran = subprocess.run(
            [sys.executable, "-m", "personalign.cli", "fit", log, "--out", out, "--engine", engine, "--basis", FOLDER],
            check=True,
        )
        assert ran.returncode == 0
    assert log.with_name("ray.parquet").read_bytes() == log.with_name("local.parquet").read_bytes()


def test_ray_is_missing(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray the error names the extra."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Exception, match=r"personalign\[ray\]"):
        fit_people(LogFile(log), WAYS, ProfileFile(log.with_name("out.parquet")), log.with_name("work"), "ray")
