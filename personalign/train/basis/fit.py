"""Make a basis for a model from a log of many people's answers: what ``personalign basis fit`` does.

``people.py`` finds what people differ in, ``build.py`` makes the rest, as it does without people. Where the model
can't be steered for these people, what the log says of them is kept: a basis for ARGS, ``choose`` and words.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from personalign.basis import Basis
from personalign.bundled import locate
from personalign.decode.embed import HIDDEN, load_embedder
from personalign.decode.load import load_causal
from personalign.decode.models import Models
from personalign.decode.successor import SuccessorHead
from personalign.errors import InputError
from personalign.train.basis.bootstrap import LICENCE, Made, open_models, write_basis
from personalign.train.basis.build import Budget, Making, NothingToSteerError
from personalign.train.basis.card import Origin, table, write_people_card
from personalign.train.basis.embedded import KeptEmbedder
from personalign.train.basis.likeness import Likeness, compare
from personalign.train.basis.people import Findings, fit_basis
from personalign.train.files import made_in, public_name
from personalign.train.log import AnswerLog, LogCounts
from personalign.train.progress import say
from personalign.train.prompts import check_prompts, read_prompts, split_prompts, take_prompts
from personalign.train.reward.from_log import MadeBackbone, make_backbone
from personalign.types import Steering

REPORT = "report.json"
ADVICE = (
    "collect answers about this model's own replies to steer it (personalign basis bootstrap, then ask); what the log "
    'says of people is kept, for rule="args", choose and words'
)


@dataclass(frozen=True, eq=False)
class MadeFromLog:
    """A basis, and what the log says of people."""

    basis: Basis
    made: Made | None  # None where the model can't be steered
    obstacle: str | None  # why
    findings: Findings
    counts: LogCounts
    likeness: Likeness
    num_unread: int  # prompts of the log that the model can't read, so that it didn't answer them

    def row(self) -> dict[str, Any]:
        """What was made, as JSON values; the axes left out are those on which the model's own replies don't differ."""
        basis = self.basis
        names = [axis.name for axis in basis.axes]
        made = (
            {"id": basis.id, "model": basis.model, "axes": names, "questions": 0, "steering": asdict(basis.steering)}
            if self.made is None
            else self.made.row()
        )
        return (
            made
            | {"log": asdict(self.counts)}
            | self.findings.row()
            | {"left_out": [axis.name for axis in self.findings.axes if axis not in basis.axes]}
            | {"unread": self.num_unread, "likeness": asdict(self.likeness), "obstacle": self.obstacle}
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
        model: "tiny", a path or a hub id.
        out: the basis's folder.
        rank: how many axes to learn, or "auto".
        embedder: what measures learnt axes: "hidden", the model's own states, "reward:PATH" or "encoder:NAME".
        prompts: what the model is to answer, as for ``make_basis``.
        device: "auto", or a torch device.
        budget: how much work goes into it; its seed also draws the people who judge.
        ask_log_prompts: let the log's prompts become questions. Everybody who is asked reads them, they are shipped
            with the basis, and ``forget`` doesn't reach them.

    Raises:
        InputError: no prompts, or some that can't be used, naming file and line; too few people; or a folder that
            holds something else.
        ModelError: a model or an embedder that can't be used.
    """
    if (prompts is None) != ask_log_prompts:
        raise InputError(
            f"found {'no prompts' if prompts is None else 'two sources of prompts'} to ask about; expected --prompts "
            "FILE, or --ask-log-prompts, which shows what the log's people wrote to everybody who is asked"
        )
    budget = budget or Budget()
    lines = None if prompts is None else read_prompts(prompts)
    with made_in(out) as work:
        models = open_models(model, out, device)
        causal, num_unread, num_repeated = models.base, 0, 0
        if lines is None:
            asked, num_unread = take_prompts(log.prompt, causal, budget.max_tokens, log.name)
        else:
            asked, num_repeated = check_prompts(lines, causal, budget.max_tokens)
        split = split_prompts(asked, budget.seed)
        likeness = compare(log, models, split, budget.max_tokens, budget.seed, work / "look")
        say(likeness.describe())
        measure = load_embedder(embedder, causal, is_trusted=True)
        embed = KeptEmbedder(measure, work / "embeddings", f"{causal.fingerprints.model} {embedder}")
        findings = fit_basis(log, embed, rank, budget.seed, work / "people")
        draft = findings.draft(causal.name, causal.fingerprints, embedder)
        making = Making(models, split, budget.plans(len(split.train)), work, draft, embed)
        origin = _origin(log, model, out, rank, embedder, prompts, len(asked))
        section = about_people(findings, log.counts, likeness, ask_log_prompts=ask_log_prompts)
        made, obstacle = None, likeness.obstacle()
        if obstacle is None:
            try:
                basis, report = write_basis(out, making, origin, section)
                made = Made(basis, report, split, num_repeated)
            except NothingToSteerError as error:
                obstacle = str(error)
        if obstacle is not None:
            say(f"{obstacle}: replies can't be steered; {ADVICE}")
            basis = _without_steering(draft, models, origin)
            write_people_card(out, basis, origin, section, obstacle)
            basis.save(out)
        fitted = MadeFromLog(basis, made, obstacle, findings, log.counts, likeness, num_unread)
        (out / REPORT).write_text(json.dumps(fitted.row(), indent=2) + "\n", encoding="utf-8")
    return fitted


def _without_steering(draft: Basis, models: Models, origin: Origin) -> Basis:
    """What a log says of people, on the log's own scale, with a head that predicts nothing and no questions."""
    head = SuccessorHead(models.base.hidden_size, draft.num_axes, 1, 1)
    nothing = {name: array * 0 for name, array in head.to_arrays().items()}
    return replace(draft, model=origin.model, head=nothing, steering=Steering(0.0, 3.0, 20))


def backbone_from_log(
    log: AnswerLog, model: str, out: Path, basis: Path | None = None, device: str = "auto", seed: int = 0
) -> MadeBackbone:
    """Train a reward model on people's answers: one reward for each axis of a basis, or everyone's without one.

    Raises:
        InputError: as ``make_backbone``.
        BasisError: the basis can't be read, or its learnt axes are measured by another model.
    """
    if basis is None:
        return make_backbone(model, log, out, device, seed=seed)
    axes = Basis.load(basis)
    embed = None
    if axes.learnt is not None:
        causal = load_causal(locate(model, basis).model, device)
        if axes.learnt.embedder == HIDDEN:
            axes.check_model(causal.fingerprints)
        embed = load_embedder(axes.learnt.embedder, causal)
    return make_backbone(model, log, out, device, axes, embed, seed=seed)


def about_people(findings: Findings, counts: LogCounts, likeness: Likeness, *, ask_log_prompts: bool) -> str:
    """The section of the card."""
    judgement, noise = findings.judgement, findings.noise
    gate = judgement.gate
    after = [
        {
            "answers known": step.answers,
            "people": step.people,
            "answers predicted": step.predicted,
            "accuracy": step.accuracy,
            "population's": step.population_accuracy,
            "log-loss": step.log_loss,
            "population's log-loss": step.population_log_loss,
        }
        for step in judgement.after
    ]
    chosen = "chosen by what they tell" if judgement.active else "drawn at random"
    significant = "more" if judgement.active else "no more"
    numbers = {name.replace("_", " "): number for name, number in asdict(counts).items() if isinstance(number, int)}
    return f"""## People

{findings.people} people gave {findings.answers:,} informative answers about {findings.replies:,} different replies.
{findings.held_out} of them had no part in finding axes, prior and noise. Their answers are predicted from so many
others of theirs, none of which shares a text with it, and by the population's mean:

{table(after)}

The calibration error over all of these is {judgement.calibration_error:.3f}, in ten bins. Profiles go
κ = {gate.kappa:g} of the way from the population's mean to what a person's answers say, which describes a share of
{gate.share:.2f} of the people. Questions are {chosen}, because after ten answers profiles are {significant} accurate
than the population's mean by more than chance (95 %, one-sided).

How people answer, estimated with the prior by marginal likelihood: a tie's width δ = {noise.tie:.3f}, lapses
ε = {noise.lapse:.3f}, and a side bias of standard deviation σ_b = {noise.side:.3f}; δ and σ_b are utilities. A log
without ties has δ = 0: none was offered, and lapses are spread over two answers.

All of this is in `{REPORT}`, too. In the log: {", ".join(f"{name} {number:,}" for name, number in numbers.items())}.
{_left_out(counts)}At the start, {likeness.describe()}.
{LOG_PROMPTS if ask_log_prompts else ""}
"""


LOG_PROMPTS = """
**The questions are about prompts that the log's people wrote**, word for word: everybody who is asked reads them, they
are passed on with this folder, and `forget` doesn't reach them.
"""


def _left_out(counts: LogCounts) -> str:
    return f"Left out because they can't be used: {counts.describe_bad()}.\n" if counts.bad else ""


def _origin(
    log: AnswerLog, model: str, out: Path, rank: int | str, embedder: str, prompts: Path | None, num_prompts: int
) -> Origin:
    name, title = public_name(model), out.resolve().name
    options = " --ask-log-prompts" if prompts is None else f" --prompts {prompts.name}"
    kind, colon, path = embedder.partition(":")
    embedder = kind + colon + (public_name(path) if path else "")
    return Origin(
        title=title,
        model=name,
        command=f"personalign basis fit {log.name} --model {name} --rank {rank} --embedder {embedder}{options}",
        prompts=f"{num_prompts:,} prompts of `{log.name if prompts is None else prompts.name}`",
        opened=f'model="{name}", basis="{title}"',
        licence=LICENCE,
    )
