"""The steering correlation of a basis: whether its head knows which next token leads where, axis by axis.

R² over all tokens mostly says that replies to different prompts differ, which no next token can change. Here the prefix
stays: at places in the model's own replies the likeliest tokens are each continued many times, and the head's
predictions are compared with what came of them. Both are centred over the tokens of a place, because steering is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from lab.harness import Report, Row
from personalign.basis import Basis
from personalign.bundled import locate
from personalign.cli.output import out, print_row
from personalign.decode import Models, Request, SuccessorHead, generate, load_causal
from personalign.decode.steer import Steer, Step
from personalign.errors import InputError, PersonalignError
from personalign.learn.axes import features
from personalign.options import Options
from personalign.train.prompts import read_prompts
from personalign.train.work import track
from personalign.types import Message, Reply

LAB = Path(__file__).parents[1]
PROMPTS = {"tiny": LAB / "quality" / "prompts.jsonl", "smollm2": LAB / "zoo" / "smollm2" / "held_out.jsonl"}
ROWS = 96  # continuations that are written at once


@dataclass(frozen=True)
class Plan:
    """How much is written, and drawn how."""

    num_places: int = 100
    num_tokens: int = 8  # the likeliest, of each place
    num_continuations: int = 24  # of each token, in two halves
    max_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    latest: int = 32  # how far into a reply a place is, at most
    seed: int = 0

    def options(self, seed: int, max_tokens: int | None = None) -> Options:
        """The draw of one reply."""
        return Options(max_tokens or self.max_tokens, self.temperature, self.top_p, seed=seed)


@dataclass(frozen=True, eq=False)
class Places:
    """Where continuations branch off."""

    prompts: Sequence[Sequence[Message]]
    before: Sequence[Sequence[int]]  # the ids of the reply up to there
    hidden: Float[Tensor, "places H"]
    tokens: Int[Tensor, "places k"]  # the likeliest next ones


def find_places(models: Models, prompts: Sequence[Sequence[Message]], plan: Plan) -> Places:
    """Write a reply to each prompt, and stop at a random place in it."""
    rng = np.random.default_rng(plan.seed)
    turns = [prompts[i % len(prompts)] for i in range(plan.num_places)]
    seeds = rng.integers(2**31, size=plan.num_places).tolist()
    whole = generate(models, [Request(turn, plan.options(seed)) for turn, seed in zip(turns, seeds, strict=True)])
    before = [reply.ids[: rng.integers(min(max(len(reply.ids), 1), plan.latest))] for reply in whole]
    base = models.base
    hidden = torch.zeros(plan.num_places, base.hidden_size, device=base.device)
    tokens = torch.zeros(plan.num_places, plan.num_tokens, dtype=torch.long, device=base.device)
    at = torch.tensor([len(ids) for ids in before], device=base.device)

    def look(logits: Tensor, step: Step) -> Tensor:
        here = step.active & (at[step.request] == step.index)
        hidden[step.request[here]] = step.hidden[here].float()
        tokens[step.request[here]] = logits[here].topk(plan.num_tokens).indices
        return logits

    _continue(models, turns, before, [plan.options(0, len(ids) + 1) for ids in before], look)
    return Places(turns, before, hidden, tokens)


def continuations(
    models: Models, basis: Basis, places: Places, plan: Plan
) -> Float[NDArray[np.float64], "places k n d"]:
    """φ of the replies that each place's tokens lead to."""
    num_places, k = places.tokens.shape
    jobs = [(i, j, n) for i in range(num_places) for j in range(k) for n in range(plan.num_continuations)]
    texts: list[str] = []
    for first in track(range(0, len(jobs), ROWS), "continuations"):
        rows = jobs[first : first + ROWS]
        before = [[*places.before[i], int(places.tokens[i, j])] for i, j, _ in rows]
        options = [
            plan.options(plan.seed + 1 + n, plan.max_tokens + len(ids))
            for (_, _, n), ids in zip(rows, before, strict=True)
        ]
        texts += [r.text for r in _continue(models, [places.prompts[i] for i, _, _ in rows], before, options)]
    phi = features(basis, [places.prompts[i] for i, _, _ in jobs], texts)
    return phi.reshape(num_places, k, plan.num_continuations, -1)


def _continue(
    models: Models,
    prompts: Sequence[Sequence[Message]],
    before: Sequence[Sequence[int]],
    options: Sequence[Options],
    *steers: Steer,
) -> list[Reply]:
    """Write replies that begin with given tokens."""
    longest = max(map(len, before), default=0) + 1
    begun = torch.full((len(before), longest), -1, device=models.base.device)
    for i, ids in enumerate(before):
        begun[i, : len(ids)] = torch.tensor(ids, dtype=torch.long)

    def force(logits: Tensor, step: Step) -> Tensor:
        token = begun[step.request, step.index.clamp_max(longest - 1)]
        is_given = (token >= 0) & (step.index < longest)
        forced = torch.full_like(logits, -torch.inf).scatter_(1, token.clamp_min(0)[:, None], 0.0)
        return torch.where(is_given[:, None], forced, logits)

    requests = [Request(prompt, option) for prompt, option in zip(prompts, options, strict=True)]
    return generate(models, requests, steers=[*steers, force])


@torch.inference_mode()
def predictions(models: Models, places: Places) -> Float[NDArray[np.float64], "places k d"]:
    """What the head says of each place's tokens."""
    head = models.head
    assert head is not None, "a basis with a head is measured"
    num_places, k = places.tokens.shape
    hidden = places.hidden.repeat_interleave(k, dim=0)
    predicted = head(hidden, models.base.output_embedding.float()[places.tokens.flatten()])
    return np.asarray(predicted.double().cpu().numpy().reshape(num_places, k, -1))


def correlations(
    predicted: Float[NDArray[np.float64], "places k d"], measured: Float[NDArray[np.float64], "places k n d"]
) -> Float[NDArray[np.float64], "d1"]:
    """Of each axis, then of all together, over places and tokens; NaN where the truth's variance can't be told from 0.

    The truth is a mean of draws, so its variance is taken as the covariance of the means of two halves: noise adds to a
    variance and not to a covariance.
    """
    centred = predicted - predicted.mean(1, keepdims=True)
    half = measured.shape[2] // 2
    first, second = (
        m.mean(2) - m.mean((1, 2))[:, None] for m in (measured[:, :, :half], measured[:, :, half : 2 * half])
    )
    shared = (centred * (first + second) / 2).mean((0, 1))
    true, own = (first * second).mean((0, 1)), np.square(centred).mean((0, 1))
    sums = [np.append(values, values.sum()) for values in (shared, true, own)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(sums[1] > 0, sums[0] / np.sqrt(sums[1] * sums[2]), np.nan))


def run_steering(
    model: str, basis: Path | None, prompts: Path, device: str, plan: Plan, results: Path | None = None
) -> dict[str, Any]:
    """Measure a basis's head on prompts that it hasn't seen."""
    source = locate(model, basis, device=device)
    if source.basis is None:
        raise InputError(f"{model} has no basis, expected one with a head; pass --basis PATH")
    loaded = Basis.load(source.basis)
    models = Models(load_causal(source.model, device), SuccessorHead.from_arrays(loaded.head or {}), loaded.steering)
    report = Report("python -m lab.quality.steering", device, out=results)
    report.facts = {"model": model, "basis": loaded.id, "plan": asdict(plan)}
    places = find_places(models, [prompt for _, prompt in read_prompts(prompts)], plan)
    values = correlations(predictions(models, places), continuations(models, loaded, places, plan)).tolist()
    names = [*(axis.name for axis in loaded.axes), "overall"]
    known = ((name, value) for name, value in zip(names, values, strict=True) if math.isfinite(value))
    report.extend(Row(f"steering.{name}", value) for name, value in known)
    return report.to_json()


def own_prompts(model: str) -> Path:
    """The file of prompts that a bundled model's basis has not seen.

    Raises:
        InputError: it is no bundled model.
    """
    if model not in PROMPTS:
        raise InputError(
            f"found no prompts for {model}, expected a file that the basis hasn't seen; pass --prompts FILE"
        )
    return PROMPTS[model]


def main(
    model: Annotated[str, typer.Option(help="the model")] = "tiny",
    prompts: Annotated[
        Path | None, typer.Option(help="file of prompts that the basis hasn't seen; a bundled model has its own")
    ] = None,
    basis: Annotated[Path | None, typer.Option(help="its basis; by default the bundled one")] = None,
    places: Annotated[int, typer.Option(help="number of places")] = 100,
    tokens: Annotated[int, typer.Option(help="number of next tokens at each")] = 8,
    continuations: Annotated[int, typer.Option(help="number of replies that go on with each")] = 24,
    max_tokens: Annotated[int, typer.Option(help="largest number of tokens in a reply")] = 64,
    temperature: Annotated[float, typer.Option(help="of the draws")] = 1.0,
    top_p: Annotated[float, typer.Option(help="of the draws")] = 1.0,
    results: Annotated[Path | None, typer.Option("--out", help="file of the result")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Print how well a head knows which next token leads where, axis by axis and overall."""
    plan = Plan(places, tokens, continuations, max_tokens, temperature, top_p)
    print_figures(lambda: run_steering(model, basis, prompts or own_prompts(model), "cpu", plan, results), as_json)


def print_figures(measure: Callable[[], dict[str, Any]], as_json: bool) -> None:
    """Measure and print, or tell what is wrong and exit as the command line does."""
    try:
        result = measure()
    except PersonalignError as error:
        typer.echo(f"personalign: {error}", err=True)
        raise typer.Exit(error.exit_code) from error
    print_row(result, as_json, out.print, json.dumps(result["figures"], indent=2))


if __name__ == "__main__":
    typer.run(main)
