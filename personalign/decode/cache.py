"""The slot cache: keys and values in buffers of fixed shape, written in place, where rows come and go.

A slot is one row of every buffer. What a forward pass may touch is set in the window before it. Read ``lane.py`` next.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from personalign.errors import ModelError

FULL, SLIDING = "full_attention", "sliding_attention"
TRIAL_LENGTH, TRIAL_TOLERANCE = 512, 0.3  # positions, and relative error: bfloat16 comes to a few hundredths


@dataclass
class Window:
    """Which rows and positions the next forward pass writes, and how far back it reads."""

    rows: slice  # of the buffers
    row: Int[Tensor, "r 1"]  # 0 … r-1
    positions: Int[Tensor, "r T"]  # where the T new tokens go
    length: int  # positions 0 … length-1 are read


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer: [rows, heads, length, width], allocated on first use."""

    is_compileable = True

    def __init__(self, num_rows: int, max_length: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._num_rows, self._max_length = num_rows, max_length
        self.window: Window | None = None

    def lazy_initialization(
        self, key_states: Float[Tensor, "r h T w"], value_states: Float[Tensor, "r h T w2"]
    ) -> None:
        """Allocate the buffers for heads of this size."""
        for name, states in (("keys", key_states), ("values", value_states)):
            shape = (self._num_rows, states.shape[1], self._max_length, states.shape[3])
            setattr(self, name, states.new_zeros(shape))  # a masked weight of 0 times NaN would be NaN
        self.is_initialized = True

    def update(
        self,
        key_states: Float[Tensor, "r h T w"],
        value_states: Float[Tensor, "r h T w2"],
        *_args: object,
        **_kwargs: object,
    ) -> tuple[Float[Tensor, "r h L w"], Float[Tensor, "r h L w2"]]:
        """Write the new tokens in place; give all that the window reads, without a copy."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self.window
        assert window is not None, "SlotCache.open comes first"
        assert self.keys is not None, "initialised above"
        assert self.values is not None, "initialised above"
        keys, values = self.keys[window.rows], self.values[window.rows]
        keys[window.row, :, window.positions] = key_states.transpose(1, 2)
        values[window.row, :, window.positions] = value_states.transpose(1, 2)
        return keys[:, :, : window.length], values[:, :, : window.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002 - the masks are ours
        """Read length and offset; not asked, because the masks are given in four dimensions."""
        return self._max_length, 0

    def get_seq_length(self) -> int:
        """Return 0, which is harmless: each row has its own length, and positions are always passed in."""
        return 0

    def get_max_length(self) -> int:
        """How many tokens a row holds."""
        return self._max_length

    get_max_cache_shape = get_max_length  # what transformers called it until 5.20


class SlotCache(Cache):
    """One slot layer for each layer of a model."""

    def __init__(self, config: PreTrainedConfig, num_rows: int, max_length: int) -> None:
        num_layers = config.get_text_config().num_hidden_layers
        self._layers = [SlotLayer(num_rows, max_length) for _ in range(num_layers)]
        super().__init__(layers=list(self._layers))

    def open(self, window: Window) -> None:
        """Say what the next forward pass may touch."""
        for layer in self._layers:
            layer.window = window

    def copy(self, source: slice, target: slice, length: int, start: int = 0) -> None:
        """Copy the first ``length`` positions of some rows to others, but for those before ``start``."""
        for buffer in self._buffers():
            buffer[target, :, start:length] = buffer[source, :, start:length]

    def keep(self, row: Int[Tensor, "r"], chosen: Int[Tensor, "r"], target: Int[Tensor, "r"]) -> None:
        """Copy each row's position ``chosen`` to its position ``target``."""
        for buffer in self._buffers():
            buffer[row, :, target] = buffer[row, :, chosen]

    def wipe(self, rows: slice, length: int) -> None:
        """Zero the first ``length`` positions of some rows: what they held may be NaN."""
        for buffer in self._buffers():
            buffer[rows, :, :length] = 0

    def _buffers(self) -> list[Tensor]:
        return [buffer for layer in self._layers for buffer in (layer.keys, layer.values) if buffer is not None]


@dataclass(frozen=True)
class Attention:
    """What the layers of a model can see: all that came before, or only a window of it, or some layers each."""

    kinds: tuple[str, ...]
    window: int | None

    @classmethod
    def from_config(cls, config: PreTrainedConfig) -> Attention:
        """Read a configuration."""
        window = getattr(config, "sliding_window", None)
        named = getattr(config, "layer_types", None)
        kinds = tuple(sorted(set(named))) if named else (FULL if window is None else SLIDING,)
        if strange := set(kinds) - {FULL, SLIDING}:
            raise ModelError(
                f"a {config.model_type} model has layers of the kind {min(strange)}; expected {FULL} or {SLIDING}: "
                "steered decoding keeps keys and values only; use a model without such layers"
            )
        return cls(kinds, window)

    def masks(
        self, visible: Bool[Tensor, "r T L"], positions: Int[Tensor, "r T"], dtype: torch.dtype
    ) -> Float[Tensor, "r 1 T L"] | dict[str, Float[Tensor, "r 1 T L"]]:
        """Masks to add: 0 where a new token may see, the least finite number elsewhere; one for each kind of layer."""
        masks = {}
        for kind in self.kinds:
            near = visible
            if kind == SLIDING and self.window is not None:
                place = torch.arange(visible.shape[-1], device=visible.device)
                near = visible & (place > positions[:, :, None] - self.window)
            zero = torch.zeros((), dtype=dtype, device=visible.device)  # boolean masks mislead eager attention
            masks[kind] = torch.where(near, zero, torch.finfo(dtype).min)[:, None]
        return masks if len(masks) > 1 else masks[self.kinds[0]]


def cache_argument(model: PreTrainedModel) -> str:
    """What a model calls its key/value cache: transformers 5.24 renamed it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


@torch.no_grad()
def check_cache(model: PreTrainedModel, follows: Callable[[Any], Tensor], name: str, context: int | None) -> None:
    """Refuse a model that ignores the cache, positions or masks it is given: its replies would be nonsense.

    One row reads four tokens, then a fifth beside the first one of another row. What ``follows`` (rows first) must be
    the same as without a cache.
    """
    length = min(TRIAL_LENGTH, context or TRIAL_LENGTH)
    attention, cache = Attention.from_config(model.config), SlotCache(model.config, 2, length)
    ids = torch.arange(5, device=model.device)[None]

    def read(rows: slice, tokens: Int[Tensor, "r T"], positions: Int[Tensor, "r T"]) -> Tensor:
        visible = torch.arange(length, device=model.device) <= positions[:, :, None]
        cache.open(Window(rows, torch.arange(len(tokens), device=model.device)[:, None], positions, length))
        arguments = {cache_argument(model): cache, "attention_mask": attention.masks(visible, positions, model.dtype)}
        return follows(model(input_ids=tokens, position_ids=positions, use_cache=True, **arguments)).float()

    try:
        plain = torch.cat([follows(model(input_ids=x, use_cache=False)).float() for x in (ids, ids[:, :1])])
        read(slice(0, 1), ids[:, :4], ids[:, :4])
        cached = read(slice(0, 2), ids[:, [4, 0]].T, ids[:, [4, 0]].T)
        is_same = bool((cached - plain).norm() <= TRIAL_TOLERANCE * plain.norm())
    except Exception as error:  # a family may fail in any way
        raise ModelError(
            f"{name} can't be read token by token ({type(error).__name__}: {error}); expected a family that takes "
            "masks of four dimensions and a cache of keys and values, such as Llama, Qwen2 or GPT-2"
        ) from error
    if not is_same:
        raise ModelError(
            f"{name}, a {type(model).__name__}, follows something else than the cache and masks it is given; expected "
            "a family that goes by them, such as Llama, Qwen2 or GPT-2"
        )
