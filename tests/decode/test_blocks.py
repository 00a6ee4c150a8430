"""Siblings: the best of several versions is kept at the end of each block, or of the reply."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from personalign.decode import reference
from personalign.decode.engine import generate
from personalign.decode.models import Models
from personalign.decode.request import Request
from personalign.decode.sample import RowSampler
from personalign.decode.slots import Slots
from personalign.errors import ConstraintError, EngineError, InputError
from personalign.options import Options
from personalign.types import Array, Guidance, Message
from tests.decode.serving import Caller, Desk, leftovers, stranger
from tests.decode.tiny_models import STEERING, D, Kit, talk

W = np.array([1.0, -2.0, 0.5])
GUIDED = Guidance(W, 0.8)
HELLO, CAT = talk("hello", "the cat")
BLOCKS = Options(12, 1.0, seed=3, rule="blocks", num_siblings=3, block_tokens=4)
BEST = replace(BLOCKS, rule="best_of")


def measure(prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> Array:
    """Length, share of vowels, and whether there is a space: three axes for three weights."""
    rows = [(len(text) / 20, sum(text.count(c) for c in "aeiou") / (len(text) + 1), " " in text) for text in replies]
    return np.array(rows, dtype=np.float64).reshape(-1, D)


def able(kit: Kit, **changes) -> Models:
    return kit.models(measure=measure, **changes)


RULES = {"blocks": BLOCKS, "best_of": BEST, "one long block": replace(BLOCKS, block_tokens=256)}
STACKS = {
    "alone": {},
    "penalised": {"repetition_penalty": 1.3, "frequency_penalty": 0.4, "logit_bias": {40: 2.0}},
    "expert": {"expert": "hotels", "alpha": 0.7},
    "checkpoint": {"expert": "whole", "alpha": 0.7},
    "regex": {"regex": "[a-z ]{3,}"},
    "cut": {"top_k": 20, "top_p": 0.9, "temperature": 1.3},
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("stack", STACKS)
def test_siblings_are_what_brute_force_writes(kit: Kit, rule: str, stack: str) -> None:
    """Tokens, ending and account are the slow reference's, whatever is stacked below."""
    models = able(kit)
    for messages, seed in ((HELLO, 3), (CAT, 4)):
        request = Request(messages, replace(RULES[rule], seed=seed, **STACKS[stack]), GUIDED)
        (reply,), expected = generate(models, [request]), reference.generate(models, request)
        assert (reply.ids, reply.end, reply.text) == (expected.ids, expected.end, expected.text)
        assert (reply.guided, reply.finish_reason) == (True, expected.finish_reason)
        for name in ("kl", "changed", "gained", "tilt_kl"):
            assert getattr(reply, name) == pytest.approx(getattr(expected, name), abs=1e-5)


def test_the_comparison_notices_other_values(kit: Kit) -> None:
    """Control: with the weights turned round, the reference writes something else."""
    models, request = able(kit), Request(HELLO, BLOCKS, GUIDED)
    turned = replace(request, guidance=Guidance(-W, 0.8))
    assert generate(models, [request])[0].ids != reference.generate(models, turned).ids


UNFELT = {
    "one sibling": (replace(BLOCKS, num_siblings=1), GUIDED, "strength_zero"),
    "one whole reply": (replace(BEST, num_siblings=1), GUIDED, "strength_zero"),
    "one greedy sibling": (replace(BLOCKS, num_siblings=1, temperature=0.0), GUIDED, "strength_zero"),
    "strength 0": (BLOCKS, Guidance(W, 0.0), "strength_zero"),
    "nothing personal": (BLOCKS, Guidance(W, is_personal=False), "nothing_personal"),
    "no profile": (BEST, None, "no_answers"),
}


@pytest.mark.parametrize("case", UNFELT)
def test_without_a_choice_it_is_plain_decoding(kit: Kit, case: str) -> None:
    """One sibling, strength 0, nothing personal or an unknown person: the model's own reply bit for bit, in one row."""
    options, guidance, reason = UNFELT[case]
    plain = replace(options, rule="successor", logprobs=3)
    desk, bare = Desk(able(kit), 4), Desk(kit.models(head=None), 4)
    caller = desk.submit(Request(HELLO, replace(options, logprobs=3), guidance), is_streamed=True, is_watched=True)
    other = bare.submit(Request(HELLO, plain), is_streamed=True, is_watched=True)
    desk.engine.step()
    assert desk.num_active == 1
    desk.drain(), bare.drain()
    reply, expected = caller.generated, other.generated
    assert (reply.ids, reply.logprobs, caller.pieces) == (expected.ids, expected.logprobs, other.pieces)
    assert all(bool((a == b).all()) for a, b in zip(desk.trace(caller), bare.trace(other), strict=True))
    assert (reply.guided, reply.reason, reply.kl, reply.gained) == (False, reason, 0.0, 0.0)


def test_the_best_of_more_is_better(kit: Kit) -> None:
    """Over many seeds the kept reply is worth more than the model's own, and more so with more siblings."""

    def mean(num_siblings: int) -> float:
        options = [replace(BEST, seed=seed, num_siblings=num_siblings) for seed in range(24)]
        replies = generate(able(kit), [Request(HELLO, chosen, GUIDED) for chosen in options])
        return float((measure([], [reply.text for reply in replies]) @ W).mean())

    assert mean(1) < mean(3) < mean(8)


def test_the_account_is_a_bound_a_block(kit: Kit) -> None:
    """``kl`` is log k − (k − 1)/k for each block begun, over the tokens; ``tilt_kl`` is 0: there is no short list."""
    reply, best = generate(able(kit), [Request(HELLO, options, GUIDED) for options in (BLOCKS, BEST)])
    bound = math.log(3) - 2 / 3
    for one, block in ((reply, 4), (best, 12)):
        num_drawn = len(one.ids) + (one.end is not None)
        assert one.kl == pytest.approx(bound * math.ceil(num_drawn / block) / num_drawn)
        assert one.tilt_kl == 0.0
        assert one.gained > 0


def test_a_stream_comes_block_by_block(kit: Kit) -> None:
    """Each piece holds what a block kept, and together they are the reply; best_of sends one."""
    desk = Desk(able(kit), 8)
    callers = [desk.submit(Request(CAT, options, GUIDED), is_streamed=True) for options in (BLOCKS, BEST)]
    desk.drain()
    for caller, block in zip(callers, (4, 12), strict=True):
        reply = caller.generated
        assert caller.text == reply.text
        assert [token for piece in caller.pieces for token in piece.ids] == list(reply.ids)
        assert [len(piece.ids) for piece in caller.pieces[:-1]] == [block] * (len(caller.pieces) - 1)
    assert len(callers[0].pieces) > 1
    assert len(callers[1].pieces) == 1


def test_stop_strings_and_logprobs_go_along(kit: Kit) -> None:
    """A sibling that meets a stop string has ended; every kept token has its log-probability."""
    models = able(kit)
    (whole,) = generate(models, [Request(CAT, replace(BLOCKS, logprobs=2), GUIDED)])
    assert [token.id for token in whole.logprobs] == [*whole.ids, *([] if whole.end is None else [whole.end])]
    stop = whole.text[2:4]
    replies = generate(models, [Request(CAT, replace(BLOCKS, seed=s, stop=(stop,)), GUIDED) for s in range(40)])
    assert all(stop not in reply.text for reply in replies)
    assert {reply.finish_reason for reply in replies} == {"stop", "length"}


def test_needles_keep_every_bit_among_strangers(kit: Kit) -> None:
    """Whoever joins, leaves or chooses beside them, siblings are drawn by their own seeds from their own rows."""
    models, rng = able(kit), random.Random(1)
    needles = [
        Request(HELLO, BLOCKS, GUIDED),
        Request(CAT, replace(BLOCKS, expert="hotels", num_siblings=5, block_tokens=3), Guidance(-W, 0.5, user="ben")),
        Request(CAT, replace(BEST, regex="[a-z ]{3,}", repetition_penalty=1.3), GUIDED),
    ]
    expected = [Desk(models, 8).serve([needle])[0] for needle in needles]
    desk = Desk(models, 8, max_waiting=500)
    strangers = [stranger(rng, models) for _ in range(60)]
    for number, request in enumerate(strangers):  # some of them choose, too
        if number % 4 == 0 and request.options.temperature > 0:
            options = replace(request.options, rule="blocks", num_siblings=2, block_tokens=2)
            strangers[number] = replace(request, options=options)
    callers: list[Caller] = []
    for number, request in enumerate(strangers):
        beside = desk.submit(request)
        if number % 5 == 0:
            callers.append(desk.submit(needles[number % 3], is_streamed=number % 2 == 0))
        if number % 7 == 0:
            desk.engine.step()
            beside.cancel()
        desk.engine.step()
    desk.drain()
    for number, caller in enumerate(callers):
        assert caller.generated == expected[number * 5 % 3]
    assert leftovers(desk.engine) == []


def test_people_choose_side_by_side(kit: Kit) -> None:
    """Several people's blocks in one batch are each what they are alone."""
    models = able(kit)
    requests = [
        Request(HELLO, replace(BLOCKS, seed=i), Guidance(W * sign, 0.8, user=name), name)
        for i, (name, sign) in enumerate([("ada", 1), ("ben", -1), ("cleo", 2)])
    ]
    together = Desk(models, 9).serve(requests)
    assert together == [Desk(models, 9).serve([request])[0] for request in requests]


@pytest.mark.parametrize("num_steps", range(1, 8))
def test_a_client_who_leaves_frees_every_slot(kit: Kit, num_steps: int) -> None:
    """At any step, mid-block or at its end; another one finds the slots and gets their own reply."""
    desk = Desk(able(kit), 3)
    caller = desk.submit(Request(HELLO, BLOCKS, GUIDED), is_streamed=True)
    for _ in range(num_steps):
        desk.engine.step()
    caller.cancel()
    desk.engine.step()
    assert leftovers(desk.engine) == []
    assert desk.serve([Request(CAT, BLOCKS, GUIDED)]) == Desk(able(kit), 3).serve([Request(CAT, BLOCKS, GUIDED)])


def test_someone_erased_mid_block_gets_the_models_own_words(kit: Kit) -> None:
    """The block goes on unvalued, the first sibling is kept, and one row writes the rest."""
    desk = Desk(able(kit), 4)
    caller = desk.submit(Request(HELLO, BLOCKS, Guidance(W, 0.8, user="ada"), "ada"), is_streamed=True)
    other = desk.submit(Request(HELLO, BLOCKS, Guidance(W, 0.8, user="ben"), "ben"))
    for _ in range(6):
        desk.engine.step()
    desk.engine.forget("ada")
    sent = caller.text
    for _ in range(3):
        desk.engine.step()
    assert desk.engine._scheduler.places(caller.seq) in ([], [0], [1], [2], [3])
    desk.drain()
    reply = caller.generated
    assert (reply.guided, reply.reason) == (False, "forgotten")
    assert caller.text == reply.text
    assert reply.text.startswith(sent)
    num_drawn = len(reply.ids) + (reply.end is not None)
    assert reply.kl == pytest.approx((math.log(3) - 2 / 3) / num_drawn)  # of the one block that was chosen
    assert other.generated.guided
    assert leftovers(desk.engine) == []


def test_someone_erased_while_waiting_takes_one_slot(kit: Kit) -> None:
    """There is nothing to choose by any more."""
    desk = Desk(able(kit), 4)
    caller = desk.submit(Request(HELLO, BLOCKS, Guidance(W, 0.8, user="ada"), "ada"))
    desk.engine.forget("ada")
    desk.engine.step()
    assert desk.num_active == 1
    desk.drain()
    assert caller.generated.reason == "forgotten"


def test_a_reward_that_is_not_finite_ends_the_choice(kit: Kit) -> None:
    """The reply goes on as the model's own, and says why."""
    wild = Guidance(np.full(D, 1e308))
    (reply,) = generate(able(kit), [Request(HELLO, BLOCKS, wild)])
    (plain,) = generate(able(kit), [Request(HELLO, replace(BLOCKS, num_siblings=1))])
    assert (reply.guided, reply.reason, reply.ids) == (False, "non_finite_reward", plain.ids)


def test_a_schema_is_kept_by_whatever_is_kept(kit: Kit) -> None:
    """Each sibling follows its own way through the grammar."""
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "yy", "zzz"]}}, "required": ["a"]}
    options = replace(BLOCKS, max_tokens=40, schema=schema, num_siblings=4, block_tokens=3)
    replies = generate(able(kit), [Request(HELLO, replace(options, seed=s), GUIDED) for s in range(6)])
    assert {reply.text for reply in replies} <= {'{"a": "x"}', '{"a": "yy"}', '{"a": "zzz"}'}
    assert len({reply.text for reply in replies}) > 1


def test_a_schema_that_nothing_meets_is_refused(kit: Kit) -> None:
    """At the door, as for every other rule."""
    options = replace(BLOCKS, schema={"type": "string", "minLength": 3, "maxLength": 2})
    with pytest.raises(ConstraintError, match="can't be used"):
        generate(able(kit), [Request(HELLO, options, GUIDED)])


def test_a_failure_ends_all_siblings(kit: Kit) -> None:
    """What goes wrong with one ends their reply, with its cause, and no other."""

    def broken(prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> Array:
        raise RuntimeError("no ruler")

    desk = Desk(kit.models(measure=broken), 4)
    caller = desk.submit(Request(HELLO, BEST, GUIDED))
    other = desk.submit(Request(CAT, Options(6)))
    desk.drain()
    assert isinstance(caller.outcome, EngineError)
    assert "no ruler" in str(caller.outcome)
    assert other.generated.text
    assert leftovers(desk.engine) == []


@pytest.mark.parametrize("broken", [(Slots, "release"), (RowSampler, "seed")])
def test_siblings_that_cannot_part_keep_nobody_waiting(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, broken: tuple[type, str]
) -> None:
    """A device that fails while they leave their slots ends their reply with its error; nobody else waits for ever."""

    def fail(*_: object) -> None:
        raise RuntimeError("device-side assert triggered")

    desk = Desk(able(kit), 3)
    endless = replace(BLOCKS, logit_bias={1: -100.0})
    caller = desk.submit(Request(HELLO, endless, Guidance(W, 0.8, user="ada"), "ada"))
    waiting = [desk.submit(Request(CAT, Options(4))) for _ in range(3)]
    desk.engine.step()
    desk.engine.forget("ada")  # at the end of the block one sibling goes on alone
    monkeypatch.setattr(*broken, fail)
    with suppress(RuntimeError):  # the slots can't be emptied either
        desk.drain()
    with suppress(RuntimeError):
        desk.engine.abort(EngineError("the engine stopped"))
    assert "device-side assert" in str(caller.outcome)
    assert all(other.outcome is not None for other in waiting)


def test_too_few_slots_are_an_error(kit: Kit) -> None:
    """It names both numbers, and what to change."""
    desk = Desk(able(kit), 2)
    caller = desk.submit(Request(HELLO, BLOCKS, GUIDED))
    assert isinstance(caller.outcome, InputError)
    assert "takes 3 slots" in str(caller.outcome)
    assert "larger slots=" in str(caller.outcome)
    assert desk.submit(Request(HELLO, BLOCKS)).outcome is None  # unknown: one row
    desk.drain()


def test_siblings_are_seated_together(kit: Kit) -> None:
    """A reply that needs several slots waits until they are free, and whoever comes later waits behind it."""
    desk = Desk(able(kit), 4)
    first, wide, late = (
        desk.submit(Request(HELLO, Options(3))),
        desk.submit(Request(CAT, replace(BLOCKS, num_siblings=4), GUIDED)),
        desk.submit(Request(HELLO, Options(3))),
    )
    desk.engine.step()
    assert desk.num_active == 1
    desk.drain()
    assert all(caller.generated.finish_reason in {"stop", "length"} for caller in (first, wide, late))


@pytest.mark.parametrize("rule", ["blocks", "best_of"])
def test_what_measures_replies_has_to_be_there(kit: Kit, rule: str) -> None:
    """No silent fallback to the head's own estimate."""
    with pytest.raises(InputError, match="measures replies"):
        generate(kit.models(), [Request(HELLO, replace(BLOCKS, rule=rule), GUIDED)])


def test_shadow_is_refused(kit: Kit) -> None:
    """The model's own reply can't show what other siblings would have been."""
    with pytest.raises(InputError, match="shadow"):
        generate(able(kit), [Request(HELLO, BLOCKS, replace(GUIDED, is_shadow=True))])


def test_the_best_of_whole_replies_needs_no_head(kit: Kit) -> None:
    """They are measured, not predicted."""
    reply, other = (generate(able(kit, **parts), [Request(HELLO, BEST, GUIDED)])[0] for parts in ({}, {"head": None}))
    assert reply == other


def test_beta_does_not_matter(kit: Kit) -> None:
    """A choice goes by the order of the values, so a basis with β = 0 can choose."""
    reply, other = (
        generate(able(kit, steering=replace(STEERING, beta=beta)), [Request(HELLO, BLOCKS, GUIDED)])[0]
        for beta in (0.0, 1.5)
    )
    assert reply == other
    assert reply.guided
