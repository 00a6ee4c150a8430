"""What a head gains by learning from what is still to come: ``python -m lab.quality.heads --data DIR``, five minutes.

Two heads of ``tiny`` learn from the same few roll-outs. One is told what was already written before each token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from lab.harness import Report, Row
from lab.quality import steering
from lab.zoo.preferences import PLANS, basis_prompts
from personalign.basis import Basis
from personalign.bundled import locate
from personalign.decode import Models, load_causal
from personalign.learn.axes import features
from personalign.train.basis.build import Making
from personalign.train.basis.head import train_head
from personalign.train.basis.rollouts import roll_out
from personalign.train.plans import UNCALIBRATED, HeadRecipe
from personalign.train.prompts import Prompts


@dataclass(frozen=True)
class Plan:
    """How much is learnt from, and how well the heads are tested."""

    num_prompts: int = 500
    replies_per_prompt: int = 4
    tokens_seen: int = 600_000
    steering: steering.Plan = field(default_factory=lambda: steering.Plan(num_places=80, num_continuations=16))


def run_heads(data: Path, work: Path, plan: Plan, results: Path | None = None) -> dict[str, Any]:
    """Train both heads and measure their steering correlations; what was rolled out is kept in ``work``."""
    source = locate("tiny", device="cpu")
    assert source.basis is not None, "a bundled model has one"
    basis, models = Basis.load(source.basis), Models(load_causal(source.model, "cpu"), None, UNCALIBRATED)
    report = Report("python -m lab.quality.heads", "cpu", out=results)
    report.facts = {"basis": basis.id, "plan": asdict(plan)}
    report.extend(rows(models, basis, basis_prompts(data), work, plan))
    return report.to_json()


def rows(models: Models, basis: Basis, prompts: Prompts, work: Path, plan: Plan) -> Iterator[Row]:
    """The steering correlation of both heads."""
    learn = replace(PLANS.learn, replies_per_prompt=plan.replies_per_prompt, num_prompts=plan.num_prompts, expert=None)
    rollouts = roll_out(models, prompts.train, replace(learn, alphas=(0.0,)), work)
    phi = features(basis, [prompts.train[i] for i in rollouts.prompt], list(rollouts.text))
    so_far = Making(models, prompts, PLANS, work).so_far(basis, rollouts)["so_far"]
    places = steering.find_places(models, prompts.held_out, plan.steering)
    truth = steering.continuations(models, basis, places, plan.steering)
    recipe, everyone = HeadRecipe(tokens_seen=plan.tokens_seen), np.ones(len(phi), dtype=bool)
    for name, written in {"whole": np.zeros_like(so_far), "to_come": so_far}.items():
        head = train_head(rollouts, phi, written, models.base.output_embedding.float(), everyone, recipe)
        predicted = steering.predictions(replace(models, head=head), places)
        yield Row(f"heads.{name}", float(steering.correlations(predicted, truth)[-1]), facts={"replies": len(phi)})


def main(
    data: Annotated[Path, typer.Option(help="folder of the corpora")],
    work: Annotated[Path, typer.Option(help="roll-outs")] = Path(".zoo/heads"),
    results: Annotated[Path | None, typer.Option("--out", help="file of the result")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Print the steering correlation of a head that learns from whole replies, and of one told what was written."""
    steering.print_figures(lambda: run_heads(data, work, Plan(), results), as_json)


if __name__ == "__main__":
    typer.run(main)
