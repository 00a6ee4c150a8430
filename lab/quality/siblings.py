"""What tells a block's siblings apart: ``python -m lab.quality.siblings``, the text so far against the head.

Several replies are drawn to each prompt. At some lengths the features of what is written and what the head predicts are
compared with the features of the finished reply. All are centred over the replies to a prompt, because a choice is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from lab.harness import Report, Row
from lab.quality.steering import own_prompts, print_figures
from personalign.basis import Basis
from personalign.bundled import locate
from personalign.decode import Models, Request, SuccessorHead, generate, load_causal
from personalign.decode.load import render
from personalign.learn.axes import features
from personalign.options import Options
from personalign.train.prompts import read_prompts
from personalign.types import Message, Reply

NUM_TASTES = 300  # random ones, no axis privileged
Values = Float[NDArray[np.float64], "lengths prompts replies d"]


@dataclass(frozen=True)
class Plan:
    """How much is written, drawn how, and looked at where."""

    num_prompts: int = 100
    num_replies: int = 8  # to each prompt
    max_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    lengths: tuple[int, ...] = (4, 8, 16, 32)


@dataclass(frozen=True, eq=False)
class Compared:
    """Features of the same replies: of the text so far, as the head predicts them, and of the whole."""

    so_far: Values
    predicted: Values
    final: Float[NDArray[np.float64], "prompts replies d"]
    goes_on: Bool[NDArray[np.bool_], "lengths prompts replies"]


@torch.inference_mode()
def compare(models: Models, basis: Basis, prompts: Sequence[Sequence[Message]], plan: Plan) -> Compared:
    """Draw replies, read each once more, and measure them where they are so long."""
    draws = range(plan.num_replies)
    options = [Options(plan.max_tokens, plan.temperature, plan.top_p, seed=draw) for draw in draws]
    replies = generate(models, [Request(prompt, option) for prompt in prompts for option in options])
    d, shape = len(basis.axes), (len(plan.lengths), len(prompts), len(draws))
    so_far, predicted, goes_on = np.zeros((*shape, d)), np.zeros((*shape, d)), np.zeros(shape, dtype=bool)
    conversations = [prompt for prompt in prompts for _ in draws]
    final = features(basis, conversations, [reply.text for reply in replies]).reshape(*shape[1:], d)
    for row, (prompt, reply) in enumerate(zip(conversations, replies, strict=True)):
        i, j = divmod(row, len(draws))
        lengths = [n for n in plan.lengths if n < len(reply.ids)]
        texts = [models.base.detokenize(reply.ids[:n]) for n in lengths]
        if lengths:
            goes_on[: len(lengths), i, j] = True
            so_far[: len(lengths), i, j] = features(basis, [prompt] * len(texts), texts)
            predicted[: len(lengths), i, j] = _predicted(models, prompt, reply, lengths)
    return Compared(so_far, predicted, final, goes_on)


def _predicted(
    models: Models, prompt: Sequence[Message], reply: Reply, lengths: Sequence[int]
) -> Float[NDArray[np.float64], "n d"]:
    """What the head says of the reply at its n-th tokens."""
    head, base = models.head, models.base
    assert head is not None, "a basis with a head is measured"
    before = render(base.tokenizer, prompt)
    read = base.model(input_ids=torch.tensor([[*before, *reply.ids]], device=base.device), output_hidden_states=True)
    states = read.hidden_states[-1][0, [len(before) + n - 2 for n in lengths]]
    tokens = base.output_embedding[[reply.ids[n - 1] for n in lengths]]
    return np.asarray(head(states, tokens).double().cpu().numpy())


def rows(compared: Compared, plan: Plan) -> Iterator[Row]:
    """How well either tells apart what random tastes will like in the end, at each length."""
    tastes = np.random.default_rng(0).standard_normal((compared.final.shape[-1], NUM_TASTES))
    for i, length in enumerate(plan.lengths):
        goes_on = compared.goes_on[i] & (compared.goes_on[i].sum(-1, keepdims=True) > 1)
        liked = _centred(compared.final @ tastes, goes_on)
        for name, values in {"so_far": compared.so_far[i], "head": compared.predicted[i]}.items():
            yield Row(f"siblings.{name}.{length}", _correlation(_centred(values @ tastes, goes_on), liked))


def _centred(
    values: Float[NDArray[np.float64], "prompts replies n"], goes_on: Bool[NDArray[np.bool_], "prompts replies"]
) -> Float[NDArray[np.float64], "rows n"]:
    """Less the mean over the replies to the same prompt that go on."""
    count = np.maximum(goes_on.sum(1), 1)[:, None, None]
    mean = (values * goes_on[..., None]).sum(1, keepdims=True) / count
    return np.asarray((values - mean)[goes_on])


def _correlation(a: Float[NDArray[np.float64], "rows n"], b: Float[NDArray[np.float64], "rows n"]) -> float:
    """The mean over columns."""
    return float(np.mean([np.corrcoef(x, y)[0, 1] for x, y in zip(a.T, b.T, strict=True)]))


def run_siblings(model: str, prompts: Path, device: str, plan: Plan, results: Path | None = None) -> dict[str, Any]:
    """Measure a bundled model on prompts that its basis hasn't seen."""
    source = locate(model, device=device)
    assert source.basis is not None, "a bundled model has one"
    basis = Basis.load(source.basis)
    models = Models(load_causal(source.model, device), SuccessorHead.from_arrays(basis.head or {}), basis.steering)
    report = Report("python -m lab.quality.siblings", device, out=results)
    report.facts = {"model": model, "basis": basis.id, "plan": asdict(plan)}
    conversations = [prompt for _, prompt in read_prompts(prompts)][: plan.num_prompts]
    report.extend(rows(compare(models, basis, conversations, plan), plan))
    return report.to_json()


def main(
    model: Annotated[str, typer.Option(help="tiny or smollm2")] = "tiny",
    prompts: Annotated[int, typer.Option(help="number of prompts")] = 100,
    replies: Annotated[int, typer.Option(help="number of replies to each")] = 8,
    max_tokens: Annotated[int, typer.Option(help="largest number of tokens in a reply")] = 64,
    temperature: Annotated[float, typer.Option(help="of the draws")] = 1.0,
    top_p: Annotated[float, typer.Option(help="of the draws")] = 1.0,
    lengths: Annotated[list[int] | None, typer.Option(help="where to look, in tokens; give it several times")] = None,
    results: Annotated[Path | None, typer.Option("--out", help="file of the result")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Print how well the text so far and the head tell apart replies to one prompt, by what they become."""
    plan = Plan(prompts, replies, max_tokens, temperature, top_p, tuple(lengths or Plan.lengths))
    print_figures(lambda: run_siblings(model, own_prompts(model), "cpu", plan, results), as_json)


if __name__ == "__main__":
    typer.run(main)
