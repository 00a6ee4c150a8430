"""From a store's answers to profiles, and from profiles into a store that serves them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from personalign import Personalign
from personalign.errors import InputError
from personalign.scale.files import LogFile, ProfileFile
from personalign.scale.fit import fit_people
from personalign.scale.stores import LOGGED, STATED, StoreSink, StoreSource, check_apart
from personalign.store import bulk
from tests.commands import run_verb
from tests.scale.logs import FOLDER, WAYS, drawn, raw, written


def test_profiles_serve(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The verb puts a log's people into a store, from where they are served."""
    log, url = written(tmp_path / "log.parquet", raw(*drawn(20, 6))), f"sqlite:///{tmp_path / 'p.db'}"
    words = ["fit", str(log), "--store", url, "--basis", str(FOLDER), "--work", str(tmp_path / "work"), "--json"]
    assert run_verb(capfd, *words).row()["stored"] == {"written": 20, "answered_here": 0, "erased": 0}
    assert not (tmp_path / "work").exists()
    shown = run_verb(capfd, "profile", "u0003", "--store", url, "--json").row()
    fit_people(LogFile(log), WAYS, ProfileFile(tmp_path / "out.parquet"), tmp_path / "work")
    row = pq.read_table(tmp_path / "out.parquet").to_pylist()[3]
    assert (shown["answers"], shown["mean"]) == (row["answers"], pytest.approx(row["mean"]))


def test_own_answers_add_to_a_log(p: Personalign, tmp_path: Path) -> None:
    """Whoever a log told of keeps their taste through a first answer; the same answer alone tells little of it."""
    log, url = written(tmp_path / "log.parquet", raw(*drawn(2, 60))), f"sqlite:///{tmp_path / 'p.db'}"
    fit_people(LogFile(log), WAYS, StoreSink(url), tmp_path / "work")
    before = p.profile("u0001")
    for user in ("u0001", "stranger"):
        question = p.ask(user)
        p.answer(user, question.id, "a")
    after, alone = p.profile("u0001"), p.profile("stranger")
    assert (before.logged, after.logged, after.answers) == (60, 60, 61)
    assert not np.array_equal(after.mean, before.mean)
    assert np.corrcoef(after.mean, before.mean)[0, 1] > 0.9
    assert np.corrcoef(alone.mean, before.mean)[0, 1] < 0.5
    p.set("u0001", length=-1)
    assert p.profile("u0001").mean[0] < after.mean[0]
    p.undo("u0001")
    p.set("u0001", length=None)
    np.testing.assert_allclose(p.profile("u0001").mean, before.mean)
    p.answer("u0001", p.ask("u0001").id, "a")
    out = ProfileFile(tmp_path / "out.parquet")
    report = fit_people(StoreSource(url), WAYS, out, tmp_path / "work", bad_rows=0.5)
    assert (report.refused, pq.read_table(out.path)["user"].to_pylist()) == ({LOGGED: 1}, ["stranger"])


def test_a_stores_people_get_their_own_fit(p: Personalign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store read in bulk gives the means that it has, to the byte; who stated something is left out, and counted."""
    monkeypatch.setattr(bulk, "AT_ONCE", 2)  # so that there are ranges of ids
    for user, choice in (("ada", "a"), ("ben", "b"), ("eve", "a")):
        for _ in range(3):
            question = p.ask(user)
            assert question is not None
            p.answer(user, question.id, choice)
    p.feedback("ben", [{"role": "user", "content": "Hi"}], "Hello! How are you?", "No.", "thumbs")
    p.set("eve", length=-1)
    url = f"sqlite:///{tmp_path / 'p.db'}"
    report = fit_people(StoreSource(url), WAYS, ProfileFile(tmp_path / "out.parquet"), tmp_path / "work", bad_rows=0.5)
    assert report.refused == {STATED: 3}
    rows = {row["user"]: row for row in pq.read_table(tmp_path / "out.parquet").to_pylist()}
    assert set(rows) == {"ada", "ben"}
    for user, row in rows.items():
        profile = p.profile(user)
        assert np.array(row["mean"]).tobytes() == profile.mean.tobytes()
        np.testing.assert_allclose(row["variance"], np.diag(profile.covariance), rtol=1e-9)
        assert (row["answers"], row["informative"]) == (profile.answers, profile.informative)


def test_nobody_answered(p: Personalign, tmp_path: Path) -> None:
    """A store without answers on the basis is refused."""
    p.profile("ada")
    source = StoreSource(f"sqlite:///{tmp_path / 'p.db'}")
    with pytest.raises(InputError, match="the store has no answer that can be used"):
        fit_people(source, WAYS, ProfileFile(tmp_path / "out.parquet"), tmp_path / "work")


def test_one_store_for_both(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """People's own profiles follow from their answers already."""
    with pytest.raises(InputError, match="personalign db refit"):
        check_apart("sqlite:///p.db", "sqlite:///p.db")
    ran = run_verb(capfd, "fit", "sqlite:///p.db", "--store", "sqlite:///p.db")
    assert ran.code == 2
    assert "are in one store" in ran.err.replace("\n", " ")
