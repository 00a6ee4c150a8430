"""GGUF files: converted once, opened from then on, and refused by an error of ours where they are odd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from personalign.decode import gguf as conversion
from personalign.decode.load import CausalModel, load_causal, render
from tests.decode.tiny_models import TEMPLATE, network, talk, tokenizer

CONTROL, NORMAL = 3, 1  # types of tokens
LAYERS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(
    file: Path,
    *,
    architecture: str = "llama",
    vocabulary: str = "gpt2",
    template: str | None = TEMPLATE,
    half: bool = False,
    lacking: tuple[str, ...] = (),
    change: Callable[[gguf.GGUFWriter], None] = lambda _: None,
) -> Path:
    """The tiny Llama with its tokenizer, as llama.cpp writes it, with what a test wants to be odd."""
    words, model = tokenizer(), network("llama", 0)
    config, ids = model.config, words.get_vocab()
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model(vocabulary)
    writer.add_token_list(sorted(ids, key=ids.__getitem__))
    writer.add_token_types([CONTROL if i < 5 else NORMAL for i in range(len(ids))])
    writer.add_token_merges([" ".join(pair) for pair in _merges(words)])
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    if template is not None:
        writer.add_chat_template(template)
    change(writer)
    for name, weights in model.state_dict().items():
        short = _short(name)
        if short not in lacking:
            values = _permuted(short, weights, config).numpy()
            writer.add_tensor(short, values.astype(np.float16) if half and values.ndim > 1 else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _merges(words: Any) -> list[tuple[str, str]]:
    import json

    return [tuple(pair) for pair in json.loads(words.backend_tokenizer.to_str())["model"]["merges"]]


def _short(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    if stem in OUTER:
        return f"{OUTER[stem]}.{kind}"
    _, _, number, part = stem.split(".", 3)
    return f"blk.{number}.{LAYERS[part]}.{kind}"


def _permuted(name: str, weights: torch.Tensor, config: Any) -> torch.Tensor:
    """llama.cpp's order of the rows that are rotated."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    num_heads = next((number for part, number in heads.items() if part in name), None)
    if num_heads is None:
        return weights
    return weights.reshape(num_heads, 2, -1, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("PERSONALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is converted from now on."""
    files: list[Path] = []
    read = conversion._read

    def counted(file: Path, *rest: Any) -> Any:
        files.append(file)
        return read(file, *rest)

    monkeypatch.setattr(conversion, "_read", counted)
    return files


def logits(causal: CausalModel) -> torch.Tensor:
    """Of the tokens of a greeting."""
    ids = torch.tensor([render(causal.tokenizer, talk("the cat sat")[0])])
    with torch.no_grad():
        return causal.model(input_ids=ids).logits


def test_a_gguf_is_the_model_it_was_made_from(tmp_path: Path) -> None:
    """The same logits and tokens, and its template, end tokens and context are the file's."""
    causal, original = load_causal(write_gguf(tmp_path / "m.gguf"), "cpu"), network("llama", 0)
    ids = torch.tensor([render(causal.tokenizer, talk("the cat sat")[0])])
    with torch.no_grad():
        assert torch.equal(causal.model(input_ids=ids).logits, original(input_ids=ids).logits)
    assert ids[0].tolist() == render(tokenizer(), talk("the cat sat")[0])
    assert (causal.ends, causal.context) == ((1,), 256)


def test_a_second_opening_converts_nothing(tmp_path: Path, conversions: list[Path]) -> None:
    """Nor does a copy elsewhere, which has the same content."""
    file = write_gguf(tmp_path / "m.gguf")
    first = load_causal(file, "cpu")
    copied = tmp_path / "copy.gguf"
    copied.write_bytes(file.read_bytes())
    again = [load_causal(place, "cpu") for place in (file, copied, file)]
    assert conversions == [file]
    assert {causal.fingerprints for causal in again} == {first.fingerprints}
    assert all(torch.equal(logits(causal), logits(first)) for causal in again)
