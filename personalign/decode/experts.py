"""Domain experts by proxy-tuning: a small tuned model and its untuned twin move the big model's logits.

s = base + α · (expert − anti-expert), Liu et al., arXiv 2401.08565. Where the expert is a LoRA adapter, both are one
small model and one pass. The small model reads its own chat template at its own positions, but the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedTokenizerBase

from personalign.artefact import Door, Schema, Size
from personalign.decode.load import CausalModel, load_causal
from personalign.decode.lora import attach, check_name, read_lora
from personalign.errors import ModelError

DOOR = Door(ModelError, 'expected {"alpha": 0.5}, a number from 0')


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
            anti, tuned = self.anti.model.state_dict(), self.tuned.model.state_dict()
            return anti.keys() == tuned.keys() and all(torch.equal(anti[name], tuned[name]) for name in anti)
        assert self.peft is not None, "an expert is a separate checkpoint or an adapter"
        return not any(isinstance(m, LoraLayer) and _adds_something(m, self.name) for m in self.peft.modules())


def _adds_something(layer: LoraLayer, name: str) -> bool:
    """Whether B·A of an adapter isn't zero for sure."""
    if name in layer.lora_A:
        return all(any(bool(p.any()) for p in part[name].parameters()) for part in (layer.lora_A, layer.lora_B))
    embedded = layer.lora_embedding_A, layer.lora_embedding_B
    return name in embedded[0] and all(bool(part[name].any()) for part in embedded)


def load_experts(paths: Iterable[str | Path], small: CausalModel | str | Path) -> dict[str, Expert]:
    """Load several experts on one small model, by the names of their folders."""
    shared = small if isinstance(small, CausalModel) else load_causal(small)
    experts: dict[str, Expert] = {}
    for path in paths:
        if (name := Path(path).resolve().name) in experts:
            raise ModelError(f"two experts are called {name!r}; expected different folder names")
        neighbour = next((expert for expert in experts.values() if expert.peft is not None), None)
        experts[name] = load_expert(path, shared, neighbour)
    return experts


def load_expert(path: str | Path, small: CausalModel | str | Path, neighbour: Expert | None = None) -> Expert:
    """Load an expert folder: a PEFT LoRA of ``small``, or a whole tuned model, with ``expert.json`` {"alpha": 0.5}.

    ``neighbour`` is an expert that is already an adapter on ``small``. The folder's name is the expert's.

    Raises:
        ModelError: a file is missing or malformed, or the adapter doesn't fit ``small`` or can't be served beside
            others; ``small`` is then as it was.
    """
    folder = Path(path).resolve()
    alpha = DOOR.parse(_Card, DOOR.read(folder / "expert.json"), str(folder / "expert.json")).alpha
    anti = small if isinstance(small, CausalModel) else load_causal(small)
    if not (folder / "adapter_config.json").exists():
        return Expert(folder.name, alpha, anti, tuned=load_causal(folder, str(anti.device)))
    peft = None if neighbour is None else neighbour.peft
    check_name(folder.name)
    if peft is None and any(isinstance(module, LoraLayer) for module in anti.model.modules()):
        raise ModelError(f"{anti.name} already carries an adapter; load both with load_experts, or pass neighbour=")
    if peft is not None and folder.name in peft.peft_config:  # peft would write the new weights over the old ones
        raise ModelError(f"{anti.name} already carries an adapter called {folder.name!r}; rename one of the folders")
    with anti.lock:  # replies may be written with it
        peft = attach(read_lora(folder, anti.model), folder.name, anti.model, peft)
    return Expert(folder.name, alpha, anti, peft=peft)


class _Card(Schema):
    """What ``expert.json`` says."""

    alpha: Size
