"""Train a small Llama on packed dialogues: the loop behind base, small and the direct-tuning control.

Hidden matrices are trained with Muon, everything else with AdamW; the learning rate falls linearly to
zero. A run can be killed at any time: the same call continues from its last checkpoint, with the same
rows in the same order. Checkpoints are safetensors, never pickles.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from personalign.zoo.corpus import pack

CHECKPOINT_EVERY_S = 120.0


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train; a step is ``tokens_per_step`` tokens."""

    num_steps: int
    learning_rate: float
    tokens_per_step: int = 4096
    warmup_steps: int = 100
    weight_decay: float = 0.1
    row_length: int = 256
    long_row_length: int = 512
    long_share: float = 0.25  # the last steps see rows of `long_row_length`
    chat_share: float = 0.1  # rows of chit-chat
    seed: int = 0

    def length_at(self, step: int) -> int:
        """Row length of ``step``: short rows first, they cost less attention."""
        return self.long_row_length if step >= self.num_steps * (1 - self.long_share) else self.row_length

    def rate_at(self, step: int) -> float:
        """Learning rate of ``step``: linear warm-up, then linear decay to zero."""
        return self.learning_rate * min((step + 1) / self.warmup_steps, 1 - step / self.num_steps)


def train(
    model: PreTrainedModel,
    documents: Sequence[np.ndarray],
    chat: Sequence[np.ndarray],
    recipe: Recipe,
    work: Path,
    name: str,
    compile_step: bool = False,
) -> None:
    """Train ``model`` in place, from the checkpoint in ``work`` if there is one.

    Args:
        documents: token ids of the task dialogues.
        chat: token ids of chit-chat, ``recipe.chat_share`` of all rows; may be empty if that is 0.
        work: folder of the checkpoint and of ``log.jsonl``.
        compile_step: capture forward and backward with ``torch.compile`` (needs a C++ compiler; 1.5 times the speed).
    """
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / "checkpoint.safetensors"
    torch.manual_seed(recipe.seed)
    optimizers = _optimizers(model, recipe)
    start = _restore(checkpoint, model, optimizers) if checkpoint.exists() else 0
    rows = _batches(documents, chat, recipe, start)
    forward = torch.compile(model) if compile_step else model
    model.train()
    saved = time.monotonic()
    with Progress() as progress, (work / "log.jsonl").open("a") as log:
        task = progress.add_task(name, total=recipe.num_steps, completed=start)
        for step in range(start, recipe.num_steps):
            loss = _step(forward, model, optimizers, next(rows), recipe.rate_at(step))
            progress.update(task, advance=1, description=f"{name} loss {loss:.3f}")
            if step % 50 == 0:
                log.write(json.dumps({"step": step, "loss": round(loss, 4), "time": round(time.time(), 1)}) + "\n")
                log.flush()
            if time.monotonic() - saved > CHECKPOINT_EVERY_S:
                _save(checkpoint, model, optimizers, step + 1)
                saved = time.monotonic()
    _save(checkpoint, model, optimizers, recipe.num_steps)
    (work / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2))
    model.eval()


def _step(
    forward: nn.Module, model: nn.Module, optimizers: list[torch.optim.Optimizer], rows: Tensor, rate: float
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
    hidden = [p for name, p in trained if p.ndim == 2 and "embed_tokens" not in name and "lm_head" not in name]
    others = [p for name, p in trained if all(p is not h for h in hidden)]
    return [
        torch.optim.Muon(
            hidden, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.01),
    ]


def _batches(
    documents: Sequence[np.ndarray], chat: Sequence[np.ndarray], recipe: Recipe, start: int
) -> Iterator[Tensor]:
    """Batches from step ``start`` on; each step draws from its own seed, so a resumed run sees what it would have."""
    for step in range(start, recipe.num_steps):
        length = recipe.length_at(step)
        seed = recipe.seed * 1_000_003 + step
        sources = [pack(documents, length, seed)] + ([pack(chat, length, seed)] if recipe.chat_share else [])
        rng = np.random.default_rng(seed)
        picks = (rng.random(recipe.tokens_per_step // length) < recipe.chat_share).astype(int)
        yield torch.from_numpy(np.stack([next(sources[pick]) for pick in picks]))


def _save(path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], step: int) -> None:
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    for i, optimizer in enumerate(optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{j}.{key}": value for key, value in state.items()}
    partial = path.with_suffix(".partial")
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, partial, metadata={"step": str(step)})
    partial.replace(path)


def _restore(path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> int:
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    for i, optimizer in enumerate(optimizers):
        packed = optimizer.state_dict()
        prefix = f"optimizer.{i}."
        for key, value in tensors.items():
            if key.startswith(prefix):
                j, field = key.removeprefix(prefix).split(".", 1)
                packed["state"].setdefault(int(j), {})[field] = value
        optimizer.load_state_dict(packed)
    return step
