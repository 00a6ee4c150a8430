"""Choose how strongly profiles act: β, the clip c and the short list K, on dev prompts.

Simulated people are drawn from the prior, each with somebody of opposite tastes, so that what a taste does, such as
longer replies, isn't taken for damage. They are asked ten questions; their fitted profiles steer, their true weights
judge. Allowed are the settings that stay close to the model and break nothing: a bounded mean KL and
no more repetition, emptiness or truncation than unsteered. Among those that reach nine tenths of the largest
utility the gentlest wins: the last tenth costs as much KL as all the others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from personalign.basis import ASSUMED, Basis
from personalign.decode.engine import generate
from personalign.decode.models import Models
from personalign.decode.request import Request
from personalign.learn import acquire, fit
from personalign.learn.ask import clip_pairs
from personalign.learn.axes import Embed, features
from personalign.learn.mixture import Mixture
from personalign.learn.served import Serving
from personalign.options import Options
from personalign.train.basis.rollouts import expert_identity
from personalign.train.card import Outcome
from personalign.train.plans import Calibration, Plan
from personalign.train.work import identity, keep, track
from personalign.types import Array, Gaussian, Guidance, Message, Steering


@dataclass(frozen=True, eq=False)
class SimulatedProfile:
    """A person's true weights, and the profile fitted to ten of their answers."""

    weights: Float[Array, "d"]
    fitted: Gaussian


def simulate_profile(basis: Basis, seed: int, num_questions: int = 10) -> SimulatedProfile:
    """Draw a person from the prior, let them answer chosen questions as the noise model says, and fit.

    Those of an odd seed mirror at the prior's mean those of the seed before.
    """
    rng = np.random.default_rng([seed, 17])
    mean, (pair, is_mirrored) = basis.prior.mean, divmod(seed, 2)
    drawn = np.random.default_rng([pair, 17]).multivariate_normal(mean, basis.prior.covariance)
    weights = 2 * mean - drawn if is_mirrored else drawn
    pool = clip_pairs(basis.pool, basis.prior)
    prior = Mixture.of_people(basis)
    if basis.shares.nothing == 1:  # else there is nothing to calibrate
        prior = Mixture(basis.prior)
    post, is_left = basis.prior, np.ones(len(pool), dtype=bool)
    indices: list[int] = []
    choices: list[str] = []
    for _ in range(num_questions):
        index = acquire(post, pool, noise=basis.noise, allowed=is_left)
        is_left[index] = False
        indices.append(index)
        choices.append("a" if rng.random() < 1 / (1 + np.exp(-pool[index] @ weights)) else "b")
        post = fit(pool[indices], choices, prior, basis.noise)
    return SimulatedProfile(weights, post)


@dataclass(frozen=True, eq=False)
class Trials:
    """Simulated people's replies under some settings; each outcome is kept, so a killed run goes on after it."""

    models: Models  # with the basis's head
    basis: Basis
    prompts: Sequence[Sequence[Message]]
    work: Path
    sampling: Plan  # how replies are drawn, and how long they may be
    embed: Embed | None = None  # measures learnt axes, where the basis has any

    def calibrate(self, plan: Calibration) -> tuple[Outcome, list[Outcome]]:
        """Return the best setting's outcome and those of the whole grid, the unsteered model's first."""
        people = [simulate_profile(self.basis, seed) for seed in range(plan.num_people)]
        unsteered = Steering(0.0, plan.grid[0].clip, plan.grid[0].num_candidates)
        outcomes = [self.outcome(people, steering) for steering in track([unsteered, *plan.grid], "calibrating")]
        plain = outcomes[0]
        allowed = [o for o in outcomes[1:] if o.kl <= plan.max_kl and o.breaks_less_than(plain, plan.tolerance)]
        enough = plan.enough * max((o.utility for o in allowed), default=0.0)
        return min((o for o in allowed if o.utility >= enough), key=lambda o: o.kl, default=plain), outcomes

    def outcome(
        self,
        people: Sequence[SimulatedProfile],
        steering: Steering,
        expert: str | None = None,
        alpha: float | None = None,
    ) -> Outcome:
        """Let every person's profile steer the replies to all prompts, with an expert under it if one is named."""
        name = identity(
            [asdict(self.models.base.fingerprints), self.basis.id, [list(prompt) for prompt in self.prompts]],
            [asdict(steering), expert_identity(self.models, expert), alpha],
            [self.sampling.temperature, self.sampling.top_p, self.sampling.max_tokens],
            *(self.basis.head or {}).values(),
            *(array for p in people for array in (p.weights, p.fitted.mean, p.fitted.covariance)),
        )
        figures = keep(self.work / f"{name}.safetensors", lambda: self._figures(people, steering, expert, alpha))
        return Outcome(steering, **{figure: float(value) for figure, value in figures.items()})

    def _figures(
        self, people: Sequence[SimulatedProfile], steering: Steering, expert: str | None, alpha: float | None
    ) -> dict[str, Array]:
        """Every person's replies to every prompt, drawn as they will be served."""
        requests = [
            Request(tuple(prompt), self._options(i, expert, alpha), guidance)
            for guidance in map(self._guidance, people)
            for i, prompt in enumerate(self.prompts)
        ]
        replies = generate(replace(self.models, steering=steering), requests)
        texts = [reply.text for reply in replies]
        figures = {
            "utility": self._utilities(people, texts).mean(),
            "kl": np.mean([reply.kl for reply in replies]),
            "repetition": np.mean([repetition(text) for text in texts]),
            "empty": np.mean([not text.strip() for text in texts]),
            "truncated": np.mean([reply.finish_reason == "length" for reply in replies]),
        }
        return {figure: np.asarray(value, dtype=np.float64) for figure, value in figures.items()}

    def _options(self, i: int, expert: str | None, alpha: float | None) -> Options:
        drawn = self.sampling
        return Options(drawn.max_tokens, drawn.temperature, drawn.top_p, seed=i, expert=expert, alpha=alpha)

    def _guidance(self, person: SimulatedProfile) -> Guidance | None:
        serving = Serving(replace(self.basis, shares=ASSUMED))
        profile = replace(self.basis.first_profile(""), mean=person.fitted.mean, informative=1)
        return serving.guidance(replace(profile, covariance=person.fitted.covariance))

    def _utilities(self, people: Sequence[SimulatedProfile], texts: Sequence[str]) -> Float[Array, "people prompts"]:
        measured = features(self.basis, [*self.prompts] * len(people), texts, self.embed)
        by_person = measured.reshape(len(people), len(self.prompts), -1)
        weights = np.array([p.weights / np.linalg.norm(p.weights) for p in people])
        return np.asarray((by_person * weights[:, None]).sum(-1))


def repetition(text: str) -> float:
    """Share of word trigrams that occurred before."""
    words = re.findall(r"[\w']+|[^\w\s]", text.lower())
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0
