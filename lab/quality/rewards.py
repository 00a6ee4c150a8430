"""The reward models that ARGS asks: trained on base's own replies, which the basis's axes have compared.

They are kept in a work folder under the hash of all they follow from, so that another run finds them; none is shipped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console

from personalign.basis import Basis
from personalign.decode import Models, Request, generate
from personalign.decode.reward_model import RewardModel, load_reward, matched
from personalign.learn.axes import measure_many
from personalign.options import Options
from personalign.train.reward.pairs import Pair, Units, soft_choices
from personalign.train.reward.train import RewardRecipe, save_reward, train_reward


@dataclass(frozen=True)
class Training:
    """What a reward model learns from: the bank's pairs, and pairs of replies drawn to the bank's prompts."""

    num_prompts: int = 1000  # of the bank, which has fewer
    replies_per_prompt: int = 6
    epochs: int = 2
    learning_rate: float = 2e-3

    def recipe(self, units: Units) -> RewardRecipe:
        """How to train over whole replies, or over prefixes."""
        return RewardRecipe(units=units, epochs=self.epochs, learning_rate=self.learning_rate)


def reward_model(basis: Basis, models: Models, units: Units, training: Training, work: Path) -> RewardModel:
    """Load the reward model from ``work``, or train it."""
    recipe, axes = training.recipe(units), tuple(axis.name for axis in basis.axes)
    content = [basis.id, asdict(models.base.fingerprints), asdict(training), asdict(recipe)]
    name = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    folder = work / f"{units}-{name}"
    if not (folder / "README.md").exists():  # the last file to be written
        Console(stderr=True).print(f"training the reward model over {units}")
        trained = train_reward(models.base, own_pairs(basis, models, training), recipe, axes)
        save_reward(
            trained, folder, "Replies of the base model, compared by the basis's axes.", "CC BY-SA 4.0", basis=basis
        )
    return matched(load_reward(folder, str(models.base.device), base=models.base.name), basis)


def own_pairs(basis: Basis, models: Models, training: Training) -> list[Pair]:
    """Pairs of different replies to one prompt; on each axis the target is how sure its difference makes the choice."""
    bank = basis.bank[: training.num_prompts]
    prompts = [q.prompt for q in bank for _ in range(training.replies_per_prompt)]
    requests = [Request(prompt, Options(temperature=1.0, seed=i)) for i, prompt in enumerate(prompts)]
    texts = [reply.text for reply in generate(models, requests)]
    pairs = [Pair(q.prompt, q.first, q.second) for q in bank]
    pairs += [Pair(prompts[i], texts[i], texts[i + 1]) for i in range(0, len(texts) - 1, 2)]
    return _compared(basis, [pair for pair in pairs if _can_be_compared(pair)])


def _can_be_compared(pair: Pair) -> bool:
    first, second = pair.first.strip(), pair.second.strip()
    return bool(first and second) and first != second


def _compared(basis: Basis, pairs: Sequence[Pair]) -> list[Pair]:
    prompts = [pair.prompt for pair in pairs]
    first, second = (
        basis.standardise(measure_many(prompts, replies, basis.axes))
        for replies in ([pair.first for pair in pairs], [pair.second for pair in pairs])
    )
    targets = soft_choices(first, second).tolist()
    return [replace(pair, target=tuple(target)) for pair, target in zip(pairs, targets, strict=True)]
