"""Models made on the fly: sizes and shapes of real ones with random weights, which is all that speed depends on.

Their tokenizer writes a token as its number, so that a prompt of so many tokens is so many numbers.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedModel, PreTrainedTokenizerFast

from personalign.basis import Basis
from personalign.bundled import ZOO, model_place
from personalign.decode.checkpoint import use_onednn
from personalign.decode.experts import Expert, load_expert
from personalign.decode.load import CausalModel, load_causal
from personalign.decode.models import Models
from personalign.decode.reward_model import RewardModel
from personalign.decode.successor import SuccessorHead
from personalign.learn.axes import features
from personalign.types import Fingerprints, Steering

TEMPLATE = "{{ messages[0]['content'] }}"
EXPERT = "random"
STEERING = Steering(beta=2.0, clip=4.0, num_candidates=20)


@dataclass(frozen=True)
class Shape:
    """A Llama's dimensions; the embeddings are tied."""

    hidden: int
    inner: int  # of the perceptron in each layer
    layers: int
    heads: int
    vocabulary: int = 32_000
    context: int = 1024
    spread: float = 0.02  # of the random weights: at 0.02 a model says one word again and again, at 0.2 it talks

    def config(self) -> LlamaConfig:
        """The configuration; nothing ends a reply."""
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=self.context,
            initializer_range=self.spread,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )


@dataclass(frozen=True)
class HeadShape:
    """A successor head's dimensions."""

    axes: int = 32
    rank: int = 64
    inner: int = 256


BASE = Shape(hidden=768, inner=2048, layers=12, heads=12)  # 110 M parameters
SMALL = Shape(hidden=256, inner=640, layers=3, heads=4)  # 10 M


class Specimens:
    """Everything that is measured, made when it is first asked for."""

    def __init__(self, device: str, base: Shape = BASE, small: Shape = SMALL, head: HeadShape = HeadShape()) -> None:
        self._device, self._base, self._small, self._head = device, base, small, head

    @cached_property
    def tiny(self) -> Models:
        """The toy in the zoo."""
        return self._bundled("tiny")

    @cached_property
    def smollm2(self) -> Models:
        """SmolLM2, whose package has to be installed."""
        return self._bundled("smollm2")

    def _bundled(self, name: str) -> Models:
        """A bundled model with its own basis; nothing ends a reply, so that all are as long."""
        loaded = load_causal(model_place(name), self._device)
        loaded.model.generation_config.eos_token_id = None
        basis = Basis.load(ZOO / name / "basis")
        assert basis.head is not None, "the bundled basis has a head"
        base = replace(loaded, tokenizer=number_tokenizer(loaded.num_logits))
        head = SuccessorHead.from_arrays(basis.head)
        return Models(base, head, basis.steering, {}, measure=partial(features, basis))

    @property
    def device(self) -> torch.device:
        """Where all models are."""
        return self.tiny.base.device

    @cached_property
    def base(self) -> CausalModel:
        """A random Llama of about 110 M parameters."""
        return self._causal(self._base)

    @cached_property
    def random(self) -> Models:
        """It with a random successor head."""
        torch.manual_seed(1)
        head = SuccessorHead(self._base.hidden, self._head.axes, self._head.rank, self._head.inner)
        _frozen(head)
        return Models(self.base, head, STEERING, {})

    def personal(self, name: str) -> Models:
        """The model called "tiny", "smollm2" or "110m", with its head."""
        return {"tiny": lambda: self.tiny, "smollm2": lambda: self.smollm2, "110m": lambda: self.random}[name]()

    def bare(self, name: str) -> Models:
        """It with nothing attached."""
        return Models(self.personal(name).base, None, STEERING, {})

    def num_axes(self, name: str) -> int:
        """D."""
        head = self.personal(name).head
        assert head is not None, "personal models have a head"
        return head.num_axes

    @cached_property
    def small(self) -> Models:
        """A random Llama of about 10 M parameters, by itself."""
        return Models(self._causal(self._small), None, STEERING, {})

    @cached_property
    def stacked(self) -> Models:
        """The random Llama with a LoRA of a small one as its expert."""
        return Models(self.base, None, STEERING, {EXPERT: self._expert()})

    @cached_property
    def judged(self) -> Models:
        """The random Llama with a reward model as big as itself."""
        return Models(self.base, None, STEERING, {}, self._reward(self._base))

    @cached_property
    def small_judged(self) -> Models:
        """A small one that talks, with a reward model as small."""
        shape = replace(self._small, spread=0.2)
        return Models(self._causal(shape), None, STEERING, {}, self._reward(shape))

    def _reward(self, shape: Shape) -> RewardModel:
        torch.manual_seed(2)
        backbone, head = LlamaModel(shape.config()), nn.Linear(shape.hidden, 1)
        self._place(backbone)
        _frozen(head.to(self.device))
        return RewardModel(backbone, head, number_tokenizer(shape.vocabulary), "random", ("reward",))

    def _causal(self, shape: Shape) -> CausalModel:
        model = network(shape)
        self._place(model)
        return CausalModel(model, number_tokenizer(shape.vocabulary), Fingerprints("", ""), "random")

    def _place(self, model: nn.Module) -> None:
        """Put a model where the bundled one is, in its precision, as ``load_causal`` leaves it."""
        _frozen(model.to(self.device, self.tiny.base.model.dtype))
        use_onednn(model)

    def _expert(self) -> Expert:
        """A LoRA with random weights, saved and loaded as real ones are."""
        with tempfile.TemporaryDirectory() as folder:
            return load_expert(_save_lora(Path(folder) / EXPERT, network(self._small)), self._causal(self._small))


def network(shape: Shape) -> LlamaForCausalLM:
    """A random Llama, the same one each time."""
    torch.manual_seed(0)
    return LlamaForCausalLM(shape.config())


def untouched(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in layers as transformers makes them: what others are measured with."""
    twin = type(model)(model.config)
    module: nn.Module = twin  # whose methods are typed
    module.load_state_dict(model.state_dict(), assign=True)
    twin.tie_weights()
    _frozen(module.to(model.device))
    if model.can_generate():
        twin.generation_config = model.generation_config
    return twin


def number_tokenizer(num_tokens: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the numbers from 0, and whose chat template passes a message through."""
    words = Tokenizer(WordLevel({str(i): i for i in range(num_tokens)}, str(0)))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)  # type: ignore[no-untyped-call]
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _frozen(module: nn.Module) -> None:
    module.eval().requires_grad_(requires_grad=False)


def _save_lora(folder: Path, model: LlamaForCausalLM) -> Path:
    with warnings.catch_warnings():  # peft 0.21 asks for an attribute that transformers 5.23 has renamed
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        adapted = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, value in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value, std=0.02)
    adapted.save_pretrained(str(folder))
    (folder / "expert.json").write_text(json.dumps({"alpha": 1.0}), encoding="utf-8")
    return folder
