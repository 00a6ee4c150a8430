"""Make a basis for any causal language model from a file of prompts: what ``personalign basis bootstrap`` does.

``build.py`` does the work, for the bundled model too.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from personalign.basis import Basis
from personalign.bundled import locate
from personalign.decode.load import load_causal
from personalign.decode.models import Models
from personalign.train.basis.build import UNCALIBRATED, Budget, Making, Report
from personalign.train.basis.card import Origin, mean_r2, write_basis_card
from personalign.train.files import made_in, public_name
from personalign.train.prompts import Prompts, check_prompts, read_prompts, split_prompts

LICENCE = """\
## Licence

The questions are the model's replies to the prompts: the terms of both apply to everyone who passes this folder on.
"""


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
            "r2": _known(mean_r2(report.r2)),
            "r2_forced": _known(mean_r2(report.r2_forced)),
            "steering": asdict(basis.steering),
            "utility": round(steered.utility, 4),
            "utility_unsteered": round(plain.utility, 4),
            "kl": round(steered.kl, 4),
        }


def make_basis(model: str, prompts: Path, out: Path, device: str = "auto", budget: Budget | None = None) -> Made:
    """Make the basis of a model from what it answers to the prompts of a file; a killed run goes on when called again.

    Args:
        model: "tiny", a path or a hub id.
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
        models = open_models(model, out, device)
        usable, num_repeated = check_prompts(lines, models.base, budget.max_tokens)
        split = split_prompts(usable, budget.seed)
        name = public_name(model)
        origin = Origin(
            title=out.resolve().name,
            model=name,
            command=f"personalign basis bootstrap --model {name} --prompts {prompts.name}",
            prompts=f"{len(usable):,} prompts of `{prompts.name}`",
            opened=f'model="{name}", basis="{out.resolve().name}"',
            licence=LICENCE,
        )
        making = Making(models, split, budget.plans(len(split.train)), work)
        basis, report = write_basis(out, making, origin)
    return Made(basis, report, split, num_repeated)


def open_models(model: str, basis: Path, device: str) -> Models:
    """The model that a basis is to be made for, without a head."""
    return Models(load_causal(locate(model, basis=basis).model, device), head=None, steering=UNCALIBRATED, experts={})


def write_basis(folder: Path, making: Making, origin: Origin, about_people: str | None = None) -> tuple[Basis, Report]:
    """Make a basis and write its folder; the card has a section about people if there is one."""
    basis, report = making.basis()
    basis = replace(basis, model=origin.model)  # not the path it was loaded from
    folder.mkdir(parents=True, exist_ok=True)
    write_basis_card(folder, basis, report, origin, making.plans, about_people)
    basis.save(folder)  # last, so that a run that was killed isn't passed over
    return basis, report


def _known(number: float) -> float | None:
    return None if math.isnan(number) else round(number, 4)
