"""Write a reward model's folder: adapter, read-out, manifest, and a card that says how well it orders replies."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from personalign.basis import Basis
from personalign.decode.lora import WEIGHTS
from personalign.decode.reward_model import HEAD, MANIFEST, axis_measures
from personalign.train.basis.card import table
from personalign.train.files import public_name
from personalign.train.reward.train import TrainedReward


def save_reward(
    trained: TrainedReward, folder: Path, data: str, licence: str, note: str = "", basis: Basis | None = None
) -> None:
    """Write the folder that ``load_reward`` reads: adapter, head, manifest and a card.

    ``data`` says in a sentence what the pairs are, ``licence`` under which terms the reward model may be used, and
    ``note`` what else there is to say of its figures. ``basis`` is the one whose axes the rewards are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    base, is_local = public_name(trained.base.name), Path(trained.base.name).exists()
    _lora_as_saved(trained.lora, base).save_pretrained(str(folder))
    save_file(_on_cpu(trained.adapter), folder / WEIGHTS, metadata={"format": "pt"})
    save_file(_on_cpu(trained.model.head.state_dict()), folder / HEAD)
    manifest = {
        "base": f"../{base}" if is_local else base,
        "axes": trained.model.axes,
        "trained_on": trained.recipe.over,
        "fingerprints": asdict(trained.base.fingerprints),
    }
    if basis is not None:
        measures = dict(zip((axis.name for axis in basis.axes), axis_measures(basis), strict=True))
        manifest["basis"] = {"id": basis.id, "measures": measures}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_card(trained, folder.name, base, data, licence, note), encoding="utf-8")


def _lora_as_saved(lora: LoraConfig, base: str) -> LoraConfig:
    saved = deepcopy(lora)
    saved.base_model_name_or_path, saved.inference_mode = base, True
    saved.target_modules = sorted(lora.target_modules or ())  # peft keeps a set, whose order changes with every run
    return saved


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _card(trained: TrainedReward, name: str, base: str, data: str, licence: str, note: str) -> str:
    """The text of the card; ``base`` is what the model was trained on, ``note`` what else there is to say."""
    report, recipe, axes = trained.report, trained.recipe, trained.model.axes
    stages = {"before": report.before, "after": report.after}
    rows = [
        {"axis": axis}
        | {f"replies, {when}": found.replies[j].item() for when, found in stages.items()}
        | {f"prefixes, {when}": found.prefixes[j].item() for when, found in stages.items()}
        | {f"log-loss, {when}": found.log_loss[j].item() for when, found in stages.items()}
        for j, axis in enumerate(axes)
    ]
    return f"""# {name}

A reward model for guided decoding: a LoRA of rank {recipe.rank} on `{base}` and a linear head, {len(axes)} wide,
trained by Bradley and Terry's likelihood over {recipe.over}: {recipe.epochs} epochs of {report.num_train:,} pairs,
{recipe.batch_size} a batch, learning rate {recipe.learning_rate:g}, seed {recipe.seed}.

## Data

{data}

## How many preferences it orders right

Of {report.num_dev:,} dev pairs, whose {report.unseen} it was not trained on, before training and after; log-loss in
nats, of which a coin has .693.

{table(rows)}
{note}
## Licence

{licence}
"""
