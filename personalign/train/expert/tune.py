"""Train a domain expert: a LoRA on a small model, whose untuned self is the anti-expert.

Proxy-tuning (arXiv 2401.08565) tunes the small model by itself and then adds what it learnt to the base:
base + α (expert − small). Here the LoRA is tuned inside that sum, so that it learns what the base lacks and
not what the small model lacks, and cancels what the two think differently for no reason. Serving is the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutput

from personalign.decode.lora import with_lora
from personalign.train.card import public_name
from personalign.train.loop import DevCheck, Recipe, train

MAX_TOKENS = 480  # of a text whose bits are counted; what comes after does not count
ROWS = 16
CPU = torch.device("cpu")
Causal = Callable[..., Any]  # input_ids [B, T] -> an output whose logits are [B, T, V]
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Stack(nn.Module):
    """Base + ``alpha`` (expert − small) as one causal model; only the expert's LoRA can be trained.

    All three have the same vocabulary; what one has beyond the others' is left out.
    """

    def __init__(self, base: nn.Module, expert: nn.Module, small: nn.Module, alpha: float = 1.0) -> None:
        super().__init__()
        self.expert, self.alpha = expert, alpha
        self._frozen = (base, small)  # a tuple: their weights are no part of this module

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> CausalLMOutput:
        """Logits [B, T, V], and the mean loss of the tokens after the first where labels [B, T] are given."""
        base, small = self._frozen
        with torch.no_grad():
            of_base, of_small = base(input_ids=input_ids).logits, small(input_ids=input_ids).logits
        of_expert = self.expert(input_ids=input_ids).logits
        known = min(of_base.shape[-1], of_expert.shape[-1])
        logits = of_base[..., :known] - self.alpha * of_small[..., :known] + self.alpha * of_expert[..., :known]
        if labels is None:
            return CausalLMOutput(logits=logits)
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)


def add_lora(small: PreTrainedModel, rank: int, targets: tuple[str, ...] | None = LINEAR) -> PeftModel:
    """Put a fresh LoRA of ``rank`` on the layers whose names end in ``targets``; it starts as no change at all.

    None means all linear layers but the output's, whatever they are called.
    """
    names = "all-linear" if targets is None else list(targets)
    return with_lora(small, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, task_type="CAUSAL_LM"))


def train_expert(
    base: PreTrainedModel | None,
    small: PreTrainedModel,
    rows_at: Callable[[int], Tensor],
    recipe: Recipe,
    rank: int,
    targets: tuple[str, ...] | None,
    dev_loss: Callable[[nn.Module], float],
    work: Path,
    name: str,
) -> PeftModel:
    """Tune a LoRA on ``small`` inside its stack at α = 1 and keep the weights whose stack does best on dev.

    Where there is no ``base``, the LoRA is tuned by itself.
    """
    anti_expert = deepcopy(small)
    torch.manual_seed(recipe.seed)
    expert = add_lora(small, rank, targets)
    stack = expert if base is None else Stack(base, expert, anti_expert)
    train(stack, rows_at, recipe, work, name, DevCheck(lambda: dev_loss(stack), every=max(recipe.num_steps // 10, 1)))
    return expert


def save_expert(expert: PeftModel, folder: Path, alpha: float) -> None:
    """Write the adapter in half precision and its own α; ``decode.experts`` reads both."""
    for config in expert.peft_config.values():
        small = config.base_model_name_or_path
        if small:
            config.base_model_name_or_path = public_name(small)
    expert.half().save_pretrained(str(folder), save_embedding_layers=False)  # the LoRA alone
    (folder / "expert.json").write_text(json.dumps({"alpha": alpha}, indent=2) + "\n")


@torch.inference_mode()
def bits_of(
    model: Causal, tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]], device: torch.device = CPU
) -> float:
    """Negative log-likelihood of all tokens but the first, in bits, over characters without special tokens."""
    by_length = sorted(rows, key=len)
    nats = sum(_nats(model, by_length[i : i + ROWS], device) for i in range(0, len(rows), ROWS))
    characters = sum(len(text) for text in tokenizer.batch_decode(by_length, skip_special_tokens=True))
    return nats / characters / math.log(2)


def _nats(model: Causal, rows: Sequence[list[int]], device: torch.device) -> float:
    # padding stands on the right, where causal attention can't see it; the padded targets don't count
    tensors = [torch.tensor(row, device=device) for row in rows]
    ids = nn.utils.rnn.pad_sequence(tensors, batch_first=True)
    target = nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=-100)
    scores = model(input_ids=ids).logits[:, :-1].float()
    return float(nn.functional.cross_entropy(scores.flatten(0, 1), target[:, 1:].flatten(), reduction="sum"))
