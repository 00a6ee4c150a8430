"""Continuous batching: replies of different people join and leave one running batch, each under their own reward.

A step is one sentence: admit → forward → steer → sample → deliver. The order of steers is the method: experts, then
penalties and bias, then the constraint, then the person's reward, then whatever the caller adds, then the draw.
``reference.py`` is the same method in plain words, and the oracle this file is tested against. An engine belongs to
one thread: ``worker.py`` is it where there are many callers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from personalign.decode.account import Account
from personalign.decode.args import Args
from personalign.decode.constrain import ConstraintRows
from personalign.decode.experts import Expert, Mix
from personalign.decode.lane import CHUNK, Lane
from personalign.decode.models import Models
from personalign.decode.sample import RowSampler
from personalign.decode.scheduler import Scheduler
from personalign.decode.seq import Seq
from personalign.decode.steer import Part, Reader, Steer, Step
from personalign.decode.tilt import SuccessorTilt
from personalign.decode.weights import WeightBank
from personalign.errors import EngineError, MessageError, ModelError, PersonalignError
from personalign.types import TokenLogprobs

DEFAULT_SLOTS = 32
DEFAULT_LENGTH = 2048
DEFAULT_WAITING = 256


class Progress:
    """Where each slot's reply has got to, on the device."""

    def __init__(self, num_slots: int, device: torch.device) -> None:
        self.active = torch.zeros(num_slots, dtype=torch.bool, device=device)  # its prompt is read, and it goes on
        self.broken = torch.zeros(num_slots, dtype=torch.bool, device=device)  # its logits weren't finite
        self.index = torch.zeros(num_slots, dtype=torch.long, device=device)  # of the token to be drawn
        self.number = torch.zeros(num_slots, dtype=torch.long, device=device)  # of the request

    def release(self, slot: int) -> None:
        """Empty a slot."""
        for state in (self.active, self.broken, self.index, self.number):
            state[slot] = 0

    def move(self, source: int, target: int) -> None:
        """Carry a reply over to an empty slot."""
        for state in (self.active, self.broken, self.index, self.number):
            state[target] = state[source]
        self.release(source)


class Engine:
    """Slots of fixed-shape buffers over models.

    Args:
        models: what replies are written with.
        num_slots: replies that are written at once.
        max_length: tokens of prompt and reply together; None means the model's context, 2048 at most.
        max_waiting: requests that may wait for a slot.
        steers: run last, right before the draw.
    """

    def __init__(
        self,
        models: Models,
        num_slots: int = DEFAULT_SLOTS,
        max_length: int | None = None,
        max_waiting: int = DEFAULT_WAITING,
        steers: Sequence[Steer] = (),
    ) -> None:
        base = models.base
        self.models = models
        self.max_length = max_length or min(base.context or DEFAULT_LENGTH, DEFAULT_LENGTH)
        self._num_slots, self._steers = num_slots, steers
        self._scheduler = Scheduler(num_slots, max_waiting)
        self._progress = Progress(num_slots, base.device)
        self._lane = Lane(base, num_slots, self.max_length)
        self._mixes: dict[Expert, Mix] = {}  # made when first asked for
        self._constraints = ConstraintRows(num_slots, models.num_ids, base.device)
        self._sampler = RowSampler(num_slots, base.num_logits, self.max_length, base.device)
        self.bank: WeightBank | None = None
        self._tilt: SuccessorTilt | None = None
        if models.head is not None and models.table is not None:
            self.bank = WeightBank(models.head.num_axes, base.device)
            self._tilt = SuccessorTilt(models.head, models.table, models.steering, base.ends, num_slots, self.bank)
        self._args: Args | None = None  # made when first asked for

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return self._scheduler.is_idle

    def check(self, seq: Seq, also_waiting: int = 0) -> None:
        """Refuse a reply for which there is no room; ``also_waiting`` are on their way here.

        Raises:
            MessageError: prompt and reply don't fit into a slot.
            Overloaded: too many wait already.
        """
        if seq.num_tokens > self.max_length:
            raise MessageError(
                f"prompt and max_tokens come to {seq.num_tokens} tokens, a slot holds {self.max_length}; shorten the "
                "conversation, ask for fewer tokens, or open the engine with a larger max_length"
            )
        self._scheduler.check(also_waiting)

    def submit(self, seq: Seq) -> None:
        """Let a reply wait for its turn, or end it at once where there is no room."""
        try:
            self.check(seq)
        except PersonalignError as error:
            seq.fail(error)
        else:
            self._scheduler.submit(seq)

    def forget(self, user: str) -> None:
        """Empty a person's rows: replies that are being written go on without them, those that wait begin so."""
        for rule in self._rules():
            rule.forget(user)
        for seq in self._scheduler.waiting:
            if seq.owner == user:
                seq.forget()

    def abort(self, error: PersonalignError) -> None:
        """End every reply, waiting and running."""
        for slot, seq in list(self._scheduler.running.items()):
            seq.fail(error)
            self._release(slot)
        for seq in self._scheduler.drain():
            seq.fail(error)

    @torch.no_grad()
    def step(self) -> None:
        """Write one token of every running reply whose prompt is read."""
        self._withdraw()
        self._admit()
        slots = self._scheduler.writing
        with self._ending_on_error(slots):
            if slots:
                logits, step = self._forward(slots)
                self._deliver(self._steer(logits, step), step)

    # admit

    def _withdraw(self) -> None:
        """Let go of cancelled replies, waiting and running; close the gaps between the rest."""
        for slot in self._scheduler.withdraw():
            self._release(slot)
        for source, target in self._scheduler.moves():
            for part in self._parts():
                part.move(source, target)

    def _admit(self) -> None:
        """Seat who comes next, and read prompts: a chunk beside each step of those who write, all if nobody does."""
        for slot, seq in self._scheduler.admit():
            with self._ending_on_error([slot]):
                self._seat(slot, seq)
        budget = CHUNK if self._scheduler.writing else self._num_slots * self.max_length
        for slot in self._scheduler.reading:
            if budget <= 0:
                break
            with self._ending_on_error([slot]):
                budget -= self._read(slot, budget)

    def _seat(self, slot: int, seq: Seq) -> None:
        """Hand a reply to every part that keeps something of it."""
        self._lane.begin(slot, seq.prompt)
        self._sampler.admit(slot, seq.request.sampling, seq.prompt)
        if seq.matcher is not None:
            self._constraints.admit(slot, seq.matcher)
        if seq.reward_prompt is not None:
            self._by_reward_model().admit(slot, seq.reward_prompt.prompt, seq.reward_prompt.guidance)
        elif self._tilt is not None and seq.guidance is not None:
            self._tilt.admit(slot, seq.guidance)
        if seq.stack is not None:
            self._mix(seq.stack.expert).admit(slot, seq.stack.prompt, seq.stack.alpha)

    def _by_reward_model(self) -> Args:
        if self._args is None:
            reward = self.models.reward_model
            assert reward is not None, "such a request isn't admitted"
            num_tokens = self.models.num_tokens
            self._args = Args(reward, self.models.args, self._num_slots, self.max_length, num_tokens)
        return self._args

    def _mix(self, expert: Expert) -> Mix:
        if expert not in self._mixes:
            self._mixes[expert] = Mix(expert, self._num_slots, self.max_length, self.models.num_tokens)
        return self._mixes[expert]

    def _read(self, slot: int, budget: int) -> int:
        """Read up to about ``budget`` tokens of a slot's prompts; when all are read, the reply may be written."""
        num_read = 0
        for reader in self._readers():
            while num := reader.read(slot):
                num_read += num
                if num_read >= budget:
                    return num_read
        self._scheduler.begin(slot)
        self._progress.active[slot] = True
        self._progress.number[slot] = self._scheduler.running[slot].number
        return num_read

    # forward, steer

    def _forward(self, slots: Sequence[int]) -> tuple[Float[Tensor, "b V"], Step]:
        b, progress = self._scheduler.num_rows, self._progress
        active = progress.active[:b]
        logits, hidden = self._lane.step(active, slots)
        has_first = any(self._scheduler.running[slot].is_first for slot in slots)
        return logits, Step(hidden, progress.index[:b], progress.number[:b], active, slots, has_first)

    def _steer(self, logits: Float[Tensor, "b V"], step: Step) -> Float[Tensor, "b V"]:
        """Apply the steers in the order of the method."""
        for mix in self._mixes.values():
            with self._ending_on_error(mix.slots):
                logits = mix(logits, step)
        logits = self._constraints.mask(self._sampler.adjust(logits))
        for rule in self._rules():
            with self._ending_on_error(rule.rows.slots):
                logits = rule(logits, step)
        for steer in self._steers:
            logits = steer(logits, step)
        return logits

    # sample, deliver

    def _deliver(self, logits: Float[Tensor, "b V"], step: Step) -> None:
        tokens = self._sampler.draw(logits)
        self._progress.broken[: len(logits)] |= step.active & ~logits.amax(-1).isfinite()
        self._sampler.note(tokens, step.active)
        self._progress.index[: len(logits)] += step.active
        for reader in self._readers():
            reader.accept(tokens, step.active)
        ids = tokens.cpu().numpy()  # the one copy to the host of a step
        slots = self._scheduler.writing
        self._constraints.advance(ids, slots)
        logprobs = self._logprobs(logits, tokens, ids)
        for slot in slots:
            with self._ending_on_error([slot]):
                self._scheduler.running[slot].take(int(ids[slot]), logprobs.get(slot))
        if ended := self._scheduler.ended:
            self._finish(ended)

    def _logprobs(
        self, logits: Float[Tensor, "b V"], tokens: Int[Tensor, "b"], ids: NDArray[np.int64]
    ) -> dict[int, TokenLogprobs]:
        """The log-probabilities of the slots whose requests ask for them; nothing is computed if none does."""
        wanted = {
            slot: n
            for slot in self._scheduler.writing
            if (n := self._scheduler.running[slot].request.sampling.logprobs)
        }
        if not wanted:
            return {}
        chosen, likeliest, values = (x.tolist() for x in self._sampler.logprobs(logits, tokens, max(wanted.values())))
        return {
            slot: TokenLogprobs(int(ids[slot]), chosen[slot], _possible(likeliest[slot][:n], values[slot][:n]))
            for slot, n in wanted.items()
        }

    def _finish(self, ended: Sequence[int]) -> None:
        """Send the replies that have ended, and free their slots."""
        broken = self._progress.broken.tolist()
        for slot in ended:
            seq = self._scheduler.running[slot]
            with self._ending_on_error([slot]):
                if (dead := self._constraints.dead(slot)) is not None:
                    raise dead
                if broken[slot]:
                    stacked = "" if seq.stack is None else f" with the expert {seq.stack.expert.name!r} on it"
                    raise ModelError(
                        f"{self.models.base.name}{stacked} gave logits that hold NaN or Inf; expected finite numbers"
                    )
                seq.finish(self._account(slot), self.models.steering)
                self._release(slot)

    def _account(self, slot: int) -> Account:
        return next((rule.rows.account(slot) for rule in self._rules() if slot in rule.rows.slots), Account())

    # release

    def _rules(self) -> list[SuccessorTilt | Args]:
        """The rewards: each row is guided by one of them at most."""
        return [rule for rule in (self._tilt, self._args) if rule is not None]

    def _readers(self) -> list[Reader]:
        return [self._lane, *self._mixes.values(), *([] if self._args is None else [self._args])]

    def _parts(self) -> list[Part]:
        tilts = [] if self._tilt is None else [self._tilt]
        return [self._progress, *self._readers(), self._constraints, self._sampler, *tilts]

    def _release(self, slot: int) -> None:
        self._scheduler.release(slot)
        for part in self._parts():
            part.release(slot)

    @contextmanager
    def _ending_on_error(self, slots: Iterable[int]) -> Iterator[None]:
        """End the replies in these slots with a typed error if anything fails; all others go on."""
        touched = list(slots)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a device, a model or a library may throw anything
            for slot in set(touched) & self._scheduler.running.keys():
                self._scheduler.running[slot].fail(typed(error))
                self._release(slot)


def _possible(tokens: Sequence[int], values: Sequence[float]) -> tuple[tuple[int, float], ...]:
    """The tokens that can be drawn at all: a guided reply's short list may hold fewer than are asked for."""
    return tuple((token, value) for token, value in zip(tokens, values, strict=True) if value > -math.inf)


def typed(error: Exception) -> PersonalignError:
    """An error of ours as it is, any other one as the cause of an EngineError."""
    if isinstance(error, PersonalignError):
        return error
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    failure = EngineError(f"writing the reply failed with {type(error).__name__}: {first_line}; send the request again")
    failure.__cause__ = error
    return failure
