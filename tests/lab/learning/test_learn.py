"""The learning benchmark on made-up people: its contract, and that it tells who is better off from who isn't."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.bootstrap import mean
from lab.harness import Bar, Between
from lab.learning import learn
from lab.learning.judged import Judged, joined
from lab.learning.learn import BARS, run_learn
from lab.learning.populations import gated, pandalm, prism, ukp
from lab.learning.populations.alpaca84 import Sizes
from lab.learning.populations.votes import MissingData
from lab.learning.sets import Plan
from lab.learning.stopping import Population, stop_people
from lab.plots import QUESTION_STYLES, plot_learn
from personalign.errors import InputError
from tests.lab.learning import made_up

PLAN = Plan(
    num_repeats=3, num_bank=20, num_pairs=50, num_bulk=64, num_bulk_repeats=1, num_sample=8, basis=(10, 200, 12),
    num_stop_bases=1, num_stopped=5, jester_splits=1, alpaca_seeds=1, compared_splits=1,
    alpaca=Sizes(answers=150, pool=200, new=8), other_rules=("random",), gate_rounds=dict.fromkeys(learn.GATED, 1),
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up.make(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """One run of everything, and the file it kept."""
    out = tmp_path_factory.mktemp("bench") / "learn.json"
    return run_learn(PLAN, data, out=out), out


@pytest.mark.slow
def test_every_figure_with_a_bar_is_measured(run: tuple[dict[str, Any], Path]) -> None:
    """The figures are the promised keys, flat, each a finite number, and its bar beside it if it has one."""
    found, out = run
    assert found["figures"].keys() >= BARS.keys()
    assert found["skipped"] == []
    assert all(math.isfinite(value) for value in found["figures"].values())
    for row in found["rows"]:
        assert row.get("bar") == (str(BARS[row["figure"]]) if row["figure"] in BARS else None)
        assert row["value"] == found["figures"][row["figure"]]
        assert row.get("low", row["value"]) <= row["value"] <= row.get("high", row["value"])
    assert json.loads(out.read_text(encoding="utf-8")) == json.loads(json.dumps(found))


@pytest.mark.slow
def test_what_can_be_reached_stands_beside_it(run: tuple[dict[str, Any], Path]) -> None:
    """Each figure of people has the ceiling that was measured for it."""
    figures = ("jester.gain_10", "alpaca84.share_20", "stop.coverage", *(f"gate.{name}" for name in learn.GATED))
    rows = {row["figure"]: row for row in run[0]["rows"]}
    assert all(math.isfinite(rows[figure]["ceiling"]) for figure in figures)
    beside = ("gaussian_prior", "kinds_known", "unseen_attribute", "encoder")
    assert all(math.isfinite(rows["alpaca84.compared_20"][fact]) for fact in beside)


@pytest.mark.slow
def test_curves_have_a_point_for_each_number_of_answers(run: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """Accuracy, log-loss and calibration of every set, and a picture of them."""
    curves = run[0]["curves"]
    assert {told["set"] for told in curves} == {"jester", "alpaca84", "alpaca84, compared", "ukp", "prism", "pandalm"}
    for told in curves:
        assert told["low"] <= told["gain"] <= told["high"]
        assert 0 <= told["accuracy"] <= 1
        assert told["log_loss"] > 0
    assert {told["answers"] for told in curves if told["set"] == "alpaca84"} == {0, 5, 10, 20}
    assert {told["rule"] for told in curves} <= QUESTION_STYLES.keys()  # a curve without a style isn't drawn
    plot_learn(curves, tmp_path / "learn.png")
    assert (tmp_path / "learn.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_missing_set_is_named(tmp_path: Path) -> None:
    """Its keys are left out and it stands in ``skipped``, while the sets that are there are measured."""
    made_up.make(tmp_path, ["prism_partial"])
    found = run_learn(PLAN, tmp_path, "gate.")
    assert found["figures"].keys() == {"gate.prism", "gate.prism_low"}
    assert [reason.partition(":")[0] for reason in found["skipped"]] == [
        "gate.ukp, gate.ukp_low",
        "gate.pandalm, gate.pandalm_low",
    ]
    assert "ukpconvarg1" in found["skipped"][0]


def test_without_data_only_what_needs_none_is_measured(tmp_path: Path) -> None:
    """Sets that aren't there are all named, calibration among them."""
    for only, num_groups in (("jester", 2), ("alpaca84", 2), ("ece_max", 1)):
        found = run_learn(PLAN, tmp_path, only)
        assert found["figures"] == {}
        assert len(found["skipped"]) == num_groups
    assert run_learn(PLAN, tmp_path, "fit_ms")["figures"].keys() == {"fit_ms"}


def test_an_unknown_figure_is_refused(tmp_path: Path) -> None:
    """Before anything is read or measured."""
    with pytest.raises(InputError, match="no figure begins with 'speed'"):
        run_learn(PLAN, tmp_path, "speed")


def test_bars_say_what_is_reached() -> None:
    """A bar has a good side, a band two bad ones."""
    assert [Between(0.78, 0.9).is_reached(x) for x in (0.77, 0.8, 0.91)] == [False, True, False]
    assert str(Between(0.78, 0.9)) == "0.78 … 0.9"
    assert [Bar("≥", -0.3).is_reached(x) for x in (-0.4, 0.0)] == [False, True]


# ---------------------------------------------------------------- how predictions are judged


def test_people_count_alike() -> None:
    """Accuracy is the mean of people's own, however many answers each has; a coin's prediction is half right."""
    judged = Judged(np.array([0, 0, 0, 1]), np.array([0.9, 0.8, 0.7, 0.1]))
    assert judged.accuracy == 0.5
    assert Judged(np.array([0]), np.array([0.5])).accuracy == 0.5
    assert judged.log_loss == pytest.approx(-np.log([0.9, 0.8, 0.7, 0.1]).mean())


def test_calibration_is_seen_and_its_lack_as_well() -> None:
    """Predictions that are right as often as they say have a small error; boasted ones don't (the control)."""
    rng = np.random.default_rng(0)
    said = rng.uniform(0.5, 1, 20_000)
    chance = np.where(rng.random(len(said)) < said, said, 1 - said)
    person = np.zeros(len(said), dtype=np.int64)
    assert Judged(person, chance).calibration_error < 0.02
    boasted = 1 / (1 + ((1 - chance) / chance) ** 3)
    assert Judged(person, boasted).calibration_error > 0.08


def test_differences_are_paired_by_person() -> None:
    """The same answers under two forecasts; a forecast doesn't differ from itself, and others can't be compared."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(50), 20)
    good, bad = (Judged(person, np.where(rng.random(1000) < p, 0.8, 0.2)) for p in (0.8, 0.6))
    found = good.better_than(bad)
    assert 0.1 < found.low < found.value < found.high < 0.3
    assert good.better_than(good) == (0, 0, 0)
    assert len(joined([good, bad])) == 2000
    with pytest.raises(AssertionError, match="same answers"):
        good.better_than(Judged(person[:5], good.chance[:5]))


def test_an_interval_is_as_wide_as_it_has_to_be() -> None:
    """About 1.96 standard errors to either side."""
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = mean(values)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.1, rel=0.15)


# ---------------------------------------------------------------- the gate's sets


@pytest.mark.parametrize("load", [ukp.load, prism.load, pandalm.load])
def test_sets_are_split_by_people_and_prompts(load: Any, data: Path) -> None:
    """Nobody who is judged had a part in the basis or its gate, and what they are judged by was seen of nobody."""
    votes = load(data)
    assert np.isfinite(votes.v).all()
    for rows in gated.splits(votes, 4):
        assert not {*votes.group[rows.test]} & {*votes.group[rows.basis]}
        assert {*votes.group[rows.answers]} <= {*votes.group} - {*votes.group[rows.basis]}
        seen = np.concatenate([rows.basis, rows.answers])
        assert not {*votes.prompt[rows.test]} & {*votes.prompt[seen]}
        assert "tie" not in votes.choice[rows.test]


def test_missing_sets_say_so(tmp_path: Path) -> None:
    """Each loader has the same signal."""
    for load in (ukp.load, prism.load, pandalm.load):
        with pytest.raises(MissingData, match="--data"):
            load(tmp_path)


def test_others_agree_as_often_as_they_do(data: Path) -> None:
    """Annotators of a shared taste agree more than by chance; people who meet each pair alone have no others."""
    votes = pandalm.load(data)
    assert 0.6 < (gated.others_agree(votes) or 0) < 0.95
    alone = replace(votes, v=np.random.default_rng(0).normal(size=votes.v.shape))
    assert gated.others_agree(alone) is None


# ---------------------------------------------------------------- stopping


@pytest.mark.slow
def test_who_is_asked_until_sure_is_known() -> None:
    """People are better known than by chance when asking stops, and never asked more than the most."""
    found = stop_people(6, 1)
    assert (found.questions <= 10).all()
    assert found.accuracy.mean() > 0.65
    assert (found.promised[found.is_sure] >= 0.8).all()


def test_a_person_is_drawn_around_the_common_taste() -> None:
    """The population's prior is what people are drawn from."""
    rng = np.random.default_rng(0)
    population = Population.draw(rng)
    people = np.array([population.person(rng) for _ in range(4000)])
    np.testing.assert_allclose(people.mean(axis=0), population.prior.mean, atol=0.05)
    np.testing.assert_allclose(np.cov(people.T), population.prior.covariance, atol=0.06)
