"""Train a reward model on a base model: a LoRA and a d-wide linear head, from which of two replies was preferred.

Bradley and Terry's model on every axis by itself: P(first preferred on j) = σ(r_j(x, first) − r_j(x, second)). One axis
and somebody's choices give the usual scalar reward; with ``soft_choices`` the rewards come to be the axes' features,
up to a constant of the prompt. Read ``decode/reward_model.py`` next, which loads what is saved here.
"""

from __future__ import annotations

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
from torch import Tensor, nn

from personalign.decode.load import CausalModel
from personalign.decode.lora import merged, with_lora
from personalign.decode.reward_model import RewardModel, inner_decoder, last_hidden
from personalign.errors import InputError, MessageError
from personalign.train.checkpoint import EVERY_S, Checkpoint
from personalign.train.kept import Arrays, identity, keep
from personalign.train.reward.pairs import Comparison, Pair, comparison, split

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
    checkpoint_every_s: float = EVERY_S


@dataclass(frozen=True, eq=False)
class Measured:
    """How well the reward's differences foretell preferences, by axis; NaN where there are none.

    ``replies`` and ``prefixes`` are the share whose sign is right; ``prefixes`` counts every position of a pair that
    ``Comparison`` names, each pair the same. ``log_loss`` is −log P of what was preferred between whole replies, in
    nats; there a tie is half of each, and a coin has log 2 of whatever is known.
    """

    replies: Float[NDArray[np.float64], "d"]
    prefixes: Float[NDArray[np.float64], "d"]
    log_loss: Float[NDArray[np.float64], "d"]


@dataclass(frozen=True)
class Dev:
    """The pairs to measure on by their numbers, none of which is trained on, and what of theirs training never sees."""

    rows: tuple[int, ...]
    unseen: str = "prompts"


@dataclass(frozen=True, eq=False)
class RewardReport:
    """How well the dev pairs are foretold before and after training, and what of theirs training never saw."""

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

    Args:
        base: what the LoRA is trained on; it stays as it is.
        pairs: their targets have one number an axis.
        recipe: what to compare, and how to train.
        axes: names of the rewards.
        dev: what to measure on; by default the pairs of ``recipe.dev_share`` of the prompts.
        work: folder that a killed training goes on from; None keeps nothing.

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
    folder = work and work / _identity(base, comparisons, target, recipe, rows)
    before = _kept(folder and folder / "before.safetensors", lora, head, comparisons, target, rows)
    _fit(lora, head, comparisons, target, train, recipe, folder and folder / "checkpoint.safetensors")
    adapter = get_peft_model_state_dict(lora)
    _check_finite([*adapter.values(), *head.parameters()])
    head.eval().requires_grad_(requires_grad=False)
    model = RewardModel(merged(lora), head, base.tokenizer, f"a reward model on {base.name}", tuple(axes))
    after = _kept(folder and folder / "after.safetensors", model.backbone, head, comparisons, target, rows)
    report = RewardReport(len(train), len(rows), before, after, unseen)
    return TrainedReward(model, base, config, adapter, recipe, report)


def _identity(
    base: CausalModel, comparisons: Sequence[Comparison], target: Tensor, recipe: RewardRecipe, dev: NDArray[np.int64]
) -> str:
    """Name everything that the training follows from."""
    tokens = [[c.first, c.second, c.at] for c in comparisons]
    return identity(asdict(base.fingerprints), asdict(recipe), tokens, target.cpu().numpy(), dev)


def measure_reward(model: RewardModel, base: CausalModel, pairs: Sequence[Pair]) -> Measured:
    """Measure a reward model trained on ``base`` on other pairs.

    Raises:
        InputError: a target isn't a probability for each axis, or there are no pairs.
        MessageError: a reply is blank, too long, or the same as the other.
    """
    if not pairs:
        raise InputError("found no pairs to measure on; expected one at least")
    target = _targets(pairs, model.axes).to(model.device)
    comparisons = [_numbered(base, pair, number) for number, pair in enumerate(pairs)]
    return _measured(model.backbone, model.head, comparisons, target, np.arange(len(pairs)))


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
    weight = wanted.isfinite() / pair.bincount()[pair][:, None]
    return (weight * _entropy(difference, wanted)).sum() / weight.sum().clamp_min(1)


def _kept(
    path: Path | None,
    decoder: nn.Module,
    head: nn.Linear,
    comparisons: Sequence[Comparison],
    target: Float[Tensor, "N d"],
    rows: Int[NDArray[np.int64], "m"],
) -> Measured:
    """Measure, or read what a killed run measured."""

    def figures() -> Arrays:
        return vars(_measured(decoder, head, comparisons, target, rows))

    return Measured(**(figures() if path is None else keep(path, figures)))


@torch.no_grad()
def _measured(
    decoder: nn.Module,
    head: nn.Linear,
    comparisons: Sequence[Comparison],
    target: Float[Tensor, "N d"],
    rows: Int[NDArray[np.int64], "m"],
) -> Measured:
    right, right_prefixes, decided, entropy, known = torch.zeros(5, target.shape[1], device=target.device)
    for batch in np.array_split(rows, -(-len(rows) // EVALUATION_BATCH)):
        difference, pair = _differences(decoder, head, [comparisons[i] for i in batch], "prefixes")
        wanted, places = target[batch], pair.bincount()
        whole = difference[places.cumsum(0) - 1]  # the last place of a pair compares the whole replies
        preferred = (wanted - 0.5).nan_to_num().sign()  # 1 the first, -1 the second, 0 neither
        right += _right(whole, preferred).sum(0)
        right_prefixes += (_right(difference, preferred[pair]) / places[pair][:, None]).sum(0)
        decided += preferred.abs().sum(0)
        entropy += _entropy(whole, wanted).sum(0)
        known += wanted.isfinite().sum(0)
    shares = (right / decided, right_prefixes / decided, entropy / known)
    return Measured(*(share.double().cpu().numpy() for share in shares))


def _right(difference: Float[Tensor, "M d"], preferred: Float[Tensor, "M d"]) -> Float[Tensor, "M d"]:
    """1 where the preferred one has the higher reward, ½ where both have the same, 0 where none is preferred, too."""
    return preferred.abs() * (1 + preferred * difference.sign()) / 2


def _entropy(difference: Float[Tensor, "M d"], wanted: Float[Tensor, "M d"]) -> Float[Tensor, "M d"]:
    """Cross-entropy of σ(difference) in nats; 0 where nothing is known."""
    entropy = nn.functional.binary_cross_entropy_with_logits(difference, wanted.nan_to_num(), reduction="none")
    return entropy * wanted.isfinite()


def _check_finite(tensors: Sequence[Tensor]) -> None:
    if not all(value.isfinite().all() for value in tensors):
        raise InputError("the training diverged: a weight isn't finite; lower the recipe's learning_rate")
