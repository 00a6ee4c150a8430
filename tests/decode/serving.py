"""What the engine's tests serve with: callers who wait for a reply, a watch on the logits, strangers of every kind."""

from __future__ import annotations

import random
import string
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from statistics import mean

import numpy as np
from torch import Tensor

from personalign.decode.engine import Engine
from personalign.decode.lane import Reading
from personalign.decode.models import Models
from personalign.decode.request import Piece, Request
from personalign.decode.seq import Seq
from personalign.decode.steer import Step
from personalign.errors import PersonalignError
from personalign.options import Options
from personalign.types import Guidance, Reply
from tests.decode.tiny_models import bits, talk


@dataclass(eq=False)
class Caller:
    """Whoever asked for one reply, and what came of it."""

    seq: Seq | None = None  # set by Desk.submit
    pieces: list[Piece] = field(default_factory=list)
    outcome: Reply | Exception | None = None

    def __call__(self, item: Piece | Reply | Exception) -> None:
        assert self.outcome is None, "nothing comes after the reply or its error"
        if isinstance(item, Piece):
            self.pieces.append(item)
        else:
            self.outcome = item

    def cancel(self) -> None:
        """Hang up."""
        assert self.seq is not None, "it was submitted"
        self.seq.is_cancelled = True

    @property
    def is_waited_for(self) -> bool:
        """Whether a reply is still to come."""
        assert self.seq is not None, "it was submitted"
        return self.outcome is None and not self.seq.is_cancelled

    @property
    def generated(self) -> Reply:
        assert isinstance(self.outcome, Reply), self.outcome
        return self.outcome

    @property
    def text(self) -> str:
        """What was streamed so far."""
        return "".join(piece.text for piece in self.pieces)


class Desk:
    """An engine with a watch on it: the bits of the logits that every request's tokens were drawn from."""

    def __init__(
        self, models: Models, num_slots: int, max_length: int = 64, buckets: Sequence[int] = (), **settings
    ) -> None:
        steers = [*settings.pop("steers", ()), self._look]
        self.models = models
        self.engine = one_shape(Engine(models, num_slots, max_length, steers=steers, **settings), buckets)
        self.traces: dict[int, list[Tensor]] = defaultdict(list)  # by number
        self._watched: set[int] = set()
        self._active: list[int] = []  # rows
        self._numbers = count()

    def submit(self, request: Request, *, is_streamed: bool = False, is_watched: bool = False) -> Caller:
        """Ask for a reply."""
        caller, number = Caller(), next(self._numbers)
        caller.seq = Seq(self.models, request, number, caller, is_streamed=is_streamed)
        try:
            self.engine.submit([caller.seq])
        except PersonalignError as error:
            caller.outcome = error
        if is_watched:
            self._watched.add(number)
        return caller

    def trace(self, caller: Caller) -> list[Tensor]:
        """The bits of the logits of each of a reply's tokens."""
        assert caller.seq is not None, "it was submitted"
        return self.traces[caller.seq.number]

    @property
    def num_active(self) -> int:
        """How many replies the last step wrote a token of."""
        return len(self._active)

    def drain(self) -> None:
        """Step until there is nothing to do."""
        while not self.engine.is_idle:
            self.engine.step()

    def serve(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies to these, asked for at once, like generate's but in this engine."""
        callers = [self.submit(request, is_watched=True) for request in requests]
        self.drain()
        return [caller.generated for caller in callers]

    def _look(self, logits: Tensor, step: Step) -> Tensor:
        self._active = step.active.nonzero().flatten().tolist()
        for row in self._active:
            if (number := int(step.request[row])) in self._watched:
                self.traces[number].append(bits(logits[row].clone()))
        return logits


def one_shape(engine: Engine, buckets: Sequence[int] = ()) -> Engine:
    """Make an engine's steps as large as the least of these that holds all replies, or always as large as it is."""
    scheduler = engine._scheduler
    scheduler._buckets = [*buckets, scheduler._num_slots]
    return engine


def leftovers(engine: Engine) -> list[str]:
    """What an idle engine still holds of replies that are gone; names, so that a failure says what leaks."""
    scheduler, slots, chain = engine._scheduler, engine._slots, engine._chain
    banks = [reward.rows._bank for reward in chain.rewards]
    held = {
        "a slot": scheduler.running,
        "a place in the queue": list(scheduler.queue),
        "a prompt to read": scheduler.slots("reading"),
        "a dirty slot": engine._dirty,
        "rows": [tuple(rows.shape) for rows, neutral in slots._buffers if not (rows == neutral).all()],
        "values": [values for values, _ in slots._values if values],
        "a pin": [bank._pins for bank in banks if bank._pins],
        "a length": [part.known for part in slots._parts if any(part.known)],
        "keys and values": sum(map(_num_kept, slots._parts)),
    }
    return [f"{name}: {what}" for name, what in held.items() if what]


def _num_kept(reading: Reading) -> int:
    """How many numbers of replies are in the cache; the first positions may hold what an empty slot's row computes."""
    buffers = [x for layer in reading.cache._layers for x in (layer.keys, layer.values) if x is not None]
    return sum(int((buffer[:, :, reading._ahead :] != 0).sum()) for buffer in buffers)


def same_bits(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two traces are equal, step by step and bit by bit."""
    return len(one) == len(other) and all(map(_same, one, other))


def _same(a: Tensor, b: Tensor) -> bool:
    return bool((a == b).all())


@dataclass(frozen=True)
class Found:
    """What became of needles among strangers."""

    differing: int  # needles that weren't, id by id and bit by bit, what they are alone
    neighbours: float  # replies written beside each of a needle's tokens, the mean


def haystack(
    models: Models,
    needles: Sequence[Request],
    num_slots: int,
    trials: int,
    *,
    alone: tuple[Models, Sequence[Request]] | None = None,
    **settings,
) -> Found:
    """Write needles in an engine of one batch shape while strangers of every kind join, leave and are cancelled.

    ``alone`` says by what models and requests they are written that they are compared with; None means the same ones.
    """
    rng, needed = random.Random(num_slots), [needles[i % len(needles)] for i in range(trials)]
    lonely, requests = alone or (models, needles)
    expected = {}
    for needle, request in zip(needles, requests, strict=True):
        desk = Desk(lonely, num_slots, **settings)
        (reply,) = desk.serve([request])
        expected[id(needle)] = (reply.ids, desk.traces[0])
    desk = Desk(models, num_slots, max_waiting=trials + num_slots, **settings)
    sought: list[tuple[Request, Caller]] = []
    strangers: list[Caller] = []
    beside = []
    while needed or not desk.engine.is_idle:
        num_running = sum(caller.outcome is None for _, caller in sought)
        while needed and num_running < max(1, num_slots // 2) and rng.random() < 0.7:
            sought.append((needle := needed.pop(), desk.submit(needle, is_watched=True)))
            num_running += 1
        strangers = [caller for caller in strangers if caller.is_waited_for]
        while needed and len(strangers) < num_slots and rng.random() < 0.8:
            strangers.append(desk.submit(stranger(rng, models)))
        if strangers and rng.random() < 0.1:
            rng.choice(strangers).cancel()
        beside += [desk.num_active - 1] * num_running
        desk.engine.step()
    differing = sum(
        caller.generated.ids != expected[id(needle)][0] or not same_bits(desk.trace(caller), expected[id(needle)][1])
        for needle, caller in sought
    )
    return Found(differing, mean(beside))


def stranger(rng: random.Random, models: Models) -> Request:
    """A request of any kind: text, guidance (broken ones too), rule, sampling, penalties, expert, constraint, stops."""
    assert models.head is not None, "strangers are guided"
    d, vocabulary, experts = models.head.num_axes, models.base.num_tokens, sorted(models.experts)
    text = "".join(rng.choice(string.ascii_letters + string.digits + " ?!") for _ in range(rng.randint(1, 24)))
    sampling = Options(
        rng.randint(1, 8),
        rng.choice([0.0, 0.0, 0.7, 1.5]),
        rng.choice([1.0, 0.9, 0.5]),
        rng.randrange(99),
        top_k=rng.choice([0, 0, 5]),
        min_p=rng.choice([0.0, 0.1]),
        repetition_penalty=rng.choice([1.0, 1.0, 1.4]),
        presence_penalty=rng.choice([0.0, 0.0, 0.7]),
        frequency_penalty=rng.choice([0.0, 0.0, -0.4]),
        logit_bias=rng.choice([{}, {}, {rng.randrange(vocabulary): rng.choice([-100.0, 3.0])}]),
        stop=rng.choice([(), (), ("e",), ("the", "a ")]),
        logprobs=rng.choice([0, 0, 0, 3]),
    )
    weights = np.array([rng.gauss(0, 3) for _ in range(d)])
    guidance = rng.choice(
        [
            None,
            Guidance(weights, rng.random() * rng.choice([0.0, 1.0, 3.0]), user=f"user{rng.randrange(9)}"),
            Guidance(weights, 100.0),
            Guidance(np.full(d, rng.choice([3e38, -3e38, 1e300]))),  # its rewards overflow
        ]
    )
    return Request(
        talk(text.strip() or "hm")[0],
        replace(
            sampling,
            expert=rng.choice([None, *experts]),
            alpha=rng.choice([None, 0.3, 2.0]),
            regex=rng.choice([None, None, None, "[a-z ]{3,}", "(yes|no)+"]),
            rule=rng.choice(["successor", "args"] if models.reward_model is not None else ["successor"]),
        ),
        guidance,
    )
