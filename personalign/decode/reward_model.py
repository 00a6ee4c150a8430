"""A reward model with a causal backbone: r(x, y≤t) ∈ R^d of every prefix, read at the prefix's last position.

It is what ARGS (Khanov et al., arXiv 2402.01694) asks about each candidate token. It comes from a sequence classifier
of transformers, or from a folder of ``train/reward``: a LoRA, merged here, and a linear layer on a base model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from peft import set_peft_model_state_dict
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from personalign.artefact import Door, FingerprintsRow, Name, Schema
from personalign.basis import Basis
from personalign.decode.cache import check_cache
from personalign.decode.checkpoint import first_line, read_frozen, torch_device
from personalign.decode.load import CausalModel, context, load_causal
from personalign.decode.lora import merged, read_lora, with_lora
from personalign.errors import ModelError
from personalign.types import MAX_AXES, Fingerprints

MANIFEST, HEAD = "reward.json", "reward.safetensors"
DOOR = Door(ModelError, "train the reward model again")
RETRAIN = "train one for this basis with: personalign basis fit LOG --backbone --basis DIR"


class _BasisRow(Schema):
    """The basis whose axes the rewards are, and what each of these measures."""

    id: Name
    measures: dict[Name, Name]


class _Manifest(Schema):
    """What ``reward.json`` says: the base's hub id or folder, the axes, and what both are known by."""

    base: Name
    axes: Annotated[list[Name], Field(min_length=1, max_length=MAX_AXES)]
    trained_on: Literal["replies", "prefixes"]
    fingerprints: FingerprintsRow
    basis: _BasisRow | None = None


@dataclass(frozen=True, eq=False)
class RewardModel:
    """A decoder and a layer that reads d rewards off its last hidden state, both in eval mode without gradients.

    ``backbone`` may be called by itself, with a cache and a mask of the caller's; ``score`` reads what it returns.
    The tokens it reads are those of ``tokenizer``. ``measures`` says what the rewards were trained to be, one hash an
    axis; None where that isn't known, or where there is one reward, everyone's.
    """

    backbone: PreTrainedModel  # token ids to the last hidden state; it has no output layer
    head: nn.Linear  # in float32, whatever the backbone computes in
    tokenizer: PreTrainedTokenizerBase
    name: str
    axes: tuple[str, ...]
    measures: tuple[str, ...] | None = None
    is_trained_here: bool = False  # for some basis, by ``train/reward``; a classifier's labels speak for themselves

    @property
    def num_axes(self) -> int:
        """How many rewards a prefix has."""
        return self.head.out_features

    @property
    def hidden_size(self) -> int:
        """The width of a hidden state."""
        return self.head.in_features

    @property
    def layers(self) -> nn.Module:
        """From token ids to the last hidden state."""
        return self.backbone

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    @property
    def context(self) -> int | None:
        """The longest sequence the backbone was made for; None where it doesn't say."""
        return context(self.backbone)

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
    check_cache(reward.backbone, lambda output: output.last_hidden_state[:, -1], reward.name, reward.context)
    return reward


def axis_measures(basis: Basis) -> tuple[str, ...]:
    """Hash what each axis of a basis measures: its name, its standardisation, and how a learnt one is projected."""
    hashes = []
    for j, axis in enumerate(basis.axes):
        digest = hashlib.sha256(json.dumps([axis.name, float(basis.center[j]), float(basis.scale[j])]).encode())
        if basis.learnt is not None and j >= len(basis.named):
            column = np.ascontiguousarray(basis.learnt.projection[:, j - len(basis.named)])
            digest.update(basis.learnt.embedder.encode() + column.tobytes())
        hashes.append(digest.hexdigest())
    return tuple(hashes)


def matched(reward: RewardModel, basis: Basis) -> RewardModel:
    """Order a reward model's rewards as a basis orders its axes. One reward alone is everyone's and fits any basis.

    Raises:
        ModelError: the rewards are others than the basis's axes, or stand for axes that are measured in another way.
    """
    if reward.num_axes == 1 and reward.measures is None:
        return reward
    names = tuple(axis.name for axis in basis.axes)
    expected, held = (names, reward.axes) if reward.measures is None else (axis_measures(basis), reward.measures)
    if reward.measures is None and (reward.is_trained_here or basis.learnt is not None):
        raise ModelError(
            f"{reward.name} doesn't say which basis it was trained for; expected it to: axes of the same names are "
            f"standardised, and learnt ones made, in another way in every basis; {RETRAIN}"
        )
    if sorted(expected) != sorted(held):
        others = [name for name, measure in zip(reward.axes, held, strict=True) if measure not in expected]
        raise ModelError(
            f"{reward.name} rewards {', '.join(others or reward.axes)}, which this basis doesn't have, or measures in "
            f"another way; expected the axes {', '.join(names)} as basis {basis.id[:12]} has them; {RETRAIN}"
        )
    order = [held.index(measure) for measure in expected]
    head = deepcopy(reward.head)
    head.load_state_dict({name: value[order] for name, value in reward.head.state_dict().items()})
    return replace(reward, head=head, axes=names, measures=None if reward.measures is None else expected)


def load_reward_beside(path: str, model: str, device: str = "auto", basis: Basis | None = None) -> RewardModel:
    """Load a reward model beside the model that it serves, its rewards in the order of a basis's axes.

    A LoRA whose base isn't found is tried on ``model``.
    """
    try:
        reward = load_reward(path, device)
    except ModelError:
        if not (Path(path) / MANIFEST).exists():
            raise
        reward = load_reward(path, device, base=model)
    return reward if basis is None else matched(reward, basis)


def _load_classifier(name: str, device: str) -> RewardModel:
    model, tokenizer = read_frozen(AutoModelForSequenceClassification, name, torch_device(device))
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear):
        raise ModelError(
            f"{name} is a {type(model).__name__}, which has no linear layer called score; expected a classifier with a "
            "causal backbone, such as LlamaForSequenceClassification"
        )
    labels: Mapping[Any, str] = model.config.id2label or {}
    axes = tuple(str(labels.get(j, f"LABEL_{j}")) for j in range(head.out_features))
    return RewardModel(inner_decoder(model, name), head.float(), tokenizer, name, axes)


def inner_decoder(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """The part of a model that gives the last hidden state."""
    decoder = model.base_model
    if decoder is model or not isinstance(decoder, PreTrainedModel):
        raise ModelError(
            f"{name} is a {type(model).__name__}, whose layers can't be separated from its head; expected a causal "
            "family of transformers, such as Llama, Qwen2 or GPT-2"
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
    manifest = DOOR.parse(_Manifest, DOOR.read(folder / MANIFEST), str(folder / MANIFEST))
    measures = None if manifest.basis is None else manifest.basis.measures
    if measures is not None and set(measures) != set(manifest.axes):
        raise DOOR.refusal(f"{folder / MANIFEST} has the axes {manifest.axes}, and of a basis {[*measures]}")
    stated = str((folder / manifest.base).resolve()) if manifest.base.startswith("../") else manifest.base
    causal = _base(folder, stated if base is None else base, device)
    if causal.fingerprints != Fingerprints(**manifest.fingerprints.model_dump()):
        raise ModelError(
            f"{folder} was trained on another model than {causal.name}; expected {stated}, tokenizer and weights "
            "unchanged; pass that one as base="
        )
    head = _head(folder, manifest.axes, causal.hidden_size).to(causal.device)
    decoder = inner_decoder(causal.model, causal.name)
    lora = read_lora(folder, decoder)
    try:
        adapted = with_lora(decoder, lora.config)
        set_peft_model_state_dict(adapted, lora.weights)
        backbone = merged(adapted)
    except Exception as error:
        raise ModelError(
            f"{folder} doesn't fit {causal.name} ({first_line(error)}); expected a LoRA trained on it; train it again"
        ) from error
    hashes = None if measures is None else tuple(measures[name] for name in manifest.axes)
    axes = tuple(manifest.axes)
    return RewardModel(backbone, head, causal.tokenizer, str(folder), axes, hashes, is_trained_here=True)


def _base(folder: Path, base: str | Path, device: str) -> CausalModel:
    try:
        return load_causal(base, device)
    except ModelError as error:
        raise ModelError(f"the base of {folder} can't be loaded: {error}; pass it as base=") from error


def _head(folder: Path, axes: Sequence[str], H: int) -> nn.Linear:
    try:
        tensors = load_file(folder / HEAD)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{folder / HEAD} can't be read ({first_line(error)}); expected the head's weight and bias; train it again"
        ) from error
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    expected = {"weight": (len(axes), H), "bias": (len(axes),)}
    if shapes != expected or not all(v.is_floating_point() and v.isfinite().all() for v in tensors.values()):
        raise ModelError(
            f"{folder / HEAD} holds {shapes}, expected finite numbers of the shapes {expected}; train it again"
        )
    head = nn.Linear(H, len(axes))
    head.load_state_dict(tensors)
    return head.eval().requires_grad_(requires_grad=False)
