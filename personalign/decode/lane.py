"""A model at work on one batch: a forward pass that also gives the hidden state, and a lane, which keeps a cache.

The batch is left-padded and fixed for its lifetime: no row joins, and a row whose reply has ended stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from personalign.decode.load import CausalModel


def forward(
    causal: CausalModel, ids: Int[Tensor, "B T"], runner: nn.Module | None = None, **arguments: object
) -> tuple[Float[Tensor, "B V"], Float[Tensor, "B H"]]:
    """Run the model once; give the logits (float32) and the hidden states at the last position.

    ``runner`` is what is called instead of the model itself, such as a PeftModel around it. The hidden state is
    taken from the output layer's input, because some models scale or cap their logits after that layer.
    """
    seen: list[Tensor] = []
    if causal.can_keep_logits:
        arguments["logits_to_keep"] = 1
    with causal.lock:
        hook = causal.output_layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            output = (causal.model if runner is None else runner)(input_ids=ids, **arguments)
        finally:
            hook.remove()
    return output.logits[:, -1].float(), seen[-1][:, -1]


class Lane:
    """A model, its key/value cache over a left-padded batch, and for PEFT the adapter of each row."""

    def __init__(
        self,
        causal: CausalModel,
        prompts: Sequence[Sequence[int]],
        runner: nn.Module | None = None,
        adapters: Sequence[str] | None = None,
    ) -> None:
        self._causal, self._runner = causal, runner
        self._arguments: dict[str, object] = {} if adapters is None else {"adapter_names": list(adapters)}
        self._prompt, self._mask = _left_padded(prompts, causal.device)
        self._cache = DynamicCache(config=causal.model.config)

    def advance(self, tokens: Int[Tensor, "B"] | None) -> tuple[Float[Tensor, "B V"], Float[Tensor, "B H"]]:
        """Read the prompts (None, the first time) or one more token a row; give what follows the last one."""
        if tokens is None:
            ids, positions = self._prompt, (self._mask.cumsum(-1) - 1).clamp_min(0)
        else:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=-1)
            ids, positions = tokens[:, None], self._mask.sum(-1, keepdim=True) - 1
        return forward(
            self._causal,
            ids,
            self._runner,
            attention_mask=self._mask,
            position_ids=positions,
            use_cache=True,
            **{self._causal.cache_argument: self._cache},
            **self._arguments,
        )


def _left_padded(
    prompts: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    # transformers drops a mask without padding and takes another attention kernel; one column of padding in every
    # batch keeps a row's bits from depending on whether its neighbours fill the width
    width = max(map(len, prompts)) + (len(prompts) > 1)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    return ids.to(device), mask.to(device)
