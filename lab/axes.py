"""What each axis of an assistant's prose tells: ``python -m lab.axes --data DIR``, on alpaca_eval's replies.

24 models answer 576 prompts once each; prompts that one of them left out are dropped. A raw measure is split into
model + prompt + rest, each a variance (two-way analysis of variance without repeats, by the method of moments).
Steering can use what differs within a prompt. Whether one reply tells anything of its author is said in two ways: by
the means over ten prompts and ten others, and by siblings, which are one model asked to be concise, asked to be
verbose, or asked nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from jaxtyping import Float
from numpy.typing import NDArray
from rich.table import Table

from lab.learning.populations.votes import MissingData
from personalign.cli.output import out, print_row
from personalign.learn.axes import measure_many, named_axes
from personalign.types import Message

RESULT = Path(__file__).parent / "results" / "axes.json"
SIBLING = re.compile(r"_(concise|verbose)$")
TEN = 10  # answers: as many as a person gives
TWINS = 0.8  # a correlation from which on two axes are one

Raw = Float[NDArray[np.float64], "models prompts axes"]


@dataclass(frozen=True, eq=False)
class Crossed:
    """Every model's reply to every prompt, measured."""

    models: Sequence[str]
    raw: Raw

    @property
    def within(self) -> Raw:
        """Deviations from what all models say to the prompt."""
        return np.asarray(self.raw - self.raw.mean(axis=0))

    @property
    def rest(self) -> Raw:
        """What neither the model's mean nor the prompt's explains."""
        return np.asarray(self.within - self.within.mean(axis=1, keepdims=True))

    def parts(self) -> Float[NDArray[np.float64], "3 axes"]:
        """The variances between models, between prompts, and of the rest, which holds model × prompt and chance."""
        num_models, num_prompts, _ = self.raw.shape
        rest = (self.rest**2).sum(axis=(0, 1)) / ((num_models - 1) * (num_prompts - 1))
        models, prompts = (self.raw.mean(axis=axis).var(axis=0, ddof=1) for axis in (1, 0))
        return np.array([np.maximum(models - rest / num_prompts, 0), np.maximum(prompts - rest / num_models, 0), rest])

    def siblings(self) -> Float[NDArray[np.float64], "axes"]:
        """The correlation over prompts of two siblings' rests, in the mean over pairs.

        A prompt's mean and a model's are taken off, so it tells what a reply has of its author and prompt together. As
        siblings are asked for other lengths, it is a lower bound.
        """
        families: dict[str, list[int]] = {}
        for i, model in enumerate(self.models):
            families.setdefault(SIBLING.sub("", model), []).append(i)
        pairs = [pair for family in families.values() for pair in combinations(family, 2)]
        rest = self.rest
        products = np.array([(rest[i] * rest[j]).mean(axis=0) for i, j in pairs])
        sizes = np.array([rest[i].std(axis=0) * rest[j].std(axis=0) for i, j in pairs])
        return np.asarray(products.sum(axis=0) / np.maximum(sizes.sum(axis=0), 1e-12))


def load(data: Path) -> Crossed:
    """Measure the replies to the prompts that every model complete.

    Raises:
        MissingData: the folder doesn't hold the set.
    """
    path = data / "alpaca_eval" / "outputs.jsonl"
    if not path.is_file():
        raise MissingData(f"found no {path}, expected alpaca_eval's outputs; pass the folder above with --data")
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    models = sorted({model for line in lines for model in line["outputs"]})
    complete = [line for line in lines if all(line["outputs"].get(model) for model in models)]
    prompts: list[list[Message]] = [
        [{"role": "user", "content": line["instruction"]}] for line in complete for _ in models
    ]
    texts = [line["outputs"][model] for line in complete for model in models]
    raw = measure_many(prompts, texts, named_axes("assistant")).reshape(len(complete), len(models), -1)
    return Crossed(models, raw.transpose(1, 0, 2))


def report(crossed: Crossed, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each axis."""
    models, prompts, rest = crossed.parts()
    variance = np.maximum(models + prompts + rest, 1e-12)
    flat, within = (values.reshape(-1, len(names)) for values in (crossed.raw, crossed.within))
    siblings = crossed.siblings()
    return [
        {
            "axis": name,
            "coverage": _share((flat[:, j] != np.median(flat[:, j])).mean()),
            "between_models": _share(models[j] / variance[j]),
            "within_prompt": _share((models[j] + rest[j]) / variance[j]),
            "retest_ten": _share(models[j] / max(models[j] + rest[j] / TEN, 1e-12)),
            "retest_siblings": _share(siblings[j]),
        }
        | _nearest(flat, names, j, "nearest")
        | _nearest(within, names, j, "nearest_within")
        for j, name in enumerate(names)
    ]


def _nearest(values: Float[NDArray[np.float64], "n axes"], names: Sequence[str], j: int, key: str) -> dict[str, Any]:
    """The axis that is most correlated with this one."""
    centred = values - values.mean(axis=0)
    norms = np.maximum(np.sqrt((centred**2).sum(axis=0)), 1e-12)
    r = centred.T @ centred[:, j] / norms / norms[j]
    r[j] = 0
    i = int(np.abs(r).argmax())
    return {key: names[i], f"{key}_r": _share(r[i])}


def _share(value: float) -> float:
    return round(float(value), 3)


def _show(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table("axis", "coverage", "models", "in a prompt", "10 ↔ 10", "siblings", "nearest", "in a prompt")
    for row in rows:
        keys = ("coverage", "between_models", "within_prompt", "retest_ten", "retest_siblings")
        near = (f"{row[key]} {row[f'{key}_r']:+.2f}" for key in ("nearest", "nearest_within"))
        table.add_row(row["axis"], *(f"{row[key]:.2f}" for key in keys), *near)
    out.print(table)


def main(
    data: Annotated[Path, typer.Option(help="folder that holds alpaca_eval/")],
    results: Annotated[Path, typer.Option("--out", help="file of results")] = RESULT,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
) -> None:
    """Measure what each axis of an assistant's prose tells on the replies of 24 models; numbers only are kept."""
    names = [axis.name for axis in named_axes("assistant")]
    crossed = load(data)
    rows = report(crossed, names)
    twins = [f"{row['axis']} {row['nearest']}" for row in rows if abs(row["nearest_r"]) > TWINS]
    num_models, num_prompts, _ = crossed.raw.shape
    result = {
        "command": "python -m lab.axes --data DIR --json",
        "models": num_models,
        "prompts": num_prompts,
        "rows": rows,
        "twins": twins,
    }
    results.write_text(json.dumps(result, ensure_ascii=False) + "\n", encoding="utf-8")
    print_row(result, as_json, _show, rows)


if __name__ == "__main__":
    typer.run(main)
