"""Make a basis for a model from a log of many people's answers: what ``personalign basis fit`` does.

``people.py`` finds what people differ in, ``build.py`` makes the rest, as it does without people. Where the model
can't be steered for these people, what the log says of them is kept: a basis for ARGS, ``choose`` and words.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from personalign.basis import ITEMS, Basis
from personalign.decode.embed import HIDDEN, load_embedder
from personalign.decode.models import Models
from personalign.decode.successor import SuccessorHead
from personalign.errors import InputError
from personalign.learn.axes import MIN_DEVIATION, features, flags, measure_many
from personalign.train.basis.bank import is_distinct, item_bank, usable_replies
from personalign.train.basis.build import Made, Making, NothingToSteerError, named_basis, open_models, write_basis
from personalign.train.basis.people import Findings, fit_basis
from personalign.train.basis.rollouts import KeptEmbedder, roll_out
from personalign.train.card import Origin, local_origin, public_name, table, write_people_card
from personalign.train.log import ABOUT_ITEMS, AnswerLog, LogCounts
from personalign.train.plans import Budget, Plan
from personalign.train.prompts import Prompts, read_prompts, split_prompts, take_prompts
from personalign.train.work import made_in, say
from personalign.types import Noise, Steering
from personalign.words import Axis

REPORT = "report.json"
PROMPTS, REPLIES = 16, 4  # prompts that are answered, and replies to each
MAX_LOG = 2_000  # answers of the log that are compared
FAR = 2.0  # standard deviations: less than a third of two such normal distributions overlaps
AFTER = {  # columns of the card
    "answers known": "answers",
    "people": "people",
    "answers predicted": "predicted",
    "accuracy": "accuracy",
    "population's": "population_accuracy",
    "log-loss": "log_loss",
    "population's log-loss": "population_log_loss",
}
KNOWN = "its replies are known items, which are chosen and not written"
LOG_PROMPTS = """
**The questions are about prompts that the log's people wrote**, word for word. Everyone who is asked reads them, they
are passed on with this folder, and `forget` doesn't reach them.
"""


@dataclass(frozen=True)
class Likeness:
    """How alike a log's replies and the model's are: a first look, before hours are spent.

    What people prefer among replies that the model never writes says little about those that it does.
    """

    distances: Mapping[str, float]  # between the means in common standard deviations, by named axis that varies
    num_axes: int  # on which the model's own replies vary
    num_askable: int  # prompts with two readable own replies that differ
    num_prompts: int

    @property
    def distance(self) -> float:
        """The root mean square over the axes: a few axes that are far apart count."""
        return float(np.sqrt(np.mean(np.square([*self.distances.values()] or [0.0]))))

    def describe(self) -> str:
        """The distance in words."""
        widest = sorted(self.distances.items(), key=lambda item: -item[1])[:3]
        return (
            f"the log's replies and the model's own differ by {self.distance:.1f} standard deviations, the root mean "
            f"square over the axes (most on {', '.join(f'{axis}: {distance:.1f}' for axis, distance in widest)})"
        )

    def obstacle(self) -> str | None:
        """Why no head that is trained on the model's replies could serve these people; None where one may."""
        if not self.num_axes:
            return "the model's own replies differ on none of the axes"
        if not self.num_askable:
            return f"none of {self.num_prompts} prompts got two readable replies of the model's that differ"
        if self.distance > FAR:
            return f"the log's replies are {self.distance:.1f} standard deviations from the model's own"
        return None


@dataclass(frozen=True, eq=False)
class MadeFromLog:
    """A basis, and what the log says of people."""

    basis: Basis
    made: Made | None  # None where the model can't be steered
    obstacle: str | None  # why
    findings: Findings
    counts: LogCounts
    likeness: Likeness | None  # None where known items are all that there is
    num_unread: int  # prompts of the log that the model can't read, so that it didn't answer them

    def row(self) -> dict[str, Any]:
        """What was made, as JSON values; the axes left out are those on which the model's own replies don't differ."""
        basis = self.basis
        names = [axis.name for axis in basis.axes]
        made = (
            {"id": basis.id, "model": basis.model, "axes": names, "questions": len(basis.bank)}
            | {"steering": asdict(basis.steering)}
            if self.made is None
            else self.made.row()
        )
        likeness = None if self.likeness is None else asdict(self.likeness)
        return (
            made
            | {"log": asdict(self.counts)}
            | self.findings.row()
            | {"left_out": [axis.name for axis in self.findings.basis.axes if axis not in basis.axes]}
            | {"unread": self.num_unread, "likeness": likeness, "obstacle": self.obstacle}
        )


def fit_from_log(
    log: AnswerLog,
    model: str,
    out: Path,
    rank: int | str = "auto",
    embedder: str = HIDDEN,
    prompts: Path | None = None,
    device: str = "auto",
    budget: Budget | None = None,
    *,
    ask_log_prompts: bool = False,
) -> MadeFromLog:
    """Make a basis from people's answers; a killed run goes on when called again.

    Args:
        log: many people's answers, from ``read_log``.
        model: "tiny", "smollm2", a folder, a GGUF file or a hub id.
        out: the basis's folder.
        rank: how many axes to learn, or "auto".
        embedder: what measures learnt axes: "hidden", the model's own states, "reward:PATH" or "encoder:NAME"; "items"
            takes the log's replies for all that there are, as it is with ratings.
        prompts: what the model is to answer, as for ``make_basis``.
        device: "auto", or a torch device.
        budget: how much work goes into it; its seed also draws the people who judge.
        ask_log_prompts: let the log's prompts become questions. Everyone who is asked reads them, they are shipped
            with the basis, and ``forget`` doesn't reach them.

    Raises:
        InputError: no prompts, or some that can't be used, naming file and line; too few people; or a folder that
            holds something else.
        ModelError: a model or an embedder that can't be used.
    """
    if log.ratings or embedder == ITEMS:
        if prompts is not None or ask_log_prompts:
            raise InputError("found prompts for a log of known items, which are chosen and not written; leave them out")
        return _fit_items(log, model, out, rank, device, (budget or Budget()).seed)
    if (prompts is None) != ask_log_prompts:
        raise InputError(
            f"found {'no prompts' if prompts is None else 'two sources of prompts'} to ask about; expected --prompts "
            "FILE, or --ask-log-prompts, which shows what the log's people wrote to everyone who is asked"
        )
    budget = budget or Budget()
    lines = [(log.name, answer.prompt) for answer in log.answers] if prompts is None else read_prompts(prompts)
    source = log.name if prompts is None else str(prompts)
    with made_in(out) as work:
        models = open_models(model, device)
        causal = models.base
        asked, num_different = take_prompts(lines, causal, budget.max_tokens, source, strict=prompts is not None)
        split = split_prompts(asked, budget.seed)
        named = named_basis(causal.name, causal.fingerprints, budget.axes_for(model))
        likeness = compare(log, models, split, budget, named.axes, work / "look")
        say(likeness.describe())
        measure = load_embedder(embedder, causal, is_trusted=True)
        embed = KeptEmbedder(measure, work / "embeddings", f"{causal.fingerprints.model} {embedder}")
        findings = fit_basis(log, embed, named, embedder, rank, budget.seed, work / "people")
        making = Making(models, split, budget.plans(len(split.train), model), work, findings.basis, embed)
        origin = _origin(log, model, out, rank, embedder, prompts, len(asked))
        section = about_people(findings, log.counts, likeness, ask_log_prompts=ask_log_prompts)
        num_repeated = 0 if prompts is None else len(lines) - num_different
        basis, made, obstacle = _write(out, making, origin, section, likeness.obstacle(), num_repeated)
        fitted = MadeFromLog(basis, made, obstacle, findings, log.counts, likeness, num_different - len(asked))
        (out / REPORT).write_text(json.dumps(fitted.row(), indent=2) + "\n", encoding="utf-8")
    return fitted


def _fit_items(log: AnswerLog, model: str, out: Path, rank: int | str, device: str, seed: int) -> MadeFromLog:
    """Make a basis of known items, which are asked about and chosen by ``choose``."""
    with made_in(out) as work:
        causal = open_models(model, device).base
        draft = named_basis(causal.name, causal.fingerprints, "dialogue")
        findings = fit_basis(log, flags(()), draft, ITEMS, rank, seed, work / "people")
        people = findings.basis
        assert people.learnt is not None, "each item has places on learnt axes"
        items = people.learnt.items
        origin = _origin(log, model, out, rank, ITEMS, None, 0)
        section = about_people(findings, log.counts, None, ask_log_prompts=False)
        bank = item_bank(items, features(people, [ABOUT_ITEMS] * len(items), items), seed)
        basis = replace(_without_steering(people, origin.model, causal.hidden_size), bank=bank)
        write_people_card(out, basis, origin, section, KNOWN)
        basis.save(out)
        fitted = MadeFromLog(basis, None, KNOWN, findings, log.counts, None, 0)
        (out / REPORT).write_text(json.dumps(fitted.row(), indent=2) + "\n", encoding="utf-8")
    return fitted


def _write(
    out: Path, making: Making, origin: Origin, section: str, obstacle: str | None, num_repeated: int
) -> tuple[Basis, Made | None, str | None]:
    """Write the basis; where the model can't be steered, what the log says of people, and tell why."""
    if obstacle is None:
        try:
            made = write_basis(out, making, origin, section, num_repeated)
        except NothingToSteerError as error:
            obstacle = str(error)
        else:
            return made.basis, made, None
    say(
        f"{obstacle}: replies can't be steered; collect answers about this model's own replies to steer it "
        '(personalign basis bootstrap, then ask); what the log says of people is kept, for rule="args", '
        "choose and words"
    )
    assert making.people is not None, "a log says something of people"
    basis = _without_steering(making.people, origin.model, making.models.base.hidden_size)
    write_people_card(out, basis, origin, section, obstacle)
    basis.save(out)
    return basis, None, obstacle


def _without_steering(people: Basis, model: str, hidden_size: int) -> Basis:
    """What a log says of people, on the log's own scale, with a head that predicts nothing and no questions."""
    head = SuccessorHead(hidden_size, people.num_axes, 1, 1)
    nothing = {name: array * 0 for name, array in head.to_arrays().items()}
    return replace(people, model=model, head=nothing, steering=Steering(0.0, 3.0, 20))


def compare(
    log: AnswerLog, models: Models, prompts: Prompts, budget: Budget, axes: Sequence[Axis], work: Path
) -> Likeness:
    """Let the model write a few replies and compare the log's with them, axis by axis."""
    seed = budget.seed
    plan = Plan(REPLIES, budget.max_tokens, 20, forced_share=0.0, temperature=1.0, seed=seed + 2, num_prompts=PROMPTS)
    replies = roll_out(models, prompts.train, plan, work)
    some = [log.answers[i] for i in np.random.default_rng(seed).permutation(len(log.answers))[:MAX_LOG]]
    texts = [answer.a for answer in some] + [answer.b for answer in some]
    log_features = measure_many([answer.prompt for answer in some] * 2, texts, axes)
    model_features = measure_many([prompts.train[i] for i in replies.prompt], list(replies.text), axes)
    spread = np.sqrt((log_features.var(axis=0) + model_features.var(axis=0)) / 2)
    distance = np.abs(log_features.mean(axis=0) - model_features.mean(axis=0))
    return Likeness(
        {axis.name: float(distance[j] / spread[j]) for j, axis in enumerate(axes) if spread[j] >= MIN_DEVIATION},
        int((model_features.std(axis=0) >= MIN_DEVIATION).sum()),
        sum(
            any(is_distinct(replies.text[j], replies.text[k]) for j, k in combinations(rows, 2))
            for rows in usable_replies(replies).values()
        ),
        len(np.unique(replies.prompt)),
    )


def about_people(findings: Findings, counts: LogCounts, likeness: Likeness | None, *, ask_log_prompts: bool) -> str:
    """The section of the card."""
    judgement, noise = findings.judgement, findings.basis.noise
    shares = judgement.shares
    after = [{title: getattr(step, name) for title, name in AFTER.items()} for step in judgement.after]
    left_out = f"Left out because they can't be used: {counts.describe_bad()}.\n" if counts.bad else ""
    chosen = "chosen by what they tell" if judgement.active else "drawn at random"
    significant = "more" if judgement.active else "no more"
    numbers = {name.replace("_", " "): number for name, number in asdict(counts).items() if isinstance(number, int)}
    return f"""## People

{findings.people} people gave {findings.answers:,} informative answers about {findings.replies:,} different replies.
{findings.held_out} of them had no part in finding axes, prior and noise. Their answers are predicted from so many
others of theirs, none of which shares a text with it, and by the population's mean:

{table(after)}

The calibration error over all of these is {judgement.calibration_error:.3f}, in ten bins. Before a person answers,
they are taken to have everybody's taste with {shares.nothing:.2f}, to feel about few axes with {shares.few:.2f}, and
about any with {shares.any:.2f}. Questions are {chosen}, because after ten answers profiles are {significant} accurate
than the population's mean by more than chance (95 %, one-sided).

How people answer, estimated with the prior by marginal likelihood but for ratings: a tie's width δ = {noise.tie:.3f},
lapses ε = {noise.lapse:.3f}, and a side bias of standard deviation σ_b = {noise.side:.3f}; δ and σ_b are utilities. A
log without ties has δ = 0: none was offered, and lapses are spread over two answers. "Much better" begins
{noise.much:.3f} beyond δ{"" if noise.much != Noise.much else ", which is assumed: the log has no such answers"}.

All of this is in `{REPORT}`, too. In the log: {", ".join(f"{name} {number:,}" for name, number in numbers.items())}.
{left_out}{"" if likeness is None else f"At the start, {likeness.describe()}."}
{LOG_PROMPTS if ask_log_prompts else ""}
"""


def _origin(
    log: AnswerLog, model: str, out: Path, rank: int | str, embedder: str, prompts: Path | None, num_prompts: int
) -> Origin:
    name = public_name(model)
    options = "" if embedder == ITEMS else " --ask-log-prompts" if prompts is None else f" --prompts {prompts.name}"
    kind, colon, path = embedder.partition(":")
    embedder = kind + colon + (public_name(path) if path else "")
    return local_origin(
        out,
        name,
        f"personalign basis fit {log.name} --model {name} --rank {rank} --embedder {embedder}{options}",
        f"{num_prompts:,} prompts of `{log.name if prompts is None else prompts.name}`",
    )
