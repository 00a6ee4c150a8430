"""Train the successor head: regress the whole reply's features on (hidden state, next token) of every position.

The regression's limit is ψ(h, v) = E[φ(x, y) | h, v] under the roll-out policy: Monte-Carlo successor
features (Barreto et al., 2017) without discount, since φ is given once, for the finished reply.

What a token does is learnt from what is still to come, φ(x, y) − φ(x, y before v). What is already written is the same
for every v, so its noise would only blur U(h): it is a control variate. ``docs/measured.md`` says what that gains.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

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
    so_far: Float[NDArray[np.float32], "tokens d"],
    embeddings: Float[Tensor, "V H"],
    train: Bool[Bools, "N"],
    recipe: HeadRecipe,
    checkpoint: Path | None = None,
) -> SuccessorHead:
    """Fit a head on the replies marked ``train``, on the embeddings' device.

    ``features`` are standardised, and so is ``so_far``, the features of what was written before each token: 0 on an
    axis where nobody measured that. A killed training goes on from the file ``checkpoint``; None keeps nothing.
    """
    torch.manual_seed(recipe.seed)
    head = SuccessorHead(embeddings.shape[1], features.shape[1], recipe.rank, recipe.hidden)
    learner = _Learner(head).to(embeddings.device)
    marked = torch.from_numpy(np.flatnonzero(train[rollouts.reply]))
    optimizer = torch.optim.AdamW(learner.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    num_epochs = recipe.num_epochs(len(marked))
    batches = [b for _ in range(num_epochs) for b in torch.split(marked[torch.randperm(len(marked))], BATCH)]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=len(batches), pct_start=0.1
    )
    batch_of = _batches(rollouts, features, embeddings)
    written = torch.from_numpy(so_far)
    training = Checkpoint(checkpoint, learner, [optimizer], schedule, recipe.checkpoint_every_s)
    for step in training.steps(len(batches), "successor head"):
        rows = batches[step]
        loss = learner(*batch_of(rows), written[rows].to(embeddings.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head.eval()


class _Learner(nn.Module):
    """A head with a second constant, for what is still to come: that is what its directions are learnt from."""

    def __init__(self, head: SuccessorHead) -> None:
        super().__init__()
        self.head = head
        self.rest = nn.Linear(head.body.out_features, head.num_axes)

    def forward(
        self,
        hidden: Float[Tensor, "N H"],
        drawn: Float[Tensor, "N H"],
        whole: Float[Tensor, "N d"],
        so_far: Float[Tensor, "N d"],
    ) -> Float[Tensor, ""]:
        """The loss: mean squares of what is mistaken about the rest, and about the whole given the directions."""
        inner = self.head.inner(hidden)
        by_token = self.head.by_token(inner, drawn)
        about_rest = self.rest(inner) + by_token - (whole - so_far)
        about_whole = self.head.constant(inner) + by_token.detach() - whole
        loss: Tensor = about_rest.square().mean() + about_whole.square().mean()
        return loss


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
