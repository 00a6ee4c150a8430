"""The steers in the order of the method: experts, penalties and bias, constraint, reward, then the caller's own.

``engine.py`` asks it for the logits that tokens are drawn from; ``reference.py`` has the method in plain words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

from jaxtyping import Float
from torch import Tensor

from personalign.decode.account import Account
from personalign.decode.args import Args
from personalign.decode.constrain import ConstraintRows
from personalign.decode.experts import Expert
from personalign.decode.mix import Mix
from personalign.decode.models import Models
from personalign.decode.sample import RowSampler
from personalign.decode.seq import Seq
from personalign.decode.slots import Slots
from personalign.decode.steer import Reader, Steer, Step
from personalign.decode.tilt import SuccessorTilt
from personalign.decode.weights import WeightBank

Guard = Callable[[Iterable[int]], AbstractContextManager[None]]  # ends the replies in some slots where anything fails


class Chain:
    """What bends the logits of each slot's reply; steers with models of their own are made when first asked for."""

    def __init__(
        self, models: Models, slots: Slots, max_length: int, sampler: RowSampler, steers: Sequence[Steer], guard: Guard
    ) -> None:
        self._models, self._slots, self._max_length = models, slots, max_length
        self._sampler, self._steers, self._guard = sampler, steers, guard
        self.mixes: dict[Expert, Mix] = {}
        self.constraints = ConstraintRows(slots, models.num_ids)
        self.tilt: SuccessorTilt | None = None
        if models.head is not None and models.table is not None:
            bank = WeightBank(models.head.num_axes, slots.device)
            self.tilt = SuccessorTilt(models.head, models.table, models.steering, models.base.ends, slots, bank)
        self.args: Args | None = None

    @property
    def readers(self) -> list[Reader]:
        """The steers that read prompts."""
        return [*self.mixes.values(), *([] if self.args is None else [self.args])]

    @property
    def rewards(self) -> list[SuccessorTilt | Args]:
        """The steers by a reward: each row is guided by one of them at most."""
        return [reward for reward in (self.tilt, self.args) if reward is not None]

    def seat(self, slot: int, seq: Seq) -> None:
        """Hand a reply to every steer that it asks for."""
        if seq.matcher is not None:
            self.constraints.admit(slot, seq.matcher)
        if seq.reward_prompt is not None:
            self._by_reward_model().admit(slot, seq.reward_prompt.prompt, seq.reward_prompt.guidance)
        elif self.tilt is not None and seq.guidance is not None:
            self.tilt.admit(slot, seq.guidance)
        if seq.stack is not None:
            self._mix(seq.stack.expert).admit(slot, seq.stack.prompt, seq.stack.alpha)

    def _by_reward_model(self) -> Args:
        if self.args is None:
            models = self._models
            assert models.reward_model is not None, "such a request isn't admitted"
            self.args = Args(
                models.reward_model, models.args, models.base.ends, models.num_tokens, self._slots, self._max_length
            )
        return self.args

    def _mix(self, expert: Expert) -> Mix:
        if expert not in self.mixes:
            self.mixes[expert] = Mix(expert, self._slots, self._max_length, self._models.num_tokens)
        return self.mixes[expert]

    def __call__(self, logits: Float[Tensor, "b V"], step: Step) -> Float[Tensor, "b V"]:
        """Apply the steers one after the other."""
        for mix in self.mixes.values():
            with self._guard(mix.slots):
                logits = mix(logits, step)
        logits = self.constraints.mask(self._sampler.adjust(logits))
        for reward in self.rewards:
            with self._guard(reward.rows.slots):
                logits = reward(logits, step)
        for steer in self._steers:
            logits = steer(logits, step)
        return logits

    def forget(self, user: str) -> None:
        """Empty a person's rows."""
        for reward in self.rewards:
            reward.forget(user)

    def account(self, slot: int) -> Account:
        """What a reward did to the slot's reply."""
        return next((reward.rows.account(slot) for reward in self.rewards if slot in reward.rows.slots), Account())
