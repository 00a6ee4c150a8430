"""Choose how strongly profiles act: β, the clip c and the short list K, on dev prompts.

Simulated people are drawn from the prior and asked ten questions; their fitted profiles steer, their true
weights judge. Allowed are the settings that stay close to the model and break nothing: mean KL within 0.4 nats
a token, no more repetition, emptiness or truncation than unsteered. Among those that reach nine tenths of the
largest utility the gentlest wins: the last tenth costs as much KL as all the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from personalign.basis import Basis, Steering
from personalign.decode import Models, Request, generate
from personalign.learn import acquire, fit
from personalign.learn.ask import clip_pairs
from personalign.learn.features import Embed, features
from personalign.learn.served import Serving
from personalign.train.progress import track
from personalign.types import Gaussian, Message, Reply, Sampling

MAX_KL = 0.4
ENOUGH = 0.9  # of the largest utility
TOLERANCE = 0.01  # of repetition, emptiness and truncation: one reply in a hundred
GRID = tuple(Steering(*setting) for setting in product((16.0, 32.0, 64.0), (3.0, 4.0, 5.0), (10, 20)))


@dataclass(frozen=True)
class Outcome:
    """What a setting does, averaged over people and prompts; utility in standard deviations of the model's replies."""

    steering: Steering
    utility: float
    kl: float
    repetition: float
    empty: float
    truncated: float

    def breaks_less_than(self, other: Outcome) -> bool:
        """Whether it shows no more faults than ``other``."""
        return all(
            getattr(self, fault) <= getattr(other, fault) + TOLERANCE for fault in ("repetition", "empty", "truncated")
        )

    def row(self) -> dict[str, float]:
        """A flat row for the card."""
        return asdict(self.steering) | {k: round(v, 4) for k, v in asdict(self).items() if k != "steering"}


@dataclass(frozen=True, eq=False)
class SimulatedProfile:
    """A person's true weights and what ten answers told of them."""

    weights: Float[NDArray[np.float64], "d"]
    fitted: Gaussian


def calibrate(
    models: Models,
    basis: Basis,
    prompts: Sequence[Sequence[Message]],
    grid: Sequence[Steering] = GRID,
    num_people: int = 8,
    embed: Embed | None = None,
) -> tuple[Outcome, list[Outcome]]:
    """Return the best setting's outcome and those of the whole grid, the unsteered model's first.

    ``embed`` is what learnt axes are measured in, where the basis has any.
    """
    people = [simulate_profile(basis, seed) for seed in range(num_people)]
    plain = outcome(models, basis, people, prompts, Steering(0.0, grid[0].clip, grid[0].num_candidates), embed=embed)
    outcomes = [
        outcome(models, basis, people, prompts, steering, embed=embed) for steering in track(grid, "calibrating")
    ]
    allowed = [o for o in outcomes if o.kl <= MAX_KL and o.breaks_less_than(plain)]
    enough = ENOUGH * max((o.utility for o in allowed), default=0.0)
    return min((o for o in allowed if o.utility >= enough), key=lambda o: o.kl, default=plain), [plain, *outcomes]


def simulate_profile(basis: Basis, seed: int, num_questions: int = 10) -> SimulatedProfile:
    """Draw a person from the prior, let them answer chosen questions as the noise model says, and fit."""
    rng = np.random.default_rng([seed, 17])
    weights = rng.multivariate_normal(basis.prior.mean, basis.prior.covariance)
    pool = clip_pairs(basis.pool, basis.prior)
    post, asked = basis.prior, np.ones(len(pool), dtype=bool)
    indices: list[int] = []
    choices: list[str] = []
    for _ in range(num_questions):
        index = acquire(post, pool, noise=basis.noise, allowed=asked)
        asked[index] = False
        indices.append(index)
        choices.append("a" if rng.random() < 1 / (1 + np.exp(-pool[index] @ weights)) else "b")
        post = fit(pool[indices], choices, basis.prior, basis.noise)
    return SimulatedProfile(weights, post)


def outcome(
    models: Models,
    basis: Basis,
    people: Sequence[SimulatedProfile],
    prompts: Sequence[Sequence[Message]],
    steering: Steering,
    expert: str | None = None,
    alpha: float | None = None,
    embed: Embed | None = None,
) -> Outcome:
    """Let every person's profile steer the replies to all prompts, with an expert under it if one is named."""
    requests = list(_requests(basis, people, prompts, expert, alpha))
    replies = generate(replace(models, steering=steering), requests)
    utilities = _utilities(basis, people, prompts, replies, embed)
    return Outcome(
        steering,
        utility=float(utilities.mean()),
        kl=float(np.mean([r.kl for r in replies])),
        repetition=float(np.mean([repetition(r.text) for r in replies])),
        empty=float(np.mean([not r.text.strip() for r in replies])),
        truncated=float(np.mean([r.finish_reason == "length" for r in replies])),
    )


def _requests(
    basis: Basis,
    people: Sequence[SimulatedProfile],
    prompts: Sequence[Sequence[Message]],
    expert: str | None,
    alpha: float | None,
) -> Iterator[Request]:
    """Every person and prompt; greedy and sampled in turn, as both will be used."""
    serving = Serving(replace(basis, gate=None))  # a shut gate would leave nothing to calibrate
    for person in people:
        post = person.fitted
        profile = replace(basis.first_profile(""), mean=post.mean, covariance=post.covariance, informative=1)
        guidance = serving.guidance(profile)
        for i, prompt in enumerate(prompts):
            yield Request(tuple(prompt), Sampling(temperature=float(i % 2), seed=i), guidance, expert, alpha)


def _utilities(
    basis: Basis,
    people: Sequence[SimulatedProfile],
    prompts: Sequence[Sequence[Message]],
    replies: Sequence[Reply],
    embed: Embed | None,
) -> Float[NDArray[np.float64], "people prompts"]:
    measured = features(basis, [*prompts] * len(people), [r.text for r in replies], embed)
    by_person = measured.reshape(len(people), len(prompts), -1)
    weights = np.array([p.weights / np.linalg.norm(p.weights) for p in people])
    return np.asarray((by_person * weights[:, None]).sum(-1))


def repetition(text: str) -> float:
    """Share of word trigrams that occurred before."""
    words = re.findall(r"[\w']+|[^\w\s]", text.lower())
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0
