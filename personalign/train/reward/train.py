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
from numpy.typing import NDArray
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
from personalign.train.work import Arrays, identity, keep


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


@dataclass(frozen=True)
class Dev:
    """The pairs to measure on by their numbers, none of which is trained on, and what of theirs training never sees."""

    rows: tuple[int, ...]
    unseen: str = "prompts"


@dataclass(frozen=True, eq=False)
class RewardReport:
    """How well the dev pairs are predicted before and after training, and what of theirs training never saw."""

    num_train: int
    num_dev: int
    before: Measured
    after: Measured
    unseen: str = "prompts"


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
    dev: Dev | None = None,
    work: Path | None = None,
) -> TrainedReward:
    """Train a LoRA on a copy of ``base``, and a head of one reward an axis.

    It is measured on ``dev``, by default on the pairs of ``recipe.dev_share`` of the prompts. A killed training goes on
    from the folder ``work``; None keeps nothing.

    Raises:
        InputError: a target isn't a probability for each axis, nothing is known of an axis, there are too few
            prompts, no pair is left to train or to measure on, or the training diverged.
        MessageError: a reply is blank, too long, or the same as the other.
        ModelError: ``base`` has no decoder that can be copied.
    """
    target = _targets(pairs, axes).to(base.device)
    comparisons = [_numbered(base, pair, number) for number, pair in enumerate(pairs)]
    train, rows, unseen = _parts(pairs, recipe, dev)
    _check_known(target[train], axes)
    torch.manual_seed(recipe.seed)
    lora, config = _fresh_lora(base, recipe.rank)
    head = nn.Linear(base.hidden_size, len(axes), device=base.device)
    tokens = [[c.first, c.second, c.places] for c in comparisons]
    origin = (asdict(base.fingerprints), asdict(recipe), tokens, target.cpu().numpy(), rows)
    folder = work and work / identity(*origin)
    before = _measured(folder and folder / "before.safetensors", lora, head, comparisons, target, rows)
    _fit(lora, head, comparisons, target, train, recipe, folder and folder / "checkpoint.safetensors")
    adapter = get_peft_model_state_dict(lora)
    _check_finite([*adapter.values(), *head.parameters()])
    head.eval().requires_grad_(requires_grad=False)
    model = RewardModel(merged(lora), head, base.tokenizer, f"a reward model on {base.name}", tuple(axes))
    after = _measured(folder and folder / "after.safetensors", model.backbone, head, comparisons, target, rows)
    report = RewardReport(len(train), len(rows), before, after, unseen)
    return TrainedReward(model, base, config, adapter, recipe, report)


def measure_reward(model: RewardModel, base: CausalModel, pairs: Sequence[Pair]) -> Measured:
    """Measure a reward model trained on ``base`` on other pairs; raises as ``train_reward`` does."""
    if not pairs:
        raise InputError("found no pairs to measure on; expected one at least")
    target = _targets(pairs, model.axes).to(model.device)
    comparisons = [_numbered(base, pair, number) for number, pair in enumerate(pairs)]
    return measure(model.backbone, model.head, comparisons, target, np.arange(len(pairs)))


def _parts(
    pairs: Sequence[Pair], recipe: RewardRecipe, dev: Dev | None
) -> tuple[Int[NDArray[np.int64], "train"], Int[NDArray[np.int64], "dev"], str]:
    if dev is None:
        return *split(pairs, recipe.dev_share, recipe.seed), "prompts"
    rows = np.array(sorted(set(dev.rows)), dtype=np.int64)
    train = np.setdiff1d(np.arange(len(pairs)), rows)
    if not len(rows) or not len(train):
        raise InputError(f"found {len(train)} pairs to train on and {len(rows)} to measure on; expected some of both")
    return train, rows, dev.unseen


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
    """Put a LoRA on all matrices of a copy of the base's decoder.

    Dropout stays off: the two replies of a pair are to be judged by one network.
    """
    decoder = deepcopy(inner_decoder(base.model, base.name))
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="FEATURE_EXTRACTION")
    return with_lora(decoder, config).eval(), config


def _fit(
    lora: PeftModel,
    head: nn.Linear,
    comparisons: Sequence[Comparison],
    target: Float[Tensor, "N d"],
    train: Int[NDArray[np.int64], "train"],
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


def _measured(
    path: Path | None,
    decoder: nn.Module,
    head: nn.Linear,
    comparisons: Sequence[Comparison],
    target: Float[Tensor, "N d"],
    rows: Int[NDArray[np.int64], "m"],
) -> Measured:
    """Measure, or read what a killed run measured."""

    def figures() -> Arrays:
        return vars(measure(decoder, head, comparisons, target, rows))

    return Measured(**(figures() if path is None else keep(path, figures)))


def _check_finite(tensors: Sequence[Tensor]) -> None:
    if not all(value.isfinite().all() for value in tensors):
        raise InputError("the training diverged: a weight isn't finite; lower the recipe's learning_rate")


def save_reward(
    trained: TrainedReward, folder: Path, data: str, licence: str, note: str = "", basis: Basis | None = None
) -> None:
    """Write the folder that ``load_reward`` reads: adapter, head, manifest and a card.

    The card says what the pairs are (``data``), the terms of use (``licence``) and what else the figures mean.
    """
    folder.mkdir(parents=True, exist_ok=True)
    base, is_local = public_name(trained.base.name), Path(trained.base.name).exists()
    _lora_as_saved(trained.lora, base).save_pretrained(str(folder))
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


def _lora_as_saved(lora: LoraConfig, base: str) -> LoraConfig:
    saved = deepcopy(lora)
    saved.base_model_name_or_path, saved.inference_mode = base, True
    saved.target_modules = sorted(lora.target_modules or ())  # peft keeps a set, whose order changes with every run
    return saved


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _card(trained: TrainedReward, name: str, base: str, data: str, licence: str, note: str) -> str:
    report, recipe, axes = trained.report, trained.recipe, trained.model.axes
    stages = {"before": report.before, "after": report.after}
    rows = [
        {"axis": axis}
        | {f"replies, {when}": stage.replies[j].item() for when, stage in stages.items()}
        | {f"prefixes, {when}": stage.prefixes[j].item() for when, stage in stages.items()}
        | {f"log-loss, {when}": stage.log_loss[j].item() for when, stage in stages.items()}
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
