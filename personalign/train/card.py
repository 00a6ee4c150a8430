"""The card of a basis, with all that was measured on the way, and what every card is written with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from personalign.basis import ASSUMED, Basis
from personalign.train.plans import Plans
from personalign.types import Array, Steering

LICENCE = """\
## Licence

The questions are the model's replies to the prompts: the terms of both apply to everyone who passes this folder on.
"""
USES = 'Use it with a reward model (`rule="args"`), to choose among replies, and to tell tastes in words'
OF_ITEMS = """\
## Licence

The questions are the log's items: their terms apply to everyone who passes this folder on.
"""


@dataclass(frozen=True)
class Outcome:
    """What a setting does, averaged over people and prompts; utility in standard deviations of the model's replies.

    ``kl`` is in nats a token, over the whole vocabulary.
    """

    steering: Steering
    utility: float
    kl: float
    repetition: float
    empty: float
    truncated: float

    def breaks_less_than(self, other: Outcome, tolerance: float) -> bool:
        """Whether it shows no more faults than ``other``."""
        faults = ("repetition", "empty", "truncated")
        return all(getattr(self, fault) <= getattr(other, fault) + tolerance for fault in faults)

    def row(self) -> dict[str, float]:
        """A flat row for the card."""
        return asdict(self.steering) | {k: round(v, 4) for k, v in asdict(self).items() if k != "steering"}


@dataclass(frozen=True, eq=False)
class Report:
    """What was measured on the way, for the card."""

    num_replies: int
    num_tokens: int
    r2: Float[Array, "d"]  # on held-out prompts; NaN where nothing varied
    r2_forced: Float[Array, "d"]  # of these, on uniformly drawn tokens
    grid: list[Outcome]  # the unsteered model first
    by_alpha: dict[float, tuple[Outcome, Outcome]]  # unsteered and steered


@dataclass(frozen=True)
class Origin:
    """Where a basis comes from, in the words of its card."""

    title: str
    model: str  # whose replies it is about
    command: str  # that makes it again
    prompts: str  # what was answered
    opened: str  # the arguments of Personalign.open that use it
    licence: str  # a section


def local_origin(folder: Path, model: str, command: str, prompts: str) -> Origin:
    """Where the basis of a user's own model comes from."""
    title = folder.resolve().name
    return Origin(title, model, command, prompts, f'model="{model}", basis="{title}"', LICENCE)


def write_basis_card(
    folder: Path, basis: Basis, report: Report, origin: Origin, plans: Plans, about_people: str | None = None
) -> None:
    """Write axes with the head's R², the calibration grid, what steering does at each α, and a section on people."""
    predicted = zip(_axes(basis), report.r2.tolist(), report.r2_forced.tolist(), strict=True)
    axes = [axis | {"R²": r2, "R², forced": forced} for axis, r2, forced in predicted]
    stacks = [
        {"α": alpha, "utility, unsteered": plain.utility, "utility": steered.utility, "KL": steered.kl}
        for alpha, (plain, steered) in report.by_alpha.items()
    ]
    tried = plans.calibration
    r2, r2_forced = (cell(mean_known(values)) for values in (report.r2, report.r2_forced))
    (folder / "README.md").write_text(
        f"""# {origin.title}

{_counted(basis)} over the replies of `{origin.model}`, a successor head that predicts them for every
next token, and {len(basis.bank)} questions made from the model's own replies. {_prior(basis)}

Made by `{origin.command}`, from {report.num_replies:,} replies
({report.num_tokens:,} tokens) to {origin.prompts}. {_rollouts(plans)}

It fits one model alone: tokenizer `{basis.fingerprints.tokenizer[:12]}`, weights `{basis.fingerprints.model[:12]}`.

## Use

```python
from personalign import Personalign

with Personalign.open({origin.opened}) as p:
    question = p.ask("ada")
```

{"" if about_people is None else about_people}## Axes, and how well the head predicts them

R² of the finished reply's features from one hidden state and next token, on held-out prompts (mean
{r2}); beside it on the uniformly drawn tokens alone (mean {r2_forced}), – where an
axis was the same at all of them.

{table(axes)}

## Strength

{_strength(basis)}: the gentlest setting that reaches
nine tenths of the largest utility on dev prompts, with a mean KL of at most {tried.max_kl:g} nats a token. Repetition,
emptiness and truncation may exceed the unsteered model's (the first row) by {tried.tolerance:g} each. Simulated people
drawn from the prior, profiles fitted to ten answers; utility is their true weights', scaled to length 1, on the
standardised axes. Replies are drawn as they were for the head to learn from.

{table([o.row() for o in report.grid])}

Other simulated people, at each α:

{table(stacks)}

{origin.licence}""",
        encoding="utf-8",
    )


def write_people_card(folder: Path, basis: Basis, origin: Origin, about_people: str, obstacle: str) -> None:
    """Write the card of a basis that holds what a log says of people, and steers nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    is_known = basis.learnt is not None and bool(basis.learnt.items)
    (folder / "README.md").write_text(
        f"""# {origin.title}

{_counted(basis)} and what people feel about them, for `{origin.model}`. **This basis doesn't steer**:
{obstacle}. {"Use it to ask about them, and to choose among them" if is_known else USES}.

Made by `{origin.command}`.

{about_people}## Axes

{table(_axes(basis))}

{OF_ITEMS if is_known else origin.licence}""",
        encoding="utf-8",
    )


def _axes(basis: Basis) -> list[dict[str, Any]]:
    return [{"axis": a.name, "about": a.about, "less ↔ more": f"{a.less} ↔ {a.more}"} for a in basis.axes]


def _counted(basis: Basis) -> str:
    num_learnt = basis.num_axes - len(basis.named)
    return f"{len(basis.named)} named {f'and {num_learnt} learnt ' if num_learnt else ''}reward axes"


def _prior(basis: Basis) -> str:
    if basis.shares != ASSUMED:
        return "Prior and noise come from people's answers."
    sigma = basis.prior.covariance[0, 0] ** 0.5
    return f"""No human data went in: the prior is
N(0, σ²C), where C are the axes' correlations over the model's own replies, with σ = {sigma:.3f}, so
that a person drawn from it answers the {len(basis.reference)} reference pairs as their own weights say in three cases
of four."""


def _rollouts(plans: Plans) -> str:
    """What was done to the replies that the head learnt from."""
    plan = plans.learn
    forced = (
        f"in {plan.forced_share:.0%} of them one random position took a\nuniform draw from the {plan.num_candidates} "
        "likeliest tokens."
    )
    if plan.expert is None:
        return f"Of those that the head learnt from,\n{forced}"
    alphas = ", ".join(f"{alpha:g}" for alpha in plan.alphas)
    return f"Those that the head learnt from took\nα = {alphas} of the {plan.expert} expert in turn; {forced}"


def _strength(basis: Basis) -> str:
    steering = basis.steering
    chosen = f"β = {steering.beta:g}, c = {steering.clip:g}, K = {steering.num_candidates}"
    return chosen if steering.beta else f"**This basis doesn't steer**: {chosen}, because no other setting is allowed"


def mean_known(values: Float[Array, "d"]) -> float:
    """Over the axes where something was measured; NaN where nothing was."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def rounded_mean(values: Float[Array, "d"]) -> float | None:
    """The same as a JSON value."""
    return None if math.isnan(mean := mean_known(values)) else round(mean, 4)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same keys as a Markdown table."""
    header = list(rows[0])
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(cell(row[key]) for key in header) + " |" for row in rows]
    return "\n".join(lines)


def cell(value: object) -> str:
    """A value as cards print it."""
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.3f}"
    return str(value)


def public_name(model: str) -> str:
    """A model's hub id, or the name of its folder without the path on this machine."""
    return Path(model).resolve().name if Path(model).exists() else model
