"""The stages that train language models: tokenizer, base, small, and the hotels expert with its control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from lab.zoo.cards import write_expert_card, write_model_card
from lab.zoo.corpus import CHAT_SHARE, encode, rows_at
from lab.zoo.dialogues import Corpus, Dialogue, load_corpus
from lab.zoo.measure import bits_per_character
from lab.zoo.tokenizer import train_tokenizer
from lab.zoo.workshop import Workshop
from personalign.bundled import TINY
from personalign.train.expert.tune import LINEAR, Stack, save_expert, train_expert
from personalign.train.loop import DevCheck, Recipe, train

BASE = {
    "hidden_size": 256,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 768,
}
SMALL = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 384,
}
BASE_RECIPE = Recipe(num_steps=4000, learning_rate=3e-3)
SMALL_RECIPE = Recipe(num_steps=3000, learning_rate=4e-3)
DIRECT_RECIPE = Recipe(num_steps=400, learning_rate=1e-3, warmup_steps=20)
EXPERT_RECIPE = Recipe(num_steps=600, learning_rate=2e-3, warmup_steps=20, optimizer="adamw")
REPLAY_SHARE = 1 / 3  # of the expert's rows: what small knows already, so that the two differ on hotels only
EXPERT_RANK = 48
EXPERT_TARGETS = (*LINEAR, "embed_tokens", "lm_head")
ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.25)


def make_tokenizer(workshop: Workshop) -> None:
    """Learn the tokenizer on everything but the hotels and save it beside base and small."""
    if (TINY / "base" / "tokenizer.json").exists():
        return
    corpus = load_corpus(workshop.data)
    tokenizer = train_tokenizer(turn for d in corpus.task + corpus.chat[::4] for turn in d.turns)
    for name in ("small", "base"):  # base last, so that a stage that was killed isn't passed over
        tokenizer.save_pretrained(TINY / name)


def make_base(workshop: Workshop) -> None:
    """Pretrain the base model."""
    _pretrain(workshop, "base", BASE, BASE_RECIPE)


def make_small(workshop: Workshop) -> None:
    """Pretrain the small model, the anti-expert."""
    _pretrain(workshop, "small", SMALL, SMALL_RECIPE)


def _pretrain(workshop: Workshop, name: str, shape: dict[str, int], recipe: Recipe) -> None:
    folder = TINY / name
    tokenizer, corpus = PreTrainedTokenizerFast.from_pretrained(folder), load_corpus(workshop.data)
    if not (folder / "model.safetensors").exists():
        _train_from_scratch(workshop, name, tokenizer, corpus, _config(tokenizer, shape), recipe)
    if not (folder / "README.md").exists():
        model = load_bundled(name)
        held_out = {"others": corpus.task_held_out, "hotels": corpus.hotel_held_out}
        bits = {part: _bits(model, tokenizer, dialogues) for part, dialogues in held_out.items()}
        write_model_card(folder, name, model, recipe, bits)


def _train_from_scratch(
    workshop: Workshop,
    name: str,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Corpus,
    config: LlamaConfig,
    recipe: Recipe,
) -> None:
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(config)
    documents, chat = encode(tokenizer, corpus.task, seed=0), encode(tokenizer, corpus.chat, seed=1)
    rows = rows_at(documents, chat, CHAT_SHARE, recipe.num_steps, recipe.seed)
    train(model, rows, replace(recipe, compile_step=workshop.compile_step), workshop.work / name, name)
    model.generation_config.do_sample = False
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    half: nn.Module = model
    half.to(torch.float16)
    model.save_pretrained(TINY / name)


def make_hotels(workshop: Workshop) -> None:
    """Tune the hotels expert, measure what it gives beside directly tuning the base, and choose its α."""
    folder = TINY / "experts" / "hotels"
    if (folder / "expert.json").exists():
        return
    tokenizer, corpus = PreTrainedTokenizerFast.from_pretrained(TINY / "base"), load_corpus(workshop.data)
    documents = encode(tokenizer, corpus.hotel, seed=2)
    direct = _tune_directly(workshop, tokenizer, corpus, documents)
    base, small = load_bundled("base"), load_bundled("small")
    expert = train_expert(
        base,
        load_bundled("small"),
        rows_at(
            documents,
            encode(tokenizer, corpus.task, seed=3),
            REPLAY_SHARE,
            EXPERT_RECIPE.num_steps,
            EXPERT_RECIPE.seed,
        ),
        EXPERT_RECIPE,
        EXPERT_RANK,
        EXPERT_TARGETS,
        lambda stack: _bits(stack, tokenizer, corpus.hotel_dev),
        workshop.work / "hotels",
        "hotels",
    )
    sweep = {alpha: _stack_bits(base, expert, small, alpha, tokenizer, corpus) for alpha in ALPHAS}
    control = {"base": _domains(base, tokenizer, corpus), "direct": _domains(direct, tokenizer, corpus)}
    alpha = _choose_alpha(sweep, control["direct"])
    folder.mkdir(parents=True, exist_ok=True)
    write_expert_card(folder, expert, EXPERT_RECIPE, control, sweep, alpha)
    save_expert(expert, folder, alpha)  # last, so that a stage that was killed isn't passed over


def load_bundled(name: str) -> PreTrainedModel:
    """A bundled model in float32."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(TINY / name, dtype=torch.float32)
    model.train(mode=False)
    return model


def _tune_directly(
    workshop: Workshop, tokenizer: PreTrainedTokenizerFast, corpus: Corpus, documents: Sequence[np.ndarray]
) -> PreTrainedModel:
    """The control: base itself tuned on as many hotel tokens, best dev checkpoint; not shipped."""
    model = load_bundled("base")
    dev = DevCheck(lambda: _bits(model, tokenizer, corpus.hotel_dev), every=DIRECT_RECIPE.num_steps // 10)
    rows = rows_at(documents, (), 0.0, DIRECT_RECIPE.num_steps, DIRECT_RECIPE.seed)
    train(model, rows, DIRECT_RECIPE, workshop.work / "direct", "direct tuning", dev)
    return model


def _choose_alpha(sweep: dict[float, dict[str, float]], direct: dict[str, float]) -> float:
    """The α that is best on dev hotels among those that cost the other domains less than direct tuning does."""
    allowed = [alpha for alpha, bits in sweep.items() if bits["others_dev"] < direct["others_dev"]]
    return min(allowed, key=lambda alpha: sweep[alpha]["hotels_dev"])


def _domains(model: nn.Module, tokenizer: PreTrainedTokenizerFast, corpus: Corpus) -> dict[str, float]:
    return {part: _bits(model, tokenizer, dialogues) for part, dialogues in _parts(corpus).items()}


def _stack_bits(
    base: nn.Module,
    expert: nn.Module,
    small: nn.Module,
    alpha: float,
    tokenizer: PreTrainedTokenizerFast,
    corpus: Corpus,
) -> dict[str, float]:
    return _domains(Stack(base, expert, small, alpha), tokenizer, corpus)


def _parts(corpus: Corpus) -> dict[str, list[Dialogue]]:
    """Hotels and the other domains, each with a part to choose α on and a part to report."""
    others = corpus.task_held_out
    return {
        "hotels_dev": corpus.hotel_dev,
        "others_dev": others[::4],
        "hotels": corpus.hotel_held_out,
        "others": others[1::2],
    }


def _bits(model: nn.Module, tokenizer: PreTrainedTokenizerFast, dialogues: Sequence[Dialogue]) -> float:
    return bits_per_character(model, tokenizer, dialogues)


def _config(tokenizer: PreTrainedTokenizerFast, shape: dict[str, Any]) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shape,
    )
