"""The verbs for asyncio: the loop is never blocked, and a cancelled task frees its slot."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from personalign import replies
from personalign.aio import MAILBOXES, Mailbox
from personalign.decode import Engine
from personalign.errors import EngineError, InputError, Overloaded
from personalign.service import Personalign
from personalign.types import Reply
from tests.decode.gate import PATIENCE_S, Gate, until
from tests.onboarded import ENDLESS, HELLO


@pytest.fixture
def p(open_store: Callable[..., Personalign]) -> Personalign:
    return open_store(slots=8, waiting=16)


class Ticks:
    """Counts how often a loop comes round."""

    def __init__(self) -> None:
        self.count = 0
        self._task = asyncio.ensure_future(self._tick())

    async def _tick(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)

    async def wait(self, holds: Callable[[], bool]) -> None:
        """Wait for something that another thread brings about, and for the loop to come round meanwhile."""
        await asyncio.to_thread(until, holds)

    def __enter__(self) -> Ticks:  # noqa: PYI034 - beartype can't read Self on a method
        return self

    def __exit__(self, *_: object) -> None:
        self._task.cancel()


async def joined(p: Personalign, user: str, **options: Any) -> str:
    return "".join([text async for text in p.astream(user, HELLO, **options)])


def test_replies_and_questions_are_those_of_the_other_verbs(p: Personalign) -> None:
    """Word for word; a stream's pieces make up the reply."""

    async def talk() -> None:
        question = await p.aask("ada", consent="yes")
        assert question is not None
        assert question == p.ask("ada")
        assert (await p.aanswer("ada", question.id, "a")).answers == p.profile("ada").answers == 1
        reply = await p.achat("ada", HELLO, max_tokens=12)
        assert (reply.text, reply.revision) == (p.chat("ada", HELLO, max_tokens=12).text, 1)
        assert await joined(p, "ada", max_tokens=12) == reply.text

    asyncio.run(talk())


def test_pieces_carry_the_tokens_of_the_reply(p: Personalign) -> None:
    """An empty one says that it is begun; the others make up text, tokens and probabilities; the reply comes last."""

    async def talk() -> None:
        begun, *pieces, reply = [part async for part in p.apieces("ada", HELLO, max_tokens=12, logprobs=2)]
        assert (begun.ids, begun.text) == ((), "")  # type: ignore[union-attr] - a piece
        assert isinstance(reply, Reply)
        assert "".join(piece.text for piece in pieces) == reply.text
        assert tuple(token for piece in pieces for token in piece.ids) == reply.ids
        drawn = [one for piece in pieces for one in piece.logprobs]  # type: ignore[union-attr] - likewise
        assert drawn == list(reply.logprobs[: len(reply.ids)])
        assert reply == p.chat("ada", HELLO, max_tokens=12, logprobs=2)

    asyncio.run(talk())


def test_the_loop_comes_round_while_eight_replies_are_written(p: Personalign, gate: Gate) -> None:
    """Each step of the engine waits for the loop, so a reply that blocks it would never be written."""

    async def talk() -> tuple[int, list[str]]:
        with Ticks() as ticks:
            step = p._replies.worker._engine.step

            def step_after_the_loop() -> None:
                before = ticks.count
                until(lambda: ticks.count > before)
                step()

            p._replies.worker._engine.step = step_after_the_loop  # type: ignore[method-assign]
            gate.open()
            streams = [joined(p, f"user-{i}", max_tokens=8) for i in range(4)]
            chats = [p.achat(f"user-{i}", HELLO, max_tokens=8) for i in range(4, 8)]
            texts, written = await asyncio.gather(asyncio.gather(*streams), asyncio.gather(*chats))
            return ticks.count, [*texts, *(reply.text for reply in written)]

    count, texts = asyncio.run(talk())
    assert len(texts) == 8
    assert all(texts)
    assert count > 8


def test_a_loop_that_is_blocked_would_be_noticed(p: Personalign) -> None:
    """The control: the plain verb keeps the loop from coming round."""

    async def talk() -> tuple[int, int]:
        with Ticks() as ticks:
            await asyncio.sleep(0)
            before = ticks.count
            p.chat("ada", HELLO, max_tokens=8)
            during = ticks.count - before
            await p.achat("ada", HELLO, max_tokens=8)
            return during, ticks.count - before - during

    blocked, free = asyncio.run(talk())
    assert blocked == 0
    assert free > 1


@pytest.mark.parametrize("verb", ["achat", "astream"])
@pytest.mark.parametrize("gives_up", [True, False], ids=["given up", "control"])
def test_a_task_that_leaves_frees_its_slot(p: Personalign, gate: Gate, verb: str, *, gives_up: bool) -> None:
    """Cancelled while it waits for a reply or a piece: its slot is free after a step."""
    options: dict[str, Any] = {"max_tokens": 200, "logit_bias": ENDLESS}

    async def talk() -> None:
        task = asyncio.create_task(p.achat("ada", HELLO, **options) if verb == "achat" else joined(p, "ada", **options))
        await asyncio.to_thread(until, lambda: not p._replies.worker._engine.is_idle)
        await asyncio.to_thread(gate.let, 12)
        if gives_up:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.to_thread(gate.let, 1)
        assert p._replies.worker._engine.is_idle == gives_up
        gate.open()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(talk())


def test_a_stream_that_is_closed_frees_its_slot(p: Personalign, gate: Gate) -> None:
    """Leaving it between two pieces ends the reply with the next step."""

    async def talk() -> None:
        stream = p.astream("ada", HELLO, max_tokens=200, logit_bias=ENDLESS)
        first = asyncio.ensure_future(anext(stream))
        await asyncio.to_thread(gate.let, 12)
        assert await first
        assert not p._replies.worker._engine.is_idle
        await stream.aclose()
        await asyncio.to_thread(gate.let, 1)
        assert p._replies.worker._engine.is_idle

    asyncio.run(talk())


@pytest.mark.parametrize("gives_up", [True, False], ids=["given up", "control"])
def test_a_task_may_leave_while_the_model_is_loaded(
    p: Personalign, monkeypatch: pytest.MonkeyPatch, *, gives_up: bool
) -> None:
    """Loading doesn't block the loop, and a reply that nobody waits for any more isn't written."""
    load, begun, may_go_on, steps = replies.load_models, threading.Event(), threading.Event(), 0
    step = Engine.step

    def load_late(*words: Any) -> object:
        begun.set()
        assert may_go_on.wait(PATIENCE_S)
        return load(*words)

    def count(engine: Engine) -> None:
        nonlocal steps
        steps += 1
        step(engine)

    monkeypatch.setattr(replies, "load_models", load_late)
    monkeypatch.setattr(Engine, "step", count)

    async def talk() -> None:
        task = asyncio.create_task(p.achat("ada", HELLO, max_tokens=60, logit_bias=ENDLESS))
        await asyncio.to_thread(begun.wait, PATIENCE_S)  # the loop goes on
        if gives_up:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        may_go_on.set()
        if not gives_up:
            await task

    asyncio.run(talk())  # waits for the thread
    until(lambda: p._replies.worker._engine.is_idle)
    assert (steps < 30) == gives_up  # some are taken until the thread that begins it can say that nobody waits


def test_two_loops_talk_at_once(p: Personalign) -> None:
    """Each in a thread of its own, with one model between them; everybody gets their reply."""

    async def talk() -> list[str]:
        return [reply.text for reply in await asyncio.gather(*(p.achat("ada", HELLO, max_tokens=8) for _ in range(2)))]

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(asyncio.run, talk()) for _ in range(2)]
        texts = [text for one in both for text in one.result()]
    assert texts == [p.chat("ada", HELLO, max_tokens=8).text] * 4


def test_errors_reach_the_task(p: Personalign, gate: Gate) -> None:
    """As those of the other verbs, and a loop that is gone takes nobody else's reply with it."""

    async def talk() -> None:
        with pytest.raises(InputError):
            await p.achat("ada", HELLO, temperature=-1.0)
        with pytest.raises(InputError):
            await joined(p, "ada", rule="magic")
        tasks = [asyncio.create_task(p.achat(f"user-{i}", HELLO, max_tokens=3)) for i in range(16)]
        await asyncio.to_thread(until, lambda: len(p._replies.worker._engine._scheduler.queue) == 16)
        with pytest.raises(Overloaded):
            await p.achat("ada", HELLO)
        gate.open()
        await asyncio.gather(*tasks)
        await asyncio.to_thread(p.close)
        with pytest.raises(EngineError, match="closed"):
            await p.achat("ada", HELLO)

    asyncio.run(talk())


def test_a_loop_that_ends_takes_nobody_else_with_it(p: Personalign, gate: Gate) -> None:
    """Its replies end; the neighbour's goes on."""

    async def begin() -> None:
        asyncio.create_task(p.achat("ada", HELLO, max_tokens=200, logit_bias=ENDLESS))  # noqa: RUF006 - left behind
        await asyncio.to_thread(until, lambda: not p._replies.worker._engine.is_idle)

    asyncio.run(begin())
    with ThreadPoolExecutor(1) as pool:
        neighbour = pool.submit(p.chat, "ben", HELLO, max_tokens=5, logit_bias=ENDLESS)
        gate.open()
        assert neighbour.result().usage.completion_tokens == 5
    until(lambda: p._replies.worker._engine.is_idle)


def hand_over(mailbox: Mailbox, queues: Sequence[asyncio.Queue[Any]], numbers: Iterable[Any]) -> None:
    """Hand each number to the queue whose turn it is."""
    for number in numbers:
        mailbox.put(queues[number % len(queues)], number)


def test_what_comes_while_the_loop_is_busy_wakes_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is there then, in the order it was handed over; what comes later wakes it again."""

    async def talk() -> tuple[list[int], list[list[int]]]:
        loop, queues = asyncio.get_running_loop(), [asyncio.Queue[Any]() for _ in range(3)]
        mailbox, calls, counts, call = Mailbox(loop), 0, [], loop.call_soon_threadsafe

        def count(*words: Any) -> asyncio.Handle:
            nonlocal calls
            calls += 1
            return call(*words)

        monkeypatch.setattr(loop, "call_soon_threadsafe", count)
        for start in (0, 30):
            numbers = range(start, start + 30)
            thread = threading.Thread(target=hand_over, args=(mailbox, queues, numbers))
            thread.start()
            thread.join()  # the loop can't come round meanwhile
            await asyncio.sleep(0)
            counts.append(calls)
        return counts, [[queue.get_nowait() for _ in range(queue.qsize())] for queue in queues]

    counts, received = asyncio.run(talk())
    assert counts == [1, 2]
    assert received == [list(range(first, 60, 3)) for first in range(3)]


def test_threads_that_hand_over_at_once_lose_nothing() -> None:
    """Whatever the loop does at that moment."""
    many = 5000

    async def talk() -> list[int]:
        mailbox, queue = Mailbox(asyncio.get_running_loop()), asyncio.Queue[Any]()
        with ThreadPoolExecutor(4) as pool:
            for first in range(4):
                pool.submit(hand_over, mailbox, [queue], range(first, many, 4))
            return [await asyncio.wait_for(queue.get(), PATIENCE_S) for _ in range(many)]

    assert sorted(asyncio.run(talk())) == list(range(many))


def test_a_loop_that_is_over_takes_nothing() -> None:
    """Closed or gone: whoever hands something over is told, and nothing keeps the loop alive."""
    loop = asyncio.new_event_loop()
    mailbox, number = MAILBOXES.setdefault(loop, Mailbox(loop)), len(MAILBOXES)
    loop.close()
    with pytest.raises(RuntimeError, match="is closed"):
        hand_over(mailbox, [asyncio.Queue()], [1])
    del loop
    gc.collect()
    assert len(MAILBOXES) < number
    with pytest.raises(RuntimeError, match="is closed"):
        hand_over(mailbox, [asyncio.Queue()], [1])
