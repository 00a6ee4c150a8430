"""Train a domain expert: a LoRA on a small model, whose untuned self is the anti-expert."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel

from personalign.train.causal import DevCheck, Recipe, train

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def add_lora(small: PreTrainedModel, rank: int, targets: tuple[str, ...] = LINEAR) -> PeftModel:
    """Put a fresh LoRA of ``rank`` on the layers whose names end in ``targets``; it starts as no change at all."""
    return get_peft_model(
        small, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets), task_type="CAUSAL_LM")
    )


def train_expert(
    small: PreTrainedModel,
    rows_at: Callable[[int], Tensor],
    recipe: Recipe,
    rank: int,
    targets: tuple[str, ...],
    dev_loss: Callable[[PeftModel], float],
    work: Path,
    name: str,
) -> PeftModel:
    """Tune a LoRA on the layers named by ``targets`` and keep the weights that do best on the dev dialogues."""
    expert = add_lora(small, rank, targets)
    train(expert, rows_at, recipe, work, name, DevCheck(lambda: dev_loss(expert), every=max(recipe.num_steps // 10, 1)))
    return expert


def save_expert(expert: PeftModel, folder: Path, alpha: float) -> None:
    """Write the adapter in half precision and its own α; ``decode.experts`` reads both."""
    expert.half().save_pretrained(str(folder), save_embedding_layers=False)  # the LoRA alone
    (folder / "expert.json").write_text(json.dumps({"alpha": alpha}, indent=2) + "\n")
