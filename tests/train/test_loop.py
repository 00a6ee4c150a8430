"""The training loop: it learns, it can be killed, and it keeps the best."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from personalign.train.loop import DevCheck, Recipe, has_bfloat16, train
from tests.decode.tiny_models import V, network

STEPS, KILLED_AT = 8, 5
RECIPE = Recipe(STEPS, 1e-2, warmup_steps=2)
EACH_STEP = -1.0  # seconds between two checkpoints


@pytest.mark.parametrize(("name", "has_it"), [("avx512_bf16", True), ("amx_bf16", True), ("avx2", False)])
def test_a_cpu_that_lacks_bfloat16_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch, name: str, *, has_it: bool
) -> None:
    """Emulated it would take forty times as long."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {name: True})
    assert has_bfloat16(torch.device("cpu")) is has_it
    assert has_bfloat16(torch.device("cuda"))
    dtypes = []

    class Watched(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network("llama", 0)

        def forward(self, **inputs: Tensor) -> object:
            output = self.inner(**inputs)
            dtypes.append(output.logits.dtype)
            return output

    with tempfile.TemporaryDirectory() as folder:
        train(Watched(), counting, Recipe(1, 1e-2, warmup_steps=1), Path(folder), "counting")
    assert dtypes == [torch.bfloat16 if has_it else torch.float32]


class PowerCutError(Exception):
    """What ends a training before its time."""


def counting(step: int) -> Tensor:
    """Rows that count upwards from a random start: learnt in a few steps."""
    start = torch.randint(V, (8, 1), generator=torch.Generator().manual_seed(step))
    return (start + torch.arange(12)) % V


def killed(step: int) -> Tensor:
    if step == KILLED_AT:
        raise PowerCutError
    return counting(step)


@torch.no_grad()
def loss_of(model: torch.nn.Module) -> float:
    rows = counting(10_000)
    return float(model(input_ids=rows, labels=rows).loss)


def trained(work: Path, recipe: Recipe = RECIPE, rows_at=counting, dev=None) -> dict[str, Tensor]:
    model = network("llama", 0)
    train(model, rows_at, recipe, work, "toy", dev, EACH_STEP)
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_a_pattern_is_learnt(tmp_path: Path) -> None:
    """The loss of a toy task falls by two thirds, and doesn't where the rate is zero."""
    learner, idler = network("llama", 0), network("llama", 0)
    before = loss_of(learner)
    train(learner, counting, Recipe(60, 1e-2, warmup_steps=5), tmp_path / "learner", "toy")
    train(idler, counting, Recipe(60, 0.0, warmup_steps=5), tmp_path / "idler", "toy")
    assert loss_of(learner) < before / 3
    assert loss_of(idler) == before  # control
    log = [json.loads(line) for line in (tmp_path / "learner" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [0, 50]
    assert log[1]["loss"] < log[0]["loss"]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path: Path, optimizer) -> None:
    """Killed and called again it ends in the very weights of a training that was left alone."""
    recipe = Recipe(STEPS, 1e-2, optimizer, warmup_steps=2)
    whole = trained(tmp_path / "whole", recipe)
    for work in ("resumed", "forgetful"):
        with pytest.raises(PowerCutError):
            trained(tmp_path / work, recipe, killed)
    seen: list[int] = []
    resumed = trained(tmp_path / "resumed", recipe, lambda step: seen.append(step) or counting(step))
    assert seen == list(range(KILLED_AT, STEPS))
    assert equal(resumed, whole)

    forget_the_optimizer(tmp_path / "forgetful" / "checkpoint.safetensors")
    assert not equal(trained(tmp_path / "forgetful", recipe), whole)  # control: the momentum matters


def forget_the_optimizer(checkpoint: Path) -> None:
    tensors = {name: value for name, value in load_file(checkpoint).items() if name.startswith("model.")}
    with safe_open(checkpoint, "pt") as file:
        metadata = file.metadata()
    save_file(tensors, checkpoint, metadata)


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    """Called again it takes no rows and gives the same weights."""
    first = trained(tmp_path)
    with pytest.raises(PowerCutError):
        trained(tmp_path / "elsewhere", rows_at=killed)  # control: rows are taken where nothing is finished
    assert equal(trained(tmp_path, rows_at=lambda _: killed(KILLED_AT)), first)


def test_the_best_weights_on_dev_are_kept(tmp_path: Path) -> None:
    """Of all checks the weights with the lowest loss are given back, even if a kill lies between."""
    model, checks = network("llama", 0), []
    losses = iter([3.0, 1.0, 2.0, 1.0])

    def dev_loss() -> float:
        checks.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(losses)

    dev = DevCheck(dev_loss, every=2)
    with pytest.raises(PowerCutError):
        train(model, killed, RECIPE, tmp_path, "toy", dev, EACH_STEP)
    train(model, counting, RECIPE, tmp_path, "toy", dev, EACH_STEP)
    assert len(checks) == 4
    assert equal(dict(model.state_dict()), checks[1])
    assert not equal(checks[3], checks[1])  # control: the last weights are others


def test_a_loss_that_is_no_number_is_never_the_best(tmp_path: Path) -> None:
    """A training that blows up gives back the weights it had before."""
    model, checks = network("llama", 0), []
    losses = iter([math.nan, 3.0, math.nan, 4.0])

    def dev_loss() -> float:
        checks.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(losses)

    train(model, counting, RECIPE, tmp_path, "toy", DevCheck(dev_loss, every=2))
    assert equal(dict(model.state_dict()), checks[1])


def test_checkpoints_are_safetensors(tmp_path: Path) -> None:
    """Nothing is pickled, and nothing half-written stays behind."""
    trained(tmp_path, dev=DevCheck(lambda: 1.0, every=4))
    assert {path.name for path in tmp_path.iterdir()} == {"best.safetensors", "checkpoint.safetensors", "log.jsonl"}
    for name in ("best", "checkpoint"):
        assert load_file(tmp_path / f"{name}.safetensors")


def test_the_rate_rises_then_falls_to_nothing() -> None:
    """By hand: half way up the warm-up, then linearly down."""
    recipe = Recipe(num_steps=100, learning_rate=1.0, warmup_steps=10)
    assert [recipe.rate_at(step) for step in (0, 4, 50, 99)] == pytest.approx([0.1, 0.5, 0.5, 0.01])
