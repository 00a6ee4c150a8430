"""How far replies are from base, in nats, whatever moved them: KL(q ‖ p) over the whole vocabulary.

A reply's own ``kl`` is taken within the short list, and knows nothing of what the cut to it moved.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from personalign.decode import CausalModel, Step, render
from personalign.types import Message, Reply


class Divergence:
    """A steer that changes nothing: it compares the logits it is given with those that base makes of the same state.

    It knows nothing of experts, penalties and constraints, all of which count as moved.
    """

    def __init__(self, causal: CausalModel, num_requests: int) -> None:
        self._causal, self._num_requests = causal, num_requests
        # the last row takes what is computed for nobody
        self._nats = torch.zeros(num_requests + 1, dtype=torch.float64, device=causal.device)

    @torch.no_grad()
    def __call__(self, logits: Float[Tensor, "b V"], step: Step) -> Float[Tensor, "b V"]:
        """Take a step of every running reply into the sums."""
        base: Tensor = self._causal.output_layer(step.hidden.to(self._causal.output_embedding.dtype))
        request = torch.where(step.active, step.request, self._num_requests)
        self._nats.index_add_(0, request, _kl(logits, base).double())
        return logits

    @property
    def nats(self) -> Float[NDArray[np.float64], "requests"]:
        """Of each reply: the sum over all its tokens, the end included."""
        return self._nats[:-1].cpu().numpy()


def num_drawn(reply: Reply) -> int:
    """How many tokens were drawn for a reply: its end is one."""
    return len(reply.ids) + (reply.finish_reason == "stop")


@torch.no_grad()
def divergence_between(
    causal: CausalModel, prompted: Sequence[Message], plain: Sequence[Message], reply: Reply
) -> list[float]:
    """KL in nats at each token of what base writes after ``told`` from what it would write after ``plain``."""
    ids = [*reply.ids, *causal.ends[:1]] if reply.finish_reason == "stop" else [*reply.ids]
    q, p = (_next(causal, render(causal.tokenizer, messages), ids) for messages in (prompted, plain))
    return [float(nats) for nats in _kl(q, p)]


def _next(causal: CausalModel, prompt: Sequence[int], ids: Sequence[int]) -> Float[Tensor, "T V"]:
    """The logits that each of a reply's tokens was drawn from."""
    rows = torch.tensor([[*prompt, *ids]], device=causal.device)
    logits: Tensor = causal.model(input_ids=rows, use_cache=False).logits
    return logits[0, len(prompt) - 1 : -1]


def _kl(q: Float[Tensor, "N V"], p: Float[Tensor, "N V"]) -> Float[Tensor, "N"]:
    log_q, log_p = q.float().log_softmax(-1), p.float().log_softmax(-1)
    return torch.where(log_q.isfinite(), log_q.exp() * (log_q - log_p), 0.0).sum(-1).clamp_min(0.0)
