"""The cards of the bundled artefacts, each written by the stage that measured its figures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from personalign.basis import Basis
from personalign.train.bootstrap import Report
from personalign.train.causal import Recipe
from personalign.zoo.corpus import CHAT_SHARE, TOKENS_PER_STEP

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

Made by `python -m personalign.zoo.train --data DIR --stage {name}`: {recipe.num_steps:,} steps of
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

Made by `python -m personalign.zoo.train --data DIR --stage hotels`: {recipe.num_steps:,} steps of
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


def write_basis_card(folder: Path, basis: Basis, report: Report) -> None:
    """The card of the basis: axes with the head's R², the calibration grid, and what steering does at each α."""
    axes = [
        {"axis": a.name, "about": a.about, "less ↔ more": f"{a.less} ↔ {a.more}", "R²": r2, "R², forced": forced}
        for a, r2, forced in zip(basis.axes, report.r2.tolist(), report.r2_forced.tolist(), strict=True)
    ]
    stacks = [
        {"α": alpha, "utility, unsteered": plain.utility, "utility": steered.utility, "KL": steered.kl}
        for alpha, (plain, steered) in report.by_alpha.items()
    ]
    steering = basis.steering
    (folder / "README.md").write_text(
        f"""# tiny/basis

{basis.num_axes} named reward axes over the replies of `tiny/base`, a successor head that predicts them for every next
token, and {len(basis.bank)} questions made from the model's own replies. No human data went in: the prior is N(0, σ²C),
where C are the axes' correlations over the model's own replies, with σ = {basis.prior.covariance[0, 0] ** 0.5:.3f}, so
that a person drawn from it answers the {len(basis.reference)} reference pairs as their own weights say in three cases
of four.

Made by `python -m personalign.zoo.train --data DIR --stage basis`, from {report.num_replies:,} replies
({report.num_tokens:,} tokens) to real user turns of Schema-Guided Dialogue. A third each was written under α = 0, ½ and
1 of the hotels expert; in half of them one random position took a uniform draw from the 20 likeliest tokens.

## Axes, and how well the head foresees them

R² of the finished reply's features from one hidden state and next token, on held-out prompts (mean
{_mean(report.r2)}); beside it on the uniformly drawn tokens alone (mean {_mean(report.r2_forced)}), – where an
axis was the same at all of them.

{table(axes)}

## Strength

β = {steering.beta:g}, c = {steering.clip:g}, K = {steering.num_candidates}: the gentlest setting that reaches
nine tenths of the largest utility on dev prompts, with a mean KL of at most 0.4 nats a token and no more repetition,
emptiness or truncation than the unsteered model (the first row). Simulated people drawn from the prior, profiles
fitted to ten answers; utility is their true weights', scaled to length 1, on the standardised axes; half of the replies
greedy, half sampled.

{table([o.row() for o in report.grid])}

With the expert under the reward, other simulated people:

{table(stacks)}

{ATTRIBUTION}""",
        encoding="utf-8",
    )


def closed(base: Mapping[str, float], direct: Mapping[str, float], bits: Mapping[str, float]) -> float:
    """Share of the hotels gap between base and direct tuning that a stack closes."""
    return (base["hotels"] - bits["hotels"]) / (base["hotels"] - direct["hotels"])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same keys as a Markdown table."""
    header = list(rows[0])
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(_cell(row[key]) for key in header) + " |" for row in rows]
    return "\n".join(lines)


def _mean(r2: NDArray[np.float64]) -> str:
    """Over the axes that varied."""
    known = r2[~np.isnan(r2)]
    return _cell(float(known.mean()) if known.size else math.nan)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.3f}"
    return str(value)
