"""Train the successor head: regress the whole reply's features on (hidden state, next token) of every position.

The regression's limit is ψ(h, v) = E[φ(x, y) | h, v] under the roll-out policy: Monte-Carlo successor
features (Barreto et al., 2017) without discount, since φ is given once, for the finished reply.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from personalign.decode.successor import SuccessorHead
from personalign.train.basis.rollouts import Rollouts
from personalign.train.loop import Checkpoint
from personalign.train.plans import HeadRecipe
from personalign.types import Array, Bools

BATCH = 2048
MIN_VARIANCE = 1e-9  # of a standardised axis; less is rounding


def train_head(
    rollouts: Rollouts,
    features: Float[Array, "N d"],
    embeddings: Float[Tensor, "V H"],
    train: Bool[Bools, "N"],
    recipe: HeadRecipe,
    checkpoint: Path | None = None,
) -> SuccessorHead:
    """Fit a head on the replies marked ``train``, on the embeddings' device; ``features`` are standardised.

    A killed training goes on from the file ``checkpoint``; None keeps nothing.
    """
    torch.manual_seed(recipe.seed)
    head = SuccessorHead(embeddings.shape[1], features.shape[1], recipe.rank, recipe.hidden).to(embeddings.device)
    rows = torch.from_numpy(np.flatnonzero(train[rollouts.reply]))
    optimizer = torch.optim.AdamW(head.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    num_epochs = recipe.num_epochs(len(rows))
    batches = [b for _ in range(num_epochs) for b in torch.split(rows[torch.randperm(len(rows))], BATCH)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=len(batches), pct_start=0.1
    )
    batch_of = _batches(rollouts, features, embeddings)
    training = Checkpoint(checkpoint, head, [optimizer], schedule, recipe.checkpoint_every_s)
    for step in training.steps(len(batches), "successor head"):
        hidden, drawn, target = batch_of(batches[step])
        loss = (head(hidden, drawn) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head.eval()


@torch.inference_mode()
def explained_variance(
    head: SuccessorHead,
    rollouts: Rollouts,
    features: Float[Array, "N d"],
    embeddings: Float[Tensor, "V H"],
    tokens: Bool[Bools, "tokens"],
) -> Float[Array, "d"]:
    """R² per axis over the marked tokens; NaN for an axis that is the same at all of them."""
    if not tokens.any():
        return np.full(features.shape[1], np.nan)
    rows = torch.from_numpy(np.flatnonzero(tokens))
    batch_of = _batches(rollouts, features, embeddings)
    predicted, targets = [], []
    for batch in torch.split(rows, BATCH):
        hidden, drawn, target = batch_of(batch)
        predicted.append(head(hidden, drawn))
        targets.append(target)
    wanted = torch.cat(targets).double()
    variance = wanted.var(0, correction=0)
    r2 = 1 - (torch.cat(predicted) - wanted).square().mean(0) / variance
    return r2.where(variance > MIN_VARIANCE, torch.nan).cpu().numpy()


def _batches(
    rollouts: Rollouts, features: Float[Array, "N d"], embeddings: Float[Tensor, "V H"]
) -> Callable[[Int[Tensor, "b"]], tuple[Tensor, Tensor, Tensor]]:
    """Give the hidden states before some tokens, the tokens' embeddings, and what to predict, on the model's device."""
    hidden, token = torch.from_numpy(rollouts.hidden), torch.from_numpy(rollouts.token)
    target, device = torch.from_numpy(features[rollouts.reply]).float(), embeddings.device

    def batch_of(rows: Int[Tensor, "b"]) -> tuple[Tensor, Tensor, Tensor]:
        return hidden[rows].to(device).float(), embeddings[token[rows].to(device)], target[rows].to(device)

    return batch_of
