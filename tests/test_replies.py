"""Replies through the service when callers leave, the store is away, the process forks, or there is no room."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from personalign.decode import Request
from personalign.decode.seq import Seq, Ticket
from personalign.decode.slots import Slots
from personalign.decode.weights import WeightKey
from personalign.errors import EngineError, InputError, MessageError, Overloaded, PersonalignError, StoreError
from personalign.service import Personalign
from personalign.store import Store
from personalign.store.sqlite.connections import SqliteConnections
from personalign.types import Guidance, Profile
from tests.decode.gate import PATIENCE_S, Gate, until
from tests.forked import in_child
from tests.onboarded import ENDLESS, HELLO, onboard

# Callers who leave


@pytest.fixture
def keyboard() -> Iterator[None]:
    """Ctrl-C interrupts, as it does in a terminal; a process in the background begins without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("keyboard")
def test_an_interrupted_chat_frees_its_slot(p: Personalign, gate: Gate) -> None:
    """Ctrl-C while a reply is waited for ends it within two steps."""

    def interrupt() -> None:
        gate.let(3)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        p.chat("ada", HELLO, max_tokens=200, logit_bias=ENDLESS)
    gate.let(1)
    assert p._replies.worker._engine.is_idle


@pytest.mark.parametrize("verb", ["chat", "chat_many"])
def test_a_chat_that_fails_in_its_caller_frees_its_slots(
    p: Personalign, gate: Gate, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Any error while replies are waited for ends all of them within two steps; without it they go on (the control)."""

    def fail(_ticket: Ticket) -> None:
        gate.let(2)
        assert not p._replies.worker._engine.is_idle
        raise TimeoutError

    monkeypatch.setattr(Ticket, "result", fail)
    calls: dict[str, Callable[[], object]] = {
        "chat": lambda: p.chat("ada", HELLO, max_tokens=200, logit_bias=ENDLESS),
        "chat_many": lambda: p.chat_many(["ada", "ben"], [HELLO, HELLO], max_tokens=200, logit_bias=ENDLESS),
    }
    with pytest.raises(TimeoutError):
        calls[verb]()
    gate.let(1)
    assert p._replies.worker._engine.is_idle


def test_a_store_that_fails_after_the_request_frees_its_slot(
    p: Personalign, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an erasure can't be looked for, the caller gets the error and no reply goes on for nobody."""
    gate.open()
    onboard(p, "ada", most=2)
    p.chat("ada", HELLO, max_tokens=2)
    gate.close()

    def fail(_requests: object) -> None:
        raise StoreError("gone")

    monkeypatch.setattr(p._replies, "_forget_erased", fail)
    for ask in (p.chat, p.stream):
        with pytest.raises(StoreError):
            ask("ada", HELLO, max_tokens=200, logit_bias=ENDLESS)  # type: ignore[operator]
    gate.let(1)
    assert p._replies.worker._engine.is_idle


# Room


def test_there_is_as_much_room_as_was_opened(open_store: Callable[..., Personalign]) -> None:
    """Each error that advises a keyword of open can be obeyed, and is raised at the call, a stream's too."""
    small = open_store(slots=1, waiting=2, max_length=60)
    with pytest.raises(MessageError, match=r"a slot holds 60; .* open personalign with a larger max_length="):
        small.chat("ada", HELLO, max_tokens=60)
    filled = small.chat("ada", HELLO, max_tokens=None, logit_bias=ENDLESS)
    assert filled.usage.prompt_tokens + filled.usage.completion_tokens == 60
    gate = Gate(small._replies.worker._engine)
    coming = [small.stream("ada", HELLO, max_tokens=3)]
    gate.let(1)
    coming += [small.stream(user, HELLO, max_tokens=3) for user in ("ben", "cleo")]
    for ask in (small.chat, small.stream):
        with pytest.raises(Overloaded, match="larger slots= or waiting="):
            ask("dora", HELLO, max_tokens=3)  # type: ignore[operator]
    gate.open()
    assert all("".join(pieces) for pieces in coming)
    assert len(small.chat_many(["ada"] * 5, [HELLO] * 5, max_tokens=3)) == 5  # so many at a time
    assert open_store(max_length=200).chat("ada", HELLO, max_tokens=60).text


@pytest.mark.parametrize("keywords", [{"slots": 0}, {"waiting": -1}, {"max_length": 0}, {"slots": True}])
def test_room_that_means_nothing_is_refused(
    open_store: Callable[..., Personalign], keywords: dict[str, object]
) -> None:
    """Before the store is made."""
    with pytest.raises(InputError, match=f"{next(iter(keywords))} is .*, expected a whole number from 1"):
        open_store(**keywords)


# An engine that stopped, a process that forked


def test_an_engine_that_stopped_is_started_anew(p: Personalign, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody hears of it, nobody waits, and once the device has recovered the next request is served."""

    def broken(*_: object) -> None:
        raise RuntimeError("device-side assert triggered")

    first = p._replies.worker
    monkeypatch.setattr(first._engine, "step", broken)
    monkeypatch.setattr(Slots, "release", broken)
    with pytest.raises(EngineError, match="device-side assert triggered"):
        p.chat("ada", HELLO)
    until(lambda: not first._thread.is_alive())
    monkeypatch.undo()
    assert p.chat("ada", HELLO).text
    assert p._replies.worker is not first


@pytest.mark.parametrize("locked", ["nothing", "the start", "profiles"])
def test_a_forked_child_gets_an_error(p: Personalign, locked: str) -> None:
    """After a reply in the parent no call of a child's hangs, whatever other threads held then; the parent goes on."""
    assert p.chat("ada", HELLO, max_tokens=2).text
    replies = p._replies
    locks = {"nothing": threading.Lock(), "the start": p._replies._starting, "profiles": p._replies._recent._lock}
    with locks[locked]:
        assert in_child(lambda: p.chat("ada", HELLO)) == 1
        assert in_child(lambda: p.stream("ada", HELLO)) == 1
        assert in_child(lambda: replies.forget("ada")) == 0  # there is nothing to forget
    assert p.chat("ada", HELLO, max_tokens=2).text


def test_a_child_that_is_forked_while_the_model_is_loaded_gets_an_error(
    p: Personalign, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It doesn't wait for a thread that it hasn't got."""
    begun, may_go_on = threading.Event(), threading.Event()

    def load(*_: object) -> None:
        begun.set()
        may_go_on.wait(PATIENCE_S)
        raise InputError("no model")

    monkeypatch.setattr("personalign.replies.load_models", load)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(p.chat, "ada", HELLO)
        begun.wait(PATIENCE_S)
        assert in_child(lambda: p.chat("ada", HELLO)) == 1
        may_go_on.set()
        with pytest.raises(InputError):
            coming.result()


# Memory, outages, the end


def traces(user: str) -> list[str]:
    """The kinds of our values in memory that name a person."""
    gc.collect()
    kinds = {Profile, Request, Guidance, WeightKey, Seq}
    values = [x for x in gc.get_objects() if type(x) in kinds]
    names = {id(x): x.owner if isinstance(x, Seq) else x.user for x in values}
    return sorted(type(x).__name__ for x in values if names[id(x)] == user)


def test_nothing_of_an_erased_person_stays_in_memory(p: Personalign) -> None:
    """Without anybody's next request; before that there is something (the control). No other test knows eve."""
    onboard(p, "eve", most=2)
    p.chat("eve", HELLO, max_tokens=2)
    assert "Profile" in traces("eve")
    p.forget("eve")
    p._replies.worker.perform(int)  # the engine has heard of it
    assert traces("eve") == []
    assert not p._replies._recent._profiles


def test_an_erasure_that_is_pending_is_forgotten_in_memory_too(p: Personalign, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the store raises, nobody is steered by the person's weights any more."""
    onboard(p, "ada", most=2)
    p.chat("ada", HELLO, max_tokens=2)

    def fail(_user: str) -> None:
        raise StoreError("pending")

    monkeypatch.setattr(p._store, "forget", fail)
    with pytest.raises(StoreError, match="pending"):
        p.forget("ada")
    assert "ada" not in p._replies._recent._profiles
    p._replies.worker.perform(int)
    assert not p._replies.worker._engine._chain.tilt.rows._bank.weights.any()


def test_known_people_are_served_while_the_store_is_away(p: Personalign, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are known; others get the error; afterwards everybody is served by what is new."""
    onboard(p, "ada", most=2)
    before = p.chat("ada", HELLO, max_tokens=4)

    def fail() -> int:
        raise StoreError("disk I/O error")

    with monkeypatch.context() as away:
        away.setattr(p._store, "data_version", fail)
        during = p.chat("ada", HELLO, max_tokens=4)
        assert (during.text, during.revision) == (before.text, before.revision)
        assert p._replies._recent.is_stale
        with pytest.raises(StoreError, match="disk"):
            p.chat("ben", HELLO)
    onboard(p, "ada", most=1)
    assert p.chat("ada", HELLO, max_tokens=4).revision == before.revision + 1
    assert not p._replies._recent.is_stale


VERBS: dict[str, Callable[[Personalign], object]] = {
    "ask": lambda p: p.ask("ada"),
    "why_stopped": lambda p: p.why_stopped("ada"),
    "answer": lambda p: p.answer("ada", "q", "a"),
    "reask": lambda p: p.reask("ada"),
    "agreed": lambda p: p.agreed("ada"),
    "undo": lambda p: p.undo("ada"),
    "feedback": lambda p: p.feedback("ada", HELLO, "yes", "no", "edit"),
    "profile": lambda p: p.profile("ada"),
    "behind": lambda p: p.behind(),
    "refit": lambda p: p.refit("ada"),
    "drift": lambda p: p.drift("ada"),
    "chat": lambda p: p.chat("ada", HELLO),
    "stream": lambda p: p.stream("ada", HELLO),
    "chat_many": lambda p: p.chat_many(["ada"], [HELLO]),
    "shift": lambda p: p.shift("ada", [HELLO]),
    "models": lambda p: p.models,
    "forget": lambda p: p.forget("ada"),
    "export": lambda p: p.export("ada"),
}


@pytest.mark.parametrize("is_loaded", [False, True])
def test_every_verb_is_refused_after_close(p: Personalign, *, is_loaded: bool) -> None:
    """With an error of ours that says so; the model isn't loaded for it; closing again does no harm."""
    onboard(p, "ada", most=1)
    if is_loaded:
        p.chat("ada", HELLO, max_tokens=2)
    p.close()
    for call in VERBS.values():
        with pytest.raises(PersonalignError, match=r"closed.*open (it|personalign) again"):
            call(p)
    assert (p._loaded is not None) == is_loaded
    p.close()


def test_opening_leaks_no_store(open_store: Callable[..., Personalign], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a later step of opening fails, the store is closed."""
    closed: list[Store] = []
    close = Store.close

    def fail(*_: object) -> None:
        raise StoreError("full")

    def note(self: Store) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(Store, "save_basis", fail)
    monkeypatch.setattr(Store, "close", note)
    with pytest.raises(StoreError, match="full"):
        open_store()
    assert len(closed) == 1


def test_opening_writes_nothing_twice(open_store: Callable[..., Personalign], monkeypatch: pytest.MonkeyPatch) -> None:
    """A known basis in a store that is up to date is opened without the writers' lock; a new one takes it (control)."""
    locked: list[int] = []
    write = SqliteConnections.write
    monkeypatch.setattr(SqliteConnections, "write", lambda *store: (locked.append(1), write(*store))[1])
    open_store()
    assert locked
    locked.clear()
    open_store()
    assert not locked
