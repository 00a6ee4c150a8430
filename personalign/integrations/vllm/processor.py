"""The processor that vLLM calls: each request steered by its own person, on both of vLLM's model runners.

The older runner (V1) tells which requests come, go and change places in the batch; a row of logits is a place in it.
The newer one (V2) keeps a request in one slot for life, and says for each row whose it is. ``batch.py`` does the rest.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality
from vllm.v1.sample.logits_processor import LogitsProcessor as PlaceProcessor
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SlotProcessor

from personalign.errors import InputError, PersonalignError, StoreError
from personalign.integrations.vllm.batch import Batch, Written
from personalign.integrations.vllm.passage import passage
from personalign.integrations.vllm.people import Ask, People, read_ask
from personalign.settings import Settings
from personalign.types import Guidance

SWEEP_S = 0.25  # between two looks for people who were erased

log = logging.getLogger(__name__)


class Personal(PlaceProcessor, SlotProcessor):  # type: ignore[misc] # vLLM's
    """Bends the next token of each request towards its person; ``place`` is V1's device, or V2's request states."""

    def __init__(self, vllm_config: Any, place: Any, is_pin_memory: bool = False) -> None:  # noqa: ANN401, ARG002 - vLLM's
        _check(vllm_config)
        self._states = None if isinstance(place, torch.device) else place
        device = place if self._states is None else place.device
        self.batch = Batch(vllm_config.scheduler_config.max_num_seqs, device, self._tilt)
        self.people = People.open(self.batch.forget)
        threading.Thread(target=self._watch, name="personalign-erasures", daemon=True).start()

    def _tilt(self, *arguments: Any) -> Any:  # noqa: ANN401 - as ``Batch`` calls it
        return passage().tilt(self.people.basis, *arguments)

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:  # noqa: ANN401 - vLLM's
        """Refuse a request that can't be read, or names someone unknown, before it reaches the engine."""
        ask = read_ask(sampling_params.extra_args)
        if ask is not None:
            _people_at_the_door().guidance(ask)

    def is_argmax_invariant(self) -> bool:
        """Whether greedy decoding may leave it out."""
        return False

    # V1

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the batch: requests that went, came, and changed places, in this order."""
        if batch_update is None:
            return
        for place in batch_update.removed:
            self.batch.release(place)
        for place, params, prompt, output in batch_update.added:
            penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
            self._admit(place, params, Written(prompt or (), output, penalties))
        for source, target, direction in batch_update.moved:
            (self.batch.swap if direction == MoveDirectionality.SWAP else self.batch.move)(source, target)

    # V2

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:  # noqa: ANN401 - vLLM's
        """Give a slot to a request; whether its logits are bent."""
        return self._admit(req_idx, sampling_params, None)

    # both

    def apply(self, logits: Tensor, ctx: LogitsContext | None = None) -> Tensor:
        """Bend the logits of those whom somebody guides."""
        if self.batch.is_plain:
            return logits
        slots, counts = self._rows(len(logits)) if ctx is None else self._rows_of(ctx)
        return self.batch.steer(logits, passage().take(len(logits)), slots, counts)

    def _rows(self, num_rows: int) -> tuple[Sequence[int], Sequence[int]]:
        """Each row's place, and how many tokens its reply has; of those whom nobody guides it doesn't matter."""
        counts = self.batch.counts()
        return range(num_rows), [counts.get(place, 1) for place in range(num_rows)]

    def _rows_of(self, ctx: LogitsContext) -> tuple[Sequence[int], Sequence[int]]:
        slots = ctx.idx_mapping_np
        assert self._states is not None, "vLLM made it with the states of its requests"
        counts = ctx.seq_lens_upper_bound_np[: len(slots)] - self._states.prompt_len.np[slots]
        return slots.tolist(), counts.tolist()

    def _admit(self, slot: int, params: Any, written: Written | None) -> bool:  # noqa: ANN401 - vLLM's
        guidance = self._guidance(read_ask(params.extra_args))
        is_guided = self.batch.admit(slot, guidance, written)
        if guidance is not None and guidance.user:
            self._forget_erased(guidance.user)
        return is_guided

    def _guidance(self, ask: Ask | None) -> Guidance | None:
        """What guides a request that was let in; an error would end the engine for everyone."""
        try:
            return None if ask is None else self.people.guidance(ask)
        except InputError:
            log.info("a person was erased after their request was let in; it gets a plain reply")
        except PersonalignError:
            log.exception("a person's profile can't be read; the request that was let in gets a plain reply")
        return None

    def _forget_erased(self, user: str) -> None:
        """Empty the rows of a person who was erased while they were written."""
        with suppress(StoreError):  # the watch finds them once the store is back
            if self.people.is_gone(user):
                self.batch.forget(user)

    def _watch(self) -> None:
        """Look for erasures as long as the process lives, whether or not anybody asks."""
        pause = threading.Event()
        while not pause.wait(SWEEP_S):
            with suppress(StoreError):
                self.people.sweep()


def _check(vllm_config: Any) -> None:  # noqa: ANN401 - vLLM's
    if not Settings().vllm:
        raise InputError(
            "the processor was loaded without the model classes that it needs; expected PERSONALIGN_VLLM=1 where vLLM "
            "starts; start it with: personalign vllm serve"
        )
    if vllm_config.speculative_config is not None:
        raise InputError(
            "speculative decoding is on, whose drafts know nobody; expected none; leave out --speculative-config"
        )


@cache
def _people_at_the_door() -> People:
    """Those of the process that lets requests in."""
    return People.open()
