"""From a log of many people's answers to reward axes, the prior over people on them, and how people answer.

One factorisation (``learn/factors.py``) over the named axes and the replies' embeddings finds what people differ in.
Its part in the embeddings becomes the learnt axes, and its prior one over weights on all axes. A second one, over the
named axes alone, says whether learnt ones are worth it. A quarter of the people, 400 at most, take part in neither, and
judge (``judge.py``). Known items that were rated have axes of their own (``learn/items.py``). Read ``build.py`` next,
which makes the rest of the basis from what is found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.decomposition import PCA

from personalign.basis import ITEMS, Basis, Learnt
from personalign.decode.embed import HIDDEN
from personalign.errors import InputError
from personalign.learn.axes import Embed, flags, measure_many, restandardised, varying_axes
from personalign.learn.factors import factorise, factorise_ratings
from personalign.learn.items import Ratings
from personalign.learn.mixture import Mixture
from personalign.learn.sparse import make_up
from personalign.train.basis.judge import Judgement, Person, judge
from personalign.train.log import AnswerLog, Numbered
from personalign.train.plans import NUM_REFERENCE
from personalign.train.work import Arrays, identity, keep
from personalign.types import MAX_AXES, SIDES, Array, Gaussian, Ints, Noise
from personalign.words import Axis

HELD_OUT, MOST_JUDGES = 0.25, 400  # of the people; more judges would only take time
MIN_PEOPLE = 20  # so that five judge
MAX_DIMENSIONS = 384  # of embeddings, their main directions
FLAT = 1e-9  # of the largest variance: a direction of embeddings below it doesn't vary
SLIGHT = 0.05  # of the strongest feeling about a direction of embeddings: a weaker one makes no axis
ITEM_WIDTH = 40  # characters of an item that tell of an axis
EVEN = 0.01  # of the prior's variance is spread evenly, so that other tastes can be learnt, too


@dataclass(frozen=True, eq=False)
class Findings:
    """What a log says about people: a basis that is standardised over the log's replies, and what it is worth."""

    basis: Basis  # the named axes that vary, then the learnt ones, if they predict people better; no questions, no head
    judgement: Judgement
    people: int  # with informative answers
    held_out: int  # of these
    answers: int  # informative
    replies: int  # different ones

    def row(self) -> dict[str, Any]:
        """What was found, and what it is worth to people who had no part in that, as JSON values."""
        judgement = self.judgement
        return {
            "people": self.people,
            "held_out": self.held_out,
            "answers": self.answers,
            "compared": self.replies,
            "learnt": self.basis.num_axes - len(self.basis.named),
            "noise": asdict(self.basis.noise),
            "shares": asdict(judgement.shares),
            "active": judgement.active,
            "accuracy": judgement.accuracy,
            "calibration_error": judgement.calibration_error,
            "after": [asdict(after) for after in judgement.after],
        }


class _Model(NamedTuple):
    """A basis, every reply's features on it, and the loss of people held out from its factorisation alone."""

    basis: Basis
    features: Float[Array, "R d"]
    loss: float


def fit_basis(
    log: AnswerLog,
    embed: Embed,
    draft: Basis,
    embedder: str = HIDDEN,
    rank: int | str = "auto",
    seed: int = 0,
    work: Path | None = None,
) -> Findings:
    """Find axes, prior and noise in a log, and judge them by people who had no part in that.

    ``draft`` is a model's basis on the named axes as they are measured, and ``embedder`` the name of ``embed``. With
    the rank "auto" as many axes are learnt as predict best, or none; people are held out for that once more, from those
    who don't judge. A killed run goes on from the folder ``work``; None keeps nothing.

    The embedder "items" takes the log's replies for all that there are. They have no named axes then, as nothing in a
    text tells more than which one it is. A log of ratings is always read so.

    Raises:
        InputError: fewer than 20 people, embeddings that aren't finite or all alike, or a rank that can't be.
    """
    is_known = embedder == ITEMS or log.ratings is not None
    answers = log.numbered(by_text=is_known)
    num_people = len(answers.user)
    _check_people(num_people, log)
    items = _items(log, answers) if is_known else ()
    if items:
        draft = restandardised(draft, np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0))  # without axes
        embed, embedder = flags(items), ITEMS
    is_judge = np.random.default_rng([seed, 4]).permutation(num_people) < min(round(HELD_OUT * num_people), MOST_JUDGES)
    known = np.flatnonzero(~is_judge[answers.person])
    named, features = _varying(draft, answers)
    _check_rank(rank, 1 if log.ratings else len(named.axes))
    factors_of = partial(_factorise, answers, known, seed, work)
    if log.ratings:
        users = [answers.user[i] for i in np.flatnonzero(~is_judge).tolist()]
        models = [_of_ratings(answers, named, log.ratings, users, rank, seed)]
    else:
        models = [
            _with_learnt(answers, named, features, embed, Learnt(np.zeros((0, 0)), embedder, items), rank, factors_of)
        ]
    if rank == "auto" and named.axes:
        factors = factors_of(features, "auto")
        models.append(_model(named, features, factors, factors["projection"]))
    basis, features, _ = min(models, key=lambda model: model.loss)
    some = np.random.default_rng([seed, 5]).permutation(len(answers.person))[:NUM_REFERENCE]
    people = [_person(answers, features, i) for i in np.flatnonzero(is_judge).tolist()]
    particles = _particles(answers, known, features, basis, seed, work)
    judgement = judge(people, Mixture(basis.prior, particles=particles), basis.noise, seed)
    basis = replace(
        basis,
        particles=particles if judgement.has_particles else None,
        reference=answers.differences(features, some),
        accuracy=judgement.accuracy,
        shares=judgement.shares,
        active=judgement.active,
    )
    return Findings(basis, judgement, num_people, int(is_judge.sum()), len(answers.person), len(answers.texts))


def _check_people(num_people: int, log: AnswerLog) -> None:
    if not any(answer.choice in SIDES for answer in log.answers):
        raise InputError(f"nobody preferred a reply in {len(log.answers)} answers of the log, expected a or b in most")
    if num_people < MIN_PEOPLE:
        raise InputError(
            f"the log has informative answers (a, b or tie) of {num_people} of {log.counts.people} people, "
            f"expected {MIN_PEOPLE} at least: {HELD_OUT:.0%} of them only judge what was learnt from the others. "
            "Collect more, or use: personalign basis bootstrap"
        )


def _check_rank(rank: int | str, num_named: int) -> None:
    most = MAX_AXES - num_named
    if rank != "auto" and (not isinstance(rank, int) or not 1 <= rank <= most):
        raise InputError(
            f'found the rank {rank!r}, expected "auto" or a whole number from 1 to {most}: a basis has at most '
            f"{MAX_AXES} axes, {num_named} of them given"
        )


def _varying(draft: Basis, answers: Numbered) -> tuple[Basis, Float[Array, "R d"]]:
    """The named axes on which the log's replies differ, standardised, and every reply's features."""
    raw = measure_many(answers.prompts, answers.texts, draft.axes)
    varies = varying_axes(raw)
    basis = restandardised(draft, varies, raw.mean(axis=0)[varies], raw.std(axis=0)[varies])
    return basis, basis.standardise(raw[:, varies])


def _with_learnt(
    answers: Numbered,
    named: Basis,
    features: Float[Array, "R n"],
    embed: Embed,
    blank: Learnt,
    rank: int | str,
    factors_of: Callable[[Array, int | str], Arrays],
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
    factors = factors_of(np.hstack([features, unit * ((embedded - pca.mean_) @ directions)]), rank)
    weights = unit * spread[:, None] * factors["projection"][num_named:]  # (k, rank), of directions that vary by 1
    chosen = _main(weights, factors, SLIGHT if rank == "auto" else FLAT)
    projection = directions @ (chosen / spread[:, None])
    raw = embedded @ projection
    basis = replace(
        named,
        axes=named.axes + tuple(_learnt_axis(i + 1) for i in range(projection.shape[1])),
        center=np.append(named.center, raw.mean(axis=0)),
        scale=np.append(named.scale, raw.std(axis=0)),
        reference=np.zeros((0, num_named + projection.shape[1])),
        learnt=replace(blank, projection=projection),
    )
    features = np.hstack([features, (raw - raw.mean(axis=0)) / raw.std(axis=0)])
    return _model(basis, features, factors, np.vstack([factors["projection"][:num_named], chosen.T @ weights]))


def _items(log: AnswerLog, answers: Numbered) -> tuple[str, ...]:
    """The known items, of which pairs tell less than ratings."""
    items = tuple(sorted(set(answers.texts))) if log.ratings is None else log.ratings.items
    if log.ratings is None and len(items) > MAX_DIMENSIONS:
        raise InputError(
            f"the log compares {len(items):,} different replies, expected {MAX_DIMENSIONS} known items at most; pass "
            "another --embedder, which finds what replies have in common"
        )
    return items


def _of_ratings(
    answers: Numbered, blank: Basis, ratings: Ratings, users: Sequence[str], rank: int | str, seed: int
) -> _Model:
    """The axes that known people's ratings tell of, standardised over the items."""
    factors = factorise_ratings(ratings.ratings[np.isin(ratings.users, users)], rank, seed=seed)
    varies = factors.projection.std(axis=0) > FLAT  # everybody may like all items alike
    raw = factors.projection[:, varies]
    center, scale = raw.mean(axis=0), raw.std(axis=0)
    items = (raw - center) / scale
    covariance = factors.prior.covariance[np.ix_(varies, varies)] * np.outer(scale, scale)
    prior = Gaussian(scale * factors.prior.mean[varies], covariance)
    basis = replace(
        blank,
        axes=tuple(
            _axis_of_items(number, column, ratings.items)
            for number, column in zip(np.flatnonzero(varies).tolist(), items.T, strict=True)
        ),
        center=center,
        scale=scale,
        prior=prior,
        noise=factors.noise,
        reference=np.zeros((0, len(scale))),
        learnt=Learnt(raw, ITEMS, ratings.items),
    )
    place = {item: i for i, item in enumerate(ratings.items)}
    return _Model(basis, items[[place[text] for text in answers.texts]], 0.0)


def _axis_of_items(number: int, places: Float[Array, "J"], items: Sequence[str]) -> Axis:
    """An axis in words: the first is what everybody likes, the others are told by the items at their ends."""
    ends = (int(places.argmin()), int(places.argmax()))
    texts = [" ".join(items[i].split()) for i in ends]
    low, high = (text if len(text) <= ITEM_WIDTH else f"{text[: ITEM_WIDTH - 1]}…" for text in texts)
    about = f"a taste that people differ in, no. {number}" if number else "what everybody likes"
    return Axis(f"taste_{number}" if number else "liked", about, f"items like “{low}”", f"items like “{high}”")


def _finite(embedded: Float[Array, "R F"], answers: Numbered) -> Float[Array, "R F"]:
    wrong = np.flatnonzero(~np.isfinite(embedded).all(axis=1))
    if len(wrong):
        row, side = np.argwhere(answers.pair == wrong[0])[0]
        raise InputError(
            f"the embeddings of {len(wrong)} replies hold NaN or Inf, the first is {'ab'[side]} of answer "
            f"{answers.row[row] + 1} of the log; expected finite numbers; leave those answers out or pass another "
            "--embedder"
        )
    return embedded


def _main(weights: Float[Array, "k rank"], factors: Arrays, slight: float) -> Float[Array, "k r"]:
    """The orthogonal directions in which people's weights differ or their mean points, the strongest first."""
    feelings = weights @ np.column_stack([np.linalg.cholesky(factors["covariance"]), factors["mean"]])
    directions, strength, _ = np.linalg.svd(feelings, full_matrices=False)
    rank = weights.shape[1]
    directions = directions[:, :rank][:, strength[:rank] > slight * strength[0]]
    highest = directions[np.abs(directions).argmax(axis=0), np.arange(directions.shape[1])]
    return np.asarray(directions * np.where(highest < 0, -1.0, 1.0))  # as the sign is free, it is the same each time


def _learnt_axis(number: int) -> Axis:
    """A learnt axis has a number, because its meaning isn't in words."""
    return Axis(
        f"learnt_{number}",
        f"a difference that many people's answers turn on, no. {number}",
        f"replies low on learnt axis {number}",
        f"replies high on learnt axis {number}",
    )


def _factorise(
    answers: Numbered,
    known: Int[Ints, "K"],
    seed: int,
    work: Path | None,
    features: Float[Array, "R F"],
    rank: int | str,
) -> Arrays:
    """Factorise the known people's answers, or read what a killed run found."""
    person, choice, v = answers.person[known], answers.choice[known], answers.differences(features, known)

    def arrays() -> Arrays:
        factors = factorise(person, v, choice, rank, seed=seed)
        return {
            "projection": factors.projection,
            "mean": factors.prior.mean,
            "covariance": factors.prior.covariance,
            "noise": np.array(astuple(factors.noise)),
            "loss": np.asarray(np.mean([judged.log_loss for judged in factors.held_out[1:] or factors.held_out])),
        }

    return keep(work and work / f"{identity(person, v, choice.tolist(), rank, seed)}.safetensors", arrays)


def _particles(
    answers: Numbered, known: Int[Ints, "K"], features: Float[Array, "R d"], basis: Basis, seed: int, work: Path | None
) -> Float[Array, "S d"] | None:
    """Made-up people who have few tastes, as the known people have, if these are such; or what a killed run found."""
    person, choice, v = answers.person[known], answers.choice[known].tolist(), answers.differences(features, known)

    def arrays() -> Arrays:
        particles = make_up(person, v, choice, basis.prior, basis.noise, seed)
        return {"particles": np.zeros((0, basis.num_axes)) if particles is None else particles}

    prior = basis.prior
    name = identity("particles", person, v, choice, prior.mean, prior.covariance, astuple(basis.noise), seed)
    particles = keep(work and work / f"{name}.safetensors", arrays)["particles"]
    return particles if len(particles) else None


def _model(basis: Basis, features: Float[Array, "R d"], factors: Arrays, weights: Float[Array, "d rank"]) -> _Model:
    """The factors' prior N(m, D) as one over weights on all axes, Pf: N(Pm, PDPᵀ), and a little in any direction."""
    covariance = weights @ factors["covariance"] @ weights.T
    even = EVEN * np.trace(covariance) / len(covariance)
    prior = Gaussian(weights @ factors["mean"], (covariance + covariance.T) / 2 + even * np.eye(len(covariance)))
    return _Model(
        replace(basis, prior=prior, noise=Noise(*factors["noise"].tolist())), features, float(factors["loss"])
    )


def _person(answers: Numbered, features: Float[Array, "R d"], person: int) -> Person:
    rows = np.flatnonzero(answers.person == person)
    choice = [str(choice) for choice in answers.choice[rows]]
    return Person(answers.differences(features, rows), choice, answers.pair[rows])
