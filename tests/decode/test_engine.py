"""The engine as its callers see it: who waits how long, what they get to see when, and what they may ask for."""

from __future__ import annotations

import gc
import math
import random
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from personalign.decode import engine as engine_module
from personalign.decode import lane as lane_module
from personalign.decode.cache import SlotCache
from personalign.decode.load import CausalModel, render
from personalign.decode.request import Piece, Request
from personalign.decode.scheduler import Scheduler
from personalign.decode.seq import Seq
from personalign.decode.steer import Steer, Step
from personalign.errors import MessageError, Overloaded
from personalign.options import Options
from personalign.types import Guidance, Reply
from tests.decode.serving import Caller, Desk, haystack, leftovers, same_bits, stranger
from tests.decode.tiny_models import Kit, talk

W = np.array([1.0, -2.0, 0.5])
GUIDED = Guidance(W, 0.8)
HELLO, CAT, LONG = talk("hello", "the cat", "Q" * 90)


def endless(kit: Kit) -> Steer:
    """The end is never drawn."""
    return lambda logits, _: logits.index_fill(-1, torch.tensor(kit.base.ends), -1e9)


@contextmanager
def reading(causal: CausalModel) -> Iterator[list[int]]:
    """How many tokens of prompts a model reads, a pass at a time; a pass over one token each is writing."""
    lengths: list[int] = []

    def look(_module: torch.nn.Module, _args: object, kwargs: dict[str, Tensor]) -> None:
        if (length := kwargs["input_ids"].shape[1]) > 1:
            lengths.append(length)

    hook = causal.model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield lengths
    finally:
        hook.remove()


# ---------------------------------------------------------------- waiting and leaving


def test_prompts_are_read_in_chunks_beside_writing(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """While long prompts are read a running reply has a token from every step, and no step reads many."""
    for module in (engine_module, lane_module):
        monkeypatch.setattr(module, "CHUNK", 16)
    desk = Desk(kit.models(), 8, 256, steers=[endless(kit)])
    writes = desk.submit(Request(HELLO, Options(90), GUIDED), is_streamed=True)
    desk.engine.step()
    kinds = [(None, GUIDED), ("whole", None), (None, None)] * 2
    prompts = talk(*(letter * 90 for letter in "QRSTUV"))
    long = [Request(prompt, Options(4, expert=expert), by) for prompt, (expert, by) in zip(prompts, kinds, strict=True)]
    callers = [desk.submit(request) for request in long]
    small = kit.experts["whole"]
    with reading(kit.base) as base, reading(small.anti) as anti, reading(small.tuned) as tuned:
        steps = 0
        while any(caller.outcome is None for caller in callers):
            before = sum(base + anti + tuned)
            num_tokens = len(writes.pieces)
            desk.engine.step()
            assert len(writes.pieces) == num_tokens + 1
            assert sum(base + anti + tuned) - before < 16 + 2 * 16  # expert and anti-expert read side by side
            steps += 1
    assert steps > 6 * len(LONG[0]["content"]) / 16  # control: there was that much to read
    desk.drain()
    for request, caller in zip(long, callers, strict=True):
        assert caller.generated.ids == Desk(kit.models(), 8, 256, steers=[endless(kit)]).serve([request])[0].ids
    assert leftovers(desk.engine) == []


def test_a_newcomer_waits_for_no_queue_of_long_prompts(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while no reply is written a step reads a bounded number of tokens, and a short prompt has its turn soon."""
    for module in (engine_module, lane_module):
        monkeypatch.setattr(module, "CHUNK", 4)
    desk = Desk(kit.models(), 8, 256, steers=[endless(kit)])
    for _ in range(7):
        desk.submit(Request(LONG, Options(4)))
    with reading(kit.base) as read:
        desk.engine.step()
        assert sum(read) <= (engine_module.IDLE_CHUNKS + 1) * 4 < 7 * len(LONG[0]["content"]) / 2
    newcomer = desk.submit(Request(talk("a")[0], Options(4)), is_streamed=True)
    num_steps = 0
    while not newcomer.pieces:
        desk.engine.step()
        num_steps += 1
    assert num_steps <= 4
    assert len(desk.engine._scheduler.slots("reading")) >= 4  # the long ones are still being read
    desk.drain()
    assert leftovers(desk.engine) == []


@pytest.mark.slow
def test_a_prompt_that_is_read_between_steps_is_read_as_if_at_once(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needles whose prompts are read a few tokens a step, while others write and are read, keep every bit."""
    for module in (engine_module, lane_module):
        monkeypatch.setattr(module, "CHUNK", 8)
    needles = [
        Request(talk("Q" * 30)[0], Options(6, 0.8, seed=3, repetition_penalty=1.2, expert="hotels"), GUIDED),
        Request(talk("Z" * 20)[0], Options(6, expert="whole"), GUIDED),
    ]
    assert haystack(kit.models(), needles, 8, 16).differing == 0


def test_a_prompt_is_read_once_for_all_who_write_to_it(kit: Kit) -> None:
    """Replies to one prompt copy what the first has read, to the bit what each reads alone; a longer one reads."""
    requests = [Request(LONG, Options(max_tokens=6, temperature=1.0, seed=seed), GUIDED) for seed in range(4)]
    requests.append(Request((*LONG, {"role": "assistant", "content": "a"}, *LONG), Options(max_tokens=6, seed=0)))
    alone = [engine_module.generate(kit.models(), [request])[0] for request in requests]
    with reading(kit.base) as lengths:
        together = engine_module.generate(kit.models(), requests)
    assert len(lengths) == 2
    assert [reply.ids for reply in together] == [reply.ids for reply in alone]


def test_an_engine_is_gone_with_its_call(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its buffers are gigabytes, for which Python's collector of circles may wait too long."""
    engines: list[weakref.ref[engine_module.Engine]] = []

    class Watched(engine_module.Engine):
        def __init__(self, *args, **options) -> None:
            super().__init__(*args, **options)
            engines.append(weakref.ref(self))

    monkeypatch.setattr(engine_module, "Engine", Watched)
    gc.disable()
    try:
        engine_module.generate(kit.models(), [Request(HELLO, Options(4), GUIDED), Request(CAT, Options(4))])
        assert [engine() for engine in engines] == [None]
    finally:
        gc.enable()


def test_a_cancelled_reply_is_gone_within_two_steps(kit: Kit) -> None:
    """Waiting, being read or being written: nothing more comes, and its slot is another's."""
    desk = Desk(kit.models(), 2, 128, steers=[endless(kit)])
    running, other = (desk.submit(Request(HELLO, Options(50), GUIDED), is_streamed=True) for _ in range(2))
    waiting, next_one = desk.submit(Request(CAT, Options(3))), desk.submit(Request(CAT, Options(3)))
    for _ in range(3):
        desk.engine.step()
    running.cancel()
    waiting.cancel()
    pieces = len(running.pieces)
    for _ in range(2):
        desk.engine.step()
    assert len(running.pieces) == pieces
    assert next_one.seq in desk.engine._scheduler.running.values()
    desk.drain()
    assert running.outcome is waiting.outcome is None
    assert len(other.generated.ids) == 50
    assert len(next_one.generated.ids) == 3
    assert leftovers(desk.engine) == []


def test_a_cancelled_prompt_is_not_read_to_its_end(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever hangs up during a long prompt saves what is left of it."""
    for module in (engine_module, lane_module):
        monkeypatch.setattr(module, "CHUNK", 8)
    desk = Desk(kit.models(), 2, 256, steers=[endless(kit)])
    desk.submit(Request(HELLO, Options(20)))
    desk.engine.step()
    caller = desk.submit(Request(LONG, Options(4, expert="hotels")))
    with reading(kit.base) as read:
        desk.engine.step()
        caller.cancel()
        desk.drain()
    assert read == [8]
    assert leftovers(desk.engine) == []


def test_no_more_wait_than_may(kit: Kit) -> None:
    """One too many is told so at once, before anything is computed, and the others are served."""
    desk = Desk(kit.models(), 1, max_waiting=2)
    callers = [desk.submit(Request(HELLO, Options(2))) for _ in range(4)]
    assert [type(caller.outcome) for caller in callers] == [type(None), type(None), Overloaded, Overloaded]
    desk.drain()
    assert all(caller.generated for caller in callers[:2])


def test_what_does_not_fit_into_a_slot_is_refused_before_any_token(kit: Kit) -> None:
    """Prompt and reply together, the expert's longer prompt too; one token less is served."""
    length = len(render(kit.base.tokenizer, HELLO)) + 8
    desk = Desk(kit.models(), 1, length)
    with reading(kit.base) as read:
        plain, stacked = (desk.submit(Request(HELLO, Options(n, expert=e))) for n, e in ((9, None), (8, "hotels")))
        desk.drain()
    assert read == []
    for caller in (plain, stacked):
        assert isinstance(caller.outcome, MessageError)
        assert f"a slot holds {length}; shorten the conversation" in str(caller.outcome)
    assert desk.serve([Request(HELLO, Options(8))])[0].finish_reason in ("length", "stop")


@pytest.mark.parametrize("expert", [None, "hotels"])
def test_without_a_number_a_reply_may_be_as_long_as_fits(kit: Kit, expert: str | None) -> None:
    """The longest prompt of all that are read and the reply fill the room exactly, and it isn't refused."""
    seq = Seq(kit.models(), Request(HELLO, Options(None, expert=expert)), 0, lambda _: None, longest=100)
    assert seq.num_tokens == 100
    assert seq.request.options.max_tokens == 100 - max(map(len, (seq.prompt, seq.stack.prompt if seq.stack else [])))
    crowded = Seq(kit.models(), Request(HELLO, Options(None)), 0, lambda _: None, longest=len(seq.prompt))
    assert crowded.num_tokens > len(seq.prompt), "the control: one that has no room is refused by the engine"


def test_a_reply_may_fill_its_slot_to_the_last_position(kit: Kit) -> None:
    """A slot's length is prompt and reply to the token, and the next reply isn't hurt."""
    request = Request(HELLO, Options(128 - len(render(kit.base.tokenizer, HELLO))), GUIDED)
    desk = Desk(kit.models(), 2, 128, steers=[endless(kit)])
    replies = desk.serve([request, Request(CAT, Options(5)), request])
    assert [len(reply.ids) for reply in replies] == [request.options.max_tokens, 5, request.options.max_tokens]
    assert replies[0].ids == replies[2].ids


def _num_changed_by_moves(kit: Kit, trials: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many needles change when gaps are closed wherever there is one, in steps of one shape."""
    moves = []

    def eager(scheduler: Scheduler) -> Iterator[tuple[int, int]]:
        while scheduler.running and max(scheduler.running) >= len(scheduler.running):
            source, target = max(scheduler.running), scheduler._lowest_free()
            scheduler.running[target] = scheduler.running.pop(source)
            moves.append((source, target))
            yield source, target

    monkeypatch.setattr(Scheduler, "moves", eager)
    needles = [
        Request(talk("12X45")[0], Options(8, 0.8, 0.95, 3, frequency_penalty=0.5, expert="hotels"), GUIDED),
        Request(CAT, Options(8, 0.9, seed=4, expert="whole", regex="[a-z ]{3,}"), Guidance(W, 1.6, user="ada")),
    ]
    found = haystack(kit.models(), needles, 8, trials)
    assert len(moves) > trials
    return found.differing


def test_replies_that_move_keep_every_bit(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a reply is moved to, and whatever lay there, it goes on as if it had always been there."""
    assert _num_changed_by_moves(kit, 50, monkeypatch) == 0


def test_a_move_that_leaves_something_behind_would_be_noticed(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: keys and values that don't move along change the needle."""
    monkeypatch.setattr(SlotCache, "copy", lambda *_: None)
    assert _num_changed_by_moves(kit, 10, monkeypatch) > 2


def test_an_outbox_that_fails_ends_its_own_reply_only(kit: Kit) -> None:
    """A caller whose loop is closed is no reason to end the others'."""

    def closed(_item: Piece | Reply | Exception) -> None:
        raise RuntimeError("event loop is closed")

    desk = Desk(kit.models(), 3)
    request = Request(HELLO, Options(8), GUIDED)
    desk.engine.submit([Seq(desk.models, request, 1000, closed, is_streamed=True)])
    desk.engine.submit([Seq(desk.models, Request(HELLO, Options(3)), 1001, closed)])
    caller = desk.submit(request, is_watched=True)
    desk.drain()
    alone = Desk(kit.models(), 3)
    assert caller.generated.ids == alone.serve([request])[0].ids
    assert same_bits(desk.trace(caller), alone.traces[0])
    assert leftovers(desk.engine) == []


# ---------------------------------------------------------------- what is asked for


@pytest.mark.slow
def test_shapes_come_and_go_and_the_tokens_stay(kit: Kit) -> None:
    """Joined and left by strangers at every size of a step, logits stay within 1e-4 and tokens but for near ties."""
    rng = random.Random(3)
    desk = Desk(kit.models(), 32, max_waiting=500, buckets=(1, 2, 4, 8, 16))
    needles = [
        Request(CAT, Options(12), Guidance(W, 1.6, user="ada")),
        Request(HELLO, Options(12, expert="hotels"), GUIDED),
        Request(talk("what?")[0], Options(12)),
    ]
    alone = [Desk(kit.models(), 1) for _ in needles]
    expected = [a.serve([needle])[0].ids for a, needle in zip(alone, needles, strict=True)]
    sought: list[tuple[int, Caller]] = []
    rows = set()
    for _ in range(150):
        if rng.random() < 0.4:
            i = rng.randrange(len(needles))
            sought.append((i, desk.submit(needles[i], is_watched=True)))
        for _ in range(rng.choice([0, 0, 0, 0, 0, 9])):
            desk.submit(stranger(rng, kit.models()))
        if not desk.engine.is_idle:
            rows.add(desk.engine._scheduler.num_rows if desk.engine._scheduler.running else 0)
            desk.engine.step()
    desk.drain()
    near_ties = 0
    for i, caller in sought:
        for step, pair in enumerate(zip(desk.trace(caller), alone[i].traces[0], strict=False)):
            found, true = (trace.view(torch.float32) for trace in pair)
            gap = torch.where(found == true, 0.0, (found - true).abs()).max()
            best = true.topk(2).values
            assert gap < 1e-4
            if caller.generated.ids[step : step + 1] != expected[i][step : step + 1]:
                assert best[0] - best[1] < 1e-4
                near_ties += 1
                break
        else:
            assert caller.generated.ids == expected[i]
    print(f"{len(sought)} needles, {near_ties} near ties, steps of {sorted(rows)} slots")  # noqa: T201
    assert len(sought) > 40
    assert rows >= {1, 8, 16, 32}


def test_a_stop_string_ends_a_reply_and_is_never_shown(kit: Kit) -> None:
    """Wherever it begins and however many tokens it takes: the stream shows what comes before it, and nothing of it."""
    desk, request = Desk(kit.models(), 4, 128, steers=[endless(kit)]), Request(HELLO, Options(40, 1.2, seed=1))
    (whole,) = desk.serve([request])
    num_across = 0
    for start in range(1, 25, 2):
        for length in (1, 5):
            stop = whole.text[start : start + length]
            sampling = Options(40, 1.2, seed=1, stop=("never written", stop))
            caller = desk.submit(Request(HELLO, sampling), is_streamed=True)
            shown = []
            while caller.outcome is None:
                desk.engine.step()
                shown.append(caller.text)
            expected = whole.text[: whole.text.find(stop)]
            assert (caller.generated.text, caller.generated.finish_reason) == (expected, "stop")
            assert shown[-1] == expected
            assert all(expected.startswith(text) for text in shown)
            num_across += len(caller.generated.ids) >= 2 and len(caller.pieces[-1].text) == 0
    assert num_across > 5  # stops that were not to be seen in a piece of their own


def test_a_stop_string_that_is_only_begun_is_shown_in_the_end(kit: Kit) -> None:
    """What was held back because a stop might begin there comes with the last piece."""
    desk, request = Desk(kit.models(), 1, steers=[endless(kit)]), Request(HELLO, Options(9, 1.2, seed=1))
    (whole,) = desk.serve([request])
    sampling = Options(9, 1.2, seed=1, stop=(whole.text[-2:] + "never",))
    caller = desk.submit(Request(HELLO, sampling), is_streamed=True)
    desk.drain()
    assert (caller.generated.text, caller.generated.finish_reason) == (whole.text, "length")
    assert caller.text == whole.text


def test_log_probabilities_are_those_of_what_was_drawn_from(kit: Kit) -> None:
    """Of every token the natural logarithm under the steered logits, and the n likeliest, for whoever asks only."""
    desk = Desk(kit.models(), 3)
    asks = [
        Request(HELLO, Options(7, 1.1, 0.8, 2, logprobs=3, expert="hotels"), GUIDED),
        Request(CAT, Options(5, logprobs=1)),
        Request(CAT, Options(5), GUIDED),
    ]
    replies = desk.serve(asks)
    assert replies[2].logprobs == ()
    for number, reply in enumerate(replies[:2]):
        n = asks[number].options.logprobs
        assert len(reply.logprobs) == len(desk.traces[number])
        for told, trace, token in zip(reply.logprobs, desk.traces[number], [*reply.ids, 1], strict=False):
            log_p = trace.view(torch.float32).log_softmax(-1)
            best = log_p.topk(n)
            assert told.id == token
            assert told.logprob == float(log_p[token])
            assert [i for i, _ in told.top] == best.indices.tolist()
            assert [value for _, value in told.top] == best.values.tolist()


def test_what_cannot_be_drawn_has_no_log_probability(kit: Kit) -> None:
    """A guided reply tells of its short list alone, in numbers that JSON can carry; a plain one of all it is asked."""
    models = kit.models()
    guided, plain = Desk(models, 2).serve([Request(HELLO, Options(7, logprobs=20), g) for g in (GUIDED, None)])
    assert {len(told.top) for told in guided.logprobs} == {min(models.steering.num_candidates, 20)} != {20}
    assert {len(told.top) for told in plain.logprobs} == {20}
    assert all(value > -math.inf for told in guided.logprobs for _, value in told.top)


def test_the_end_has_a_log_probability_too(kit: Kit) -> None:
    """The token that ends a reply was drawn like any other."""

    def end_third(logits: Tensor, step: Step) -> Tensor:
        return torch.where((step.index == 2)[:, None], logits.index_fill(-1, torch.tensor(kit.base.ends), 1e4), logits)

    (reply,) = Desk(kit.models(), 1, steers=[end_third]).serve([Request(HELLO, Options(9, logprobs=1))])
    assert len(reply.ids) == 2
    assert [told.id for told in reply.logprobs] == [*reply.ids, *kit.base.ends]


def test_a_seed_repeats_a_draw_whoever_is_there(kit: Kit) -> None:
    """The same seed is the same reply at another time and place of one engine; another seed is another one."""
    desk = Desk(kit.models(), 4)
    draws = [Request(HELLO, Options(10, 1.0, seed=seed), GUIDED) for seed in (7, 8, 7, 7)]
    together = [reply.ids for reply in desk.serve(draws)]
    assert together[0] == together[2] == together[3] != together[1]
    assert desk.serve(draws[1:2])[0].ids == together[1]


def test_every_reply_has_its_own_limit(kit: Kit) -> None:
    """And leaves when it has reached it, while the others go on."""
    desk = Desk(kit.models(), 4, steers=[endless(kit)])
    replies = desk.serve([Request(HELLO, Options(n)) for n in (1, 7, 3, 12, 2)])
    assert [len(reply.ids) for reply in replies] == [1, 7, 3, 12, 2]
    assert {reply.finish_reason for reply in replies} == {"length"}
