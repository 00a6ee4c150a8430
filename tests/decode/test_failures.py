"""What goes wrong with one reply is one reply's error: all others keep every bit, and the slot serves the next one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from personalign.decode.cache import SlotCache
from personalign.decode.experts import load_expert, load_experts
from personalign.decode.load import load_causal
from personalign.decode.models import Models
from personalign.decode.request import Request
from personalign.decode.steer import Step
from personalign.errors import ConstraintError, EngineError, ModelError, PersonalignError
from personalign.options import Options
from personalign.types import Guidance, Reply
from tests.decode.serving import Caller, Desk, leftovers, same_bits
from tests.decode.tiny_models import Kit, talk

W = np.array([1.0, -2.0, 0.5])
GUIDED = Guidance(W, 0.8, user="ada")
HELLO, CAT, LONG = talk("hello", "the cat", "日" + "Q" * 40)
SLOTS = 4
NAN_POSITION = 35  # GPT-2's, see poisoned()
HEALTHY = [
    Request(HELLO, Options(9)),
    Request(CAT, Options(8, 0.9, seed=2, regex="[a-z ]{5,}")),
    Request(HELLO, Options(10, expert="empty")),
]


def poisoned(kit: Kit) -> Models:
    """A base whose keys and values are NaN once it reads one token (Llama) or comes to one position (GPT-2)."""
    base = load_causal(kit.folder / "base", "cpu")
    with torch.no_grad():
        if kit.family == "llama":
            token = base.tokenizer("日", add_special_tokens=False)["input_ids"][-1]
            base.model.model.embed_tokens.weight[token] = math.nan
        else:
            base.model.transformer.wpe.weight[NAN_POSITION] = math.nan
    return kit.models(base=base)


@contextmanager
def failing(module: nn.Module, when: Callable[[Any], bool] = lambda _: True) -> Iterator[None]:
    """Let a module fail as a device does, whenever its input is like that."""

    def fail(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if when(kwargs.get("input_ids", args[0] if args else None)):
            raise RuntimeError("out of memory\nmore about it")

    hook = module.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@dataclass
class Illness:
    """What befalls whom, and what they are told."""

    models: Models
    request: Request
    error: type[PersonalignError]
    told: str
    cause: Callable[[], Any] = nullcontext
    steers: tuple[Any, ...] = ()


def nan_from_the_model(kit: Kit) -> Illness:
    return Illness(poisoned(kit), Request(LONG, Options(6)), ModelError, "gave logits that hold NaN or Inf")


def nan_from_a_steer(kit: Kit) -> Illness:
    def poison(logits: Tensor, step: Step) -> Tensor:
        return torch.where(((step.request == 0) & (step.index == 2))[:, None], math.nan, logits)

    return Illness(kit.models(), Request(CAT, Options(6), GUIDED), ModelError, "NaN or Inf", steers=(poison,))


def inf_from_a_steer(kit: Kit) -> Illness:
    def poison(logits: Tensor, step: Step) -> Tensor:
        return torch.where(((step.request == 0) & (step.index == 2))[:, None], math.inf, logits)

    request = Request(CAT, Options(6, 0.9, seed=0, expert="hotels"), GUIDED)
    return Illness(kit.models(), request, ModelError, "NaN or Inf", steers=(poison,))


def nan_from_an_expert(kit: Kit) -> Illness:
    experts = load_experts([kit.folder / "hotels", kit.folder / "empty"], load_causal(kit.folder / "small", "cpu"))
    adapted = experts["hotels"].peft
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_B.hotels" in name:
                value.fill_(math.nan)
    request = Request(CAT, Options(6, expert="hotels"), GUIDED)
    told = "with the expert 'hotels' on it gave logits that hold NaN or Inf"
    return Illness(kit.models(experts=experts), request, ModelError, told)


def an_experts_lane_raises(kit: Kit) -> Illness:
    whole = load_expert(kit.folder / "whole", load_causal(kit.folder / "small", "cpu"))
    models = kit.models(experts=kit.experts | {"whole": whole})
    request, calls = Request(CAT, Options(6, expert="whole"), GUIDED), []

    def third(_ids: Tensor) -> bool:
        calls.append(1)
        return len(calls) == 3

    return Illness(
        models, request, EngineError, "failed with RuntimeError: out of memory; send the request again",
        lambda: failing(whole.tuned.model, third),
    )  # fmt: skip


def the_head_raises(kit: Kit) -> Illness:
    models = kit.models()
    return Illness(
        models, Request(CAT, Options(6), GUIDED), EngineError, "RuntimeError: out of memory",
        lambda: failing(models.head.body),
    )  # fmt: skip


def reading_the_prompt_raises(kit: Kit) -> Illness:
    models, long = kit.models(), Request(LONG, Options(6, expert="hotels"), GUIDED)
    return Illness(
        models, long, EngineError, "RuntimeError: out of memory",
        lambda: failing(models.base.model, lambda ids: ids.shape[1] > 40),
    )  # fmt: skip


def reading_the_experts_prompt_raises(kit: Kit) -> Illness:
    whole = load_expert(kit.folder / "whole", load_causal(kit.folder / "small", "cpu"))
    models = kit.models(experts=kit.experts | {"whole": whole})
    return Illness(
        models, Request(LONG, Options(6, expert="whole"), GUIDED), EngineError, "RuntimeError: out of memory",
        lambda: failing(whole.anti.model, lambda ids: ids.shape[1] > 40),
    )  # fmt: skip


def a_dead_end(kit: Kit) -> Illness:
    def force(logits: Tensor, step: Step) -> Tensor:
        here = (step.request == 0) & (step.index == 1)
        return torch.where(here[:, None], logits.index_fill(-1, torch.tensor(40), 1e4), logits)

    request = Request(CAT, Options(6, regex="(yes|no){3}"), GUIDED)
    return Illness(kit.models(), request, ConstraintError, "allows no token", steers=(force,))


ILLNESSES = [
    nan_from_the_model,
    nan_from_a_steer,
    inf_from_a_steer,
    nan_from_an_expert,
    an_experts_lane_raises,
    the_head_raises,
    reading_the_prompt_raises,
    reading_the_experts_prompt_raises,
    a_dead_end,
]


def _alone(models: Models, request: Request) -> tuple[Reply, list[Tensor]]:
    desk = Desk(models, SLOTS)
    (reply,) = desk.serve([request])
    return reply, desk.traces[0]


def _is_as_alone(desk: Desk, caller: Caller) -> bool:
    expected, trace = _alone(desk.models, caller.seq.request)
    return caller.generated == expected and same_bits(desk.trace(caller), trace)


@pytest.mark.parametrize("fall_ill", ILLNESSES)
def test_one_replys_failure_is_nobody_elses(kit: Kit, fall_ill: Callable[[Kit], Illness]) -> None:
    """It ends with a typed error that says why; its neighbours, and whoever comes after, are as if alone."""
    illness = fall_ill(kit)
    desk = Desk(illness.models, SLOTS, steers=illness.steers)
    with illness.cause():
        ill = desk.submit(illness.request)
        others = [desk.submit(request, is_watched=True) for request in HEALTHY]
        desk.drain()
    assert type(ill.outcome) is illness.error
    assert illness.told in str(ill.outcome)
    after = [desk.submit(request, is_watched=True) for request in [replace(illness.request, messages=CAT), *HEALTHY]]
    desk.drain()
    sick = (
        illness.error is ModelError and illness.request.options.expert is not None
    )  # whoever uses that expert stays ill
    assert all(_is_as_alone(desk, caller) for caller in [*others, *after[sick:]])
    assert leftovers(desk.engine) == []


def _served_in_ill_slots(kit: Kit, leave: Callable[[Desk, Caller], None]) -> list[bool]:
    """Whether replies are as if alone in the slots where one lay whose keys and values were NaN, and left like that."""
    desk = Desk(poisoned(kit), SLOTS)
    before = [desk.submit(request) for request in HEALTHY[:2]]
    ill = desk.submit(Request(LONG, Options(20)))
    while len(desk.trace(ill)) < 3:
        desk._watched.add(ill.seq.number)
        desk.engine.step()
    assert desk.trace(ill)[0].view(torch.float32).isnan().any()
    for caller in before:
        caller.cancel()
    leave(desk, ill)
    desk.drain()
    after = [desk.submit(request, is_watched=True) for request in [*HEALTHY, HEALTHY[0]]]
    desk.drain()
    return [isinstance(caller.outcome, Reply) and _is_as_alone(desk, caller) for caller in after]


def _to_its_end(_desk: Desk, _ill: Caller) -> None:
    """It goes on until it has all its tokens."""


def _cancelled(_desk: Desk, ill: Caller) -> None:
    ill.cancel()


def _moved(desk: Desk, ill: Caller) -> None:
    desk.engine._slots.move(2, 3)
    running = desk.engine._scheduler.running
    running[3] = running.pop(2)


@pytest.mark.parametrize("leave", [_to_its_end, _cancelled, _moved])
def test_a_slot_that_held_nan_serves_the_next_reply(kit: Kit, leave: Callable[[Desk, Caller], None]) -> None:
    """However its reply left: at its end, cancelled, or moved to another slot."""
    assert all(_served_in_ill_slots(kit, leave))


@pytest.mark.parametrize("leave", [_to_its_end, _cancelled, _moved])
def test_a_slot_that_is_not_wiped_does_not(
    kit: Kit, leave: Callable[[Desk, Caller], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: NaN that is left behind a mask spoils whoever comes next."""
    monkeypatch.setattr(SlotCache, "wipe", lambda *_: None)
    assert not all(_served_in_ill_slots(kit, leave))
