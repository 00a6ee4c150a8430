"""Train a reward model on a base model: a LoRA and a d-wide linear head, from which of two replies was preferred.

Bradley and Terry's model on every axis by itself: P(first preferred on j) = σ(r_j(x, first) − r_j(x, second)). One axis
and somebody's choices give the usual scalar reward; with ``soft_choices`` the rewards come to be the axes' features,
up to a constant of the prompt. Read ``decode/reward_model.py`` next, which loads what is saved here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from personalign.basis import Basis
from personalign.decode.load import CausalModel
from personalign.decode.lora import WEIGHTS, merged, with_lora
from personalign.decode.reward_model import HEAD, MANIFEST, RewardModel, axis_measures, inner_decoder
from personalign.errors import InputError, MessageError
from personalign.train.card import public_name, table
from personalign.train.loop import EVERY_S, Checkpoint
from personalign.train.reward.pairs import (
    Comparison,
    Measured,
    Pair,
    Units,
    comparison,
    differences,
    measure,
    pair_loss,
    split,
)
from personalign.train.work import identity, keep
from personalign.types import Ints


@dataclass(frozen=True)
class RewardRecipe:
    """What to compare, and how to train.

    ``units`` "replies" compares whole replies, as ARGS's reward models are trained: what they say of a prefix can then
    be anything (Rashid et al., arXiv 2406.07780). "prefixes" compares all prefixes of a pair that differ, position by
    position, with the whole replies' target; what is left of the longer reply is compared with all of the shorter.
    """

    units: Units = "prefixes"
    rank: int = 16  # of the LoRA, on every matrix of the decoder
    epochs: int = 3
    batch_size: int = 16
    learning_rate: float = 2e-4  # of models of billions of parameters; tiny ones learn at 2e-3 or more
    weight_decay: float = 0.01
    warmup_share: float = 0.1  # of the steps; the rate falls to nothing over the others
    dev_share: float = 0.1  # of the prompts
    seed: int = 0
    checkpoint_every_s: float = EVERY_S


@dataclass(frozen=True, eq=False)
class RewardReport:
    """How well the dev pairs are predicted before and after training, and what of theirs training never saw."""

    num_train: int
    num_dev: int
    before: Measured
    after: Measured
    unseen: str  # "prompts" or "people"
    num_new: int  # dev pairs about prompts that weren't trained on
    new: Measured | None  # on these alone, after training; None where there are none


@dataclass(frozen=True, eq=False)
class TrainedReward:
    """A reward model as ``load_reward`` would give it, and what it takes to save it."""

    model: RewardModel  # the LoRA is merged
    base: CausalModel
    lora: LoraConfig
    adapter: dict[str, Tensor]
    recipe: RewardRecipe
    report: RewardReport


def train_reward(
    base: CausalModel,
    pairs: Sequence[Pair],
    recipe: RewardRecipe,
    axes: Sequence[str] = ("reward",),
    people: Sequence[str] | None = None,
    work: Path | None = None,
) -> TrainedReward:
    """Train a LoRA on a copy of ``base``, and a head of one reward an axis.

    It is measured on the pairs of ``recipe.dev_share`` of the ``people``, one named for each pair, by default of the
    prompts. A killed training goes on from the folder ``work``; None keeps nothing.

    Raises:
        InputError: a target isn't a probability for each axis, nothing is known of an axis, there are too few
            prompts or people, or the training diverged.
        MessageError: a reply is blank, too long, or the same as the other.
        ModelError: ``base`` has no decoder that can be copied.
    """
    target = _targets(pairs, axes).to(base.device)
    comparisons = [_numbered(base, pair, number) for number, pair in enumerate(pairs)]
    unseen, prompts = "prompts" if people is None else "people", [json.dumps(pair.prompt) for pair in pairs]
    train, rows = split(prompts if people is None else people, recipe.dev_share, recipe.seed, unseen)
    _check_known(target[train], axes)
    torch.manual_seed(recipe.seed)
    lora, config = _fresh_lora(base, recipe.rank)
    head = nn.Linear(base.hidden_size, len(axes), device=base.device)
    tokens = [[c.first, c.second, c.places] for c in comparisons]
    origin = (asdict(base.fingerprints), asdict(recipe), tokens, target.cpu().numpy(), rows)
    folder = work and work / identity(*origin)

    def measured(name: str, decoder: nn.Module, rows: Ints) -> Measured:
        path = folder and folder / f"{name}.safetensors"
        return Measured(**keep(path, lambda: vars(measure(decoder, head, comparisons, target, rows))))

    before = measured("before", lora, rows)
    _fit(lora, head, comparisons, target, train, recipe, folder and folder / "checkpoint.safetensors")
    adapter = get_peft_model_state_dict(lora)
    if not all(value.isfinite().all() for value in (*adapter.values(), *head.parameters())):
        raise InputError("the training diverged: a weight isn't finite; lower the recipe's learning_rate")
    head.eval().requires_grad_(requires_grad=False)
    model = RewardModel(merged(lora), head, base.tokenizer, f"a reward model on {base.name}", tuple(axes))
    after = measured("after", model.backbone, rows)
    seen = {prompts[i] for i in train}
    new = np.array([i for i in rows if prompts[i] not in seen], dtype=np.int64)
    of_new = after if len(new) == len(rows) else measured("new", model.backbone, new) if len(new) else None
    report = RewardReport(len(train), len(rows), before, after, unseen, len(new), of_new)
    return TrainedReward(model, base, config, adapter, recipe, report)


def _targets(pairs: Sequence[Pair], axes: Sequence[str]) -> Float[Tensor, "N d"]:
    for number, pair in enumerate(pairs):
        if len(pair.target) != len(axes) or any(t < 0 or t > 1 for t in pair.target):
            raise InputError(
                f"pair {number} has the target {pair.target}; expected P(first preferred) from 0 to 1, or NaN, for "
                f"each of the axes {', '.join(axes)}"
            )
    return torch.tensor([pair.target for pair in pairs], dtype=torch.float32).reshape(-1, len(axes))


def _numbered(base: CausalModel, pair: Pair, number: int) -> Comparison:
    try:
        return comparison(base, pair)
    except MessageError as error:
        raise MessageError(f"pair {number} can't be compared: {error}") from error


def _check_known(target: Float[Tensor, "N d"], axes: Sequence[str]) -> None:
    for axis, known in zip(axes, target.isfinite().any(0).tolist(), strict=True):
        if not known:
            raise InputError(f"no pair to train on says anything about {axis!r}; leave the axis out or add pairs")


def _fresh_lora(base: CausalModel, rank: int) -> tuple[PeftModel, LoraConfig]:
    """Put a LoRA on all matrices of a copy of the base's decoder; no dropout, as one network judges both replies."""
    decoder = deepcopy(inner_decoder(base.model, base.name))
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="FEATURE_EXTRACTION")
    return with_lora(decoder, config).eval(), config


def _fit(
    lora: PeftModel,
    head: nn.Linear,
    comparisons: Sequence[Comparison],
    target: Float[Tensor, "N d"],
    train: Int[Ints, "train"],
    recipe: RewardRecipe,
    checkpoint: Path | None,
) -> None:
    rng = np.random.default_rng(recipe.seed)
    num_batches = -(-len(train) // recipe.batch_size)
    batches = [b for _ in range(recipe.epochs) for b in np.array_split(rng.permutation(train), num_batches)]
    parameters = [p for p in (*lora.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay)
    warmup = 0.0 if recipe.warmup_share * len(batches) == 1 else recipe.warmup_share  # of one step torch divides by 0
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=len(batches), pct_start=warmup
    )
    training = Checkpoint(checkpoint, nn.ModuleList([lora, head]), [optimizer], schedule, recipe.checkpoint_every_s)
    for step in training.steps(len(batches), "reward model"):
        batch = batches[step]
        difference, pair = differences(lora, head, [comparisons[i] for i in batch], recipe.units)
        loss: Any = pair_loss(difference, target[batch], pair)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()


def save_reward(
    trained: TrainedReward, folder: Path, data: str, licence: str, note: str = "", basis: Basis | None = None
) -> None:
    """Write the folder that ``load_reward`` reads: adapter, head, manifest and a card.

    The card says what the pairs are (``data``), the terms of use (``licence``) and what else the figures mean.
    """
    folder.mkdir(parents=True, exist_ok=True)
    base, is_local = public_name(trained.base.name), Path(trained.base.name).exists()
    lora = deepcopy(trained.lora)
    lora.base_model_name_or_path, lora.inference_mode = base, True
    lora.target_modules = sorted(lora.target_modules or ())  # peft keeps a set, whose order changes with every run
    lora.save_pretrained(str(folder))
    save_file(_on_cpu(trained.adapter), folder / WEIGHTS, metadata={"format": "pt"})
    save_file(_on_cpu(trained.model.head.state_dict()), folder / HEAD)
    manifest = {
        "base": f"../{base}" if is_local else base,
        "axes": trained.model.axes,
        "trained_on": trained.recipe.units,
        "fingerprints": asdict(trained.base.fingerprints),
    }
    if basis is not None:
        measures = dict(zip((axis.name for axis in basis.axes), axis_measures(basis), strict=True))
        manifest["basis"] = {"id": basis.id, "measures": measures}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_card(trained, folder.name, base, data, licence, note), encoding="utf-8")


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _card(trained: TrainedReward, name: str, base: str, data: str, licence: str, note: str) -> str:
    report, recipe, axes = trained.report, trained.recipe, trained.model.axes
    stages = {"before": report.before, "after": report.after}
    figures = {"replies": "replies", "prefixes": "prefixes", "log-loss": "log_loss"}
    rows = [
        {"axis": axis}
        | {f"{name}, {w}": getattr(stages[w], field)[j].item() for name, field in figures.items() for w in stages}
        for j, axis in enumerate(axes)
    ]
    return f"""# {name}

A reward model for guided decoding: a LoRA of rank {recipe.rank} on `{base}` and a linear head, {len(axes)} wide,
trained by Bradley and Terry's likelihood over {recipe.units}: {recipe.epochs} epochs of {report.num_train:,} pairs,
{recipe.batch_size} a batch, learning rate {recipe.learning_rate:g}, seed {recipe.seed}.

## Data

{data}

## How many preferences it orders right

Of {report.num_dev:,} dev pairs, whose {report.unseen} it was not trained on, before training and after; log-loss in
nats, of which a coin has .693.

{table(rows)}
{note}
## Licence

{licence}
"""
