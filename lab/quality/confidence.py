"""Whether a profile should act the more gently the less is known of a person.

ρ of the basis grows with the answers and multiplies β. The same simulated people are steered by it and by one
constant, the mean of their ρ in the end: there both arms act alike, so that what differs after three answers is
caution alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lab.harness import turns
from lab.quality.panel import served
from lab.quality.people import describe, with_interval
from personalign.decode import Request, generate
from personalign.demo.people import Met, fresh_service, gain, meet_pair
from personalign.demo.run import NUM_PROMPTS, load_prompts
from personalign.service import Personalign
from personalign.types import Profile

NUM_ANSWERS = (3, 10)
MEASURES = ("utility", "kl")


@dataclass(frozen=True)
class Row:
    """One person after so many answers, steered by their own ρ and by the constant; utilities against base's."""

    seed: int
    id: str
    answers: int
    rho: float
    utility_rho: float
    utility_constant: float
    kl_rho: float
    kl_constant: float


def run_confidence(num_seeds: int, device: str = "auto") -> dict[str, Any]:
    """Steer ``num_seeds`` pairs of people both ways after three answers and after ten."""
    people = list(_meet(num_seeds, device))
    with fresh_service(device) as p:
        constant = float(np.mean([p.basis.confidence(met.profile.covariance) for met in people]))
        counts = (NUM_ANSWERS[i] for i in turns(len(NUM_ANSWERS), "replies"))
        rows = [row for num in counts for row in _compare(p, people, num, constant)]
        facts = describe(p)
    return {
        "command": f"personalign bench confidence --seeds {num_seeds} --json",
        **facts,
        "figures": {"constant": round(constant, 4)} | figures(rows),
        "rows": [asdict(row) for row in rows],
    }


def _meet(num_seeds: int, device: str) -> Iterator[Met]:
    """The people of ``personalign bench people``, each pair in a database of its own."""
    for seed in turns(num_seeds, "pairs of people"):
        with fresh_service(device) as p:
            yield from meet_pair(p, seed)


def _compare(p: Personalign, people: Sequence[Met], num_answers: int, constant: float) -> Iterator[Row]:
    """Both arms for everyone after so many answers."""
    profiles = [met.profiles[: num_answers + 1][-1] for met in people]
    rho = [p.basis.confidence(profile.covariance) for profile in profiles]
    by_rho = _steer(p, people, profiles, rho)
    by_constant = _steer(p, people, profiles, [constant] * len(people))
    for met, confidence, (utility_rho, kl_rho), (utility_constant, kl_constant) in zip(
        people, rho, by_rho, by_constant, strict=True
    ):
        yield Row(met.seed, met.name, num_answers, confidence, utility_rho, utility_constant, kl_rho, kl_constant)


def _steer(
    p: Personalign, people: Sequence[Met], profiles: Sequence[Profile], confidences: Sequence[float]
) -> list[tuple[float, float]]:
    """What each person gains over base's replies by a profile that acts with a confidence, and its KL."""
    prompts = load_prompts()[:NUM_PROMPTS]
    known = zip(profiles, confidences, strict=True)
    guides = [None, *(replace(served(p, profile), confidence=rho) for profile, rho in known)]
    replies = generate(p.models, [Request(prompt, guidance=guide) for guide in guides for prompt in prompts])
    base, *personal = (replies[i : i + len(prompts)] for i in range(0, len(replies), len(prompts)))
    return [
        (
            gain(met.person, prompts, [r.text for r in base], [r.text for r in personal_replies]),
            float(np.mean([r.kl for r in personal_replies])),
        )
        for met, personal_replies in zip(people, personal, strict=True)
    ]


def figures(rows: Sequence[Row]) -> dict[str, float]:
    """Medians over people for each number of answers, and of what ρ has over the constant, person by person."""
    figures_by_name: dict[str, float] = {}
    for num in NUM_ANSWERS:
        chosen = [row for row in rows if row.answers == num]
        figures_by_name |= with_interval(f"rho.{num}", [row.rho for row in chosen])
        for measure in MEASURES:
            rho, constant = ([getattr(row, f"{measure}_{arm}") for row in chosen] for arm in ("rho", "constant"))
            figures_by_name |= with_interval(f"{measure}.rho.{num}", rho)
            figures_by_name |= with_interval(f"{measure}.constant.{num}", constant)
            differences = [a - b for a, b in zip(rho, constant, strict=True)]
            figures_by_name |= with_interval(f"{measure}.rho_minus_constant.{num}", differences)
    return figures_by_name
