"""How soon a change of taste is noticed, how often one is seen that isn't there, and what the profile is worth after.

``python -m lab.learning.drift --json``, about 5 minutes on one core. People of ``lives.py`` answer and are watched as
the service watches them. The settings of ``personalign/learn/evidence.py`` were chosen on seeds below 1000; ``FIRST``
and the seeds after it were fixed before any of their results was seen.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from jaxtyping import Float
from numpy.typing import NDArray

from lab.bootstrap import mean
from lab.harness import Bar, Report, Row, turns
from lab.learning.lives import Lives, Scene, World
from lab.show import show_figures
from personalign.cli.output import out, print_row
from personalign.learn.evidence import Drift, watch
from personalign.types import Gaussian

RESULT = Path(__file__).parents[1] / "results" / "drift.json"
FIRST = 5000  # seed of the first scene
WORLDS = ("tiny", "smollm2")
WITHIN = (10, 20, 30)  # answers after the change
AFTER = 40
LASTING: Mapping[str, Scene] = {
    "answering": Scene(),
    "wrong": Scene(wrong=0.25),
    "left": Scene(is_left=True),
    "using": Scene(is_used=True),
    "using_wrong": Scene(is_used=True, wrong=0.25),
    "using_left": Scene(is_used=True, is_left=True),
}
CHANGING: Mapping[str, Scene] = {
    **{f"{change}.{at}": Scene(change, at, AFTER) for change in ("reversal", "another") for at in (10, 20, 30)},
    **{f"using_{change}.20": Scene(change, 20, AFTER, is_used=True) for change in ("reversal", "another")},
}
BARS = {f"false_alarms.{world}.{name}": Bar("≤", 0.05) for world in WORLDS for name in LASTING}


@dataclass(frozen=True)
class Plan:
    """How many people live through each scene."""

    num_lasting: int = 250
    num_changing: int = 100


def run_drift(plan: Plan, first: int = FIRST, out: Path | None = None) -> dict[str, Any]:
    """Measure both bundled bases."""
    report = Report("python -m lab.learning.drift --json", "cpu", ("numpy", "scipy", "personalign"), BARS, out)
    report.facts = {"plan": vars(plan), "first": first}
    for number, name in zip(turns(len(WORLDS), "bases"), WORLDS, strict=True):
        report.extend(_rows(World(name), plan, first + 100 * number))
    return report.to_json()


def _rows(world: World, plan: Plan, seed: int) -> Iterator[Row]:
    for number, (name, scene) in enumerate(LASTING.items()):
        lives = world.live(scene, plan.num_lasting, seed + number)
        alarms = np.array([_watch(world, lives, i, len(lives.kinds)).alarms > 0 for i in range(len(lives.v))])
        yield Row.estimated(f"false_alarms.{world.name}.{name}", mean(alarms.astype(float)), _worth(world, lives, 50))
    for number, (name, scene) in enumerate(CHANGING.items(), start=len(LASTING)):
        yield from _noticed(world, name, scene, world.live(scene, plan.num_changing, seed + number))


def _noticed(world: World, name: str, scene: Scene, lives: Lives) -> Iterator[Row]:
    """Of those who had no alarm before the change: the share with one soon after, and how soon it was for them."""
    delay = np.array([_first_alarm(world, lives, i) for i in range(len(lives.v))]) - scene.at
    delay = delay[delay > 0]
    soon = delay[delay <= AFTER]
    facts = {"people": len(delay)} | ({"median_delay": float(np.median(soon))} if len(soon) else {})
    for within in WITHIN:
        share = mean((delay <= within).astype(float))
        worth = {} if within > WITHIN[1] else _worth(world, lives, scene.at + within, scene.at)
        yield Row.estimated(f"noticed.{world.name}.{name}.within_{within}", share, facts | worth)


def _first_alarm(world: World, lives: Lives, person: int) -> int:
    """After how many answers the first alarm comes; one more than there are if none does."""
    return bisect_left(range(len(lives.kinds) + 1), 1, key=lambda num: _watch(world, lives, person, num).alarms)


def _watch(world: World, lives: Lives, person: int, num: int) -> Drift:
    return watch(lives.v[person, :num], lives.choices(person)[:num], lives.kinds[:num], world.basis.prior)


def _worth(world: World, lives: Lives, num: int, change: int = 0) -> dict[str, float]:
    """The mean correlation of the profile with the newest taste: watched, not watched, and forgetting at the change."""
    shown, people = lives.weight[:num], range(len(lives.v))
    weights = {
        "watched": np.array([shown * _watch(world, lives, i, num).holds for i in people]),
        "unwatched": np.tile(shown, (len(people), 1)),
        "forgetting": np.tile(np.where(np.arange(num) < change, 0.0, shown), (len(people), 1)),
    }
    return {
        arm: float(_correlation(world, world.fit(lives, each), lives.after).mean()) for arm, each in weights.items()
    }


def _correlation(
    world: World, posts: list[Gaussian], taste: Float[NDArray[np.float64], "people d"]
) -> Float[NDArray[np.float64], "people"]:
    """Of what profile and taste make of the reference pairs; 0 for a profile that says nothing."""
    learnt = np.array([post.mean for post in posts]) @ world.basis.reference.T
    true = taste @ world.basis.reference.T
    scale = np.sqrt((learnt**2).sum(axis=1) * (true**2).sum(axis=1))
    return np.asarray((learnt * true).sum(axis=1) / np.maximum(scale, 1e-12))


def main(
    lasting: Annotated[int, typer.Option(min=1, help="people whose taste stays, in each scene")] = 250,
    changing: Annotated[int, typer.Option(min=1, help="people whose taste changes, in each scene")] = 100,
    first: Annotated[int, typer.Option(min=0, help="seed of the first scene")] = FIRST,
    results: Annotated[Path, typer.Option("--out", help="file of results")] = RESULT,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Measure how soon a change of taste is noticed, and how often one is seen that isn't there."""
    result = run_drift(Plan(lasting, changing), first, results)
    print_row(result, as_json, show_figures, out, result)


if __name__ == "__main__":
    typer.run(main)
