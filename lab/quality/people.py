"""Simulated people on the real path: medians with 95 % intervals of what the demo's two people are asked.

``personalign.demo.people`` onboards them and asks their hidden tastes. Beside what their own profile gains stands what
they gain by its length weight alone, and by a stranger's profile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from lab.bootstrap import quantile
from lab.harness import machine, turns, versions
from personalign.decode import Request, generate
from personalign.demo.people import (
    Met,
    fresh_service,
    gain,
    judge,
    make_pair,
    meet_pair,
    onboard,
)
from personalign.demo.run import NUM_PROMPTS, load_prompts
from personalign.service import Personalign
from personalign.types import Guidance, Message, Profile

STRANGERS = 10_000  # how far away the seed is of the person whose profile is a stranger's
ARMS = ("length", "stranger")


KEYS = ("agreement", "utility_personal", *(f"utility_{arm}" for arm in ARMS), "questions", "kl")


def run_people(num_seeds: int, first: int = 0, device: str = "auto") -> dict[str, Any]:
    """Onboard and judge ``num_seeds`` pairs from seed ``first`` on; medians with 95 % intervals over all people.

    ``utility_length`` and ``utility_stranger`` are what the same people gain by other weights; base's utility is 0.
    """
    prompts = load_prompts()[:NUM_PROMPTS]
    rows: list[dict[str, Any]] = []
    for seed in (first + i for i in turns(num_seeds, "pairs of people")):
        with fresh_service(device) as p:
            pair = meet_pair(p, seed)
            arms = _arms(p, pair, prompts)
            rows += [
                {"seed": seed} | asdict(result) | gains
                for result, gains in zip(judge(p, pair, prompts), arms, strict=True)
            ]
            facts = describe(p)
    figures: dict[str, float] = {}
    for key in KEYS:
        figures |= with_interval(key, [row[key] for row in rows])
    command = f"personalign bench people --first {first} --seeds {num_seeds} --json"
    return {"command": command, **facts, "figures": figures, "rows": rows}


def _arms(p: Personalign, pair: Sequence[Met], prompts: Sequence[Sequence[Message]]) -> list[dict[str, float]]:
    """What each person gains by other weights than their profile's, served in the same way."""
    person = make_pair(p, pair[0].seed + STRANGERS)[0]
    stranger = _served(p, onboard(p, "stranger", person, pair[0].seed + STRANGERS).profile)
    steered = [{"length": _length_alone(p, _served(p, met.profile)), "stranger": stranger} for met in pair]
    guidances = [None, *(arms[name] for arms in steered for name in ARMS)]
    replies = generate(p.models, [Request(prompt, guidance=one) for one in guidances for prompt in prompts])
    base, *texts = ([r.text for r in replies[i : i + len(prompts)]] for i in range(0, len(replies), len(prompts)))
    return [
        {f"utility_{arm}": gain(met.person, prompts, base, texts[len(ARMS) * i + j]) for j, arm in enumerate(ARMS)}
        for i, met in enumerate(pair)
    ]


def _served(p: Personalign, profile: Profile) -> Guidance:
    guidance = p.serving.guidance(profile)
    assert guidance is not None, "people who were onboarded are known"
    return guidance


def _length_alone(p: Personalign, guidance: Guidance) -> Guidance:
    """The same weights with all but the length axis at 0, at the same size."""
    is_length = np.array([axis.name == "length" for axis in p.basis.axes])
    weights = np.where(is_length, guidance.weights, 0.0)
    size = float(np.linalg.norm(guidance.weights) / np.linalg.norm(weights))
    return replace(guidance, weights=size * weights, user="")  # no row of the bank is this person's


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
