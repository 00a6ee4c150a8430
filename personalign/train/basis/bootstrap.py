"""Make a basis for any causal language model from a file of prompts: what ``personalign basis bootstrap`` does.

``bootstrap.py`` does the work, for the bundled model too.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from personalign.basis import Basis
from personalign.bundled import locate
from personalign.decode import Models, load_causal
from personalign.train.basis.build import UNCALIBRATED, Plans, Report, bootstrap, default_plans
from personalign.train.basis.card import Origin, mean_r2, write_basis_card
from personalign.train.basis.embedded import KeptEmbedder
from personalign.train.files import made_in, public_name
from personalign.train.prompts import Prompts, read_prompts, split_prompts

LICENCE = """\
## Licence

The questions are the model's replies to the prompts: whoever passes this folder on has to mind the terms of both.
"""


@dataclass(frozen=True, eq=False)
class Made:
    """A basis, and what was found on the way."""

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


def make_basis(
    model: str,
    prompts: Path,
    out: Path,
    device: str = "auto",
    replies: int = 11_000,
    max_tokens: int = 64,
    seed: int = 0,
) -> Made:
    """Make the basis of a model from what it answers to the prompts of a file; a killed run goes on when called again.

    Args:
        model: "tiny", a path or a hub id.
        prompts: a JSONL file, or a text file with a prompt a line; some hundreds are best.
        out: the basis's folder.
        device: "auto", or a torch device.
        replies: to learn from, 4 to 64 for each prompt.
        max_tokens: of a reply; those cut off are no questions.
        seed: of the split and the replies.

    Raises:
        InputError: prompts that can't be used, naming file and line, or a folder that holds something else.
        ModelError: a model that can't be used.
    """
    with made_in(out) as work:
        source = locate(model, basis=out)
        models = Models(load_causal(source.model, device), head=None, steering=UNCALIBRATED, experts={})
        found, num_repeated = read_prompts(prompts, models.base, max_tokens)
        split = split_prompts(found, seed)
        name = public_name(model)
        origin = Origin(
            title=out.resolve().name,
            model=name,
            command=f"personalign basis bootstrap --model {name} --prompts {prompts.name}",
            prompts=f"{len(found):,} prompts of `{prompts.name}`",
            opened=f'model="{name}", basis="{out.resolve().name}"',
            licence=LICENCE,
        )
        plans = default_plans(len(split.train), replies, max_tokens, seed)
        basis, report = write_basis(out, models, split, plans, origin, work)
    return Made(basis, report, split, num_repeated)


def write_basis(
    folder: Path,
    models: Models,
    prompts: Prompts,
    plans: Plans,
    origin: Origin,
    work: Path,
    draft: Basis | None = None,
    embed: KeptEmbedder | None = None,
    about_people: str | None = None,
) -> tuple[Basis, Report]:
    """Bootstrap a basis and write its folder, the card included.

    ``draft``, what embeds for it and the card's section about people are what a log has told; None without human data.
    """
    basis, report = bootstrap(models, prompts, plans, work, draft, embed)
    basis = replace(basis, model=origin.model)  # not the path it was loaded from
    folder.mkdir(parents=True, exist_ok=True)
    write_basis_card(folder, basis, report, origin, plans, about_people)
    basis.save(folder)  # last, so that a run that was killed isn't passed over
    return basis, report


def _known(number: float) -> float | None:
    return None if math.isnan(number) else round(number, 4)
