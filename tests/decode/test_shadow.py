"""Guidance in shadow: the model's own reply to the bit, and an account of what would have been done to it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from personalign.decode import Request, reference
from personalign.decode.engine import generate
from personalign.errors import InputError
from personalign.options import Options
from personalign.types import Guidance
from tests.decode.serving import Desk, leftovers, same_bits
from tests.decode.tiny_models import Kit, talk

HELLO, CAT = talk("hello", "the cat")
GUIDED = Guidance(np.array([1.0, -2.0, 0.5]), 0.8, user="ada")
SHADOW = replace(GUIDED, is_shadow=True)
GREEDY, DRAWN = Options(16), Options(16, 0.9, seed=4, repetition_penalty=1.2)


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_a_reply_in_shadow_is_the_models_own(kit: Kit, sampling: Options) -> None:
    """Logit by logit and bit by bit, also beside people who are guided; without shadow nothing is the same."""
    found = {}
    for name, guidance in (("plain", None), ("shadow", SHADOW), ("guided", GUIDED)):
        desk = Desk(kit.models(), 3)
        needle = desk.submit(Request(HELLO, sampling, guidance), is_watched=True)
        beside = [desk.submit(Request(CAT, Options(16), g)) for g in (GUIDED, None)]
        desk.drain()
        found[name] = desk.trace(needle), needle.generated, [caller.generated.text for caller in beside]
        assert leftovers(desk.engine) == []
    (plain, own, others), (shadow, told, beside_it), (guided, moved, _) = found.values()
    assert same_bits(shadow, plain)
    assert (told.ids, told.guided, told.reason) == (own.ids, False, "shadow")
    assert min(told.kl, told.gained) > 0 == own.kl
    assert beside_it == others
    assert not same_bits(guided, plain)
    assert moved.guided


def test_the_account_is_the_references(kit: Kit) -> None:
    """KL, changed positions and reward gained are those of tilting each distribution that a token was drawn from."""
    for request in (Request(HELLO, GREEDY, SHADOW), Request(CAT, DRAWN, SHADOW)):
        (told,), plain = Desk(kit.models(), 1).serve([request]), reference.generate(kit.models(), request)
        assert (told.ids, told.guided, told.reason) == (plain.ids, plain.guided, plain.reason)
        measured = (told.kl, told.changed, told.gained)
        assert measured == pytest.approx((plain.kl, plain.changed, plain.gained), abs=1e-4)


def test_a_slot_out_of_shadow_guides_the_next_reply(kit: Kit) -> None:
    """What was set for one request is gone with it, and travels with it where slots close up."""
    desk = Desk(kit.models(), 2)
    first = desk.submit(Request(CAT, Options(2)))
    waits = desk.submit(Request(HELLO, GREEDY, SHADOW))
    desk.drain()  # the first leaves, and the second moves to its slot
    assert first.generated.reason == "no_answers"
    assert waits.generated.reason == "shadow"
    (after,) = desk.serve([Request(HELLO, GREEDY, GUIDED)])
    assert after.guided
    assert after.ids == Desk(kit.models(), 1).serve([Request(HELLO, GREEDY, GUIDED)])[0].ids != waits.generated.ids


def test_other_reasons_come_first(kit: Kit) -> None:
    """Whom nothing sets apart, whose strength is 0, and who is erased meanwhile is told so, in shadow as otherwise."""
    models = kit.models()
    requests = [
        Request(HELLO, GREEDY, replace(SHADOW, **change)) for change in ({"is_personal": False}, {"strength": 0.0})
    ]
    assert [reply.reason for reply in generate(models, requests)] == ["nothing_personal", "strength_zero"]
    desk = Desk(models, 1)
    erased = desk.submit(Request(HELLO, GREEDY, SHADOW))
    for _ in range(3):
        desk.engine.step()
    desk.engine.forget("ada")
    desk.drain()
    assert erased.generated.reason == "forgotten"


def test_a_reward_model_has_no_shadow(kit: Kit) -> None:
    """It reads only the candidates it chose from, so a token drawn elsewhere would be lost to it: refused."""
    with pytest.raises(InputError, match=r"shadow"):
        generate(kit.models(), [Request(HELLO, replace(GREEDY, rule="args"), SHADOW)])
