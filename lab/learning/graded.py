"""How much more ten answers tell that say "much better": ``python -m lab.learning.graded --data DIR --json``.

The eighty-four tastes of ``populations/alpaca84.py`` on fresh seeds, asked as the service asks on a basis of their log.
Every arm has the same people, pairs and minds. They answer by side alone; with grades, under the default second cut;
with grades where the log that the prior is from has them, too, so that the cut is estimated; and so where each person
has a cut of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from lab.bootstrap import mean
from lab.harness import Report, Row, turns
from lab.learning.judged import Judged
from lab.learning.populations import alpaca84
from lab.learning.populations.alpaca84 import Grades, Replies
from lab.learning.populations.asked import Population, ask_everyone, fitted

ARMS: Mapping[str, Grades] = {
    "plain": Grades(),
    "graded": Grades(new=True),
    "graded_log": Grades(seen=True, new=True),
    "own_cuts": Grades(seen=True, new=True, spread=0.5),
}
COUNTS, FIRST_SEED = (5, 10), 200


def run_graded(data: Path, num_seeds: int, out: Path | None = None) -> Report:
    """Measure every arm on every seed; ``out`` is a file that is renewed with each seed."""
    replies = alpaca84.load(data)
    packages = ("numpy", "scipy", "scikit-learn", "personalign")
    report = Report(f"python -m lab.learning.graded --seeds {num_seeds}", "cpu", packages, out=out)
    shares: dict[str, list[float]] = {}
    for number in turns(num_seeds, "eighty-four tastes"):
        for name, share in _meet(replies, FIRST_SEED + number):
            shares.setdefault(name, []).append(share)
        report.rows.clear()
        report.extend(_rows(shares))
    return report


def _meet(replies: Replies, seed: int) -> Iterator[tuple[str, float]]:
    """The share of the way from chance to the hidden taste's own accuracy, by arm and number of answers."""
    for arm, grades in ARMS.items():
        population = alpaca84.population(replies, seed, grades=grades)
        basis = fitted(population, seed)
        for num, judged in ask_everyone(population, basis, None, COUNTS, graded=grades.new).items():
            yield f"{arm}.share_{num}", _share(population, judged)
        yield f"{arm}.much", basis.noise.much


def _share(population: Population, judged: Judged) -> float:
    assert population.limit is not None, "the tastes are simulated"
    return (judged.accuracy - 0.5) / (population.limit - 0.5)


def _rows(shares: Mapping[str, Sequence[float]]) -> Iterator[Row]:
    """Means over seeds, and of what grades add to plain answers, paired by seed."""
    for name, each in shares.items():
        yield Row.estimated(name, mean(np.array(each)), {"seeds": len(each)})
        plain = shares[f"plain.{name.partition('.')[2]}"]
        if not name.startswith("plain") and not name.endswith("much"):
            yield Row.estimated(f"{name}_over_plain", mean(np.array(each) - np.array(plain)))


def main(
    data: Annotated[Path, typer.Option(help="folder of the data sets")],
    seeds: Annotated[int, typer.Option(min=2, help="number of seeds")] = 4,
    out: Annotated[Path | None, typer.Option(help="file to write the result to")] = None,
) -> None:
    """Print one JSON object."""
    typer.echo(json.dumps(run_graded(data, seeds, out).to_json(), ensure_ascii=False))


if __name__ == "__main__":
    typer.run(main)
