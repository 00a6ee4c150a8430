"""The engine's thread: many callers, none of whom waits for ever or gets what another one asked for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest

from personalign.decode import Engine, Piece, Request, Ticket, Worker
from personalign.decode.lane import Lane
from personalign.decode.slots import Slots
from personalign.decode.weights import WeightKey
from personalign.errors import EngineError, InputError, MessageError, Overloaded, ProfileError
from personalign.options import Options
from personalign.types import Guidance
from tests.decode.gate import PATIENCE_S, Gate, until
from tests.decode.serving import one_shape
from tests.decode.tiny_models import Kit, talk
from tests.forked import in_child

LONG = Options(100, logit_bias={1: -100.0})  # a reply that doesn't end by itself

Start = Callable[..., Worker]


@pytest.fixture
def start(kit: Kit) -> Iterator[Start]:
    """Start workers over engines of one batch shape, which are closed in the end."""
    workers: list[Worker] = []

    def started(num_slots: int = 8, **options: int) -> Worker:
        workers.append(Worker(one_shape(Engine(kit.models(), num_slots, 256, **options))))
        return workers[-1]

    yield started
    for worker in workers:
        worker.close()


@pytest.fixture
def gated(start: Start) -> Iterator[tuple[Worker, Gate]]:
    """A worker whose steps wait for the test."""
    worker = start()
    gate = Gate(worker._engine)
    yield worker, gate
    gate.open()


def person(seed: int) -> Guidance:
    rng = np.random.default_rng(seed)
    return Guidance(rng.normal(size=3) * 2, revision=seed, user=f"user-{seed}")


def submit(worker: Worker, request: Request, *, is_streamed: bool = False) -> Ticket:
    (ticket,) = worker.submit([request], is_streamed=is_streamed)
    return ticket


def requests(count: int) -> list[Request]:
    """Different people, drawing different replies to different prompts, some with an expert."""
    return [
        Request(talk(f"cat {i}")[0], Options(24, 1.0, seed=i, expert="hotels" if i % 3 == 0 else None), person(i))
        for i in range(count)
    ]


def waited_for(ticket: Ticket) -> queue.SimpleQueue[Exception]:
    """Let a thread of its own wait for a reply that has to fail; it may hang without keeping anybody else."""
    outcome: queue.SimpleQueue[Exception] = queue.SimpleQueue()

    def wait() -> None:
        try:
            ticket.result()
        except EngineError as error:
            outcome.put(error)

    threading.Thread(target=wait, daemon=True).start()
    return outcome


def close_between_steps(worker: Worker, gate: Gate) -> None:
    """Close a worker whose thread waits before a step, and let that step happen."""
    closing = threading.Thread(target=worker.close)
    closing.start()
    until(lambda: worker._is_closed)
    gate.open()
    closing.join()


@pytest.mark.slow
def test_everybody_gets_their_own_reply(start: Start) -> None:
    """Forty callers at once on eight slots: each gets the very reply, and the account, they get alone."""
    worker, asked = start(), requests(40)
    alone = [submit(worker, request).result() for request in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(lambda request: submit(worker, request).result(), asked))
    assert [reply.ids for reply in together] == [reply.ids for reply in alone]
    assert [(reply.kl, reply.changed, reply.gained) for reply in together] == [
        (reply.kl, reply.changed, reply.gained) for reply in alone
    ]
    assert len({reply.ids for reply in alone}) == len(asked)  # the control: a foreign reply would be seen


def test_a_stream_is_the_reply(start: Start) -> None:
    """The pieces come one by one, and make up the text."""
    worker = start()
    for request in requests(6):
        *pieces, reply = submit(worker, request, is_streamed=True)
        assert all(isinstance(piece, Piece) for piece in pieces)
        assert "".join(piece.text for piece in pieces) == reply.text
        assert reply.ids == submit(worker, request).result().ids


@pytest.mark.parametrize("cancels", [True, False], ids=["cancelled", "control"])
def test_a_cancelled_reply_ends_within_two_steps(gated: tuple[Worker, Gate], *, cancels: bool) -> None:
    """Its slot is free, its head unpinned, and whoever waits for it gets an error; not cancelled, it goes on."""
    worker, gate = gated
    ticket = submit(worker, Request(talk("cat")[0], LONG, person(1)), is_streamed=True)
    gate.let(3)
    assert isinstance(next(iter(ticket)), Piece)
    if cancels:
        ticket.cancel()
    gate.let(1)
    assert worker._engine.is_idle == cancels
    if cancels:
        with pytest.raises(EngineError, match="cancelled"):
            ticket.result()


def test_a_cancelled_reply_that_waits_never_begins(gated: tuple[Worker, Gate]) -> None:
    """Cancelling what has no slot yet takes it out of the queue."""
    worker, gate = gated
    tickets = [submit(worker, Request(talk("cat")[0], LONG)) for _ in range(9)]
    gate.let(2)
    assert len(worker._engine._scheduler.queue) == 1
    for ticket in tickets:
        ticket.cancel()
    gate.let(1)
    assert worker._engine.is_idle


def test_closing_ends_what_is_written(start: Start) -> None:
    """Everybody who waits gets an EngineError soon; nothing is taken on afterwards; closing twice does no harm."""
    worker = start(num_slots=2)
    gate = Gate(worker._engine)
    waiting = [waited_for(submit(worker, Request(talk("cat")[0], LONG))) for _ in range(6)]
    gate.let(1)
    close_between_steps(worker, gate)
    for outcome in waiting:
        with pytest.raises(EngineError, match="closed"):
            raise outcome.get(timeout=PATIENCE_S)
    until(lambda: not worker._thread.is_alive())
    worker.close()
    with pytest.raises(EngineError, match="closed"):
        submit(worker, Request(talk("cat")[0]))


def test_closing_forgets_nobody(gated: tuple[Worker, Gate]) -> None:
    """A request that was handed over while the last step ran is told, too."""
    worker, gate = gated
    submit(worker, Request(talk("cat")[0], LONG))
    gate.let(1)
    until(lambda: not len(worker._engine._scheduler.queue))
    late = waited_for(
        submit(worker, Request(talk("hat")[0], LONG))
    )  # the thread is before a step, and reads it only afterwards
    close_between_steps(worker, gate)
    with pytest.raises(EngineError, match="closed"):
        raise late.get(timeout=PATIENCE_S)


def test_more_than_may_wait_are_refused(start: Start) -> None:
    """One is written, one waits, the third caller hears so at once; the two get their replies."""
    worker = start(num_slots=1, max_waiting=1)
    gate = Gate(worker._engine)
    first = submit(worker, Request(talk("cat")[0], Options(5)))
    gate.let(1)
    second = submit(worker, Request(talk("hat")[0], Options(5)))
    with pytest.raises(Overloaded, match="1 requests wait for 1 slots"):
        submit(worker, Request(talk("mat")[0], Options(5)))
    gate.open()
    assert first.result().ids
    assert second.result().ids


BAD: dict[str, tuple[Request, type[Exception]]] = {
    "no message": (Request([]), MessageError),
    "long": (Request(talk("cat " * 300)[0]), MessageError),
    "too long for a slot": (Request(talk("cat")[0], Options(256)), MessageError),
    "bias": (Request(talk("cat")[0], Options(logit_bias={10**6: 1.0})), InputError),
    "expert": (Request(talk("cat")[0], Options(expert="magic")), InputError),
    "no reward model": (Request(talk("cat")[0], Options(rule="args")), InputError),
    "weights": (Request(talk("cat")[0], guidance=Guidance(np.ones(4))), ProfileError),
    "strength": (Request(talk("cat")[0], guidance=Guidance(np.ones(3), -1.0)), InputError),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_raises_where_it_is_made(gated: tuple[Worker, Gate], case: str) -> None:
    """The caller's own thread gets the error, and the engine never hears of it."""
    request, kind = BAD[case]
    worker, _ = gated
    with pytest.raises(kind):
        submit(worker, request)
    assert worker._engine.is_idle


def test_a_forgotten_person_leaves_no_head(gated: tuple[Worker, Gate]) -> None:
    """A reply goes on without them and says so; no number of theirs is left; another person's stays."""
    worker, gate = gated
    bank = worker._engine._chain.tilt.rows._bank
    assert bank is not None
    ada, ben = (submit(worker, Request(talk("cat")[0], LONG, person(i), user=f"user-{i}")) for i in (1, 2))
    gate.let(5)
    assert WeightKey("user-1", 0, 1) in bank._rows
    worker.forget("user-1")
    gate.let(2)
    assert WeightKey("user-1", 0, 1) not in bank._rows
    assert int(bank.weights.any(-1).sum()) == 1  # ben's
    gate.open()
    forgotten, known = ada.result(), ben.result()
    assert (forgotten.guided, forgotten.reason) == (False, "forgotten")
    assert (known.guided, known.reason) == (True, None)
    assert forgotten.kl > 0  # until then
    assert len(forgotten.ids) == len(known.ids) == LONG.max_tokens


def test_a_failing_step_ends_its_replies_and_no_other(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a step throws reaches those who wait; the next request is served."""
    worker = start()
    step = worker._engine.step

    def fail() -> None:
        monkeypatch.setattr(worker._engine, "step", step)
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(worker._engine, "step", fail)
    with pytest.raises(EngineError, match="the device is gone"):
        submit(worker, Request(talk("cat")[0], Options(5))).result()
    assert submit(worker, Request(talk("cat")[0], Options(5))).result().ids


def _hear(worker: Worker, count: int) -> list[EngineError]:
    """What so many callers hear, each in a thread of their own that may hang."""
    outcomes = [waited_for(submit(worker, Request(talk("cat")[0], LONG))) for _ in range(count)]
    return [outcome.get(timeout=PATIENCE_S) for outcome in outcomes]


def _broken(*_: object) -> None:
    raise RuntimeError("device-side assert triggered")


@pytest.mark.parametrize("broken", ["step", "begin", "read"])
def test_nobody_waits_for_an_engine_that_cannot_clean_up(
    start: Start, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Forty callers all hear of it, and so does everyone who comes later, also when the device has recovered."""
    worker = start(num_slots=2)
    gate = Gate(worker._engine)
    monkeypatch.setattr(Lane, broken, _broken)
    monkeypatch.setattr(Slots, "release", _broken)
    outcomes = [waited_for(submit(worker, Request(talk("cat")[0], LONG))) for _ in range(40)]
    gate.open()
    for outcome in outcomes:
        assert "device-side assert triggered" in str(outcome.get(timeout=PATIENCE_S))
    until(lambda: not worker._thread.is_alive())
    monkeypatch.undo()
    assert not worker.is_alive
    for ask in (lambda: submit(worker, Request(talk("cat")[0])), lambda: worker.perform(int)):
        with pytest.raises(EngineError, match=r"the engine stopped: .*send the request again"):
            ask()


def test_a_failing_step_alone_stops_no_engine(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: where the slots could be emptied, the next request is served."""
    worker = start(num_slots=2)
    monkeypatch.setattr(Lane, "step", _broken)
    assert all("device-side assert" in str(error) for error in _hear(worker, 5))
    monkeypatch.undo()
    assert submit(worker, Request(talk("cat")[0], Options(3))).result().ids
    assert worker.is_alive


def test_a_slot_that_could_not_be_emptied_serves_nobody(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """One failure to empty a slot ends the engine, even if later ones succeed: it holds another's words."""
    worker, release = start(num_slots=2), Slots.release

    def once(*words: object) -> None:
        monkeypatch.setattr(Slots, "release", release)
        _broken()

    monkeypatch.setattr(Slots, "release", once)
    assert submit(worker, Request(talk("cat")[0], Options(2))).result().ids  # it was finished before
    until(lambda: not worker.is_alive)
    with pytest.raises(EngineError, match="a slot couldn't be emptied"):
        submit(worker, Request(talk("cat")[0]))


@pytest.mark.parametrize("error", [SystemExit, MemoryError, RuntimeError])
def test_nobody_waits_for_a_thread_that_is_gone(
    gated: tuple[Worker, Gate], monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Replies, waiting and running, and other work end with an EngineError if anything at all ends the thread."""
    worker, gate = gated
    waiting = [waited_for(submit(worker, Request(talk("cat")[0], LONG))) for _ in range(12)]
    gate.let(2)

    def run() -> bool:
        raise error("gone")

    monkeypatch.setattr(worker, "_wait", run)
    gate.open()
    for outcome in waiting:
        assert "the engine stopped" in str(outcome.get(timeout=PATIENCE_S))
    until(lambda: not worker._thread.is_alive())
    with pytest.raises(EngineError, match="stopped"):
        submit(worker, Request(talk("cat")[0]))


def test_work_that_was_handed_over_is_not_waited_for_either(
    gated: tuple[Worker, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands behind the failure in the queue of other work fails with it."""
    worker, gate = gated
    submit(worker, Request(talk("cat")[0], LONG))
    gate.let(1)
    until(lambda: gate.is_waited_at)  # so that the thread looks at other work only afterwards
    monkeypatch.setattr(worker._engine, "forget", _broken)
    worker.forget("ada")
    outcome: queue.SimpleQueue[Exception] = queue.SimpleQueue()

    def wait() -> None:
        try:
            worker.perform(int)
        except EngineError as error:
            outcome.put(error)

    threading.Thread(target=wait, daemon=True).start()
    until(lambda: len(worker._errands) == 2)
    gate.open()
    assert "the engine stopped" in str(outcome.get(timeout=PATIENCE_S))


@pytest.mark.parametrize("call", ["submit", "perform", "result", "forget"])
def test_a_forked_child_gets_an_error(gated: tuple[Worker, Gate], call: str) -> None:
    """It has no engine's thread, so no call waits for it; closing there does nothing, and the parent goes on."""
    worker, gate = gated
    ticket = submit(worker, Request(talk("cat")[0], Options(3)))
    calls: dict[str, Callable[[], object]] = {
        "submit": lambda: submit(worker, Request(talk("cat")[0])),
        "perform": lambda: worker.perform(int),
        "result": ticket.result,
        "forget": lambda: worker.forget("ada"),
    }

    def last_call() -> None:
        with closing(worker):
            calls[call]()

    with worker._changed:  # as if another thread held it
        assert in_child(last_call) == 1
    gate.open()
    assert ticket.result().ids


def test_a_group_is_handed_over_whole_or_not_at_all(start: Start) -> None:
    """Where one is refused none is written; a group that fits is written as each would be."""
    worker = start(max_waiting=8)
    asked = requests(8)
    with pytest.raises(Overloaded):
        worker.submit([*asked, asked[0]])
    with pytest.raises(InputError, match="no expert"):
        worker.submit([*asked[:3], Request(asked[0].messages, Options(expert="nonsense"))])
    assert worker._engine.is_idle
    alone = [submit(worker, request).result().ids for request in asked]
    assert [ticket.result().ids for ticket in worker.submit(asked)] == alone


def test_other_work_is_done_between_steps(gated: tuple[Worker, Gate]) -> None:
    """It is done on the engine's thread, its failure is its caller's, and the replies beside it go on."""
    worker, gate = gated
    request = Request(talk("cat")[0], LONG)
    ticket = submit(worker, request)
    gate.let(3)
    gate.open()
    assert worker.perform(threading.current_thread) is worker._thread
    with pytest.raises(ZeroDivisionError):
        worker.perform(lambda: 1 / 0)
    assert len(ticket.result().ids) == 100
    worker.close()
    with pytest.raises(EngineError, match="closed"):
        worker.perform(lambda: 1)
