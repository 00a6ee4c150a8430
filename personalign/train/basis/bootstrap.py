"""Make a basis for any causal language model from a file of prompts: what ``personalign basis bootstrap`` does.

``build.py`` does the work, for the bundled model too.
"""

from __future__ import annotations

from pathlib import Path

from personalign.train.basis.build import Made, Making, open_models, write_basis
from personalign.train.card import local_origin, public_name
from personalign.train.plans import Budget
from personalign.train.prompts import check_prompts, read_prompts, split_prompts
from personalign.train.work import made_in


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
        usable, num_repeated = check_prompts(lines, models.base, budget.max_tokens)
        split = split_prompts(usable, budget.seed)
        name = public_name(model)
        command = f"personalign basis bootstrap --model {name} --prompts {prompts.name}"
        origin = local_origin(out, name, command, f"{len(usable):,} prompts of `{prompts.name}`")
        making = Making(models, split, budget.plans(len(split.train), model), work)
        basis, report = write_basis(out, making, origin)
    return Made(basis, report, split, num_repeated)
