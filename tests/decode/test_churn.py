"""Many people on few slots: whatever is asked, cancelled, fitted anew and erased, nobody gets another's tokens."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from torch import Tensor

from personalign.decode.engine import Engine
from personalign.decode.models import Models
from personalign.decode.request import Request
from personalign.errors import Overloaded
from personalign.options import Options
from personalign.types import Guidance, Reply
from tests.decode.serving import Caller, Desk, leftovers, same_bits
from tests.decode.tiny_models import STEERING, Kit, talk

NUM_PEOPLE, NUM_SLOTS, NUM_EVENTS = 64, 8, 5000
HELLO, CAT = talk("hello", "the cat sat")
KINDS = [
    Request(HELLO, Options(5)),
    Request(HELLO, Options(4, expert="hotels")),
    Request(HELLO, Options(5, 0.9, seed=3, frequency_penalty=0.5, logit_bias={40: 1.0})),
    Request(CAT, Options(4, regex="[a-z ]{2,}")),
    Request(CAT, Options(5)),
]


@dataclass(frozen=True)
class Person:
    """Somebody with a strong will of their own; another one after every fit, and after they were erased."""

    number: int
    generation: int = 0
    revision: int = 1

    @property
    def guidance(self) -> Guidance:
        seed = (self.number, self.generation, self.revision)
        weights = 8 * np.random.default_rng(seed).normal(size=3)
        return Guidance(weights, 3.0, self.revision, f"user{self.number}", self.generation)

    @property
    def request(self) -> Request:
        """What they ask, always the same."""
        return replace(KINDS[self.number % len(KINDS)], guidance=self.guidance, user=f"user{self.number}")


@dataclass(eq=False)
class Call:
    """A request on its way, and when its person was erased, if so: after how many of its tokens."""

    person: Person
    caller: Caller
    erased_after: int | None = None

    @property
    def is_guided(self) -> bool:
        return self.erased_after is None


@dataclass
class Outcome:
    """What came of it all."""

    foreign: int  # replies that weren't what the same request gets alone
    finished: int
    erased: int  # of them, those whose person was erased while they waited or were written
    cancelled: int
    refused: int
    engine: Engine = field(repr=False)


class Oracle:
    """What a request gets when there is nobody else, in steps of the same shape."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._known: dict[tuple[Person, int | None], tuple[Reply, list[Tensor]]] = {}

    def __call__(self, call: Call) -> tuple[Reply, list[Tensor]]:
        key = (call.person, call.erased_after)
        if key not in self._known:
            desk = Desk(self._models, NUM_SLOTS)
            caller = desk.submit(call.person.request, is_watched=True)
            for _ in range(call.erased_after or 0):
                desk.engine.step()
            if not call.is_guided:
                desk.engine.forget(call.person.guidance.user)
            desk.drain()
            self._known[key] = (caller.generated, desk.trace(caller))
        return self._known[key]


def churn(models: Models, num_events: int, sabotage: Callable[[Engine], None] | None = None) -> Outcome:
    """Let people come and go, with or without foul play half-way."""
    rng, oracle = random.Random(0), Oracle(models)
    people = [Person(i) for i in range(NUM_PEOPLE)]
    desk = Desk(models, NUM_SLOTS, max_waiting=10)
    calls: list[Call] = []
    begun: dict[str, list[int]] = defaultdict(list)  # numbers of a person's requests in the order they got a slot
    for event in range(num_events):
        kind = rng.choices(["ask", "cancel", "step", "fit", "erase"], [58, 8, 26, 4, 4])[0]
        i = rng.randrange(NUM_PEOPLE)
        if kind == "ask":
            calls.append(Call(people[i], desk.submit(people[i].request, is_watched=True)))
        elif kind == "cancel" and (waited_for := [call for call in calls if call.caller.is_waited_for]):
            rng.choice(waited_for).caller.cancel()
        elif kind == "fit":
            people[i] = replace(people[i], revision=people[i].revision + 1)
        elif kind == "erase":
            desk.engine.forget(people[i].guidance.user)
            for call in calls:
                if call.person.number == i and call.caller.is_waited_for and call.is_guided:
                    call.erased_after = len(desk.trace(call.caller))
            people[i] = Person(i, people[i].generation + 1)
        else:
            _step(desk, begun)
        if sabotage is not None and event == num_events // 2:
            sabotage(desk.engine)
    while not desk.engine.is_idle:
        _step(desk, begun)
    taken_on = [call.caller for call in calls if not isinstance(call.caller.outcome, Overloaded)]
    assert {caller.seq.state for caller in taken_on} <= {"finished", "failed", "cancelled"}  # each came to an end
    for numbers in begun.values():
        assert numbers == sorted(numbers)  # each person's requests in their order
    finished = [call for call in calls if isinstance(call.caller.outcome, Reply)]
    return Outcome(
        foreign=sum(not _is(desk, call, *oracle(call)) for call in finished),
        finished=len(finished),
        erased=sum(not call.is_guided for call in finished),
        cancelled=sum(call.caller.seq.is_cancelled for call in calls),
        refused=sum(isinstance(call.caller.outcome, Overloaded) for call in calls),
        engine=desk.engine,
    )


def _step(desk: Desk, begun: dict[str, list[int]]) -> None:
    desk.engine.step()
    for reply in desk.engine._scheduler.running.values():
        if reply.number not in begun[reply.owner]:
            begun[reply.owner].append(reply.number)


def _is(desk: Desk, call: Call, expected: Reply, trace: list[Tensor]) -> bool:
    found = call.caller.generated
    return found == expected and same_bits(desk.trace(call.caller), trace)


@pytest.fixture
def models(kit: Kit) -> Models:
    """Steered so strongly that different people write different tokens."""
    return kit.models(steering=replace(STEERING, clip=12.0, num_candidates=60))


@pytest.mark.slow
def test_nobody_gets_another_persons_tokens(models: Models) -> None:
    """Every reply that was finished is, bit by bit, the one the same request gets alone; and all is free at the end."""
    outcome = churn(models, NUM_EVENTS)
    print(outcome)  # noqa: T201
    assert outcome.foreign == 0
    assert outcome.finished > NUM_EVENTS / 10
    assert min(outcome.erased, outcome.cancelled, outcome.refused) > 10
    assert leftovers(outcome.engine) == []


def test_foreign_weights_are_noticed(models: Models) -> None:
    """Control: once weights are in each other's rows, replies are somebody else's."""

    def swap(engine: Engine) -> None:
        engine._chain.tilt.rows._bank.weights[1:] = engine._chain.tilt.rows._bank.weights[1:].roll(1, 0)

    assert churn(models, 400, swap).foreign > 5


def test_people_are_told_apart(models: Models) -> None:
    """Control: the same request of another person, or after another fit, is mostly another reply."""
    for kind in range(len(KINDS)):
        everyone = [Person(kind + i * len(KINDS), 0, revision) for i in range(8) for revision in (1, 2)]
        oracle = Oracle(models)
        written = {oracle(Call(person, Caller()))[0].ids for person in everyone}
        assert len(written) > len(everyone) / 3


def test_what_a_reply_holds_is_seen(models: Models) -> None:
    """Control: while replies are written, none of what has to be free at the end is."""
    desk = Desk(models, NUM_SLOTS, max_waiting=60)
    for i in range(20):
        desk.submit(Person(i).request)
    for _ in range(2):
        desk.engine.step()
    names = {name.split(":")[0] for name in leftovers(desk.engine)}
    assert names == {"a slot", "a place in the queue", "rows", "values", "a pin", "a length", "keys and values"}
