"""The story model of 260,000 parameters, from llama2.c's file to a folder that transformers loads."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.decode.tiny_models import saved

TEMPLATE = "{{ bos_token }}{{ messages | map(attribute='content') | join(' ') }}"
NEWLINE = 13  # a reply is the rest of a paragraph
SPECIAL = ["<unk>", "<s>", "</s>"]


def convert(source: Path, folder: Path) -> Path:
    """Save the model and its tokenizer; a reply goes on with the last message, up to the end of the paragraph."""
    model = _model((source / "stories260K.bin").read_bytes())
    model.generation_config.eos_token_id = [1, NEWLINE]
    return saved(folder, model, _tokenizer((source / "tok512.bin").read_bytes()))


def _model(raw: bytes) -> LlamaForCausalLM:
    dim, inner, num_layers, num_heads, num_kv, num_tokens, context = struct.unpack("7i", raw[:28])
    config = LlamaConfig(
        vocab_size=num_tokens, hidden_size=dim, intermediate_size=inner, num_hidden_layers=num_layers,
        num_attention_heads=num_heads, num_key_value_heads=num_kv, max_position_embeddings=context, rms_norm_eps=1e-5,
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    weights, at = torch.from_numpy(np.frombuffer(raw, "<f4", offset=28).copy()), 0

    def take(*shape: int) -> Tensor:
        nonlocal at
        at += int(np.prod(shape))
        return weights[at - int(np.prod(shape)) : at].view(shape)

    kv = dim // num_heads * num_kv
    parts = {"model.embed_tokens": take(num_tokens, dim)}
    for name, shape in (
        ("input_layernorm", (dim,)),
        ("self_attn.q_proj", (dim, dim)),
        ("self_attn.k_proj", (kv, dim)),
        ("self_attn.v_proj", (kv, dim)),
        ("self_attn.o_proj", (dim, dim)),
        ("post_attention_layernorm", (dim,)),
        ("mlp.gate_proj", (inner, dim)),
        ("mlp.down_proj", (dim, inner)),
        ("mlp.up_proj", (inner, dim)),
    ):
        for i, part in enumerate(take(num_layers, *shape)):
            is_rotated = name in {"self_attn.q_proj", "self_attn.k_proj"}
            parts[f"model.layers.{i}.{name}"] = _halves(part, dim // num_heads) if is_rotated else part
    parts["model.norm"] = take(dim)
    model = LlamaForCausalLM(config).eval()
    missing, unexpected = model.load_state_dict({f"{name}.weight": part for name, part in parts.items()}, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])  # which is tied
    return model


def _halves(weight: Tensor, head: int) -> Tensor:
    """From rotating neighbours to rotating the two halves of each head, as transformers does."""
    return weight.view(-1, head // 2, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def _tokenizer(raw: bytes) -> PreTrainedTokenizerFast:
    pieces, scores, at = [], [], 4
    while at < len(raw):
        score, length = struct.unpack("fi", raw[at : at + 8])
        pieces.append(raw[at + 8 : at + 8 + length].decode().replace(" ", "▁"))
        scores.append(score)
        at += 8 + length
    pieces[:3] = SPECIAL
    ids = {piece: i for i, piece in enumerate(pieces)}
    merges = [
        (-scores[i], left, right)
        for i, piece in enumerate(pieces[259:], start=259)
        for cut in range(1, len(piece))
        if (left := piece[:cut]) in ids and (right := piece[cut:]) in ids
    ]
    made = Tokenizer(
        models.BPE(ids, [(a, b) for _, a, b in sorted(merges)], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    words = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="<s>")
    words.chat_template = TEMPLATE
    return words
