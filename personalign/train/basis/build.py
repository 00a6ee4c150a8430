"""The five steps from a model to its basis: without human data, or with what a log says of people.

Roll out → standardise → question → train the head → calibrate: the methods of ``Making``, in this order. Each step's
file says how. ``make_basis`` is what ``personalign basis bootstrap`` does; ``fit.py`` starts from a log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from personalign.basis import Basis
from personalign.bundled import model_place
from personalign.decode.load import load_causal
from personalign.decode.models import Models
from personalign.decode.successor import SuccessorHead
from personalign.errors import InputError
from personalign.learn.axes import features, measure_many, named_axes, restandardised, varying_axes
from personalign.learn.mixture import make_prior
from personalign.train.basis.bank import make_bank, until_last_sentence
from personalign.train.basis.calibrate import Trials, simulate_profile
from personalign.train.basis.head import explained_variance, train_head
from personalign.train.basis.rollouts import KeptEmbedder, Rollouts, roll_out
from personalign.train.card import Origin, Report, local_origin, public_name, rounded_mean, write_basis_card
from personalign.train.plans import MIN_QUESTIONS, NUM_REFERENCE, UNCALIBRATED, Budget, Plans
from personalign.train.prompts import Prompts, read_prompts, split_prompts, take_prompts
from personalign.train.work import Arrays, identity, keep, made_in, track
from personalign.types import Array, Fingerprints, Gaussian, Ints, Message, Noise

Features = Float[Array, "N d"]
TEXTS = 4096  # measured at once


class NothingToSteerError(InputError):
    """The model's own replies are too much alike, or too few can be read, to ask people about them."""


@dataclass(frozen=True, eq=False)
class Replies:
    """The model's roll-outs: to learn from, to ask about, and to test the head on."""

    learnt: Rollouts
    asked: Rollouts
    tested: Rollouts  # to the held-out prompts

    @cached_property
    def both(self) -> Rollouts:
        """Those to learn from, then those to ask about."""
        return self.learnt + self.asked

    @property
    def natural(self) -> Int[Ints, "n"]:
        """Which of those to learn from the model wrote by itself; they come first in ``both``, too."""
        return np.flatnonzero(self.learnt.natural)


@dataclass(frozen=True, eq=False)
class Making:
    """A basis in the making; all that takes long is kept in ``work``, so a killed run goes on."""

    models: Models  # the model, without a head, and the expert that the plans name
    prompts: Prompts
    plans: Plans
    work: Path
    people: Basis | None = None  # axes, prior, noise and gate from people's answers; None without human data
    embed: KeptEmbedder | None = None  # what the learnt axes are measured in, if there are any

    def basis(self) -> tuple[Basis, Report]:
        """Take the five steps."""
        sizes = [len(part) for part in (self.prompts.train, self.prompts.held_out, self.prompts.dev)]
        if sizes[0] < MIN_QUESTIONS or not all(sizes):  # before hours are spent on roll-outs
            raise InputError(
                f"found {sizes[0]} prompts to learn from, {sizes[1]} to test on and {sizes[2]} to calibrate on, "
                f"expected at least {MIN_QUESTIONS}, 1 and 1: each to learn from gives one question at most; pass more"
            )
        replies = self.roll_out()
        basis, phi = self.standardise(replies)
        basis = self.question(basis, replies, phi)
        basis = self.train(basis, replies.both, phi)
        return self.calibrate(basis, replies)

    def roll_out(self) -> Replies:
        """Let the model reply."""
        learn, ask, prompts = self.plans.learn, self.plans.ask, self.prompts
        return Replies(
            learnt=roll_out(self.models, prompts.train, learn, self.work / "train"),
            asked=roll_out(self.models, prompts.train, ask, self.work / "bank"),
            tested=roll_out(self.models, prompts.held_out, learn, self.work / "held_out"),
        )

    def standardise(self, replies: Replies) -> tuple[Basis, Features]:
        """Keep the axes on which this model's own replies differ, and standardise over these replies.

        The others can't be asked about. Weights are turned so that they mean the same: where an axis varies half as
        much over the model's replies as over the log's, its unit is half as large, and so are people's weights on it.
        """
        draft = self.people or named_basis(self.models.base.name, self.models.base.fingerprints, self.plans.axes)
        measured = self._measure(draft, self.prompts.train, replies.both)
        if not len(replies.natural):
            raise InputError(
                "the plan leaves no reply to the model alone, expected α = 0 and unforced replies among them"
            )
        natural = measured[replies.natural]
        varying = varying_axes(natural)
        if not len(varying):
            raise NothingToSteerError(
                "the model's replies differ on none of the axes, expected one at least; raise the temperature or pass "
                "other prompts"
            )
        center, scale = natural[:, varying].mean(0), natural[:, varying].std(0)
        return restandardised(draft, varying, center, scale), (measured[:, varying] - center) / scale

    def question(self, basis: Basis, replies: Replies, phi: Features) -> Basis:
        """Pick the questions and reference pairs, and set the prior where no people did."""
        seed = self.plans.learn.seed
        shape = prior_shape(phi[replies.natural]) if self.people is None else basis.prior.covariance
        reads_as_well = self.plans.learn.temperature <= self.plans.ask.temperature
        asked = until_last_sentence(replies.both if reads_as_well else replies.asked)
        measured = self._measure(basis, self.prompts.train, asked)
        bank = make_bank(self.prompts.train, asked, measured, shape, seed)
        if len(bank) < MIN_QUESTIONS:
            raise NothingToSteerError(
                f"only {len(bank)} of {len(self.prompts.train)} prompts got two readable replies that differ, expected "
                f"at least {MIN_QUESTIONS}: so many are asked of a person; pass more prompts, or plan more replies for "
                "each"
            )
        basis = replace(basis, bank=bank)
        reference = basis.pool[np.random.default_rng(seed).permutation(len(bank))[:NUM_REFERENCE]]
        prior = make_prior(reference, basis.noise, shape) if self.people is None else basis.prior
        return replace(basis, reference=reference, prior=prior)

    def train(self, basis: Basis, rollouts: Rollouts, phi: Features) -> Basis:
        """Train the successor head on replies to the prompts to learn from, in the precision in which it is shipped."""
        recipe, everyone = self.plans.head, np.ones(len(phi), dtype=bool)
        name = identity(asdict(recipe), asdict(basis.fingerprints), rollouts.token, phi)
        so_far = keep(self.work / "so_far" / f"{name}.safetensors", lambda: self.so_far(basis, rollouts))["so_far"]
        checkpoint = self.work / "head" / f"{name}.safetensors"
        head = train_head(rollouts, phi, so_far, self._embeddings, everyone, recipe, checkpoint)
        return replace(basis, head={key: array.astype(np.float16) for key, array in head.to_arrays().items()})

    def calibrate(self, basis: Basis, replies: Replies) -> tuple[Basis, Report]:
        """Test the head, choose how strongly it steers, and measure that at every α of the plan."""
        head = SuccessorHead.from_arrays(basis.head or {})
        phi = self._measure(basis, self.prompts.held_out, replies.tested)
        r2, r2_forced = (
            explained_variance(head, replies.tested, phi, self._embeddings, tokens)
            for tokens in (np.ones(len(replies.tested.token), dtype=bool), replies.tested.is_forced)
        )
        plan, models = self.plans.learn, replace(self.models, head=head)
        embed = None if self.embed is None else self.embed.embed
        trials = Trials(models, basis, self.prompts.dev, self.work / "calibration", plan, embed)
        best, grid = trials.calibrate(self.plans.calibration)
        people = [simulate_profile(basis, seed) for seed in range(100, 104)]
        by_alpha = {
            alpha: (
                trials.outcome(people, replace(best.steering, beta=0.0), plan.expert, alpha),
                trials.outcome(people, best.steering, plan.expert, alpha),
            )
            for alpha in plan.alphas
        }
        report = Report(len(replies.both.text), len(replies.both.token), r2, r2_forced, grid, by_alpha)
        return replace(basis, steering=best.steering), report

    def so_far(self, basis: Basis, rollouts: Rollouts) -> Arrays:
        """What was written before each token, on the axes that are measured in the text; 0 on those that are learnt."""
        num_tokens, num_named = len(rollouts.token), len(basis.named)
        so_far = np.zeros((num_tokens, basis.num_axes), dtype=np.float32)
        for first in track(range(0, num_tokens, TEXTS), "texts so far"):
            rows = range(first, min(first + TEXTS, num_tokens))
            texts = [self.models.base.detokenize(rollouts.before(row).tolist()) for row in rows]
            prompts = [self.prompts.train[rollouts.prompt[rollouts.reply[row]]] for row in rows]
            so_far[rows.start : rows.stop, :num_named] = measure_many(prompts, texts, basis.named)
        so_far[:, :num_named] -= basis.center[:num_named]
        so_far[:, :num_named] /= basis.scale[:num_named]
        return {"so_far": so_far}

    @property
    def _embeddings(self) -> Float[Tensor, "V H"]:
        return self.models.base.output_embedding.float()

    def _measure(self, basis: Basis, prompts: Sequence[Sequence[Message]], rollouts: Rollouts) -> Features:
        embed = None if basis.learnt is None else self.embed
        return features(basis, [prompts[i] for i in rollouts.prompt], list(rollouts.text), embed)


def prior_shape(features: Float[Array, "n d"]) -> Float[Array, "d d"]:
    """The correlations of the axes over the model's own replies, drawn a twentieth of the way to the identity.

    Axes that rise and fall together are symptoms of one trait, and people who like the trait like its symptoms. So
    people are assumed to differ most in what replies differ in most. The design's Σ = σ²I spreads ten answers
    over as many directions as there are axes, most of which hardly occur.
    """
    d = features.shape[1]
    return np.asarray(0.95 * np.corrcoef(features.T).reshape(d, d) + 0.05 * np.eye(d))


def named_basis(model: str, fingerprints: Fingerprints, axes: str) -> Basis:
    """All named axes of a set, as they are measured; the prior comes with the reference pairs."""
    named = named_axes(axes)
    d = len(named)
    return Basis(
        model=model,
        fingerprints=fingerprints,
        axes=named,
        center=np.zeros(d),
        scale=np.ones(d),
        prior=Gaussian(np.zeros(d), np.eye(d)),
        noise=Noise(),
        reference=np.zeros((0, d)),
        steering=UNCALIBRATED,
    )


@dataclass(frozen=True, eq=False)
class Made:
    """A basis, and what was measured on the way."""

    basis: Basis
    report: Report
    prompts: Prompts
    num_repeated: int  # prompts left out because they came before

    def row(self) -> dict[str, Any]:
        """What was made, as JSON values; R² is None where no axis varied."""
        basis, report, prompts = self.basis, self.report, self.prompts
        plain, steered = report.by_alpha[0.0]
        return {
            "id": basis.id,
            "model": basis.model,
            "axes": [axis.name for axis in basis.axes],
            "questions": len(basis.bank),
            "prompts": {
                "train": len(prompts.train),
                "held_out": len(prompts.held_out),
                "dev": len(prompts.dev),
                "repeated": self.num_repeated,
            },
            "replies": report.num_replies,
            "tokens": report.num_tokens,
            "r2": rounded_mean(report.r2),
            "r2_forced": rounded_mean(report.r2_forced),
            "steering": asdict(basis.steering),
            "utility": round(steered.utility, 4),
            "utility_unsteered": round(plain.utility, 4),
            "kl": round(steered.kl, 4),
        }


def open_models(model: str, device: str) -> Models:
    """The model that a basis is to be made for, without a head."""
    return Models(load_causal(model_place(model), device), head=None, steering=UNCALIBRATED, experts={})


def write_basis(
    folder: Path, making: Making, origin: Origin, about_people: str | None = None, num_repeated: int = 0
) -> Made:
    """Make a basis and write its folder."""
    basis, report = making.basis()
    basis = replace(basis, model=origin.model)  # not the path it was loaded from
    folder.mkdir(parents=True, exist_ok=True)
    write_basis_card(folder, basis, report, origin, making.plans, about_people)
    basis.save(folder)  # last, so that a run that was killed isn't passed over
    return Made(basis, report, making.prompts, num_repeated)


def make_basis(model: str, prompts: Path, out: Path, device: str = "auto", budget: Budget | None = None) -> Made:
    """Make the basis of a model from what it answers to the prompts of a file; a killed run goes on when called again.

    Args:
        model: "tiny", "smollm2", a folder, a GGUF file or a hub id.
        prompts: a JSONL file, or a text file with a prompt a line; ideally a few hundred.
        out: the basis's folder.
        device: "auto", or a torch device.
        budget: how much work goes into it.

    Raises:
        InputError: prompts that can't be used, naming file and line, or a folder that holds something else.
        ModelError: a model that can't be used.
    """
    budget = budget or Budget()
    lines = read_prompts(prompts)
    with made_in(out) as work:
        models = open_models(model, device)
        usable, num_different = take_prompts(lines, models.base, budget.max_tokens, str(prompts), strict=True)
        split = split_prompts(usable, budget.seed)
        name = public_name(model)
        command = f"personalign basis bootstrap --model {name} --prompts {prompts.name}"
        origin = local_origin(out, name, command, f"{len(usable):,} prompts of `{prompts.name}`")
        making = Making(models, split, budget.plans(len(split.train), model), work)
        return write_basis(out, making, origin, num_repeated=len(lines) - num_different)
