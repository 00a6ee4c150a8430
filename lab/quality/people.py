"""Simulated people on the real path: medians with 95 % intervals of what the demo's two people are asked.

``personalign.demo.people`` onboards them and asks their hidden tastes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lab.bootstrap import quantile
from lab.harness import machine, turns, versions
from personalign.demo.people import NUM_PROMPTS, fresh_service, judge, load_prompts, meet_pair
from personalign.service import Personalign


def run_people(num_seeds: int, first: int = 0, device: str = "auto") -> dict[str, Any]:
    """Onboard and judge ``num_seeds`` pairs from seed ``first`` on; medians with 95 % intervals over all people."""
    prompts = load_prompts()[:NUM_PROMPTS]
    rows: list[dict[str, Any]] = []
    for seed in (first + i for i in turns(num_seeds, "pairs of people")):
        with fresh_service(device) as p:
            rows += [{"seed": seed} | asdict(result) for result in judge(p, meet_pair(p, seed), prompts)]
            facts = describe(p)
    figures: dict[str, float] = {}
    for key in ("agreement", "utility_personal", "questions", "kl"):
        figures |= with_interval(key, [row[key] for row in rows])
    command = f"personalign bench people --first {first} --seeds {num_seeds} --json"
    return {"command": command, **facts, "figures": figures, "rows": rows}


def describe(p: Personalign) -> dict[str, Any]:
    """What was measured, and on what."""
    return {
        "machine": machine(str(p.models.base.device)),
        "versions": versions(("torch", "transformers", "personalign")) | {"basis": p.basis.id},
    }


def with_interval(name: str, values: Sequence[float]) -> dict[str, float]:
    """A figure, the median of values, with its 95 % interval under names of their own."""
    value, low, high = quantile(values)
    return {name: value, f"{name}.low": low, f"{name}.high": high}
