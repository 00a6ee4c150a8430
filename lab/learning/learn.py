"""How well people are understood by few answers, how honest that is where there is nothing to learn, and how fast.

Real and simulated people, each set split by people and by prompts; a set that isn't in the data folder leaves its
figures out. What can be reached at best is measured, too, and stands beside each figure as ``ceiling``. ``curves``
tells accuracy, log-loss and calibration error after each number of answers, and how much more accurate that is than
the population's model, paired by person. ``sets.py`` has the people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lab.bootstrap import Interval, mean, quantile
from lab.harness import Bar, Between, Group, Report, Row, choose
from lab.learning import stopping
from lab.learning.judged import Judged, joined
from lab.learning.populations.votes import MissingData
from lab.learning.sets import GATED, Met, Plan, Sets
from lab.speed import timings
from personalign.learn.ask import AHEAD

BARS: Mapping[str, Bar | Between] = {
    "jester.population": Bar("≥", 69.5),  # %
    "jester.gain_10": Bar("≥", 2.5),  # points
    "jester.gain_10_low": Bar("≥", 2.0),
    "jester.gain_20": Bar("≥", 3.2),
    "jester.pairs.gain_10": Bar("≥", 2.3),
    "jester.pairs.gain_20": Bar("≥", 2.9),
    "alpaca84.share_5": Bar("≥", 0.55),
    "alpaca84.share_10": Bar("≥", 0.68),
    "alpaca84.share_20": Bar("≥", 0.76),
    "ece_max": Bar("≤", 0.05),
    **{f"gate.{name}": Bar("≥", -0.3) for name in GATED},  # points
    **{f"gate.{name}_low": Bar("≥", -1.0) for name in GATED},
    "stop.coverage": Between(0.78, 0.90),
    "stop.mean_questions": Bar("≤", 8),
    "fit_ms": Bar("≤", 5),
    "acquire_ms": Bar("≤", 50),
    "acquire_d_optimal_ms": Bar("≤", 5),
    "watch_ms": Bar("≤", 5),
    "bulk_users_per_s": Bar("≥", 25_000),
    "bulk_cov_users_per_s": Bar("≥", 12_000),
    "basis_fit_s": Bar("≤", 60),
}


def run_learn(plan: Plan, data: Path, only: str = "", out: Path | None = None) -> dict[str, Any]:
    """Measure the figures whose names begin with ``only``; ``out`` is a file that is renewed with each of them.

    Raises:
        InputError: no figure's name begins so.
    """
    groups = choose(GROUPS, only)
    sets = Sets(data, plan)
    packages = ("numpy", "scipy", "scikit-learn", "personalign")
    report = Report("personalign bench learn", "cpu", packages, BARS, out, {"curves": sets.curves})
    for group in groups:
        try:
            report.extend(group.measure(sets))
        except MissingData as missing:
            report.skip(f"{', '.join(group.figures)}: {missing}")
    return report.to_json()


def _figures(name: str, interval: Interval, facts: Mapping[str, Any]) -> Iterator[Row]:
    """A figure, and the lower end of its interval as a figure of its own."""
    yield Row.estimated(name, interval, facts)
    yield Row(f"{name}_low", interval.low)


# Speed


def _fit(sets: Sets) -> Iterator[Row]:
    taken = [1e3 * s for s in timings.fit_seconds(sets.plan.num_repeats)]
    yield Row.estimated("fit_ms", quantile(taken), {})


def _acquire(sets: Sets) -> Iterator[Row]:
    plan = sets.plan
    for name, rule, pairs in (
        ("acquire_ms", AHEAD, plan.num_bank),
        ("acquire_d_optimal_ms", "d_optimal", plan.num_pairs),
    ):
        taken = [1e3 * s for s in timings.acquire_seconds(pairs, rule, plan.num_repeats)]
        yield Row.estimated(name, quantile(taken), {"pairs": pairs})


def _watch(sets: Sets) -> Iterator[Row]:
    taken = [1e3 * s for s in timings.watch_seconds(sets.plan.num_watched, sets.plan.num_repeats)]
    yield Row.estimated("watch_ms", quantile(taken), {"answers": sets.plan.num_watched})


def _bulk(sets: Sets) -> Iterator[Row]:
    num, sample = sets.plan.num_bulk, sets.plan.num_sample
    equal = f"{timings.num_equal(sample)} of {sample} people"
    for name, covariance in (("bulk_users_per_s", False), ("bulk_cov_users_per_s", True)):
        speeds = [num / taken for taken in timings.bulk_seconds(num, sets.plan.num_bulk_repeats, covariance)]
        yield Row.estimated(name, quantile(speeds), {"people": num, "same_bytes_alone": equal})


def _basis(sets: Sets) -> Iterator[Row]:
    people, answers, features = sets.plan.basis
    facts = {"people": people, "answers": answers, "features": features, "rank": timings.BASIS_RANK}
    yield Row("basis_fit_s", timings.basis_seconds(people, answers, features), facts=facts)


# People


def _stop(sets: Sets) -> Iterator[Row]:
    people = stopping.stop_people(sets.plan.num_stopped, sets.plan.num_stop_bases)
    sure = people.accuracy[people.is_sure]
    facts = {
        "people": len(people.accuracy),
        "sure": int(people.is_sure.sum()),
        "ceiling": float(people.oracle[people.is_sure].mean()),
        "promised": float(people.promised[people.is_sure].mean()),
        "all_people": float(people.accuracy.mean()),
    }
    yield Row.estimated("stop.coverage", mean(sure), facts)
    yield Row.estimated(
        "stop.mean_questions", mean(people.questions), {"sure": float(people.questions[people.is_sure].mean())}
    )


def _gate(sets: Sets, name: str) -> Iterator[Row]:
    """Against the basis's mean, near which people stay; how that compares with a model fitted apart is told."""
    result = sets.gated(name)
    facts = {
        "ceiling": 100 * max(judged.better_than(result.prior).value for judged in (result.prior, result.ungated)),
        "ceiling_is": "the better one in hindsight of everybody's mean and profiles without a share of nothing",
        "population": 100 * result.prior.accuracy,
        "fitted_apart": 100 * result.population.accuracy,
        "over_fitted_apart": _rounded(result.personal.better_than(result.population)),
        "ungated": _rounded(result.ungated.better_than(result.prior)),
        "others_agree": result.others_agree,
        "nothing": result.nothing,
        "people": len(np.unique(result.personal.person)),
        "predictions": len(result.personal),
    }
    yield from _figures(f"gate.{name}", _points(result.personal.better_than(result.prior)), facts)


def _rounded(interval: Interval) -> list[float]:
    return [round(x, 2) for x in _points(interval)]


def _jester(sets: Sets) -> Iterator[Row]:
    """Against the better one of the two populations."""
    met = sets.jester
    prior, apart_fit, everything = (
        joined([getattr(m, name) for m in met]) for name in ("prior", "population", "everything")
    )
    better = max(prior, apart_fit, key=lambda judged: judged.accuracy)
    facts = {"splits": len(met), "people": len(np.unique(better.person)), "prior_mean": 100 * prior.accuracy}
    yield Row("jester.population", 100 * better.accuracy, facts=facts)
    ceiling = {"ceiling": 100 * everything.better_than(better).value, "ceiling_is": "a hundred of a person's answers"}
    for n in (10, 20):
        rows = _figures(f"jester.gain_{n}", _points(joined([m.asked[n] for m in met]).better_than(better)), ceiling)
        yield from rows if n == 10 else list(rows)[:1]


def _jester_by_pairs(sets: Sets) -> Iterator[Row]:
    """The same from a log of pairs, against its own population."""
    met = sets.jester_by_pairs
    prior = joined([m.prior for m in met])
    for n in (10, 20):
        gain = joined([m.asked[n] for m in met]).better_than(prior)
        yield Row.estimated(f"jester.pairs.gain_{n}", _points(gain), {"splits": len(met)})


def _alpaca84(sets: Sets) -> Iterator[Row]:
    """Shares of the way from chance to the hidden taste's own accuracy, the mean over seeds."""
    met = sets.alpaca84
    ceiling = mean(np.array([_share(m, m.everything) for m in met])).value
    facts = {
        "ceiling": ceiling,
        "ceiling_is": "a hundred of a person's answers",
        "limit": float(np.mean([m.limit for m in met])),
    }
    for n in (5, 10, 20):
        yield Row.estimated(f"alpaca84.share_{n}", mean(np.array([_share(m, m.asked[n]) for m in met])), facts)


def _alpaca84_compared(sets: Sets) -> Iterator[Row]:
    """The same of others, as served, with other priors, and where it is harder."""
    met = sets.alpaca84_compared
    for n in (5, 10, 20):
        arms = {
            "gaussian_prior": [_share(m, m.plain[n]) for m in met if m.plain is not None],
            "kinds_known": [_share(m, m.kinds_known[n]) for m in met if m.kinds_known is not None],
            "unseen_attribute": [_share(m, m.asked[n]) for m in sets.alpaca84_unseen],
            "encoder": [_share(m, m.asked[n]) for m in sets.alpaca84_encoded],
        }
        facts = {name: float(np.mean(shares)) for name, shares in arms.items()}
        yield Row.estimated(f"alpaca84.compared_{n}", mean(np.array([_share(m, m.asked[n]) for m in met])), facts)


def _share(met: Met, judged: Judged) -> float:
    assert met.limit is not None, "the tastes are simulated"
    return (judged.accuracy - 0.5) / (met.limit - 0.5)


def _points(interval: Interval) -> Interval:
    return Interval(*(100 * x for x in interval))


def _ece(sets: Sets) -> Iterator[Row]:
    errors = [(curve["ece"], f"{curve['set']} {curve['rule']} {curve['answers']}") for curve in sets.all_curves()]
    worst, where = max(errors)
    yield Row("ece_max", worst, facts={"where": where, "of": len(errors)})


GROUPS = (
    Group(("fit_ms",), _fit),
    Group(("acquire_ms", "acquire_d_optimal_ms"), _acquire),
    Group(("watch_ms",), _watch),
    Group(("bulk_users_per_s", "bulk_cov_users_per_s"), _bulk),
    Group(("basis_fit_s",), _basis),
    Group(("stop.coverage", "stop.mean_questions"), _stop),
    Group(("alpaca84.share_5", "alpaca84.share_10", "alpaca84.share_20"), _alpaca84),
    Group(("alpaca84.compared_5", "alpaca84.compared_10", "alpaca84.compared_20"), _alpaca84_compared),
    *(Group((f"gate.{name}", f"gate.{name}_low"), partial(_gate, name=name)) for name in GATED),
    Group(("jester.population", "jester.gain_10", "jester.gain_10_low", "jester.gain_20"), _jester),
    Group(("jester.pairs.gain_10", "jester.pairs.gain_20"), _jester_by_pairs),
    Group(("ece_max",), _ece),
)
