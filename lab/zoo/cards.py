"""The cards of the bundled artefacts, each written by the stage that measured its figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from lab.zoo.corpus import CHAT_SHARE, TOKENS_PER_STEP
from personalign.train.loop import Recipe

ATTRIBUTION = """\
## Data and licence

CC BY-SA 4.0 (see `../LICENSE`). Made from Schema-Guided Dialogue (google-research-datasets, CC BY-SA 4.0)
and the Self-Dialogue corpus (jfainberg/self_dialogue_corpus, BSD-3-Clause).
"""


def write_model_card(folder: Path, name: str, model: nn.Module, recipe: Recipe, bits: Mapping[str, float]) -> None:
    """The card of base or small."""
    size = sum(p.numel() for p in model.parameters())
    tokens = recipe.num_steps * TOKENS_PER_STEP
    (folder / "README.md").write_text(
        f"""# tiny/{name}

A Llama of {size / 1e6:.2f} M parameters that writes the replies of a booking assistant. Hotel dialogues were kept
out of its training.

Made by `python -m lab.zoo.train --data DIR --stage {name}`: {recipe.num_steps:,} steps of
{TOKENS_PER_STEP:,} tokens, {tokens / 1e6:.1f} M tokens seen, {CHAT_SHARE:.0%} of the rows chit-chat,
seed {recipe.seed}.

| held-out dialogues | bits per character |
|---|---|
| Schema-Guided, no hotels | {bits["others"]:.3f} |
| Schema-Guided, hotels (never seen) | {bits["hotels"]:.3f} |

Bits per character: negative log-likelihood of all tokens but the first, over the first 480 tokens of a dialogue
through the chat template, per character of the text without special tokens.

{ATTRIBUTION}""",
        encoding="utf-8",
    )


def write_expert_card(
    folder: Path,
    expert: nn.Module,
    recipe: Recipe,
    control: Mapping[str, Mapping[str, float]],
    sweep: Mapping[float, Mapping[str, float]],
    alpha: float,
) -> None:
    """The card of the hotels expert: the α sweep beside the base and the directly tuned base."""
    size = sum(p.numel() for name, p in expert.named_parameters() if "lora" in name)
    base, direct = control["base"], control["direct"]
    rows = [("base", base, ""), ("base tuned directly on hotels", direct, "100 %")]
    rows += [(f"base + {a} (hotels − small)", bits, f"{closed(base, direct, bits):.0%}") for a, bits in sweep.items()]
    table = "\n".join(
        f"| {what} | {bits['hotels']:.3f} | {share} | {bits['others']:.3f} |" for what, bits, share in rows
    )
    (folder / "README.md").write_text(
        f"""# tiny/experts/hotels

A LoRA of {size / 1e6:.2f} M parameters on `tiny/small`, tuned on hotel dialogues that `tiny/base` never saw. Stacked
by proxy-tuning: logits = base + α (hotels − small); its own α, {alpha}, stands in `expert.json`. It was chosen on dev
dialogues as the best on hotels among those that cost the other domains less than direct tuning does.

Made by `python -m lab.zoo.train --data DIR --stage hotels`: {recipe.num_steps:,} steps of
{TOKENS_PER_STEP:,} tokens, seed {recipe.seed}, a third of them dialogues that `small` knows already, which keeps the
cost to other domains low. The loss was the whole stack's at α = 1, so that it learnt what base lacks. The control, base
itself tuned on hotels alone, saw as many hotel tokens (its best dev checkpoint).

| held-out dialogues, bits per character | hotels | gap closed | other domains |
|---|---|---|---|
{table}

{ATTRIBUTION.replace("../LICENSE", "../../LICENSE")}""",
        encoding="utf-8",
    )
    figures = {"alpha": alpha, "control": control, "sweep": {str(a): bits for a, bits in sweep.items()}}
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


def closed(base: Mapping[str, float], direct: Mapping[str, float], bits: Mapping[str, float]) -> float:
    """Share of the hotels gap between base and direct tuning that a stack closes."""
    return (base["hotels"] - bits["hotels"]) / (base["hotels"] - direct["hotels"])
