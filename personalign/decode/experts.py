"""Domain experts by proxy-tuning: a small tuned model and its untuned twin move the big model's logits.

s = base + α · (expert − anti-expert), Liu et al., arXiv 2401.08565. Where the expert is a LoRA adapter, both are one
small model and one pass. The small model reads its own chat template at its own positions, but the same tokens.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedTokenizerBase

from personalign.decode.load import CausalModel, check_tokens, load_causal
from personalign.decode.reward_model import UNFIT
from personalign.errors import ModelError

BASE_ADAPTER = "__base__"  # PEFT's name for "no adapter" in a mixed batch


@dataclass(frozen=True, eq=False)
class Expert:
    """A tuned small model against the same model untuned; ``alpha`` is the weight its card recommends."""

    name: str
    alpha: float
    anti: CausalModel
    tuned: CausalModel | None = None  # a separate checkpoint
    peft: PeftModel | None = None  # or a PeftModel around `anti`, with an adapter of this name

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """What renders the prompt that both models read."""
        return self.anti.tokenizer

    @property
    def context(self) -> int | None:
        """The longest sequence that both models were made for; None where neither says."""
        models = (self.anti, self.tuned)
        return min((model.context for model in models if model is not None and model.context), default=None)

    @cached_property
    def changes_nothing(self) -> bool:
        """Whether expert and anti-expert are the same function, weight by weight: then neither needs to run."""
        if self.tuned is not None:
            ours, theirs = self.anti.model.state_dict(), self.tuned.model.state_dict()
            return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
        return not any(isinstance(m, LoraLayer) and _adds_something(m, self.name) for m in self._adapted.modules())

    @property
    def _adapted(self) -> PeftModel:
        assert self.peft is not None, "an expert is a separate checkpoint or an adapter"
        return self.peft


def _adds_something(layer: LoraLayer, name: str) -> bool:
    """Whether B·A of an adapter isn't zero for sure."""
    if name in layer.lora_A:
        return all(any(bool(p.any()) for p in part[name].parameters()) for part in (layer.lora_A, layer.lora_B))
    embedded = layer.lora_embedding_A, layer.lora_embedding_B
    return name in embedded[0] and all(bool(part[name].any()) for part in embedded)


def check_vocabulary(base: CausalModel, other: CausalModel) -> None:
    """Refuse to mix models whose tokens differ; longer output layers are fine.

    Raises:
        ModelError: naming the first token that differs.
    """
    check_tokens(base, other)
    num_tokens = min(base.num_tokens, base.num_logits)  # a tokenizer may know ids that the model can't write
    if other.num_logits < num_tokens:
        raise ModelError(
            f"{other.name} has {other.num_logits} logits for {num_tokens} tokens; expected at least one each"
        )


def load_experts(paths: Iterable[str | Path], small: CausalModel | str | Path) -> dict[str, Expert]:
    """Load several experts on one small model, by the names of their folders."""
    shared = small if isinstance(small, CausalModel) else load_causal(small)
    experts: dict[str, Expert] = {}
    for path in paths:
        beside = next((e for e in experts.values() if e.peft is not None), None)
        expert = load_expert(path, shared, beside)
        if expert.name in experts:
            raise ModelError(f"two experts are called {expert.name!r}; expected different folder names")
        experts[expert.name] = expert
    return experts


def load_expert(path: str | Path, small: CausalModel | str | Path, beside: Expert | None = None) -> Expert:
    """Load an expert folder: a PEFT LoRA of ``small``, or a whole tuned model, with ``expert.json`` {"alpha": 0.5}.

    ``beside`` is an expert that is already an adapter on ``small``. The folder's name is the expert's.

    Raises:
        ModelError: a file is missing or malformed, or the adapter doesn't fit ``small``.
    """
    folder = Path(path).resolve()
    alpha = _alpha(folder)
    anti = small if isinstance(small, CausalModel) else load_causal(small)
    if not (folder / "adapter_config.json").exists():
        return Expert(folder.name, alpha, anti, tuned=load_causal(folder, str(anti.device)))
    return Expert(folder.name, alpha, anti, peft=_adapted(folder, anti, beside))


def _alpha(folder: Path) -> float:
    try:
        alpha = float(json.loads((folder / "expert.json").read_text(encoding="utf-8"))["alpha"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f'{folder / "expert.json"} can\'t be read ({error}); expected {{"alpha": 0.5}}') from error
    if not 0 <= alpha < math.inf:
        raise ModelError(f"{folder / 'expert.json'} says alpha {alpha}; expected a number from 0")
    return alpha


def _adapted(folder: Path, anti: CausalModel, beside: Expert | None) -> PeftModel:
    if beside is None and any(isinstance(module, LoraLayer) for module in anti.model.modules()):
        raise ModelError(f"{anti.name} already carries an adapter; load both with load_experts, or pass beside=")
    peft = None if beside is None else beside.peft
    if peft is not None and folder.name in peft.peft_config:  # peft would write the new weights over the old ones
        raise ModelError(f"{anti.name} already carries an adapter called {folder.name!r}; rename one of the folders")
    with anti.lock:  # replies may be written with it
        try:
            peft = _attached(folder, anti, peft)
        except UNFIT as error:
            if isinstance(error, ModelError):
                raise
            found = str(error).splitlines()[0]
            raise ModelError(f"{folder} doesn't fit {anti.name} ({found}); expected a LoRA tuned on it") from error
        tuner: Any = peft.base_model
        tuner.set_adapter([], inference_mode=True)  # so that a plain call of the small model stays untuned
        return peft.eval().requires_grad_(requires_grad=False)


def _attached(folder: Path, anti: CausalModel, peft: PeftModel | None) -> PeftModel:
    if not (folder / "adapter_model.safetensors").exists():
        raise ModelError(f"{folder} lacks adapter_model.safetensors; expected a PEFT adapter saved as safetensors")
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig) or config.use_dora:
        raise ModelError(f"{folder} isn't a plain LoRA adapter; expected peft_type LORA without DoRA")
    with warnings.catch_warnings():  # peft 0.21 asks for an attribute that transformers 5.23 has renamed
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        # an expert may tune tied embeddings: it is never merged, which is what peft warns of
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`", category=UserWarning)
        if peft is None:
            config.inference_mode, config.base_model_name_or_path = True, None  # peft would compare folders' names
            peft = get_peft_model(anti.model, config, adapter_name=folder.name)
    try:
        peft.load_adapter(str(folder), adapter_name=folder.name)
    except UNFIT:
        _detach(peft, folder.name)  # which stays half loaded otherwise
        raise
    return peft


def _detach(peft: PeftModel, name: str) -> None:
    """Delete an adapter; the last one leaves the model as it was without any."""
    if name in peft.peft_config:
        peft.delete_adapter(name)
    if rest := list(peft.peft_config):
        peft.active_adapter = rest[0]  # the name of one that is gone would fail every pass
    else:
        peft.unload()
