"""What a killed training goes on from: parameters and optimizers as safetensors, never pickles."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from personalign.train.kept import write_whole
from personalign.train.progress import bar

EVERY_S = 120.0
RATES = ("lr", "betas")  # what a schedule changes of an optimizer


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
            _load_optimizer(optimizer, tensors, f"optimizer.{i}.")
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group |= {key: tuple(value) if isinstance(value, list) else value for key, value in rate.items()}
        if self.schedule is not None:
            self.schedule.load_state_dict({"last_epoch": step, "_step_count": step + 1})
        return step


def _load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor], prefix: str) -> None:
    packed = optimizer.state_dict()
    for key, value in tensors.items():
        if key.startswith(prefix):
            j, field = key.removeprefix(prefix).split(".", 1)
            packed["state"].setdefault(int(j), {})[field] = value
    optimizer.load_state_dict(packed)


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
