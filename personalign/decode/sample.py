"""Drawing the next token: temperature, then top-p, then the draw; each row by its own seed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from personalign.types import Sampling


def uniforms(seed: int, count: int) -> Float[Tensor, "count"]:
    """A request's random numbers, one a token, the same whatever else is in the batch and on every device."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(
    logits: Float[Tensor, "B V"],
    temperature: Float[Tensor, "B"],
    top_p: Float[Tensor, "B"],
    uniform: Float[Tensor, "B"],
) -> Int[Tensor, "B"]:
    """Draw one token a row: the best at temperature 0, else by inverting the distribution at ``uniform``.

    Top-p keeps the likeliest tokens up to and including the one that reaches it, after the temperature.
    """
    scaled = logits / torch.where(temperature > 0, temperature, 1.0)[:, None]
    p, order = scaled.softmax(-1).double().sort(dim=-1, descending=True, stable=True)
    before = p.cumsum(-1) - p
    p = torch.where((before < top_p[:, None]) | (top_p[:, None] >= 1), p, 0.0)
    reached = p.cumsum(-1)
    place = (reached <= uniform[:, None] * reached[:, -1:]).sum(-1)
    place = torch.minimum(place, (p > 0).sum(-1) - 1)
    drawn = order.gather(-1, place[:, None]).squeeze(-1)
    return torch.where(temperature > 0, drawn, logits.argmax(-1))


class Sampler:
    """Each row's settings and random numbers, laid out on the device before the first token."""

    def __init__(self, samplings: Sequence[Sampling], device: torch.device) -> None:
        longest = max(sampling.max_tokens for sampling in samplings)
        self._temperature = torch.tensor([s.temperature for s in samplings], dtype=torch.float32, device=device)
        self._top_p = torch.tensor([s.top_p for s in samplings], dtype=torch.float64, device=device)
        self._uniforms = torch.stack([uniforms(s.seed, longest) for s in samplings]).to(device)
        self._is_greedy = all(s.temperature == 0 for s in samplings)

    def __call__(self, logits: Float[Tensor, "B V"], index: int) -> Int[Tensor, "B"]:
        """Draw the token at ``index`` of every row."""
        if self._is_greedy:
            return logits.argmax(-1)
        return draw(logits, self._temperature, self._top_p, self._uniforms[:, index])
