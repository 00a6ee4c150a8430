"""Make a basis for a model from a log of many people's answers: what ``personalign basis fit`` does.

``people.py`` finds what people differ in, ``build.py`` makes the rest, as it does without people.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from personalign.basis import Basis
from personalign.bundled import locate
from personalign.decode.embed import HIDDEN, load_embedder
from personalign.decode.load import load_causal
from personalign.train.basis.bootstrap import LICENCE, Made, open_models, write_basis
from personalign.train.basis.build import Budget, Making
from personalign.train.basis.card import Origin, table
from personalign.train.basis.embedded import KeptEmbedder
from personalign.train.basis.people import Found, fit_basis
from personalign.train.files import made_in, public_name
from personalign.train.log import LogCounts, read_log
from personalign.train.prompts import read_prompts, split_prompts, take_prompts
from personalign.train.reward.from_log import MadeBackbone, make_backbone

REPORT = "report.json"


@dataclass(frozen=True, eq=False)
class MadeFromLog:
    """A basis, and what the log told of people."""

    made: Made
    found: Found
    counts: LogCounts
    num_unread: int  # prompts of the log that are too much for the model, and weren't rolled out

    def row(self) -> dict[str, Any]:
        """What was made, as JSON values; the axes left out are those on which the model's own replies don't differ."""
        left_out = [axis.name for axis in self.found.axes if axis not in self.made.basis.axes]
        rest = {"left_out": left_out, "unread": self.num_unread}
        return self.made.row() | {"log": asdict(self.counts)} | report_of(self.found) | rest


def fit_from_log(
    log: Path,
    model: str,
    out: Path,
    rank: int | str = "auto",
    embedder: str = HIDDEN,
    prompts: Path | None = None,
    device: str = "auto",
    budget: Budget | None = None,
) -> MadeFromLog:
    """Make a basis from people's answers; a killed run goes on when called again.

    Args:
        log: JSONL, CSV or Parquet with the columns user, prompt, a, b and choice.
        model: "tiny", a path or a hub id.
        out: the basis's folder.
        rank: how many axes to learn, or "auto".
        embedder: what measures learnt axes: "hidden", the model's own states, "reward:PATH" or "encoder:NAME".
        prompts: what the model is to answer, as for ``make_basis``; None means the log's prompts.
        device: "auto", or a torch device.
        budget: how much work goes into it; its seed also draws the people who judge.

    Raises:
        InputError: a log or prompts that can't be used, naming file and line, too few people, or a folder that holds
            something else.
        ModelError: a model or an embedder that can't be used.
    """
    budget = budget or Budget()
    with made_in(out) as work:
        answers = read_log(log)
        models = open_models(model, out, device)
        causal, num_unread = models.base, 0
        if prompts is None:
            asked, num_unread = take_prompts(answers.prompt, causal, budget.max_tokens, str(log))
            num_repeated = len(answers.prompt) - len(set(map(json.dumps, answers.prompt)))
        else:
            asked, num_repeated = read_prompts(prompts, causal, budget.max_tokens)
        split = split_prompts(asked, budget.seed)
        measure = load_embedder(embedder, causal, is_trusted=True)
        embed = KeptEmbedder(measure, work / "embeddings", f"{causal.fingerprints.model} {embedder}")
        found = fit_basis(answers, embed, rank, budget.seed)
        draft = found.draft(causal.name, causal.fingerprints, embedder)
        making = Making(models, split, budget.plans(len(split.train)), work, draft, embed)
        origin = _origin(log, model, out, rank, embedder, prompts, len(asked))
        basis, report = write_basis(out, making, origin, about_people(found, answers.counts))
        made = MadeFromLog(Made(basis, report, split, num_repeated), found, answers.counts, num_unread)
        (out / REPORT).write_text(json.dumps(made.row(), indent=2) + "\n", encoding="utf-8")
    return made


def backbone_from_log(
    log: Path, model: str, out: Path, basis: Path | None = None, device: str = "auto", seed: int = 0
) -> MadeBackbone:
    """Train a reward model on people's answers: one reward for each axis of a basis, or everyone's without one.

    Raises:
        InputError: as ``make_backbone``, and ``read_log``.
        BasisError: the basis can't be read, or its learnt axes are measured by another model.
    """
    answers = read_log(log)
    if basis is None:
        return make_backbone(model, answers, out, device, seed=seed, source=log.name)
    axes = Basis.load(basis)
    embed = None
    if axes.learnt is not None:
        causal = load_causal(locate(model, basis).model, device)
        if axes.learnt.embedder == HIDDEN:
            axes.check_model(causal.fingerprints)
        embed = load_embedder(axes.learnt.embedder, causal)
    return make_backbone(model, answers, out, device, axes, embed, seed=seed, source=log.name)


def report_of(found: Found) -> dict[str, Any]:
    """What was found in a log, and what it is worth to people who had no part in that, as JSON values."""
    judgement = found.judgement
    return {
        "people": found.people,
        "held_out": found.held_out,
        "answers": found.answers,
        "compared": found.replies,
        "learnt": found.num_learnt,
        "noise": asdict(found.noise),
        "kappa": judgement.gate.kappa,
        "share": judgement.gate.share,
        "active": judgement.active,
        "accuracy": judgement.accuracy,
        "calibration_error": judgement.calibration_error,
        "after": [asdict(after) for after in judgement.after],
    }


def about_people(found: Found, counts: LogCounts) -> str:
    """The section of the card."""
    judgement, noise = found.judgement, found.noise
    gate = judgement.gate
    after = [
        {
            "answers known": told.answers,
            "people": told.people,
            "answers predicted": told.predicted,
            "accuracy": told.accuracy,
            "population's": told.population_accuracy,
            "log-loss": told.log_loss,
            "population's log-loss": told.population_log_loss,
        }
        for told in judgement.after
    ]
    chosen = "chosen by what they tell" if judgement.active else "drawn at random"
    significant = "more" if judgement.active else "no more"
    return f"""## People

{found.people} people gave {found.answers:,} informative answers about {found.replies:,} different replies.
{found.held_out} of them had no part in finding axes, prior and noise. Their answers are predicted from so many others
of theirs, none of which shares a text with it, and by the population's mean:

{table(after)}

The calibration error over all of these is {judgement.calibration_error:.3f}, in ten bins. Profiles go
κ = {gate.kappa:g} of the way from the population's mean to what a person's answers say, which describes a share of
{gate.share:.2f} of the people. Questions are {chosen}, because after ten answers profiles are {significant} accurate
than the population's mean by more than chance (95 %, one-sided).

How people answer, estimated with the prior by marginal likelihood: a tie's width δ = {noise.tie:.3f}, lapses
ε = {noise.lapse:.3f}, and a side bias of standard deviation σ_b = {noise.side:.3f}; δ and σ_b are utilities. A log
without ties has δ = 0: none was offered, and lapses are spread over two answers.

All of this is in `{REPORT}`, too. In the log:
{", ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in asdict(counts).items())}.

"""


def _origin(
    log: Path, model: str, out: Path, rank: int | str, embedder: str, prompts: Path | None, num_prompts: int
) -> Origin:
    name, title = public_name(model), out.resolve().name
    options = "" if prompts is None else f" --prompts {prompts.name}"
    kind, colon, path = embedder.partition(":")
    embedder = kind + colon + (public_name(path) if path else "")
    return Origin(
        title=title,
        model=name,
        command=f"personalign basis fit {log.name} --model {name} --rank {rank} --embedder {embedder}{options}",
        prompts=f"{num_prompts:,} prompts of `{(prompts or log).name}`",
        opened=f'model="{name}", basis="{title}"',
        licence=LICENCE,
    )
