"""The slot cache: what a pass writes and reads, what rows hold of each other, and what a token may see."""

from __future__ import annotations

import math
import random

import pytest
import torch
import transformers as tf
from torch import Tensor

from personalign.decode.cache import FULL, SLIDING, Attention, SlotCache, Window
from personalign.errors import ModelError
from tests.decode.tiny_models import bits

NUM_ROWS, HEADS, LENGTH, WIDTH = 5, 2, 24, 4


def window(start: int, positions: list[list[int]], length: int = LENGTH) -> Window:
    """New tokens at these positions of so many rows."""
    rows = slice(start, start + len(positions))
    return Window(rows, torch.arange(len(positions))[:, None], torch.tensor(positions), length)


def states(rows: int, tokens: int, generator: torch.Generator, width: int = WIDTH) -> Tensor:
    return torch.randn(rows, HEADS, tokens, width, generator=generator)


def test_rows_come_and_go_as_in_a_plain_table() -> None:
    """Whatever is written, copied, kept and wiped in whatever order: every position holds what a dictionary says."""
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    cache = SlotCache(tf.LlamaConfig(num_hidden_layers=1), NUM_ROWS, LENGTH)
    layer = cache.layers[0]
    true = {(row, at): torch.zeros(HEADS, WIDTH) for row in range(NUM_ROWS) for at in range(LENGTH)}
    for _ in range(300):
        kind = rng.choice(["write", "write", "copy", "keep", "wipe"])
        if kind == "write" or not layer.is_initialized:
            start, tokens = rng.randrange(NUM_ROWS), rng.randint(1, 6)
            count = rng.randint(1, NUM_ROWS - start)
            first = [rng.randrange(LENGTH - tokens + 1) for _ in range(count)]
            layer.window = window(start, [[at + t for t in range(tokens)] for at in first], rng.randint(1, LENGTH))
            keys, values = states(count, tokens, generator), states(count, tokens, generator)
            read, _ = layer.update(keys, values)
            for i, at in enumerate(first):
                for t in range(tokens):
                    true[start + i, at + t] = keys[i, :, t]
            assert read.shape == (count, HEADS, layer.window.length, WIDTH)
            expected = [[true[start + i, at] for at in range(layer.window.length)] for i in range(count)]
            assert torch.equal(read, torch.stack([torch.stack(row, 1) for row in expected]))
        elif kind == "copy":
            (source, target), length = rng.sample(range(NUM_ROWS), 2), rng.randint(0, LENGTH)
            cache.copy(slice(source, source + 1), slice(target, target + 1), length)
            true |= {(target, at): true[source, at] for at in range(length)}
        elif kind == "keep":
            chosen, target = rng.randrange(LENGTH), rng.randrange(LENGTH)
            cache.keep(torch.arange(2), torch.tensor([chosen, target]), torch.tensor([target, target]))
            true[0, target] = true[0, chosen]
        else:
            row, length = rng.randrange(NUM_ROWS), rng.randint(0, LENGTH)
            cache.wipe(slice(row, row + 1), length)
            true |= {(row, at): torch.zeros(HEADS, WIDTH) for at in range(length)}
        assert all(torch.equal(layer.keys[row, :, at], value) for (row, at), value in true.items())


def test_the_buffers_stay_where_they_are() -> None:
    """They are written in place, and read without a copy."""
    generator = torch.Generator().manual_seed(0)
    cache = SlotCache(tf.LlamaConfig(num_hidden_layers=1), NUM_ROWS, LENGTH)
    layer = cache.layers[0]
    layer.window = window(0, [[0], [3]])
    layer.update(states(2, 1, generator), states(2, 1, generator))
    places = layer.keys.data_ptr(), layer.values.data_ptr()
    read, _ = layer.update(states(2, 1, generator), states(2, 1, generator))
    cache.copy(slice(0, 1), slice(1, 2), 3)
    cache.wipe(slice(0, 1), 3)
    assert (layer.keys.data_ptr(), layer.values.data_ptr()) == places
    assert read.data_ptr() == layer.keys.data_ptr()


def test_keys_and_values_may_differ_in_width() -> None:
    """As latent attention's do."""
    generator = torch.Generator().manual_seed(0)
    cache = SlotCache(tf.LlamaConfig(num_hidden_layers=1), NUM_ROWS, LENGTH)
    layer = cache.layers[0]
    layer.window = window(1, [[2, 3]], 5)
    keys, values = layer.update(states(1, 2, generator, 3), states(1, 2, generator, 7))
    assert (keys.shape, values.shape) == ((1, HEADS, 5, 3), (1, HEADS, 5, 7))


def test_what_has_no_buffers_yet_can_be_emptied() -> None:
    """A slot may be released before its model has ever run."""
    cache = SlotCache(tf.LlamaConfig(num_hidden_layers=3), 2, 8)
    cache.wipe(slice(0, 1), 8)
    cache.copy(slice(0, 1), slice(1, 2), 8)
    assert len(cache.layers) == 3
    assert cache.layers[0].keys is None


ATTENTIONS = {
    "full": (tf.LlamaConfig(), (FULL,), None),
    "a window in every layer": (tf.MistralConfig(sliding_window=4), (SLIDING,), 4),
    "a window that is off": (tf.Qwen2Config(sliding_window=4, use_sliding_window=False), (FULL,), None),
    "a window in some layers": (tf.Gemma2Config(sliding_window=4), (FULL, SLIDING), 4),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_a_token_sees_what_its_layers_let_it(name: str) -> None:
    """Itself and what came before, as far back as the window; nothing of what lies behind it in the buffer."""
    config, kinds, width = ATTENTIONS[name]
    attention = Attention.from_config(config)
    assert attention.kinds == kinds
    positions = torch.tensor([[0, 1, 2], [7, 8, 9]])
    seen = torch.arange(12) <= positions[:, :, None]
    masks = attention.masks(seen, positions, torch.float32)
    if len(kinds) == 1:
        masks = {kinds[0]: masks}
    for kind in kinds:
        for row in range(2):
            for t in range(3):
                at = int(positions[row, t])
                first = 0 if kind == FULL else max(0, at - width + 1)
                expected = [0.0 if first <= place <= at else torch.finfo(torch.float32).min for place in range(12)]
                assert masks[kind][row, 0, t].tolist() == expected


def test_masked_positions_add_nothing_to_any_bit() -> None:
    """What lies behind the mask, if it is finite, changes no bit of what is read: rows may hold old keys and values."""
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (torch.randn(1, HEADS, n, WIDTH, generator=generator) for n in (1, LENGTH, LENGTH))
    positions = torch.tensor([[9]])
    mask = Attention((FULL,), None).masks(torch.arange(LENGTH) <= positions[:, :, None], positions, torch.float32)

    def attended() -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)

    clean = attended()
    keys[:, :, 10:], values[:, :, 10:] = 1e4, -1e4
    assert torch.equal(bits(attended()), bits(clean))
    values[:, :, 10:] = math.nan
    assert attended().isnan().any()  # control: NaN gets through a weight of 0, which is why slots are wiped


def test_other_layers_are_refused() -> None:
    """A kind of attention we have no mask for is named, with what is expected."""
    config = tf.Llama4TextConfig(num_hidden_layers=4)
    with pytest.raises(ModelError, match="layers of the kind chunked_attention; expected full_attention or sliding_a"):
        Attention.from_config(config)
