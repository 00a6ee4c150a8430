"""Replies being written together: drawn on the device, told apart and ended on the host.

The batch is fixed from its first token to its last reply's end. Read ``decoder.py`` for what it is made of.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from personalign.basis import Steering
from personalign.decode.guide import Guide
from personalign.decode.lane import Lane
from personalign.decode.load import CausalModel
from personalign.decode.request import Generated, Request, reason
from personalign.decode.sample import Sampler
from personalign.decode.steer import Steer, Step
from personalign.decode.text import text_of
from personalign.errors import ModelError


class Batch:
    """One prompt, one reply and one row of every tensor for each request."""

    def __init__(
        self,
        *,
        base: CausalModel,
        prompts: Sequence[Sequence[int]],
        requests: Sequence[Request],
        steers: Sequence[Steer],
        guide: Guide | None,
        steering: Steering,
        started: float,
    ) -> None:
        self._base, self._prompts, self._requests, self._steers = base, prompts, requests, steers
        self._guide, self._steering, self._started = guide, steering, started
        self._lane = Lane(base, prompts)
        self._sampler = Sampler([r.sampling for r in requests], base.device)
        self._limits = np.array([r.sampling.max_tokens for r in requests])
        self._active = np.ones(len(requests), dtype=bool)
        self._lengths = np.zeros(len(requests), dtype=int)
        self._columns: list[NDArray[np.int64]] = []  # the ids drawn at each step
        self._tokens: Tensor | None = None
        self._broken = torch.zeros(len(requests), dtype=torch.bool, device=base.device)
        self._first_token_s: float | None = None

    @property
    def is_done(self) -> bool:
        """Whether every reply has ended."""
        return not self._active.any()

    def row(self, i: int) -> tuple[int, ...]:
        """The ids of one reply so far, without the end."""
        drawn = tuple(int(column[i]) for column in self._columns[: self._lengths[i]])
        return drawn[:-1] if drawn[-1] in self._base.ends else drawn

    def step(self) -> None:
        """Draw one token for every row: forward, steer, sample, keep."""
        logits, hidden = self._lane.advance(self._tokens)
        active = torch.from_numpy(self._active.copy()).to(logits.device)
        step = Step(len(self._columns), hidden, self._tokens, active)
        for steer in self._steers:
            logits = steer(logits, step)
        self._broken = self._broken | (active & ~logits.amax(-1).isfinite())
        self._tokens = self._sampler(logits, step.index)
        self._keep(self._tokens)

    def _keep(self, tokens: Int[Tensor, "B"]) -> None:
        ids: NDArray[np.int64] = tokens.cpu().numpy()  # the one copy to the host of a step
        if self._first_token_s is None:
            self._first_token_s = time.perf_counter() - self._started
        self._columns.append(ids)
        self._lengths += self._active
        self._active &= ~np.isin(ids, self._base.ends) & (self._lengths < self._limits)

    def replies(self) -> list[Generated]:
        """Put the replies together; the account of the guidance is copied from the device once, here."""
        for i in self._broken.nonzero().flatten().tolist():
            raise ModelError(
                f"{self._base.name} gave logits for request {i} that hold NaN or Inf; expected finite numbers"
            )
        guided = [False] * len(self._requests) if self._guide is None else self._guide.guided.tolist()
        kl = [0.0] * len(self._requests) if self._guide is None else self._guide.kl.tolist()
        return [self._reply(i, guided[i], kl[i]) for i in range(len(self._requests))]

    def _reply(self, i: int, guided: bool, kl: float) -> Generated:
        ids = self.row(i)
        return Generated(
            ids=ids,
            text=text_of(self._base, ids),
            kl=kl / int(self._lengths[i]),
            guided=guided,
            reason=None if guided else reason(self._requests[i], self._steering),
            finish_reason="stop" if len(ids) < self._lengths[i] else "length",
            prompt_tokens=len(self._prompts[i]),
            first_token_s=self._first_token_s,
        )
