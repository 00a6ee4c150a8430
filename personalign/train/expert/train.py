"""Tune an expert on a file of dialogues or texts: what ``personalign expert train`` does.

``tune.py`` does the work, for the bundled expert too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from personalign.bundled import TINY, model_place
from personalign.decode.load import CausalModel, load_causal
from personalign.decode.models import check_vocabulary
from personalign.errors import InputError, ModelError
from personalign.train.card import public_name, table
from personalign.train.expert.texts import Ids, Texts, read_texts, rows_at
from personalign.train.expert.tune import MAX_TOKENS, Stack, bits_of, save_expert, train_expert
from personalign.train.loop import Recipe, lora_rate
from personalign.train.work import identity, keep, made_in, track

ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
TOKENS_PER_STEP, ROW_LENGTH = 4096, 256
PASSES, MIN_STEPS, MAX_STEPS = 3, 60, 2000  # over the texts; the best checkpoint on dev is kept
RANK = 16


@dataclass(frozen=True)
class Tuned:
    """An expert, and bits per character of the held-out texts, and of dev for each α."""

    folder: Path
    alpha: float
    recipe: Recipe
    num_repeated: int
    num_texts: Mapping[str, int]
    bits: Mapping[str, float]  # small, expert, stack; big where one was given
    sweep: Mapping[float, float]  # dev, with 0 for the base alone

    @property
    def helps(self) -> bool:
        """Whether the stack reads the held-out texts better than its base alone."""
        return self.bits["stack"] < self.bits.get("big", self.bits["small"])

    def row(self) -> dict[str, Any]:
        """What was made, as JSON values."""
        return {
            "expert": str(self.folder),
            "name": self.folder.name,
            "alpha": self.alpha,
            "texts": dict(self.num_texts) | {"repeated": self.num_repeated},
            "steps": self.recipe.num_steps,
            "learning_rate": self.recipe.learning_rate,
            "bits": {name: round(bits, 4) for name, bits in self.bits.items()},
            "sweep": {f"{alpha:g}": round(bits, 4) for alpha, bits in self.sweep.items()},
            "helps": self.helps,
        }


def tune_expert(
    small: str,
    data: Path,
    name: str,
    out: Path = Path(),
    big: str | None = None,
    device: str = "auto",
    num_steps: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
) -> Tuned:
    """Tune a LoRA on a small model and choose its α; a killed run goes on when called again.

    The LoRA learns what ``big`` lacks, the model that it will be stacked on. By default it sees the texts three times,
    in 60 to 2,000 steps of 4,096 tokens.

    Raises:
        InputError: data that can't be used, naming file and line; a bad name; or a folder that holds something else.
        ModelError: a model that can't be used, or two that don't go together.
    """
    if not re.fullmatch(r"\w[\w-]*", name) or name.startswith("__"):
        raise InputError(f"{name!r} can't be an expert's name; expected letters, digits, - and _")
    with made_in(out / name) as work:
        anti = load_causal(TINY / "small" if small == "tiny" else model_place(small), device)
        base = None if big is None else load_causal(model_place(big), device)
        if base is not None:
            _check_pair(base, anti)
        texts = read_texts(data, anti, seed)
        recipe = _recipe(anti, texts, num_steps, learning_rate, seed)
        tuned = _tune(anti, base, texts, recipe, work, out / name)
        _write_card(tuned, data.name, public_name(small), None if big is None else public_name(big))
    return tuned


def _check_pair(big: CausalModel, small: CausalModel) -> None:
    check_vocabulary(big, small)
    if big.tokenizer.chat_template != small.tokenizer.chat_template:
        raise ModelError(
            f"{big.name} and {small.name} have different chat templates, and would not read the same tokens in "
            "training; expected one template; leave --big out: replies give each model a prompt of its own"
        )


def _recipe(small: CausalModel, texts: Texts, num_steps: int | None, learning_rate: float | None, seed: int) -> Recipe:
    num_tokens = sum(map(len, texts.train))
    steps = num_steps or min(max(PASSES * num_tokens // TOKENS_PER_STEP, MIN_STEPS), MAX_STEPS)
    rate = learning_rate or lora_rate(small.model)
    return Recipe(steps, rate, "adamw", warmup_steps=max(steps // 20, 1), seed=seed)


def _tune(small: CausalModel, big: CausalModel | None, texts: Texts, recipe: Recipe, work: Path, folder: Path) -> Tuned:
    length = min(ROW_LENGTH, small.context or ROW_LENGTH, (big and big.context) or ROW_LENGTH)
    longest = min(MAX_TOKENS, small.context or MAX_TOKENS, (big and big.context) or MAX_TOKENS)
    models = [asdict(small.fingerprints), None if big is None else asdict(big.fingerprints)]
    work = work / identity(models, asdict(recipe), texts.train, texts.dev, texts.held_out)

    def bits(model: nn.Module, part: Sequence[Ids]) -> float:
        return bits_of(model, small.tokenizer, [ids[:longest] for ids in part], small.device)

    untuned = deepcopy(small.model)
    expert = train_expert(
        None if big is None else big.model,
        small.model,
        rows_at(texts.train, TOKENS_PER_STEP // length, length, recipe.seed, small.device),
        recipe,
        RANK,
        None,
        lambda model: bits(model, texts.dev),
        work,
        folder.name,
    )
    base = untuned if big is None else big.model
    stacks = {alpha: base if not alpha else Stack(base, expert, untuned, alpha) for alpha in (0.0, *ALPHAS)}

    def bits_once(name: str, model: nn.Module, part: Sequence[Ids]) -> float:
        figure = keep(work / f"bits-{name}.safetensors", lambda: {"bits": np.asarray(bits(model, part))})
        return float(figure["bits"])

    sweep = {alpha: bits_once(f"dev-{alpha:g}", stacks[alpha], texts.dev) for alpha in track([*stacks], "choosing α")}
    best = min(ALPHAS, key=lambda alpha: sweep[alpha])
    measured = {"small": untuned, "expert": expert} | ({} if big is None else {"big": base})
    measured["stack"] = stacks[best]
    figures = {name: bits_once(name, measured[name], texts.held_out) for name in track([*measured], "held-out texts")}
    folder.mkdir(parents=True, exist_ok=True)
    save_expert(expert, folder, best)
    num_texts = {"train": len(texts.train), "dev": len(texts.dev), "held_out": len(texts.held_out)}
    return Tuned(folder, best, recipe, texts.num_repeated, num_texts, figures, sweep)


def _write_card(tuned: Tuned, data: str, small: str, big: str | None) -> None:
    """Write how it was made, and the figures before and after, which are in ``figures.json``, too."""
    base, num, recipe, name = big or small, tuned.num_texts, tuned.recipe, tuned.folder.name
    command = f"personalign expert train --base {small} --data {data} --name {name}" + (f" --big {big}" if big else "")
    labels = {
        "small": f"`{small}`",
        "expert": "the expert by itself",
        "big": f"`{big}`",
        "stack": f"`{base}` + {tuned.alpha:g} (expert − small)",
    }
    rows = [{"held-out texts": labels[part], "bits per character": bits} for part, bits in tuned.bits.items()]
    sweep = [{"α": f"{alpha:g}", "bits per character, dev": bits} for alpha, bits in tuned.sweep.items()]
    loss = (
        f"that of the whole stack on `{big}` at α = 1, so that\nit learnt what that one lacks."
        if big
        else "the expert's own."
    )
    verdict = "" if tuned.helps else "\n**It doesn't help**: the held-out texts are read no better with it.\n"
    (tuned.folder / "README.md").write_text(
        f"""# {name}

A LoRA of rank {RANK} on `{small}`, tuned on {num["train"]:,} texts of `{data}`. Stacked by proxy-tuning:
logits = base + α (expert − small); its own α, {tuned.alpha:g}, stands in `expert.json`: the best over `{base}` on dev.
{verdict}
Made by `{command}`: {recipe.num_steps:,} steps of {TOKENS_PER_STEP:,} tokens, learning rate {recipe.learning_rate:.2g},
seed {recipe.seed}; the checkpoint that was best on dev. The loss was {loss}

{table(rows)}

Of {num["held_out"]:,} texts that nothing was trained on or chosen by: negative log-likelihood of all tokens but the
first, over the first {MAX_TOKENS} tokens of a text, per character without special tokens.

{table(sweep)}

Of {num["dev"]:,} dev texts; α = 0 is the base alone.

## Licence

It was made from `{data}` and fits `{small}` alone: mind the terms of both when you pass it on.
""",
        encoding="utf-8",
    )
    (tuned.folder / "figures.json").write_text(json.dumps(tuned.row(), indent=2) + "\n", encoding="utf-8")
