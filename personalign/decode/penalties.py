"""Penalties on tokens that were written before, then the caller's bias.

One row a slot, changed in place. The settings come from ``Options``; ``sample.py`` draws from what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from personalign.decode.slots import Slots
from personalign.options import Options


def penalised(
    logits: Float[Tensor, "B V"],
    in_prompt: Bool[Tensor, "B V"],
    counts: Int[Tensor, "B V"],
    repetition: Float[Tensor, "B"],
    presence: Float[Tensor, "B"],
    frequency: Float[Tensor, "B"],
) -> Float[Tensor, "B V"]:
    """Make what was written before less likely; ``counts`` is how often each token stands in the reply.

    Repetition is Hugging Face's (arXiv 1909.05858, with the sign of the logit taken into account) over prompt and
    reply; presence and frequency are OpenAI's, over the reply.
    """
    in_reply = counts > 0
    weakened = torch.where(logits < 0, logits * repetition[:, None], logits / repetition[:, None])
    logits = torch.where(in_prompt | in_reply, weakened, logits)
    return logits - presence[:, None] * in_reply - frequency[:, None] * counts


@dataclass(frozen=True, eq=False, slots=True)
class History:
    """Which tokens stand in each slot's prompt, and how often in its reply."""

    in_prompt: Bool[Tensor, "S V"]
    counts: Int[Tensor, "S V"]


class Penalties:
    """The penalties and bias of every slot; a slot of zeros has none. Its large buffers come with their first user."""

    def __init__(self, slots: Slots, num_logits: int) -> None:
        self._slots, self._num_logits, self._device = slots, num_logits, slots.device
        self._settings = slots.rows(5)
        self._is_penalised, self._repetition, self._presence, self._frequency, self._is_biased = self._settings.unbind(
            -1
        )
        self._history: History | None = None
        self._bias: Float[Tensor, "S V"] | None = None
        self._penalised: dict[int, bool] = slots.values()
        self._biased: dict[int, bool] = slots.values()

    def admit(self, slot: int, options: Options, prompt_ids: Sequence[int]) -> None:
        """Take a request's settings and the tokens of its prompt into an empty slot."""
        factors = (options.repetition_penalty, options.presence_penalty, options.frequency_penalty)
        is_penalised = factors != (1.0, 0.0, 0.0)
        self._settings[slot] = torch.tensor([is_penalised, *factors, bool(options.logit_bias)])
        if is_penalised:
            self._penalised[slot] = True
            self._known().in_prompt[slot, torch.tensor(prompt_ids, dtype=torch.long, device=self._device)] = True
        if options.logit_bias:
            self._biased[slot] = True
            tokens = torch.tensor(list(options.logit_bias), dtype=torch.long, device=self._device)
            amounts = torch.tensor(list(options.logit_bias.values()), dtype=torch.float32, device=self._device)
            self._biases()[slot, tokens] = amounts

    def __call__(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Penalties, then bias; rows that have none pass by selection and so keep their bits."""
        b = len(logits)
        if self._penalised:
            history = self._known()
            weakened = penalised(
                logits,
                history.in_prompt[:b],
                history.counts[:b],
                self._repetition[:b],
                self._presence[:b],
                self._frequency[:b],
            )
            logits = torch.where(self._is_penalised[:b, None] > 0, weakened, logits)
        if self._biased:
            logits = torch.where(self._is_biased[:b, None] > 0, logits + self._biases()[:b], logits)
        return logits

    def note(self, tokens: Int[Tensor, "B"], active: Bool[Tensor, "B"]) -> None:
        """Count the tokens drawn for the rows whose reply goes on."""
        if self._penalised:
            self._known().counts[: len(tokens)].scatter_add_(-1, tokens[:, None], active[:, None].int())

    def _known(self) -> History:
        if self._history is None:
            in_prompt = self._slots.rows(self._num_logits, dtype=torch.bool)
            self._history = History(in_prompt, self._slots.rows(self._num_logits, dtype=torch.int32))
        return self._history

    def _biases(self) -> Float[Tensor, "S V"]:
        if self._bias is None:
            self._bias = self._slots.rows(self._num_logits)
        return self._bias
