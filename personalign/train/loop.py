"""Train a causal language model, or the LoRA on one, and the checkpoints that every training goes on from.

A run can be killed at any time: the same call continues from its last checkpoint, with the same rows in the same
order. A checkpoint holds parameters and optimizers as safetensors, never as pickles.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from personalign.train.work import bar, write_whole

EVERY_S = 120.0  # between two checkpoints
RATES = ("lr", "betas")  # what a schedule changes of an optimizer
LOG_EVERY = 50
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # as torch calls what x86 and ARM have


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


def lora_rate(model: nn.Module) -> float:
    """A LoRA's learning rate by its model's size: 2e-3 for ten million parameters, down to 2e-4 for a billion."""
    rate: float = 2e-3 * (1e7 / sum(p.numel() for p in model.parameters())) ** 0.5
    return min(max(rate, 2e-4), 2e-3)


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
    """Train a causal model's parameters that require gradients, in place; ``work`` holds checkpoint and log.

    ``rows_at`` gives the token ids [B, T] of a step, the same ones again when a run is resumed. Without ``dev`` the
    last weights are kept.
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


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; a CPU without them takes forty times as long as for float32."""
    if device.type != "cpu":
        return True
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # which older versions lack
    return any(capabilities.get(name, False) for name in BFLOAT16)


def _step(
    forward: Callable[..., Any], model: nn.Module, optimizers: list[torch.optim.Optimizer], rows: Tensor, rate: float
) -> float:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
    with torch.autocast(rows.device.type, torch.bfloat16, enabled=has_bfloat16(rows.device)):
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


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A training's state, saved now and then; the parameters that require gradients count."""

    path: Path | None  # its folder belongs to this training alone; None saves nothing
    model: nn.Module
    optimizers: Sequence[Optimizer]
    schedule: LRScheduler | None = None
    every_s: float = EVERY_S

    def steps(self, total: int, name: str) -> Iterator[int]:
        """Give the steps that are left, and save after some of them and after the last."""
        start, saved = self._restore(), time.monotonic()
        with bar(name, total, start) as advance:
            for step in range(start, total):
                yield step
                advance()
                if step + 1 == total or time.monotonic() - saved > self.every_s:
                    self._save(step + 1)
                    saved = time.monotonic()

    def _save(self, step: int) -> None:
        if self.path is None:
            return
        tensors = parameters(self.model)
        for i, optimizer in enumerate(self.optimizers):
            for j, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{j}.{key}": value for key, value in state.items()}
        rates = [[{key: g[key] for key in RATES if key in g} for g in o.param_groups] for o in self.optimizers]
        save_tensors(self.path, tensors, {"step": str(step), "rates": json.dumps(rates)})

    def _restore(self) -> int:
        if self.path is None or not self.path.exists():
            return 0
        with safe_open(self.path, "pt") as file:
            metadata = file.metadata()
        step, tensors = int(metadata["step"]), load_file(self.path)
        load_parameters(self.model, tensors)
        for i, (optimizer, rates) in enumerate(zip(self.optimizers, json.loads(metadata["rates"]), strict=True)):
            packed = optimizer.state_dict()
            for key, value in tensors.items():
                if key.startswith(f"optimizer.{i}."):
                    j, field = key.split(".", 3)[2:]
                    packed["state"].setdefault(int(j), {})[field] = value
            optimizer.load_state_dict(packed)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group |= {key: tuple(value) if isinstance(value, list) else value for key, value in rate.items()}
        if self.schedule is not None:
            self.schedule.load_state_dict({"last_epoch": step, "_step_count": step + 1})
        return step


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained."""
    return {f"model.{name}": p.detach() for name, p in model.named_parameters() if p.requires_grad}


def load_parameters(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy saved values into the parameters that are trained."""
    with torch.no_grad():
        for name, parameter in parameters(model).items():
            parameter.copy_(tensors[name])


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors; a killed run leaves no half of the file."""
    copies = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    write_whole(path, lambda partial: save_file(copies, partial, metadata=metadata))
