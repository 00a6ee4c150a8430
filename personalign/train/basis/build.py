"""Make a basis for a model from its own replies: without human data, or from what a log has told of people.

The path: roll out → measure and standardise → set the prior → pick the question bank → train the successor head →
calibrate. Each step's file says how; this one only puts them in order. ``fit_basis.py`` drafts a basis from a log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from personalign.basis import BankQuestion, Basis, Steering
from personalign.decode import CausalModel, Models, SuccessorHead
from personalign.errors import InputError
from personalign.learn.axes import AXES
from personalign.learn.features import Embed, features
from personalign.learn.prior import make_prior
from personalign.train.basis.bank import make_bank
from personalign.train.basis.calibrate import Outcome, calibrate, outcome, simulate_profile
from personalign.train.basis.embedded import KeptEmbedder
from personalign.train.basis.head import HeadRecipe, explained_variance, train_head
from personalign.train.basis.rollouts import Plan, Rollouts, roll_out
from personalign.train.prompts import Prompts
from personalign.types import Gaussian, Message, Noise

NUM_REFERENCE = 256
NUM_ASKED = 3_400  # replies that the questions are picked from
MIN_QUESTIONS = 10  # what is asked of a person, simulated or not
MIN_DEVIATION = 1e-3  # of an axis over the model's own replies
BANK_TEMPERATURE = 0.8  # a little under 1: people compare replies that read well
UNCALIBRATED = Steering(beta=1.0, clip=3.0, num_candidates=20)


@dataclass(frozen=True)
class Plans:
    """Which replies are rolled out, for the head to learn from and be tested on, and to pick the questions from."""

    learn: Plan
    ask: Plan  # natural ones only
    tokens_seen: int = 1_600_000  # by the head in its training; each of them 6 to 60 times


def default_plans(num_prompts: int, replies: int, max_tokens: int, seed: int) -> Plans:
    """About so many replies to learn from and 3,400 to ask about, however many prompts; fewer if there are few."""
    learn = Plan(
        replies_per_prompt=min(max(replies // num_prompts, 4), 64),
        max_tokens=max_tokens,
        num_candidates=20,
        seed=seed,
        num_prompts=max(replies // 4, MIN_QUESTIONS),
        latest_forced=max(max_tokens // 4, 1),
    )
    ask = Plan(
        replies_per_prompt=min(max(NUM_ASKED // num_prompts, 8), 16),
        max_tokens=max_tokens,
        num_candidates=20,
        forced_share=0.0,
        temperature=BANK_TEMPERATURE,
        seed=seed + 1,
        num_prompts=NUM_ASKED // 8,
    )
    return Plans(learn, ask)


@dataclass(frozen=True, eq=False)
class Report:
    """What was measured on the way, for the card."""

    num_replies: int
    num_tokens: int
    r2: Float[NDArray[np.float64], "d"]  # on held-out prompts; NaN where nothing varied
    r2_forced: Float[NDArray[np.float64], "d"]  # of these, on uniformly drawn tokens
    grid: list[Outcome]  # the unsteered model first
    by_alpha: dict[float, tuple[Outcome, Outcome]]  # unsteered and steered


def bootstrap(
    models: Models,
    prompts: Prompts,
    plans: Plans,
    work: Path,
    draft: Basis | None = None,
    embed: KeptEmbedder | None = None,
) -> tuple[Basis, Report]:
    """Make the basis of the models's base model; roll-outs are kept in ``work``, so a killed run goes on.

    Args:
        models: the model, with the expert that the plans name.
        prompts: real user turns.
        plans: which replies are rolled out.
        work: folder for the roll-outs, and their embeddings.
        draft: axes, prior, noise and gate from people's answers; None for named axes, without human data.
        embed: what its learnt axes are measured in, if it has any.

    Raises:
        InputError: too few prompts, or replies too much alike to ask ten questions about.
    """
    _check_prompts(prompts)
    plan, causal = plans.learn, models.base
    learnt = roll_out(models, prompts.train, plan, work / "train")
    asked = roll_out(models, prompts.train, plans.ask, work / "bank")
    tested = roll_out(models, prompts.held_out, plan, work / "held_out")
    everything = learnt + asked
    of_people, draft = draft is not None, draft or _without_people(causal)
    basis, phi = _on_own_replies(draft, learnt, _measure(draft, prompts.train, everything, embed))
    own = phi[: len(learnt.text)][learnt.natural]
    shape = basis.prior.covariance if of_people else prior_shape(own)
    bank = make_bank(prompts.train, asked, phi[len(learnt.text) :], shape, plan.seed)
    _check_bank(bank, prompts.train)
    embeddings = causal.output_embedding.float()
    recipe = HeadRecipe(epochs=min(max(round(plans.tokens_seen / len(everything.token)), 6), 60))
    trained = train_head(everything, phi, embeddings, np.ones(len(phi), dtype=bool), recipe)
    weights = {name: array.astype(np.float16) for name, array in trained.to_arrays().items()}  # as it is shipped
    head = SuccessorHead.from_arrays(weights)
    basis = replace(basis, bank=bank, head=weights)
    reference = basis.pool[np.random.default_rng(plan.seed).permutation(len(bank))[:NUM_REFERENCE]]
    prior = basis.prior if of_people else make_prior(reference, basis.noise, shape)
    basis = replace(basis, reference=reference, prior=prior)
    r2, r2_forced = _test_head(head, tested, _measure(basis, prompts.held_out, tested, embed), embeddings)
    basis, grid, by_alpha = _calibrated(basis, replace(models, head=head), prompts.dev, plan, embed and embed.embed)
    return basis, Report(len(phi), len(everything.token), r2, r2_forced, grid, by_alpha)


def _check_prompts(prompts: Prompts) -> None:
    """Refuse lists that can't do, before hours are spent on roll-outs."""
    if len(prompts.train) < MIN_QUESTIONS:
        raise InputError(
            f"found {len(prompts.train)} prompts to learn from, expected at least {MIN_QUESTIONS}: each gives one "
            "question at most; pass more user turns"
        )
    if not (prompts.held_out and prompts.dev):
        raise InputError(
            f"found {len(prompts.held_out)} prompts to test on and {len(prompts.dev)} to calibrate on, expected at "
            "least one each; pass more user turns"
        )


def _check_bank(bank: Sequence[BankQuestion], prompts: Sequence[Sequence[Message]]) -> None:
    if len(bank) < MIN_QUESTIONS:
        raise InputError(
            f"only {len(bank)} of {len(prompts)} prompts got two readable replies that differ, expected at least "
            f"{MIN_QUESTIONS}: so many are asked of a person; pass more prompts, or plan more replies for each"
        )


def prior_shape(features: Float[NDArray[np.float64], "n d"]) -> Float[NDArray[np.float64], "d d"]:
    """The correlations of the axes over the model's own replies, drawn a twentieth of the way to the identity.

    Axes that rise and fall together are symptoms of one trait, and who likes the trait likes its symptoms. So
    people are assumed to differ most in what replies differ in most. The design's Σ = σ²I spreads ten answers
    over as many directions as there are axes, most of which hardly occur.
    """
    d = features.shape[1]
    return np.asarray(0.95 * np.corrcoef(features.T).reshape(d, d) + 0.05 * np.eye(d))


def _without_people(causal: CausalModel) -> Basis:
    """All named axes, as they are measured; the prior comes with the reference pairs."""
    d = len(AXES)
    return Basis(
        model=causal.name,
        fingerprints=causal.fingerprints,
        axes=AXES,
        center=np.zeros(d),
        scale=np.ones(d),
        prior=Gaussian(np.zeros(d), np.eye(d)),
        noise=Noise(),
        reference=np.zeros((0, d)),
        steering=UNCALIBRATED,
    )


def _measure(
    basis: Basis, prompts: Sequence[Sequence[Message]], rollouts: Rollouts, embed: Embed | None
) -> Float[NDArray[np.float64], "N d"]:
    embed = None if basis.learnt is None else embed
    return features(basis, [prompts[i] for i in rollouts.prompt], list(rollouts.text), embed)


def _on_own_replies(
    draft: Basis, learnt: Rollouts, measured: Float[NDArray[np.float64], "N d"]
) -> tuple[Basis, Float[NDArray[np.float64], "N e"]]:
    """Keep the axes on which this model's own replies differ, and standardise over these replies.

    The others can't be asked about. Weights are turned so that they mean the same: where an axis varies half as much
    over the model's replies as over the draft's, its unit is half as large, and so is what people feel about it.
    """
    if not learnt.natural.any():
        raise InputError("the plan leaves no reply to the model alone, expected α = 0 and unforced replies among them")
    own = measured[: len(learnt.text)][learnt.natural]
    kept = np.flatnonzero(own.std(0) >= MIN_DEVIATION)
    if not len(kept):
        raise InputError(
            "the model's replies differ on none of the axes, expected one at least; raise the temperature or pass "
            "other prompts"
        )
    center, scale = own[:, kept].mean(0), own[:, kept].std(0)
    learnt_kept = kept[kept >= len(draft.named)] - len(draft.named)
    projected = (
        replace(draft.learnt, projection=draft.learnt.projection[:, learnt_kept])
        if draft.learnt is not None and len(learnt_kept)
        else None
    )
    basis = replace(
        draft,
        axes=tuple(draft.axes[j] for j in kept),
        center=draft.center[kept] + draft.scale[kept] * center,
        scale=draft.scale[kept] * scale,
        prior=Gaussian(
            scale * draft.prior.mean[kept], draft.prior.covariance[np.ix_(kept, kept)] * np.outer(scale, scale)
        ),
        reference=draft.reference[:, kept],
        learnt=projected,
    )
    return basis, (measured[:, kept] - center) / scale


def _calibrated(
    basis: Basis, models: Models, prompts: Sequence[Sequence[Message]], plan: Plan, embed: Embed | None
) -> tuple[Basis, list[Outcome], dict[float, tuple[Outcome, Outcome]]]:
    best, grid = calibrate(models, basis, prompts, embed=embed)
    people = [simulate_profile(basis, seed) for seed in range(100, 104)]
    plain = replace(best.steering, beta=0.0)
    by_alpha = {
        alpha: (
            outcome(models, basis, people, prompts, plain, plan.expert, alpha, embed),
            outcome(models, basis, people, prompts, best.steering, plan.expert, alpha, embed),
        )
        for alpha in plan.alphas
    }
    return basis.with_steering(best.steering), grid, by_alpha


def _test_head(
    head: SuccessorHead, tested: Rollouts, phi: Float[NDArray[np.float64], "N d"], embeddings: Tensor
) -> tuple[Float[NDArray[np.float64], "d"], Float[NDArray[np.float64], "d"]]:
    everywhere = np.ones(len(tested.token), dtype=bool)
    return (
        explained_variance(head, tested, phi, embeddings, everywhere),
        explained_variance(head, tested, phi, embeddings, tested.is_forced),
    )
