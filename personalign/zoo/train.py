"""Make everything the bundled model consists of: ``python -m personalign.zoo.train --data DIR``.

One stage per artefact; a stage whose artefact exists is passed over, a killed one continues from its
checkpoint. ``DIR`` holds the corpora named in ``corpus.py``, which also says where each is published.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from personalign.zoo import TINY
from personalign.zoo.corpus import encode, load_corpus
from personalign.zoo.pretrain import Recipe, train
from personalign.zoo.tokenizer import train_tokenizer

BASE = {"hidden_size": 256, "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 768}
SMALL = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 384}
BASE_RECIPE = Recipe(num_steps=4000, learning_rate=3e-3)
SMALL_RECIPE = Recipe(num_steps=2400, learning_rate=4e-3)


@dataclass(frozen=True)
class Workshop:
    """What every stage gets: the data, the place for checkpoints, and whether to compile."""

    data: Path
    work: Path
    compile_step: bool


def main(
    data: Annotated[Path, typer.Option(help="folder that holds corpora/")],
    stage: Annotated[list[str] | None, typer.Option(help="only these stages")] = None,
    work: Annotated[Path, typer.Option(help="checkpoints and roll-outs")] = Path(".zoo"),
    compile_step: Annotated[bool, typer.Option("--compile", help="torch.compile the training step")] = False,
) -> None:
    """Run the stages in order."""
    workshop = Workshop(data, work, compile_step)
    for name in stage or STAGES:
        STAGES[name](workshop)


def make_tokenizer(workshop: Workshop) -> None:
    """Learn the tokenizer on everything but the hotels and save it beside base and small."""
    if (TINY / "base" / "tokenizer.json").exists():
        return
    corpus = load_corpus(workshop.data)
    tokenizer = train_tokenizer(turn for d in corpus.task + corpus.chat[::4] for turn in d.turns)
    for name in ("base", "small"):
        tokenizer.save_pretrained(TINY / name)


def make_base(workshop: Workshop) -> None:
    """Pretrain the base model."""
    _pretrain(workshop, "base", BASE, BASE_RECIPE)


def make_small(workshop: Workshop) -> None:
    """Pretrain the small model, the anti-expert."""
    _pretrain(workshop, "small", SMALL, SMALL_RECIPE)


def _pretrain(workshop: Workshop, name: str, shape: dict[str, int], recipe: Recipe) -> None:
    folder = TINY / name
    if (folder / "model.safetensors").exists():
        return
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    corpus = load_corpus(workshop.data)
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(_config(tokenizer, shape))
    train(
        model,
        encode(tokenizer, corpus.task, seed=0),
        encode(tokenizer, corpus.chat, seed=1),
        recipe,
        workshop.work / name,
        name,
        workshop.compile_step,
    )
    model.generation_config.do_sample = False
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.half().save_pretrained(folder)


def _config(tokenizer: PreTrainedTokenizerFast, shape: dict[str, int]) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shape,
    )


STAGES: dict[str, Callable[[Workshop], None]] = {"tokenizer": make_tokenizer, "base": make_base, "small": make_small}

if __name__ == "__main__":
    typer.run(main)
