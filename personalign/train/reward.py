"""Train a reward model on a base model: a LoRA and a d-wide linear head, from which of two replies was preferred.

Bradley and Terry's model on every axis by itself: P(first preferred on j) = σ(r_j(x, first) − r_j(x, second)). One axis
and somebody's choices give the usual scalar reward; with ``soft_choices`` the rewards come to be the axes' features,
up to a constant of the prompt. Read ``decode/backbone.py`` next, which loads what is saved here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from personalign.decode.backbone import (
    ADAPTER,
    HEAD,
    MANIFEST,
    RewardModel,
    decoder_of,
    last_hidden,
    merged,
    with_lora,
)
from personalign.decode.load import CausalModel
from personalign.errors import InputError, MessageError
from personalign.train.files import public_name
from personalign.train.pairs import Comparison, Pair, comparison, split
from personalign.train.progress import track

Over = Literal["replies", "prefixes"]
EVALUATION_BATCH = 32


@dataclass(frozen=True)
class RewardRecipe:
    """What to compare, and how to train.

    ``over`` "replies" compares whole replies, as ARGS's reward models are trained: what they say of a prefix can then
    be anything (Rashid et al., arXiv 2406.07780). "prefixes" compares all prefixes of a pair that differ, position by
    position, with the whole replies' target; what is left of the longer reply is compared with all of the shorter.
    """

    over: Over = "prefixes"
    rank: int = 16  # of the LoRA, on every matrix of the decoder
    epochs: int = 3
    batch_size: int = 16
    learning_rate: float = 2e-4  # of models of billions of parameters; tiny ones learn at 2e-3 or more
    weight_decay: float = 0.01
    warmup_share: float = 0.1  # of the steps; the rate falls to nothing over the others
    dev_share: float = 0.1  # of the prompts
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Accuracy:
    """Share of preferences that the sign of the reward's difference gets right, by axis; NaN where there are none.

    A tie is half right. ``prefixes`` counts every position of a pair that ``Comparison`` names, each pair the same.
    """

    replies: Float[NDArray[np.float64], "d"]
    prefixes: Float[NDArray[np.float64], "d"]


@dataclass(frozen=True, eq=False)
class RewardReport:
    """How well the dev pairs, whose prompts were never trained on, are ordered before and after training."""

    num_train: int
    num_dev: int
    before: Accuracy
    after: Accuracy


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
    base: CausalModel, pairs: Sequence[Pair], recipe: RewardRecipe, axes: Sequence[str] = ("reward",)
) -> TrainedReward:
    """Train a LoRA on a copy of ``base``, and a head of one reward an axis.

    Args:
        base: what the LoRA is trained on; it stays as it is.
        pairs: their targets have one number an axis.
        recipe: what to compare, and how to train.
        axes: names of the rewards.

    Raises:
        InputError: a target isn't a probability for each axis, nothing is known of an axis, there are too few
            prompts, or the training diverged.
        MessageError: a reply is blank, too long, or the same as the other.
        ModelError: ``base`` has no decoder that can be copied.
    """
    target = _targets(pairs, axes).to(base.device)
    comparisons = [_numbered(base, pair, number) for number, pair in enumerate(pairs)]
    train, dev = split(pairs, recipe.dev_share, recipe.seed)
    _check_known(target[train], axes)
    torch.manual_seed(recipe.seed)
    lora, config = _fresh_lora(base, recipe.rank)
    head = nn.Linear(base.hidden_size, len(axes), device=base.device)
    before = _accuracy(lora, head, comparisons, target, dev)
    _fit(lora, head, comparisons, target, train, recipe)
    adapter = get_peft_model_state_dict(lora)
    _check_finite([*adapter.values(), *head.parameters()])
    head.eval().requires_grad_(requires_grad=False)
    model = RewardModel(merged(lora), head, base.tokenizer, f"a reward model on {base.name}", tuple(axes))
    after = _accuracy(model.backbone, head, comparisons, target, dev)
    return TrainedReward(model, base, config, adapter, recipe, RewardReport(len(train), len(dev), before, after))


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
    decoder = deepcopy(decoder_of(base.model, base.name))
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="FEATURE_EXTRACTION")
    return with_lora(decoder, config).eval(), config


def _fit(
    lora: PeftModel,
    head: nn.Linear,
    comparisons: Sequence[Comparison],
    target: Float[Tensor, "N d"],
    train: Int[NDArray[np.int64], "train"],
    recipe: RewardRecipe,
) -> None:
    rng = np.random.default_rng(recipe.seed)
    num_batches = -(-len(train) // recipe.batch_size)
    batches = [b for _ in range(recipe.epochs) for b in np.array_split(rng.permutation(train), num_batches)]
    parameters = [p for p in (*lora.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=len(batches), pct_start=recipe.warmup_share
    )
    for batch in track(batches, "reward model"):
        difference, pair = _differences(lora, head, [comparisons[i] for i in batch], recipe.over)
        loss: Any = _loss(difference, target[batch], pair)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()


def _differences(
    decoder: nn.Module, head: nn.Linear, batch: Sequence[Comparison], over: Over
) -> tuple[Float[Tensor, "M d"], Int[Tensor, "M"]]:
    """r(first) − r(second) at the M places where the batch's pairs are compared, and whose places they are."""
    ids, mask = _right_padded([c.first for c in batch] + [c.second for c in batch], head.weight.device)
    rewards = head(last_hidden(decoder, ids, mask).float())
    places = [(i, *at) for i, c in enumerate(batch) for at in (c.at if over == "prefixes" else c.at[-1:])]
    pair, at_first, at_second = torch.tensor(places, device=rewards.device).T
    return rewards[pair, at_first] - rewards[len(batch) + pair, at_second], pair


def _right_padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    tensors = [torch.tensor(row, device=device) for row in rows]
    ids = nn.utils.rnn.pad_sequence(tensors, batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in tensors], batch_first=True)
    return ids, mask


def _loss(difference: Float[Tensor, "M d"], target: Float[Tensor, "B d"], pair: Int[Tensor, "M"]) -> Float[Tensor, ""]:
    """Cross-entropy of σ(difference), averaged over each pair's places, then over what is known of the pairs."""
    wanted = target[pair]
    entropy = nn.functional.binary_cross_entropy_with_logits(difference, wanted.nan_to_num(), reduction="none")
    weight = wanted.isfinite() / pair.bincount()[pair][:, None]
    return (weight * entropy).sum() / weight.sum().clamp_min(1)


def _accuracy(
    decoder: nn.Module,
    head: nn.Linear,
    comparisons: Sequence[Comparison],
    target: Float[Tensor, "N d"],
    rows: Int[NDArray[np.int64], "dev"],
) -> Accuracy:
    @torch.no_grad()
    def share(over: Over) -> NDArray[np.float64]:
        right, known = torch.zeros_like(target[0]), torch.zeros_like(target[0])
        for batch in np.array_split(rows, -(-len(rows) // EVALUATION_BATCH)):
            difference, pair = _differences(decoder, head, [comparisons[i] for i in batch], over)
            preferred = (target[batch][pair] - 0.5).nan_to_num().sign()  # 1 the first, -1 the second, 0 neither
            weight = preferred.abs() / pair.bincount()[pair][:, None]
            right += (weight * (1 + preferred * difference.sign()) / 2).sum(0)
            known += weight.sum(0)
        return (right / known).double().cpu().numpy()

    return Accuracy(share("replies"), share("prefixes"))


def _check_finite(tensors: Sequence[Tensor]) -> None:
    if not all(value.isfinite().all() for value in tensors):
        raise InputError("the training diverged: a weight isn't finite; lower the recipe's learning_rate")


def save_reward(trained: TrainedReward, folder: Path, data: str, licence: str) -> None:
    """Write the folder that ``load_reward`` reads: adapter, head, manifest and a card.

    ``data`` says in a sentence what the pairs are, ``licence`` under which terms the reward model may be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    base, is_local = public_name(trained.base.name), Path(trained.base.name).exists()
    _lora_as_saved(trained.lora, base).save_pretrained(str(folder))
    save_file(_on_cpu(trained.adapter), folder / ADAPTER, metadata={"format": "pt"})
    save_file(_on_cpu(trained.model.head.state_dict()), folder / HEAD)
    manifest = {
        "base": f"../{base}" if is_local else base,
        "axes": trained.model.axes,
        "trained_on": trained.recipe.over,
        "fingerprints": asdict(trained.base.fingerprints),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_card(trained, folder.name, base, data, licence), encoding="utf-8")


def _lora_as_saved(lora: LoraConfig, base: str) -> LoraConfig:
    saved = deepcopy(lora)
    saved.base_model_name_or_path, saved.inference_mode = base, True
    saved.target_modules = sorted(lora.target_modules or ())  # peft keeps a set, whose order changes with every run
    return saved


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _card(trained: TrainedReward, name: str, base: str, data: str, licence: str) -> str:
    report, recipe, axes = trained.report, trained.recipe, trained.model.axes
    shares = [report.before.replies, report.after.replies, report.before.prefixes, report.after.prefixes]
    rows = zip(axes, *(share.tolist() for share in shares), strict=True)
    table = "\n".join(f"| {axis} | {a:.3f} | {b:.3f} | {c:.3f} | {d:.3f} |" for axis, a, b, c, d in rows)
    return f"""# {name}

A reward model for guided decoding: a LoRA of rank {recipe.rank} on `{base}` and a linear head, {len(axes)} wide,
trained by Bradley and Terry's likelihood over {recipe.over}: {recipe.epochs} epochs of {report.num_train:,} pairs,
{recipe.batch_size} a batch, learning rate {recipe.learning_rate:g}, seed {recipe.seed}.

## Data

{data}

## How many preferences it orders right

Of {report.num_dev:,} dev pairs, on prompts it was not trained on.

| axis | whole replies, untrained | trained | prefixes, untrained | trained |
|---|---|---|---|---|
{table}

## Licence

{licence}
"""
