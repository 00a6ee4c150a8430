"""Tiny random models of two families, with a tokenizer made on the fly, saved and loaded as real ones are.

And what the laws' tests look at them with: conversations, traces of logits, and bits.
"""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from personalign.decode.engine import Engine
from personalign.decode.experts import Expert, load_expert
from personalign.decode.load import CausalModel, load_causal
from personalign.decode.models import Models
from personalign.decode.request import Request
from personalign.decode.seq import Seq
from personalign.decode.steer import Steer, Step
from personalign.decode.successor import SuccessorHead
from personalign.types import Reply, Steering

V, H, D, R = 128, 32, 3, 8
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SMALL_TEMPLATE = TEMPLATE.replace("'<|assistant|>'", "' answer:<|assistant|>'")
STEERING = Steering(beta=1.5, clip=3.0, num_candidates=10)


def tokenizer(template: str = TEMPLATE, extra: str = "é😀日 the cat sat") -> PreTrainedTokenizerFast:
    """A byte-level BPE of V tokens that can write ASCII and a few characters of several bytes."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(vocab_size=V, special_tokens=special, show_progress=False)
    ascii_text = "".join(map(chr, range(32, 127)))
    raw.train_from_iterator([ascii_text, *[extra] * 3, "the cat sat on the mat and the hat"], trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|end|>", pad_token="<|pad|>", additional_special_tokens=special[2:]
    )
    made.chat_template = template
    return made


def network(family: str, seed: int, vocabulary: int = V, hidden: int = H) -> LlamaForCausalLM | GPT2LMHeadModel:
    """A random network whose next-token distributions are neither flat nor certain."""
    torch.manual_seed(seed)
    if family == "llama":
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=hidden, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256, eos_token_id=1, bos_token_id=None, pad_token_id=0,
            initializer_range=0.3, tie_word_embeddings=False,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval()
    config = GPT2Config(
        vocab_size=vocabulary, n_embd=hidden, n_layer=2, n_head=4, n_positions=256, eos_token_id=1, bos_token_id=None,
        pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def saved(folder: Path, model, words: PreTrainedTokenizerFast) -> Path:
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_adapter(folder: Path, model, seed: int, *, empty: bool = False, alpha: float = 0.5) -> Path:
    """A LoRA on all linear layers with random weights; an empty one changes nothing."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=4, target_modules="all-linear", task_type="CAUSAL_LM", fan_in_fan_out=isinstance(model, GPT2LMHeadModel)
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        adapted = get_peft_model(model, config)
    for name, value in adapted.named_parameters():
        if "lora_B" in name and not empty:
            torch.nn.init.normal_(value, std=0.3)
    adapted.save_pretrained(folder)
    (folder / "expert.json").write_text(json.dumps({"alpha": alpha}))
    return folder


def random_head(seed: int = 0, hidden: int = H) -> SuccessorHead:
    torch.manual_seed(seed)
    head = SuccessorHead(hidden, D, R, hidden=16)
    for value in head.parameters():
        torch.nn.init.normal_(value, std=0.3)  # features of about 1, as standardised axes are
    return head.eval().requires_grad_(requires_grad=False)


@dataclass(frozen=True)
class Kit:
    """One family's models, and where their files are."""

    family: str
    folder: Path
    base: CausalModel
    experts: dict[str, Expert]
    head: SuccessorHead

    def models(self, **changes) -> Models:
        parts = {"base": self.base, "head": self.head, "steering": STEERING, "experts": self.experts}
        return Models(**(parts | changes))


def make_kit(family: str, folder: Path) -> Kit:
    words, small_words = tokenizer(), tokenizer(SMALL_TEMPLATE)
    saved(folder / "base", network(family, 0), words)
    saved(folder / "small", network(family, 1), small_words)
    saved(folder / "padded", network(family, 1, vocabulary=V + 8), small_words)
    saved(folder / "whole", network(family, 2), small_words)
    (folder / "whole" / "expert.json").write_text('{"alpha": 1.0}')
    save_adapter(folder / "hotels", network(family, 1), 3)
    save_adapter(folder / "empty", network(family, 1), 4, empty=True)
    small = load_causal(folder / "small", "cpu")
    hotels = load_expert(folder / "hotels", small)
    experts = {
        "hotels": hotels,
        "empty": load_expert(folder / "empty", small, neighbour=hotels),
        "whole": load_expert(folder / "whole", load_causal(folder / "small", "cpu")),
    }
    return Kit(family, folder, load_causal(folder / "base", "cpu"), experts, random_head())


def talk(*words: str) -> list[list[dict[str, str]]]:
    """One conversation a word."""
    return [[{"role": "user", "content": word}] for word in words]


def traced(models: Models, requests: list[Request], steers: tuple[Steer, ...] = ()) -> tuple[list[Reply], Tensor]:
    """Replies, and the logits (steps, B, V) that their tokens were drawn from, NaN where there was no step any more.

    All steps are over B rows, whoever has ended: bits are compared within one batch shape.
    """
    trace = torch.full((max(r.options.max_tokens for r in requests), len(requests), V), math.nan)

    def look(logits: Tensor, step: Step) -> Tensor:
        rows = step.active.nonzero().flatten()
        trace[step.index[rows], step.request[rows]] = logits[rows]
        return logits

    outcomes: list[Reply | Exception] = [RuntimeError("no reply")] * len(requests)
    engine = Engine(models, len(requests), 256, len(requests), steers=[*steers, look])
    engine._scheduler._buckets = [len(requests)]
    for i, request in enumerate(requests):
        engine.submit([Seq(models, request, i, partial(outcomes.__setitem__, i))])
    while not engine.is_idle:
        engine.step()
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
    written = ~trace.isnan().all(-1).all(-1)
    return outcomes, trace[: int(written.sum())]


def bits(logits: Tensor) -> Tensor:
    """What float32 numbers are made of: −0.0 and 0.0 differ, NaN equals itself."""
    return logits.contiguous().view(torch.int32)
