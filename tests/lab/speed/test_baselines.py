"""What our speed is measured against writes what it should."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lab.speed.baselines import args
from lab.speed.batch import Batch
from lab.speed.models import Shape, Specimens
from personalign.decode import reference
from personalign.decode.models import Models

pytestmark = pytest.mark.filterwarnings("ignore")

SHAPE = Shape(64, 128, 2, 4, vocabulary=512)


@pytest.fixture(scope="module")
def judged() -> Models:
    return Specimens("cpu", SHAPE, SHAPE).small_judged


def test_naive_args_is_args(judged: Models) -> None:
    """Token by token what the reference writes, which copies nothing and keeps no cache at all."""
    assert judged.reward_model is not None
    batch = Batch.random(judged.base, [20] * 4, 10)
    for prompt, request in zip(batch.prompts, batch.requests(20, rule="args"), strict=True):
        ours = args.generate(judged.base, judged.reward_model, prompt, 20)
        assert tuple(ours) == reference.generate(judged, request).ids
        assert ours != list(
            reference.generate(judged, replace(request, options=replace(request.options, rule="successor"))).ids
        )  # the control: greedy


def test_a_wrong_naive_args_is_found(judged: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another weight other tokens are written: the comparison above would fail."""
    assert judged.reward_model is not None
    (prompt,) = Batch.random(judged.base, [20], 10).prompts
    right = args.generate(judged.base, judged.reward_model, prompt, 20)
    monkeypatch.setattr(args, "WEIGHT", -1.5)
    assert args.generate(judged.base, judged.reward_model, prompt, 20) != right


def test_naive_args_ends(judged: Models) -> None:
    """The token that ends a reply isn't part of it."""
    assert judged.reward_model is not None
    (prompt,) = Batch.random(judged.base, [20], 10).prompts
    written = args.generate(judged.base, judged.reward_model, prompt, 20)
    ending = replace(judged.base)
    ending.__dict__["ends"] = (written[5],)
    assert args.generate(ending, judged.reward_model, prompt, 20) == written[: written.index(written[5])]
