"""A reward model with a causal backbone: r(x, y≤t) ∈ R^d of every prefix, read at the prefix's last position.

It is what ARGS (Khanov et al., arXiv 2402.01694) asks about each candidate token. It comes from a sequence classifier
of transformers, or from a folder of ``train/reward.py``: a LoRA, merged here, and a head on a base model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from peft import set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from personalign.decode.cache import check_cache
from personalign.decode.checkpoint import first_line, read_frozen
from personalign.decode.load import CausalModel, cache_argument, context, load_causal
from personalign.decode.lora import merged, read_lora, with_lora
from personalign.errors import ModelError
from personalign.types import Fingerprints

MANIFEST, HEAD = "reward.json", "reward.safetensors"


@dataclass(frozen=True, eq=False)
class RewardModel:
    """A decoder and the head that reads d rewards off its last hidden state, both in eval mode without gradients.

    ``backbone`` may be called by itself, with a cache and a mask of the caller's; ``score`` reads what it returns.
    The tokens it reads are those of ``tokenizer``.
    """

    backbone: PreTrainedModel  # token ids to the last hidden state; it has no output layer
    head: nn.Linear  # in float32, whatever the backbone computes in
    tokenizer: PreTrainedTokenizerBase
    name: str
    axes: tuple[str, ...]

    @property
    def num_axes(self) -> int:
        """Rewards of one prefix: d."""
        return self.head.out_features

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.head.in_features

    @property
    def layers(self) -> nn.Module:
        """From token ids to the last hidden state."""
        return self.backbone

    @property
    def num_embeddings(self) -> int:
        """How many token ids it can read."""
        layer: Any = self.backbone.get_input_embeddings()
        return len(layer.weight)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    @property
    def context(self) -> int | None:
        """The longest sequence the backbone was made for; None where it doesn't say."""
        return context(self.backbone)

    @cached_property
    def cache_argument(self) -> str:
        """What the backbone calls its key/value cache."""
        return cache_argument(self.backbone)

    def score(self, hidden: Float[Tensor, "B T H"]) -> Float[Tensor, "B T d"]:
        """Read the rewards off the backbone's last hidden states, in float32."""
        rewards: Tensor = self.head(hidden.float())
        return rewards

    @torch.no_grad()
    def rewards(self, ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> Float[Tensor, "B T d"]:
        """Reward of every prefix, without a cache; what stands at padding (mask 0) means nothing."""
        return self.score(last_hidden(self.backbone, ids, attention_mask))


def last_hidden(
    backbone: nn.Module, ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
) -> Float[Tensor, "B T H"]:
    """Run a decoder without a cache, padded on either side."""
    positions = (attention_mask.cumsum(-1) - 1).clamp_min(0)
    output = backbone(input_ids=ids, attention_mask=attention_mask, position_ids=positions, use_cache=False)
    hidden: Tensor = output.last_hidden_state
    return hidden


def load_reward(path: str | Path, device: str = "auto", base: str | Path | None = None) -> RewardModel:
    """Load a sequence classifier with a causal backbone (a folder or a hub id), or a folder of ``train/reward.py``.

    On a CPU the backbone computes in float32, on CUDA in bfloat16.

    Args:
        path: the classifier, whose ``score`` layer is the head and whose labels are the axes; or a LoRA's folder.
        device: "auto", "cpu" or "cuda".
        base: for a LoRA, the base model it was trained on, where that is neither on the hub nor beside the folder.

    Raises:
        ModelError: a file is missing or malformed, the backbone isn't causal, or the base isn't the one trained on.
    """
    folder = Path(path)
    if (folder / MANIFEST).exists():
        reward = _load_tuned(folder, device, base)
    elif (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} is an adapter without {MANIFEST}; expected one that train/reward.py saved; merge any other into "
            "its base model and save the whole classifier"
        )
    else:
        reward = _load_classifier(str(path), device)
    _check_causal(reward)
    check_cache(
        reward.backbone,
        reward.cache_argument,
        lambda output: output.last_hidden_state[:, -1],
        reward.name,
        reward.context,
    )
    return reward


def load_reward_beside(path: str, model: str, device: str = "auto") -> RewardModel:
    """Load a reward model that serves a model: a LoRA whose base isn't found was trained on that one, or is refused.

    Raises:
        ModelError: as ``load_reward``.
    """
    try:
        return load_reward(path, device)
    except ModelError:
        if not (Path(path) / MANIFEST).exists():
            raise
        return load_reward(path, device, base=model)


def _load_classifier(name: str, device: str) -> RewardModel:
    model, tokenizer = read_frozen(AutoModelForSequenceClassification, name, device)
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear):
        raise ModelError(
            f"{name} is a {type(model).__name__}, which has no linear layer called score; expected a classifier with a "
            "causal backbone, such as LlamaForSequenceClassification"
        )
    labels: Any = model.config.id2label
    axes = tuple(str(labels[j]) for j in range(head.out_features))
    return RewardModel(decoder_of(model, name), head.float(), tokenizer, name, axes)


def decoder_of(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """The part of a model that gives the last hidden state.

    Raises:
        ModelError: the model can't be taken apart.
    """
    decoder = model.base_model
    if decoder is model or not isinstance(decoder, PreTrainedModel):
        raise ModelError(
            f"{name} is a {type(model).__name__}, whose layers can't be told from its head; expected a causal family "
            "of transformers, such as Llama, Qwen2 or GPT-2"
        )
    return decoder


def _check_causal(reward: RewardModel) -> None:
    """Refuse a backbone that looks ahead, whatever it calls itself: its rewards of a prefix would mean nothing."""
    ids = torch.arange(8, device=reward.device).repeat(2, 1)
    ids[1, -1] = 0
    with torch.no_grad():
        hidden = last_hidden(reward.backbone, ids, torch.ones_like(ids)).float()
    moved = (hidden[0, :-1] - hidden[1, :-1]).abs().max()
    if moved > 1e-3 * hidden.abs().max():
        raise ModelError(
            f"{reward.name} looks ahead: another last token changed what it makes of those before it; expected a "
            "causal backbone, such as Llama, Qwen2 or GPT-2"
        )


def _load_tuned(folder: Path, device: str, base: str | Path | None) -> RewardModel:
    named, axes, fingerprints = _manifest(folder)
    causal = _base(folder, named if base is None else base, device)
    if causal.fingerprints != fingerprints:
        raise ModelError(
            f"{folder} was trained on another model than {causal.name}; expected {named}, tokenizer and weights "
            "unchanged; pass that one as base="
        )
    head = _head(folder, axes, causal.hidden_size).to(causal.device)
    decoder = decoder_of(causal.model, causal.name)
    lora = read_lora(folder, decoder)
    try:
        adapted = with_lora(decoder, lora.config)
        set_peft_model_state_dict(adapted, lora.weights)
        backbone = merged(adapted)
    except Exception as error:
        raise ModelError(
            f"{folder} doesn't fit {causal.name} ({first_line(error)}); expected a LoRA trained on it; train it again"
        ) from error
    return RewardModel(backbone, head, causal.tokenizer, str(folder), axes)


def _manifest(folder: Path) -> tuple[str, tuple[str, ...], Fingerprints]:
    """The base's hub id or folder, the axes, and the base's fingerprints."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        base, axes = str(content["base"]), tuple(map(str, content["axes"]))
        if base.startswith("../"):
            base = str((folder / base).resolve())
        return base, axes, Fingerprints(**content["fingerprints"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{folder / MANIFEST} can't be read ({error}); expected base, axes and fingerprints, as train/reward.py "
            "writes them; train it again"
        ) from error


def _base(folder: Path, base: str | Path, device: str) -> CausalModel:
    try:
        return load_causal(base, device)
    except ModelError as error:
        raise ModelError(f"the base of {folder} can't be loaded: {error}; pass it as base=") from error


def _head(folder: Path, axes: tuple[str, ...], H: int) -> nn.Linear:
    try:
        tensors = load_file(folder / HEAD)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{folder / HEAD} can't be read ({first_line(error)}); expected the head's weight and bias; train it again"
        ) from error
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    expected = {"weight": (len(axes), H), "bias": (len(axes),)}
    if found != expected or not all(value.isfinite().all() for value in tensors.values()):
        raise ModelError(
            f"{folder / HEAD} holds {found}, expected {expected} of finite numbers for {len(axes)} axes; train it again"
        )
    head = nn.Linear(H, len(axes))
    head.load_state_dict(tensors)
    return head.eval().requires_grad_(requires_grad=False)
