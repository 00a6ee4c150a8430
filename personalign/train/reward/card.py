"""The card of a reward model: what it was trained on, and how many preferences it orders right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from personalign.train.basis.card import table

if TYPE_CHECKING:
    from personalign.train.reward.train import TrainedReward


def reward_card(trained: TrainedReward, name: str, base: str, data: str, licence: str, note: str) -> str:
    """The text of the card; ``base`` is what the model was trained on, ``note`` what else there is to say."""
    report, recipe, axes = trained.report, trained.recipe, trained.model.axes
    stages = {"before": report.before, "after": report.after}
    rows = [
        {"axis": axis}
        | {f"replies, {when}": found.replies[j].item() for when, found in stages.items()}
        | {f"prefixes, {when}": found.prefixes[j].item() for when, found in stages.items()}
        | {f"log-loss, {when}": found.log_loss[j].item() for when, found in stages.items()}
        for j, axis in enumerate(axes)
    ]
    return f"""# {name}

A reward model for guided decoding: a LoRA of rank {recipe.rank} on `{base}` and a linear head, {len(axes)} wide,
trained by Bradley and Terry's likelihood over {recipe.over}: {recipe.epochs} epochs of {report.num_train:,} pairs,
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
