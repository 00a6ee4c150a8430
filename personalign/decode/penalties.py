"""Penalties on tokens that were written before, then the caller's bias.

One row a slot, changed in place. The settings come from ``Options``; ``sample.py`` draws from what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from personalign.decode.slots import Slots
from personalign.options import Options


class Penalties:
    """The penalties and bias of every slot; a slot of zeros has none. Its large buffers come with their first user.

    Repetition is Hugging Face's (arXiv 1909.05858, with the sign of the logit taken into account) over prompt and
    reply; presence and frequency are OpenAI's, over the reply.
    """

    def __init__(self, slots: Slots, num_logits: int) -> None:
        self._slots, self._num_logits = slots, num_logits
        self._settings = slots.rows(5)  # whether it is penalised, the three factors, whether it is biased
        self._penalised: dict[int, bool] = slots.values()
        self._biased: dict[int, bool] = slots.values()

    @cached_property
    def _in_prompt(self) -> Bool[Tensor, "S V"]:
        return self._slots.rows(self._num_logits, dtype=torch.bool)

    @cached_property
    def _counts(self) -> Int[Tensor, "S V"]:
        return self._slots.rows(self._num_logits, dtype=torch.int32)  # in the reply

    @cached_property
    def _bias(self) -> Float[Tensor, "S V"]:
        return self._slots.rows(self._num_logits)

    def admit(self, slot: int, options: Options, prompt_ids: Sequence[int]) -> None:
        """Take a request's settings and the tokens of its prompt into an empty slot."""
        device, bias = self._slots.device, options.logit_bias
        factors = (options.repetition_penalty, options.presence_penalty, options.frequency_penalty)
        is_penalised = factors != (1.0, 0.0, 0.0)
        self._settings[slot] = torch.tensor([is_penalised, *factors, bool(bias)])
        if is_penalised:
            self._penalised[slot] = True
            self._in_prompt[slot, torch.tensor(prompt_ids, dtype=torch.long, device=device)] = True
        if bias:
            self._biased[slot] = True
            tokens = torch.tensor(list(bias), dtype=torch.long, device=device)
            self._bias[slot, tokens] = torch.tensor(list(bias.values()), dtype=torch.float32, device=device)

    def __call__(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Penalties, then bias; rows that have none pass by selection and so keep their bits."""
        b = len(logits)
        is_penalised, repetition, presence, frequency, is_biased = self._settings[:b, :, None].unbind(1)
        if self._penalised:
            counts = self._counts[:b]
            in_reply = counts > 0
            weakened = torch.where(logits < 0, logits * repetition, logits / repetition)
            weakened = torch.where(self._in_prompt[:b] | in_reply, weakened, logits)
            weakened = weakened - presence * in_reply - frequency * counts
            logits = torch.where(is_penalised > 0, weakened, logits)
        if self._biased:
            logits = torch.where(is_biased > 0, logits + self._bias[:b], logits)
        return logits

    def note(self, tokens: Int[Tensor, "B"], active: Bool[Tensor, "B"]) -> None:
        """Count the tokens drawn for the rows whose reply goes on."""
        if self._penalised:
            self._counts[: len(tokens)].scatter_add_(-1, tokens[:, None], active[:, None].int())
