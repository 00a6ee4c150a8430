"""Families of models, each with its own way of caching, masking or capping: the engine writes what they write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf

from personalign.decode import lane, reference
from personalign.decode.load import CausalModel, load_causal, render
from personalign.decode.models import Models
from personalign.decode.request import Request
from personalign.errors import ModelError
from personalign.options import Options
from personalign.types import Guidance
from tests.decode.serving import Desk
from tests.decode.tiny_models import STEERING, V, random_head, saved, talk, tokenizer

IDS = {"eos_token_id": 1, "bos_token_id": None, "pad_token_id": 0}
SHAPE = {
    "vocab_size": V, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "max_position_embeddings": 256, "initializer_range": 0.3, **IDS,
}  # fmt: skip
OLD_SHAPE = {"vocab_size": V, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256, "initializer_range": 0.3}
FEW_HEADS = SHAPE | {"num_key_value_heads": 2}
SMALL_HEADS = FEW_HEADS | {"head_dim": 8, "tie_word_embeddings": False}  # tied, Gemma would only repeat itself
WINDOW = 12  # far shorter than the texts

SERVED: dict[str, tf.PreTrainedConfig] = {
    "Llama": tf.LlamaConfig(**FEW_HEADS),
    "Qwen2": tf.Qwen2Config(**FEW_HEADS),
    "Qwen2, half of it with a window": tf.Qwen2Config(
        **FEW_HEADS, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2
    ),
    "Qwen3": tf.Qwen3Config(**SMALL_HEADS),
    "Mistral": tf.MistralConfig(**FEW_HEADS, sliding_window=WINDOW),
    "Mixtral": tf.MixtralConfig(**FEW_HEADS, num_local_experts=4),
    "Gemma": tf.GemmaConfig(**SMALL_HEADS),
    "Gemma 2": tf.Gemma2Config(**SMALL_HEADS, sliding_window=WINDOW, query_pre_attn_scalar=8),
    "Gemma 3": tf.Gemma3TextConfig(
        **SMALL_HEADS, sliding_window=WINDOW, query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
    "GPT-2": tf.GPT2Config(**OLD_SHAPE, **IDS),
    "GPT-J": tf.GPTJConfig(**OLD_SHAPE, **IDS, rotary_dim=4),
    "GPT-NeoX": tf.GPTNeoXConfig(**SHAPE),
    "StarCoder 2": tf.Starcoder2Config(**FEW_HEADS, sliding_window=WINDOW),
    "Phi-3": tf.Phi3Config(**FEW_HEADS, sliding_window=WINDOW),
    "OLMo 2": tf.Olmo2Config(**SHAPE),
    "Command R7B": tf.Cohere2Config(**FEW_HEADS, sliding_window=WINDOW),
    "Granite": tf.GraniteConfig(**SHAPE),
    "DeepSeek V3": tf.DeepseekV3Config(
        **SHAPE, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
        n_routed_experts=4, first_k_dense_replace=4,
    ),
}  # fmt: skip

REFUSED: dict[str, tuple[tf.PreTrainedConfig, str]] = {
    "a recurrent state, Mamba": (
        tf.MambaConfig(vocab_size=V, hidden_size=32, num_hidden_layers=2, **IDS), "expected full_attention or",
    ),
    "a recurrent state, RWKV": (
        tf.RwkvConfig(vocab_size=V, hidden_size=32, num_hidden_layers=2, **IDS),
        "follows something else than the cache",
    ),
    "a recurrent state in some layers": (
        tf.JambaConfig(
            **FEW_HEADS, attn_layer_period=2, attn_layer_offset=1, num_experts=2
        ),
        "expected full_attention or",
    ),
    "a convolution in some layers": (
        tf.Lfm2Config(**FEW_HEADS, full_attn_idxs=[1, 3]), "layers of the kind conv; expected full_attention or",
    ),
    "masks of its own": (
        tf.GPTNeoConfig(
            vocab_size=V, hidden_size=32, num_layers=4, num_heads=4, attention_types=[[["global", "local"], 2]],
            window_size=WINDOW, max_position_embeddings=256, initializer_range=0.3, **IDS,
        ),
        "follows something else than the cache and masks it is given",
    ),
    "distances from the mask": (
        tf.BloomConfig(vocab_size=V, hidden_size=32, n_layer=4, n_head=4, **IDS), "can't be read token by token",
    ),
}  # fmt: skip

TALKS = talk("hello", "the cat sat on the mat and the hat", "How do I get to the old harbour by boat, and when?")
WISH = Guidance(np.array([1.0, -2.0, 0.5]), 0.8)


def made(config: tf.PreTrainedConfig, folder: Path) -> Path:
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    if not getattr(config, "initializer_range", None):
        for value in model.parameters():
            torch.nn.init.normal_(value, std=0.3)
    return saved(folder, model, tokenizer())


@pytest.fixture(params=SERVED)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> CausalModel:
    """A tiny random model of each family."""
    return load_causal(made(SERVED[request.param], tmp_path), "cpu")


def test_a_family_is_served_as_it_writes_itself(base: CausalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one ragged batch plain greedy replies are generate's, token for token, and steered ones the reference's."""
    monkeypatch.setattr(lane, "CHUNK", 16)  # long prompts are read in pieces
    models = Models(base, random_head(hidden=base.hidden_size), STEERING, {})
    plain = [Request(messages, Options(20)) for messages in TALKS]
    steered = [Request(messages, Options(16), WISH) for messages in TALKS]
    replies = Desk(models, 6, 128).serve([*plain, *steered])
    for request, reply in zip(plain, replies[:3], strict=True):
        ids = torch.tensor([render(base.tokenizer, request.messages)])
        whole = base.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20)
        assert reply.ids == tuple(i for i in whole[0, ids.shape[1] :].tolist() if i not in base.ends)
    for request, reply in zip(steered, replies[3:], strict=True):
        expected = reference.generate(models, request)
        assert reply.ids == expected.ids
        assert reply.kl == pytest.approx(expected.kl, abs=1e-4)
    assert len({i for reply in replies[:3] for i in reply.ids}) > 10  # nobody only repeats themselves
    assert [reply.ids[:16] for reply in replies[:3]] != [reply.ids for reply in replies[3:]]  # the wish is felt


@pytest.mark.parametrize("name", ["Mistral", "Gemma 2", "Qwen2, half of it with a window"])
def test_the_window_is_felt(name: str, tmp_path: Path) -> None:
    """Control: a window that isn't kept to gives another text, so the texts above reach beyond it."""
    folder = made(SERVED[name], tmp_path)
    base = load_causal(folder, "cpu")
    request = Request(TALKS[2], Options(20))
    (narrow,) = Desk(Models(base, None, STEERING, {}), 1, 128).serve([request])
    base.model.config.sliding_window = 200
    (wide,) = Desk(Models(base, None, STEERING, {}), 1, 128).serve([request])
    assert narrow.ids != wide.ids


def test_capped_logits_are_what_is_steered(tmp_path: Path) -> None:
    """Gemma 2 caps its logits after the output layer, whose input the head reads: the engine's are the capped ones."""
    base = load_causal(made(SERVED["Gemma 2"], tmp_path), "cpu")
    base.model.config.final_logit_softcapping = 0.5
    desk = Desk(Models(base, None, STEERING, {}), 1, 128)
    desk.serve([Request(TALKS[0], Options(3))])
    assert all(trace.view(torch.float32).abs().max() <= 0.5 for trace in desk.traces[0])
    base.model.config.final_logit_softcapping = None
    uncapped = Desk(Models(base, None, STEERING, {}), 1, 128)
    uncapped.serve([Request(TALKS[0], Options(3))])
    assert uncapped.traces[0][0].view(torch.float32).abs().max() > 0.5  # control


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_that_cannot_be_served_is_refused_when_it_is_loaded(name: str, tmp_path: Path) -> None:
    """What keeps something other than keys and values, or goes by something other than our masks, never decodes."""
    config, complaint = REFUSED[name]
    with pytest.raises(ModelError, match=complaint):
        load_causal(made(config, tmp_path), "cpu")
