"""A frozen causal language model with its tokenizer, and the fingerprints by which a basis knows them.

It loads weights from safetensors only, runs no code that comes with a checkpoint, and turns messages into tokens.
Read ``reference.py`` next: what is done with such a model.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from personalign.decode.cache import check_cache
from personalign.decode.checkpoint import read_frozen, read_outline, torch_device
from personalign.decode.gguf import checkpoint_folder
from personalign.decode.template import ends_turns, rendered
from personalign.decode.text import Detokenizer
from personalign.errors import MessageError, ModelError
from personalign.messages import read_messages
from personalign.types import Fingerprints, Message

CHARACTERS_PER_TOKEN = 32  # more than any text has
SAMPLED_ENTRIES = 4096  # of the output embedding, for the model's fingerprint


@dataclass(frozen=True, eq=False)
class CausalModel:
    """A model in eval mode without gradients, its tokenizer, and what both are known by."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fingerprints: Fingerprints
    name: str
    # a forward pass hangs hooks on the module for its duration: one at a time
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.output_embedding.device

    @property
    def layers(self) -> torch.nn.Module:
        """All but the output layer, from token ids to the last hidden state."""
        inner: torch.nn.Module = self.model.base_model
        return inner

    @property
    def output_layer(self) -> torch.nn.Module:
        """The layer whose input is the last hidden state."""
        return _output_layer(self.model)

    @property
    def output_embedding(self) -> Float[Tensor, "V H"]:
        """The output layer's weight: one row a token."""
        weight = self.output_layer.weight
        assert isinstance(weight, Tensor), "an output layer has a matrix"
        return weight

    @property
    def hidden_size(self) -> int:
        """The width of a hidden state."""
        return self.output_embedding.shape[1]

    @property
    def num_logits(self) -> int:
        """Rows of the output layer, which may be more than there are tokens."""
        return self.output_embedding.shape[0]

    @cached_property
    def num_tokens(self) -> int:
        """How many ids the tokenizer gives out; the output layer's rows beyond them mean nothing."""
        highest: int = max(self.tokenizer.get_vocab().values())
        return highest + 1

    @cached_property
    def detokenize(self) -> Detokenizer:
        """Ids back into text."""
        return Detokenizer(self.tokenizer)

    @property
    def context(self) -> int | None:
        """The longest sequence the model was made for; None where it doesn't say."""
        return context(self.model)

    @cached_property
    def can_keep_logits(self) -> bool:
        """Whether the model can be asked for the last position's logits alone."""
        return "logits_to_keep" in inspect.signature(self.model.forward).parameters

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """What ends a reply: the tokens that the model names, and the tokenizer's where its template ends turns."""
        named = self.model.generation_config.eos_token_id
        ids = list(named) if isinstance(named, list | tuple) else [] if named is None else [named]
        if not all(type(i) is int and i >= 0 for i in ids):
            raise ModelError(
                f"the generation config of {self.name} has the eos_token_id {named!r:.80}; expected a token's id, or a "
                "list of ids"
            )
        closing = self.tokenizer.eos_token_id
        is_ours = closing is not None and closing not in ids and ends_turns(self.tokenizer)
        return tuple(i for i in (*ids, *([closing] if is_ours else [])) if i < self.num_logits)


def load_causal(name_or_path: str | Path, device: str = "auto") -> CausalModel:
    """Load a causal language model, looking on this machine before asking the hub.

    On a CPU it computes in float32, on CUDA in bfloat16. A GGUF file is converted once, as ``gguf.py`` says.

    Raises:
        ModelError: there is no such model or device, the checkpoint lacks weights or a tokenizer, or the family can't
            be read token by token.
    """
    place = torch_device(device)  # refused before a long conversion
    model, tokenizer = read_frozen(AutoModelForCausalLM, checkpoint_folder(str(name_or_path)), place)
    name = str(name_or_path)
    fingerprints = Fingerprints(tokenizer_sha256(tokenizer), model_sha256(model))
    check_cache(model, lambda output: output.logits[:, -1], name, context(model))
    causal = CausalModel(model, tokenizer, fingerprints, name)
    _ = causal.ends  # so that odd ones are refused now
    return causal


def _output_layer(model: PreTrainedModel) -> torch.nn.Module:
    layer: torch.nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if layer is None:
        raise ModelError(
            f"a {type(model).__name__} has no output layer that can be read; expected a decoder with a language head"
        )
    return layer


def context(model: PreTrainedModel) -> int | None:
    """The longest sequence a model was made for; None where it doesn't say."""
    length = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if length is not None and (type(length) is not int or length < 1):
        raise ModelError(
            f"the config of the {type(model).__name__} says max_position_embeddings {length!r:.80}; expected a length"
        )
    return length


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash a tokenizer: its tokens and their ids, its special tokens, its chat template."""
    content = {
        "vocabulary": sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]),
        "special": {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())},
        "template": tokenizer.chat_template,
    }
    return hashlib.sha256(json.dumps(content, ensure_ascii=True, sort_keys=True).encode()).hexdigest()


def load_outline(name: str, embedding: Tensor | None = None) -> CausalModel:
    """A model without weights, of which only the outline and the tokenizer are used; another program runs it.

    ``embedding`` is the output embedding in there, (V, H): without it the model has no fingerprint of its own.

    Raises:
        ModelError: as ``load_causal``.
    """
    model, tokenizer = read_outline(checkpoint_folder(name))
    sha256 = "" if embedding is None else model_sha256(model, embedding)
    return CausalModel(model, tokenizer, Fingerprints(tokenizer_sha256(tokenizer), sha256), name)


def model_sha256(model: PreTrainedModel, embedding: Tensor | None = None) -> str:
    """Hash a model's dimensions, its parameters' names and shapes, and a sample of its output embedding.

    The sample is rounded to bfloat16, so that the precision it was loaded in makes no difference.
    """
    config = model.config.get_text_config(decoder=True)
    names = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    outline = {
        "config": {name: getattr(config, name, None) for name in names},
        "parameters": sorted((name, list(value.shape)) for name, value in model.named_parameters()),
    }
    digest = hashlib.sha256(json.dumps(outline, sort_keys=True).encode())
    layer: Any = _output_layer(model)
    weight = (layer.weight if embedding is None else embedding).detach().flatten()
    sample = weight[:: max(1, len(weight) // SAMPLED_ENTRIES)].to(torch.bfloat16)
    digest.update(sample.view(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    add_generation_prompt: bool = True,
    max_prompt_tokens: int | None = None,
) -> list[int]:
    """Turn messages into tokens by the tokenizer's own chat template.

    Raises:
        MessageError: there are no messages, one is blank or of an unknown role or holds a special token, the template
            refuses them, or they come to more than ``max_prompt_tokens``.
        ModelError: the tokenizer has no chat template, or one that fails.
    """
    conversation = read_messages(messages, is_answered=True)
    if max_prompt_tokens is not None:
        _check_length(conversation, max_prompt_tokens)
    _check_no_special_token(tokenizer, conversation)
    text = rendered(tokenizer, conversation, add_generation_prompt=add_generation_prompt)
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    if max_prompt_tokens is not None and len(ids) > max_prompt_tokens:
        raise MessageError(
            f"the messages come to {len(ids)} tokens, and at most {max(0, max_prompt_tokens)} fit into the model's "
            "context beside max_tokens; shorten the conversation or ask for fewer tokens"
        )
    return ids


def _check_length(messages: Sequence[Message], max_tokens: int) -> None:
    """Refuse by its length a text that can't fit: counting the tokens of megabytes takes seconds."""
    if len(messages) > (most_messages := max(1, max_tokens)):
        raise MessageError(
            f"found {len(messages):,} messages, and at most {most_messages:,} can fit into the model's context beside "
            "max_tokens; leave out the oldest"
        )
    num_characters = sum(len(message["content"]) for message in messages)
    if num_characters > (most := max(1, max_tokens) * CHARACTERS_PER_TOKEN):
        raise MessageError(
            f"the messages have {num_characters:,} characters, and at most {most:,} can fit into the model's context "
            "beside max_tokens; shorten the conversation"
        )


def _check_no_special_token(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> None:
    """Refuse a special token spelt out in a message: it would end the turn there and begin a forged one."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    for number, message in enumerate(messages):
        for token in special:
            if token in message["content"]:
                raise MessageError(
                    f"message {number} holds {token!r}, which marks turns in the model's chat template; expected text "
                    "without it; remove or rewrite it"
                )
