"""The stage that says in the basis's card what simulated people got: it reads results, and measures nothing.

The results are those of ``personalign bench people``, kept with the benchmarks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.zoo.cards import ATTRIBUTION
from lab.zoo.workshop import Workshop
from personalign.basis import Basis
from personalign.bundled import TINY
from personalign.demo.simulate import FLIPPED, POWER, TRAITS
from personalign.errors import BasisError
from personalign.train.card import table

RESULTS = Path(__file__).parents[1] / "results"
DEMO_SEED, AGREEMENT, UTILITY = 0, 0.75, 0.5  # what the demo's pair is meant to reach
MEASURES = {
    "agreement with the hidden taste on 200 held-out pairs": "agreement",
    "utility of the steered replies to 20 prompts, in standard deviations of base's": "utility_personal",
    "KL, nats a token": "kl",
}

Result = Mapping[str, Any]  # what a benchmark printed


def write_people(_: Workshop) -> None:
    """Put the sections on people into the card of ``tiny/basis``, in the place of those it has.

    Raises:
        BasisError: a result was measured on another basis.
    """
    basis = Basis.load(TINY / "basis")
    seen, fresh = (_read(name, basis) for name in ("people", "people_fresh"))
    card = TINY / "basis" / "README.md"
    made = re.split(r"^## (?:People|Data and licence)$", card.read_text(encoding="utf-8"), flags=re.MULTILINE)[0]
    card.write_text(f"{made}{people_section(seen, fresh)}\n{ATTRIBUTION}", encoding="utf-8")


def people_section(seen: Result, fresh: Result) -> str:
    """What people got on seeds that had been looked at before, beside fresh ones."""
    num_seen, num_fresh, others = len(seen["rows"]), len(fresh["rows"]), len(TRAITS) - 1
    rows = [
        {"after at most ten answers, median": what}
        | {f"seeds {_seeds(result)}": _interval(result, key) for result in (seen, fresh)}
        for what, key in MEASURES.items()
    ]
    return f"""## People

Pairs of simulated people with opposite hidden tastes, onboarded by the service, {FLIPPED * 100:g} % of their answers
flipped. A taste is a main trait, how much one wants to be told, and a minor one out of {others}, felt with the
power {POWER}; at most two thirds of its variance are linear in the axes. Medians over {num_seen} and {num_fresh} people
with 95 % bootstrap intervals.

{table(rows)}

* Seeds {_seeds(seen)}, `{seen["command"]}`: results on them had been seen when
  the tastes, the unit of utility, the posterior and the strength were settled. No hold-out.
* Seeds {_seeds(fresh)}, `{fresh["command"]}`: run once, after all of that, and
  nothing was chosen by them. The hold-out.

{_demo(seen)}
Results: `lab/results/people.json` and `people_fresh.json`.
"""


def _read(name: str, basis: Basis) -> Result:
    path = RESULTS / f"{name}.json"
    result: Result = json.loads(path.read_text(encoding="utf-8"))
    if (measured := result["versions"]["basis"]) != basis.id:
        raise BasisError(
            f"{path.name} was measured on basis {measured[:12]}, the bundled one is {basis.id[:12]}; "
            f"measure again: {result['command']}"
        )
    return result


def _seeds(result: Result) -> str:
    seeds = [row["seed"] for row in result["rows"]]
    return f"{min(seeds)}–{max(seeds)}"


def _interval(result: Result, key: str) -> str:
    value, low, high = (result["figures"][name] for name in (key, f"{key}.low", f"{key}.high"))
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def _demo(result: Result) -> str:
    """What the pair of the demo got, and how many of the two reach what they are meant to."""
    pair = [row for row in result["rows"] if row["seed"] == DEMO_SEED]
    facts = "; ".join(f"{row['id']} {row['agreement']:.2f} and {row['utility_personal']:+.2f}" for row in pair)
    agreeing = sum(row["agreement"] >= AGREEMENT for row in pair)
    gaining = sum(row["utility_personal"] >= UTILITY for row in pair)
    return (
        f"Of the demo's pair, seed {DEMO_SEED}, {agreeing} of {len(pair)} reach an agreement of {AGREEMENT} and "
        f"{gaining} of {len(pair)} a utility of +{UTILITY}\n({facts})."
    )
