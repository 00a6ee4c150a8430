"""From a log of many people's answers to reward axes, the prior over people on them, and how people answer.

One factorisation (``learn/factors.py``) over the named axes and the replies' embeddings finds what people differ in.
Its part in the embeddings becomes the learnt axes, and its prior one over weights on all axes. A second one, over the
named axes alone, says whether learnt ones are worth it. A quarter of the people take part in neither, and judge
(``judge.py``). Read ``build.py`` next, which makes the rest of the basis from what is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from personalign.basis import Basis, Learnt
from personalign.errors import InputError
from personalign.learn.axes import Embed, measure_many, named_axes
from personalign.learn.factors import factorise
from personalign.train.basis.judge import Judgement, Person, judge
from personalign.train.log import AnswerLog, Answers, number_answers
from personalign.train.plans import NUM_REFERENCE, UNCALIBRATED
from personalign.train.work import Arrays, identity, keep
from personalign.types import MAX_AXES, Array, Fingerprints, Gaussian, Noise
from personalign.words import Axis

HELD_OUT = 0.25  # of the people
MIN_PEOPLE = 20  # so that five judge
MAX_DIMENSIONS = 384  # of embeddings, their main directions
MIN_DEVIATION = 1e-3  # of a named axis over the log's replies
FLAT = 1e-9  # of the largest variance: a direction of embeddings below it doesn't vary
SLIGHT = 0.2  # of the strongest feeling about a direction of embeddings: a weaker one makes no axis
EVEN = 0.01  # of the prior's variance is spread evenly, so that other tastes can be learnt, too


@dataclass(frozen=True, eq=False)
class Findings:
    """What a log says about people, in axes that are standardised over the log's replies."""

    axes: tuple[Axis, ...]  # the named ones that vary, then the learnt ones
    projection: Float[NDArray[np.float64], "F r"] | None  # None where learnt axes don't predict people better
    center: Float[NDArray[np.float64], "d"]
    scale: Float[NDArray[np.float64], "d"]
    prior: Gaussian
    noise: Noise
    judgement: Judgement
    people: int  # with informative answers
    held_out: int  # of these
    answers: int  # informative
    replies: int  # different ones
    reference: Float[NDArray[np.float64], "m d"]  # some of the pairs that people compared

    @property
    def num_learnt(self) -> int:
        """How many axes were learnt."""
        return 0 if self.projection is None else self.projection.shape[1]

    def row(self) -> dict[str, Any]:
        """What was found, and what it is worth to people who had no part in that, as JSON values."""
        judgement = self.judgement
        return {
            "people": self.people,
            "held_out": self.held_out,
            "answers": self.answers,
            "compared": self.replies,
            "learnt": self.num_learnt,
            "noise": asdict(self.noise),
            "kappa": judgement.gate.kappa,
            "share": judgement.gate.share,
            "active": judgement.active,
            "accuracy": judgement.accuracy,
            "calibration_error": judgement.calibration_error,
            "after": [asdict(after) for after in judgement.after],
        }

    def draft(self, model: str, fingerprints: Fingerprints, embedder: str) -> Basis:
        """What is known of the basis before its model has written a reply."""
        return Basis(
            model=model,
            fingerprints=fingerprints,
            axes=self.axes,
            center=self.center,
            scale=self.scale,
            prior=self.prior,
            noise=self.noise,
            reference=self.reference,
            steering=UNCALIBRATED,
            accuracy=self.judgement.accuracy,
            learnt=None if self.projection is None else Learnt(self.projection, embedder),
            gate=self.judgement.gate,
            active=self.judgement.active,
        )


@dataclass(frozen=True, eq=False)
class _Space:
    """Axes, and the standardised features of every reply on them."""

    axes: tuple[Axis, ...]
    projection: NDArray[np.float64] | None
    center: Array
    scale: Array
    features: Float[NDArray[np.float64], "R d"]


class _Factors(NamedTuple):
    """What a factorisation found; ``loss`` is that of people held out from it, after the first answers."""

    projection: Float[NDArray[np.float64], "F rank"]
    prior: Gaussian
    noise: Noise
    loss: float


@dataclass(frozen=True, eq=False)
class _Model:
    """What a factorisation over some axes found; utility is ⟨weights @ f, φ⟩ for a person's factors f."""

    space: _Space
    factors: _Factors
    weights: Float[NDArray[np.float64], "d rank"]


def fit_basis(
    log: AnswerLog,
    embed: Embed,
    rank: int | str = "auto",
    seed: int = 0,
    work: Path | None = None,
    axes: str = "assistant",
) -> Findings:
    """Find axes, prior and noise in a log, and judge them by people who had no part in that.

    With the rank "auto" as many axes are learnt as predict best, or none; people are held out for that once more, from
    those who don't judge. A killed run goes on from the folder ``work``; None keeps nothing. ``axes`` is the set of
    named axes.

    Raises:
        InputError: fewer than 20 people, embeddings that aren't finite or all alike, or a rank that can't be.
    """
    answers = number_answers(log)
    _check_people(answers, log)
    order = np.random.default_rng([seed, 4]).permutation(answers.num_people)
    is_judge = order < round(HELD_OUT * answers.num_people)
    known = np.flatnonzero(~is_judge[answers.person])
    named = _named_space(answers, named_axes(axes))
    _check_rank(rank, named)
    factors = partial(_factorise, answers, known, seed, work)
    models = [_with_learnt(answers, named, embed, rank, factors)]
    if rank == "auto" and named.axes:
        factors_of_named = factors(named.features, "auto")
        models.append(_Model(named, factors_of_named, factors_of_named.projection))
    best = min(models, key=lambda model: model.factors.loss)
    space, noise, prior = best.space, best.factors.noise, _prior(best)
    some = np.random.default_rng([seed, 5]).permutation(len(answers.person))[:NUM_REFERENCE]
    people = [_person(answers, space.features, i) for i in np.flatnonzero(is_judge).tolist()]
    return Findings(
        axes=space.axes,
        projection=space.projection,
        center=space.center,
        scale=space.scale,
        prior=prior,
        noise=noise,
        judgement=judge(people, prior, noise, seed),
        people=answers.num_people,
        held_out=int(is_judge.sum()),
        answers=len(answers.person),
        replies=len(answers.texts),
        reference=space.features[answers.a[some]] - space.features[answers.b[some]],
    )


def _check_people(answers: Answers, log: AnswerLog) -> None:
    if answers.num_people < MIN_PEOPLE:
        raise InputError(
            f"the log has informative answers (a, b or tie) of {answers.num_people} of {len(set(log.user))} people, "
            f"expected {MIN_PEOPLE} at least: {HELD_OUT:.0%} of them only judge what was learnt from the others. "
            "Collect more, or use: personalign basis bootstrap"
        )


def _check_rank(rank: int | str, named: _Space) -> None:
    most = MAX_AXES - len(named.axes)
    if rank != "auto" and (not isinstance(rank, int) or not 1 <= rank <= most):
        raise InputError(
            f'found the rank {rank!r}, expected "auto" or a whole number from 1 to {most}: a basis has at most '
            f"{MAX_AXES} axes, {len(named.axes)} of them named"
        )


def _named_space(answers: Answers, axes: Sequence[Axis]) -> _Space:
    """The named axes on which the log's replies differ."""
    raw = measure_many(answers.prompts, answers.texts, axes)
    varies = raw.std(axis=0) >= MIN_DEVIATION
    center, scale = raw.mean(axis=0)[varies], raw.std(axis=0)[varies]
    varying = tuple(axis for axis, is_varying in zip(axes, varies, strict=True) if is_varying)
    return _Space(varying, None, center, scale, (raw[:, varies] - center) / scale)


def _with_learnt(
    answers: Answers,
    named: _Space,
    embed: Embed,
    rank: int | str,
    factorise_over: Callable[[Array, int | str], _Factors],
) -> _Model:
    """Factorise over the named axes and the embeddings side by side; the part in the embeddings becomes learnt axes.

    Named axes and embeddings each vary as much in all, so that shrinkage takes no side. Of the factors' weights on the
    embeddings the main directions are kept, in the metric of the replies: axes that are uncorrelated and vary with
    standard deviation 1, what people feel most strongly about first.
    """
    embedded = _finite(embed(answers.prompts, answers.texts), answers)
    pca = PCA(n_components=min(MAX_DIMENSIONS, *embedded.shape), svd_solver="covariance_eigh").fit(embedded)
    variance = pca.explained_variance_ * (len(embedded) - 1) / len(embedded)
    varies = variance > FLAT * float((embedded**2).mean())
    if not varies.any():
        raise InputError(
            f"the embeddings of all {len(embedded)} replies are alike, expected replies that differ; pass another "
            "--embedder"
        )
    spread, directions = np.sqrt(variance[varies]), pca.components_[varies].T
    num_named = len(named.axes)
    unit = np.sqrt(max(num_named, 1) / (spread**2).sum())
    both = np.hstack([named.features, unit * ((embedded - pca.mean_) @ directions)])
    factors = factorise_over(both, rank)
    weights = unit * spread[:, None] * factors.projection[num_named:]  # (k, rank), of directions that vary by 1
    chosen = _main(weights, factors.prior, SLIGHT if rank == "auto" else FLAT)
    space = _extended(named, embedded, directions @ (chosen / spread[:, None]))
    return _Model(space, factors, np.vstack([factors.projection[:num_named], chosen.T @ weights]))


def _main(
    weights: Float[NDArray[np.float64], "k rank"], prior: Gaussian, slight: float
) -> Float[NDArray[np.float64], "k r"]:
    """The orthogonal directions in which people's weights differ or their mean points, the strongest first."""
    feelings = weights @ np.column_stack([np.linalg.cholesky(prior.covariance), prior.mean])
    directions, strength, _ = np.linalg.svd(feelings, full_matrices=False)
    directions = directions[:, : len(prior.mean)][:, strength[: len(prior.mean)] > slight * strength[0]]
    highest = directions[np.abs(directions).argmax(axis=0), np.arange(directions.shape[1])]
    return np.asarray(directions * np.where(highest < 0, -1.0, 1.0))  # as the sign is free, it is the same each time


def _extended(
    named: _Space, embedded: Float[NDArray[np.float64], "R F"], projection: Float[NDArray[np.float64], "F r"]
) -> _Space:
    """The named axes, then learnt ones."""
    raw = embedded @ projection
    center, scale = raw.mean(axis=0), raw.std(axis=0)
    return _Space(
        named.axes + tuple(_learnt_axis(i + 1) for i in range(projection.shape[1])),
        projection,
        np.append(named.center, center),
        np.append(named.scale, scale),
        np.hstack([named.features, (raw - center) / scale]),
    )


def _finite(embedded: Float[NDArray[np.float64], "R F"], answers: Answers) -> Float[NDArray[np.float64], "R F"]:
    wrong = np.flatnonzero(~np.isfinite(embedded).all(axis=1))
    if len(wrong):
        raise InputError(
            f"the embeddings of {len(wrong)} replies hold NaN or Inf, the first is {answers.origins[wrong[0]]} of the "
            "log; expected finite numbers; leave those answers out or pass another --embedder"
        )
    return embedded


def _learnt_axis(number: int) -> Axis:
    """A learnt axis has a number, because its meaning isn't in words."""
    return Axis(
        f"learnt_{number}",
        f"a difference that many people's answers turn on, no. {number}",
        f"replies low on learnt axis {number}",
        f"replies high on learnt axis {number}",
    )


def _factorise(
    answers: Answers,
    known: Int[NDArray[np.int64], "K"],
    seed: int,
    work: Path | None,
    features: Float[NDArray[np.float64], "R F"],
    rank: int | str,
) -> _Factors:
    """Factorise the known people's answers, or read what a killed run found."""
    person, choice = answers.person[known], answers.choice[known]
    v = features[answers.a[known]] - features[answers.b[known]]

    def arrays() -> Arrays:
        factors = factorise(person, v, choice, rank, seed=seed)
        return {
            "projection": factors.projection,
            "mean": factors.prior.mean,
            "covariance": factors.prior.covariance,
            "noise": np.array(astuple(factors.noise)),
            "loss": np.asarray(np.mean([judged.log_loss for judged in factors.held_out[1:] or factors.held_out])),
        }

    name = identity(person, v, choice.tolist(), rank, seed)
    values = arrays() if work is None else keep(work / f"{name}.safetensors", arrays)
    prior = Gaussian(values["mean"], values["covariance"])
    return _Factors(values["projection"], prior, Noise(*values["noise"].tolist()), float(values["loss"]))


def _prior(model: _Model) -> Gaussian:
    """The factors' prior N(m, D) as one over weights on all axes, Pf: N(Pm, PDPᵀ), and a little in any direction."""
    p, factors = model.weights, model.factors.prior
    covariance = p @ factors.covariance @ p.T
    even = EVEN * np.trace(covariance) / len(covariance)
    return Gaussian(p @ factors.mean, (covariance + covariance.T) / 2 + even * np.eye(len(covariance)))


def _person(answers: Answers, features: Float[NDArray[np.float64], "R d"], person: int) -> Person:
    rows = np.flatnonzero(answers.person == person)
    texts = np.column_stack([answers.a[rows], answers.b[rows]])
    v = features[texts[:, 0]] - features[texts[:, 1]]
    return Person(v, [str(choice) for choice in answers.choice[rows]], texts)
