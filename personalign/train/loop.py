"""Train a causal language model, or the LoRA on one: the loop behind base, small, the experts and their control.

A run can be killed at any time: the same call continues from its last checkpoint, with the same rows in
the same order.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from personalign.train.checkpoint import EVERY_S, Checkpoint, load_parameters, parameters, save_tensors

LOG_EVERY = 50


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train; the rate rises over the warm-up, then falls linearly to zero.

    ``muon`` trains hidden matrices with Muon and the rest with AdamW, ``adamw`` (for LoRA) all with AdamW.
    """

    num_steps: int
    learning_rate: float
    optimizer: Literal["muon", "adamw"] = "muon"
    warmup_steps: int = 100
    weight_decay: float = 0.1
    seed: int = 0
    compile_step: bool = False  # torch.compile: needs a C++ compiler, 1.5 times the speed

    def rate_at(self, step: int) -> float:
        """Learning rate of ``step``."""
        return self.learning_rate * min((step + 1) / self.warmup_steps, 1 - step / self.num_steps)


@dataclass(frozen=True)
class DevCheck:
    """Every ``every`` steps ``loss()`` is taken, and the weights with the lowest one are kept in the end."""

    loss: Callable[[], float]
    every: int


def train(
    model: nn.Module,
    rows_at: Callable[[int], Tensor],
    recipe: Recipe,
    work: Path,
    name: str,
    dev: DevCheck | None = None,
    checkpoint_every_s: float = EVERY_S,
) -> None:
    """Train ``model``'s parameters that require gradients, in place.

    Args:
        model: a causal model of transformers or peft.
        rows_at: token ids [B, T] of a step; it must give the same rows again when a run is resumed.
        recipe: how long and how fast.
        work: folder of the checkpoint and of ``log.jsonl``.
        name: what the progress bar says.
        dev: how to choose the best weights; the last ones if None.
        checkpoint_every_s: how often a checkpoint is written.
    """
    work.mkdir(parents=True, exist_ok=True)
    best = work / "best.safetensors"
    torch.manual_seed(recipe.seed)
    optimizers = _optimizers(model, recipe)
    checkpoint = Checkpoint(work / "checkpoint.safetensors", model, optimizers, every_s=checkpoint_every_s)
    forward = torch.compile(model) if recipe.compile_step else model
    with (work / "log.jsonl").open("a") as log:
        for step in checkpoint.steps(recipe.num_steps, name):
            model.train()
            loss = _step(forward, model, optimizers, rows_at(step), recipe.rate_at(step))
            if step % LOG_EVERY == 0:
                log.write(json.dumps({"step": step, "loss": round(loss, 4), "time": round(time.time(), 1)}) + "\n")
                log.flush()
            if dev and (step + 1) % dev.every == 0:
                model.eval()
                _keep_best(best, model, dev.loss(), step + 1)
    if dev:
        load_parameters(model, load_file(best))
    model.eval()


def _step(
    forward: Callable[..., Any], model: nn.Module, optimizers: list[torch.optim.Optimizer], rows: Tensor, rate: float
) -> float:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
    with torch.autocast(rows.device.type, torch.bfloat16):
        loss = forward(input_ids=rows, labels=rows).loss
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach())


def _optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    hidden = [
        p
        for name, p in trained
        if recipe.optimizer == "muon" and p.ndim == 2 and "embed_tokens" not in name and "lm_head" not in name
    ]
    others = [p for _, p in trained if all(p is not h for h in hidden)]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    adamw = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.01)
    if not hidden:
        return [adamw]
    return [torch.optim.Muon(hidden, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"), adamw]


def _keep_best(path: Path, model: nn.Module, loss: float, step: int) -> None:
    loss = math.inf if math.isnan(loss) else loss  # nothing compares with NaN, so the last one would win
    if path.exists():
        with safe_open(path, "pt") as file:
            if float(file.metadata()["loss"]) <= loss:
                return
    save_tensors(path, parameters(model), {"loss": str(loss), "step": str(step)})
