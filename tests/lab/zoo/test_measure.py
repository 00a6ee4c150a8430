"""Bits per character: the number by hand, whatever the batch, and what the bundled base reaches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.modeling_outputs import CausalLMOutput

from lab.zoo.dialogues import Corpus, Dialogue, load_corpus
from lab.zoo.measure import bits_per_character
from personalign.bundled import TINY
from personalign.train.expert import tune
from personalign.train.expert.tune import MAX_TOKENS
from tests.decode.tiny_models import V, network, tokenizer
from tests.lab.zoo.conftest import REAL, TWIN, needs_real_data

DIALOGUES = [
    Dialogue((), ("the cat", "sat on the mat and the hat, and sat")),
    Dialogue((), ("hat?",)),
    Dialogue((), ("the mat", "no", "the hat then", "yes, the hat.")),
]
WORDS: PreTrainedTokenizerFast = tokenizer()


def uniform(input_ids: Tensor) -> CausalLMOutput:
    return CausalLMOutput(logits=torch.zeros(*input_ids.shape, V))


def num_tokens(dialogue: Dialogue) -> int:
    return len(WORDS(WORDS.apply_chat_template(dialogue.messages(), tokenize=False))["input_ids"])


def test_a_model_that_knows_nothing_pays_for_every_token_but_the_first() -> None:
    """By hand: log₂ V bits a predicted token, over the characters of the turns without special tokens."""
    predicted = sum(num_tokens(d) - 1 for d in DIALOGUES)
    characters = sum(len(turn) for d in DIALOGUES for turn in d.turns)
    assert bits_per_character(uniform, WORDS, DIALOGUES) == pytest.approx(math.log2(V) * predicted / characters)


def test_a_model_that_is_sure_and_right_pays_nothing() -> None:
    """The logits at a position are held against the token after it."""

    def knowing(input_ids: Tensor) -> CausalLMOutput:
        return late(input_ids.roll(-1, 1))

    def late(input_ids: Tensor) -> CausalLMOutput:
        return CausalLMOutput(logits=100.0 * torch.nn.functional.one_hot(input_ids, V).float())

    assert bits_per_character(knowing, WORDS, DIALOGUES) == pytest.approx(0, abs=1e-6)
    assert bits_per_character(late, WORDS, DIALOGUES) > 10  # control


def test_a_long_dialogue_counts_up_to_480_tokens() -> None:
    """Tokens and characters beyond are both left out."""
    long = Dialogue((), ("x" * 1000, "y"))
    ids = WORDS(WORDS.apply_chat_template(long.messages(), tokenize=False))["input_ids"]
    assert len(ids) > MAX_TOKENS
    characters = len(WORDS.decode(ids[:MAX_TOKENS], skip_special_tokens=True))
    found = bits_per_character(uniform, WORDS, [long])
    assert found == pytest.approx(math.log2(V) * (MAX_TOKENS - 1) / characters)


def test_batches_and_padding_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One by one, all together or in another order: the same number."""
    model = network("llama", 0)
    together = bits_per_character(model, WORDS, DIALOGUES)
    assert bits_per_character(model, WORDS, DIALOGUES[::-1]) == pytest.approx(together, rel=1e-5)

    def sees_width(input_ids: Tensor) -> CausalLMOutput:
        return CausalLMOutput(logits=model(input_ids=input_ids).logits * input_ids.shape[1] / 10)

    spoilt = bits_per_character(sees_width, WORDS, DIALOGUES)
    monkeypatch.setattr(tune, "ROWS", 1)
    assert bits_per_character(model, WORDS, DIALOGUES) == pytest.approx(together, rel=1e-5)
    assert bits_per_character(sees_width, WORDS, DIALOGUES) != pytest.approx(spoilt, rel=1e-2)  # control


def bits_of(name: str, dialogues: list[Dialogue]) -> float:
    model = AutoModelForCausalLM.from_pretrained(TINY / name, dtype=torch.float32)
    return bits_per_character(model, AutoTokenizer.from_pretrained(TINY / name), dialogues)


@needs_real_data
def test_the_base_reads_dialogues_it_never_saw() -> None:
    """At most 0.68 bits a character on held-out dialogues without hotels; it has learnt nothing of hotels."""
    corpus = load_corpus(REAL)
    assert bits_of("base", corpus.task_held_out[::12]) <= 0.68
    assert bits_of("base", corpus.hotel_held_out[::12]) > 0.9  # control: what it wasn't made for costs more


def test_the_base_reads_the_twin() -> None:
    """Short dialogues that open with our own words come a little dearer; with the words turned round, far more."""
    corpus: Corpus = load_corpus(TWIN)
    assert bits_of("base", corpus.task_held_out) <= 0.8
    turned = [Dialogue((), tuple(" ".join(turn.split()[::-1]) for turn in d.turns)) for d in corpus.task_held_out]
    assert bits_of("base", turned) > 1.5  # control
