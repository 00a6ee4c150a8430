"""Bits per character of held-out dialogues, which the cards of the bundled models tell."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from lab.zoo.dialogues import Dialogue, render
from personalign.train.expert.tune import MAX_TOKENS, Causal, bits_of


def bits_per_character(model: Causal, tokenizer: PreTrainedTokenizerFast, dialogues: Sequence[Dialogue]) -> float:
    """Negative log-likelihood of all tokens but the first, in bits, over characters without special tokens.

    Of every dialogue, rendered by the chat template, the first 480 tokens count.
    """
    texts = render(tokenizer, [d.messages() for d in dialogues])
    rows = [ids[:MAX_TOKENS] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    return bits_of(model, tokenizer, rows)
