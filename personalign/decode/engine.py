"""Continuous batching: replies of different people join and leave one running batch, each under their own reward.

A step is one sentence: admit → forward → steer → sample → deliver. ``chain.py`` has the steers, ``slots.py`` what is
kept for each reply; ``blocks.py`` chooses among siblings. ``reference.py`` is the same method in plain words, and the
oracle this file is tested against. An engine belongs to one thread: where there are many callers, that of
``worker.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from personalign.decode.blocks import Blocks
from personalign.decode.chain import Chain
from personalign.decode.lane import CHUNK, Lane
from personalign.decode.models import Models
from personalign.decode.request import Request
from personalign.decode.sample import RowSampler
from personalign.decode.scheduler import Scheduler
from personalign.decode.seq import DEFAULT_LENGTH, Seq, Ticket, engine_error
from personalign.decode.slots import Slots
from personalign.decode.steer import Steer, Step
from personalign.errors import InputError, MessageError, ModelError, PersonalignError
from personalign.types import Reply

DEFAULT_SLOTS = 32
DEFAULT_WAITING = 256
IDLE_CHUNKS = 4  # of prompts that a step reads where no reply is being written
MAX_ROWS = 128  # of one call's engine; more requests wait their turn


class Engine:
    """Slots of fixed-shape buffers over models.

    ``max_length`` counts the tokens of prompt and reply together; None means the model's context, 2048 at most.
    ``steers`` run last, right before the draw.
    """

    def __init__(
        self,
        models: Models,
        num_slots: int = DEFAULT_SLOTS,
        max_length: int | None = None,
        max_waiting: int = DEFAULT_WAITING,
        steers: Sequence[Steer] = (),
    ) -> None:
        self.models, base = models, models.base
        self.max_length = max_length or min(base.context or DEFAULT_LENGTH, DEFAULT_LENGTH)
        self._scheduler = Scheduler(num_slots, max_waiting)
        self._dirty: set[int] = set()  # slots that are being emptied, or couldn't be
        self._slots = slots = Slots(num_slots, base.device)
        self._active = slots.rows(dtype=torch.bool)  # the prompt is read, and the reply goes on
        self._broken = slots.rows(dtype=torch.bool)  # the logits weren't finite
        self._number = slots.rows(dtype=torch.long)  # of the request
        self._lane = Lane(base, slots, self.max_length)
        self._sampler = RowSampler(slots, base.num_logits, self.max_length)
        self._chain = Chain(models, slots, self.max_length, self._sampler, steers)
        self._blocks = Blocks(models, slots, self._scheduler, self._sampler, self._chain.constraints, self._active)
        self._reads_shortest = False  # whether this step's prompts are read from the shortest on

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return self._scheduler.is_idle

    @property
    def is_sound(self) -> bool:
        """Whether every slot without a reply is empty; if not, no reply may be written any more."""
        return not self._dirty

    @property
    def load(self) -> tuple[int, int]:
        """How many replies have a slot, siblings included, and how many wait for one; any thread may ask."""
        return len(self._scheduler.running), len(self._scheduler.queue)

    def submit(self, seqs: Sequence[Seq]) -> None:
        """Let all of these replies wait for their turns, or none; any thread may do so."""
        for seq in seqs:
            if seq.num_tokens > self.max_length:
                raise MessageError(
                    f"prompt and max_tokens come to {seq.num_tokens} tokens, a slot holds {self.max_length}; shorten "
                    "the conversation, ask for fewer tokens, or open personalign with a larger max_length="
                )
            if seq.num_slots > self._slots.num_slots:
                raise InputError(
                    f'the rule "{seq.request.options.rule}" takes {seq.num_slots} slots, one for each sibling; there '
                    f"are {self._slots.num_slots}; pass a smaller num_siblings=, or open personalign with larger slots="
                )
        self._scheduler.queue.add(seqs)

    def waiting(self, user: str) -> list[Seq]:
        """The replies under a person's weights that have no slot yet."""
        return [seq for seq in self._scheduler.queue if seq.guidance and seq.guidance.user == user]

    def forget(self, user: str, waiting: Sequence[Seq] | None = None) -> None:
        """Empty a person's rows: replies that are being written go on without them, those that wait begin so."""
        self._chain.forget(user)
        choosing = [seq for seq in self._scheduler.running.values() if seq.choices is not None]
        running = [seq for seq in choosing if seq.guidance and seq.guidance.user == user]
        for seq in (*running, *(self.waiting(user) if waiting is None else waiting)):
            seq.forget()

    def abort(self, error: PersonalignError) -> None:
        """End every reply, waiting or running, with an error; then empty every slot."""
        running = dict(self._scheduler.running)
        for slot in running:
            self._scheduler.release(slot)
        for seq in (*running.values(), *self._scheduler.queue.clear()):
            seq.fail(error)
        for slot in range(self._slots.num_slots):
            self._clean(slot)

    @torch.no_grad()
    def step(self) -> None:
        """Write one token of every running reply whose prompt is read."""
        self._withdraw()
        self._admit()
        slots = self._scheduler.slots("writing")
        with self._guard(slots):
            if slots:
                logits, step = self._forward(slots)
                self._deliver(self._chain(logits, step, self._guard), step)

    def _withdraw(self) -> None:
        """Let go of cancelled replies, waiting and running; close the gaps between the rest."""
        for slot in self._scheduler.withdraw():
            self._scheduler.running[slot].enter("cancel")
            self._release(slot)
        for source, target in self._scheduler.moves():
            self._slots.move(source, target)

    def _admit(self) -> None:
        """Seat the replies whose turn it is, and read prompts: so many tokens a step, fewer beside running replies."""
        for slot, seq in self._scheduler.admit():
            with self._guard([slot]):
                self._lane.begin(slot, seq.prompt)
                self._sampler.admit(slot, seq.request.options, seq.prompt)
                self._chain.seat(slot, seq)
        budget = CHUNK if self._scheduler.slots("writing") else IDLE_CHUNKS * CHUNK
        for slot in self._reading_order():
            if budget <= 0:
                break
            with self._guard([slot]):
                budget -= self._read(slot, budget)

    def _reading_order(self) -> list[int]:
        """Slots with prompts to read: in turns the oldest first, so that none starves, and the one with least left."""
        slots = self._scheduler.slots("reading")
        self._reads_shortest = not self._reads_shortest
        return slots if self._reads_shortest else sorted(slots, key=self._lane.reading.num_unread)

    def _read(self, slot: int, budget: int) -> int:
        """Read up to about ``budget`` tokens of a slot's prompts; when all are read, the reply may be written."""
        num_read = 0
        for reader in (self._lane, *self._chain.readers):
            while num := reader.read(slot):
                num_read += num
                if num_read >= budget:
                    return num_read
        seq = self._scheduler.running[slot]
        self._active[slot] = True
        self._number[slot] = seq.number
        seq.enter("begin" if seq.is_alone else "pause")
        if not seq.is_alone:
            self._blocks.begin(seq)
        return num_read

    def _forward(self, slots: Sequence[int]) -> tuple[Float[Tensor, "b V"], Step]:
        b = self._scheduler.num_rows
        logits, hidden = self._lane.step(self._active[:b], slots)
        has_first, index = any(self._scheduler.running[slot].is_first for slot in slots), self._sampler.index[:b]
        return logits, Step(hidden, index, self._number[:b], self._active[:b], slots, has_first)

    def _deliver(self, logits: Float[Tensor, "b V"], step: Step) -> None:
        """Draw a token for every row, let its readers and its reply take it, and send what has ended."""
        tokens = self._sampler.draw(logits)
        self._broken[: len(logits)] |= step.active & ~logits.amax(-1).isfinite()
        self._sampler.note(tokens, step.active)
        for reader in (self._lane, *self._chain.readers):
            reader.accept(tokens, step.active)
        ids = tokens.cpu().numpy()  # the one copy to the host of a step
        slots = self._scheduler.slots("writing")
        self._chain.constraints.advance(ids, slots)
        logprobs = self._sampler.logprobs(logits, tokens, slots)
        for slot in slots:
            with self._guard([slot]):
                self._scheduler.running[slot].take(int(ids[slot]), logprobs.get(slot))
        if paused := self._scheduler.slots("paused"):
            self._active[paused] = False
            for leader in self._scheduler.blocks():
                self._choose(leader, step.hidden, tokens)
        if ended := self._scheduler.slots("ended"):
            self._finish(ended)

    def _choose(self, leader: Seq, hidden: Float[Tensor, "b H"], tokens: Int[Tensor, "b"]) -> None:
        """End a block: its best sibling is kept, and the others go on from it, or leave their slots."""
        with self._guard(self._scheduler.places(leader)):
            for slot in self._blocks.end(leader, hidden, tokens):
                self._release(slot)

    def _finish(self, ended: Sequence[int]) -> None:
        """Send the replies that have ended, and free their slots."""
        broken = self._broken.tolist()
        for slot in ended:
            seq = self._scheduler.running[slot]
            with self._guard([slot]):
                if (dead := self._chain.constraints.dead(slot)) is not None:
                    raise dead
                if broken[slot]:
                    stacked = "" if seq.stack is None else f" with the expert {seq.stack.expert.name!r} on it"
                    raise ModelError(
                        f"{self.models.base.name}{stacked} gave logits that hold NaN or Inf; expected finite numbers"
                    )
                account = self._chain.account(slot) if seq.choices is None else seq.choices
                seq.finish(account, self.models.steering)
                self._release(slot)

    def _release(self, slot: int) -> None:
        self._scheduler.release(slot)
        self._clean(slot)

    def _clean(self, slot: int) -> None:
        self._dirty.add(slot)
        self._slots.release(slot)
        self._dirty.remove(slot)

    @contextmanager
    def _guard(self, slots: Iterable[int]) -> Iterator[None]:
        """End the replies in these slots, siblings included, with a typed error if anything fails; others go on."""
        touched = list(slots)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a device, a model or a library may throw anything
            running = self._scheduler.running
            failed = {running[slot].leader for slot in touched if slot in running}
            for slot, seq in list(running.items()):
                if seq.leader in failed:
                    seq.fail(engine_error(error))
                    self._release(slot)


def generate(models: Models, requests: Sequence[Request], steers: Sequence[Steer] = ()) -> list[Reply]:
    """Write a reply to every request, in one batch as far as they fit.

    Raises:
        InputError: an unknown expert, or a setting out of its range.
        MessageError: messages that are empty, malformed or too long for the model beside ``max_tokens``.
        ProfileError: weights of another basis or with NaN.
        ModelError: the model's own logits aren't finite.
        EngineError: anything else failed while a reply was written.
    """
    tickets = [Ticket() for _ in requests]
    seqs = [
        # without a user: the requests of one call take no turns
        Seq(models, replace(request, user=""), i, ticket.put)
        for i, (request, ticket) in enumerate(zip(requests, tickets, strict=True))
    ]
    if not seqs:
        return []
    longest = max(seq.num_tokens for seq in seqs)
    engine = Engine(
        models, min(sum(seq.num_slots for seq in seqs), MAX_ROWS), longest, max_waiting=len(seqs), steers=steers
    )
    engine.submit(seqs)
    while not engine.is_idle:
        engine.step()
    return [ticket.result() for ticket in tickets]
