"""The bundled tokenizer and chat template: any text, any conversation, and an end after every turn."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lab.zoo.dialogues import Corpus
from lab.zoo.tokenizer import END, PAD, ROLES, START, VOCAB_SIZE, train_tokenizer
from personalign.bundled import TINY

BUNDLED: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(TINY / "base")
anything = st.text(st.characters(exclude_categories=["Cs"]))
words = st.text("ab cé?!😀", min_size=1).filter(str.strip)
conversations = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": words}), min_size=1
)


def ids_of(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]], **options) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.fixture(scope="module", params=["bundled", "new"])
def tokenizer(request: pytest.FixtureRequest, twin: Corpus) -> PreTrainedTokenizerFast:
    """The one that is shipped, and one made by the same code from a handful of dialogues."""
    return BUNDLED if request.param == "bundled" else train_tokenizer(t for d in twin.task for t in d.turns)


@settings(max_examples=200)
@given(anything)
def test_any_text_comes_back(text: str) -> None:
    """Bytes the training never saw, spaces, line breaks and emoji included."""
    ids = BUNDLED(text, add_special_tokens=False)["input_ids"]
    assert BUNDLED.decode(ids) == text
    assert all(0 <= i < VOCAB_SIZE for i in ids)


def test_text_is_short_in_tokens(twin: Corpus) -> None:
    """Dialogue takes about a token a word; a tokenizer that learnt nothing takes one a byte."""
    text = " ".join(turn for d in twin.task for turn in d.turns)
    assert len(BUNDLED(text)["input_ids"]) < len(text) / 3
    unlearnt = train_tokenizer([])
    assert len(unlearnt(text)["input_ids"]) == len(text.encode())  # control
    assert unlearnt.decode(unlearnt(text)["input_ids"]) == text


@settings(max_examples=100)
@given(conversations)
def test_every_turn_of_any_conversation_ends_with_the_end(messages: list[dict[str, str]]) -> None:
    """Whatever roles follow one another and whoever speaks last: a start, and an end after each turn."""
    ids = ids_of(BUNDLED, messages)
    assert ids[0] == BUNDLED.bos_token_id
    assert ids[-1] == BUNDLED.eos_token_id
    assert ids.count(BUNDLED.eos_token_id) == len(messages)
    assert ids.count(BUNDLED.bos_token_id) == 1
    roles = BUNDLED.convert_tokens_to_ids(list(ROLES))
    assert [i for i in ids if i in roles] == [
        BUNDLED.convert_tokens_to_ids(f"<|{message['role']}|>") for message in messages
    ]
    assert BUNDLED.decode(ids, skip_special_tokens=True) == "".join(m["content"].strip() for m in messages)


def test_a_reply_is_asked_for_by_the_assistants_token(tokenizer: PreTrainedTokenizerFast) -> None:
    """The prompt of a reply is the conversation and one token more; a system message may stand in front."""
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "A hotel in Paris?"},
        {"role": "assistant", "content": "For how long?"},
    ]
    for n in (2, 3):
        plain, asking = ids_of(tokenizer, messages[:n]), ids_of(tokenizer, messages[:n], add_generation_prompt=True)
        assert asking == [*plain, tokenizer.convert_tokens_to_ids("<|assistant|>")]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == (
        "<|start|><|system|>Be brief.<|end|><|user|>A hotel in Paris?<|end|><|assistant|>For how long?<|end|>"
    )


def test_special_tokens_have_their_uses(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == (PAD, START, END)
    assert all(len(tokenizer(token, add_special_tokens=False)["input_ids"]) == 1 for token in (PAD, START, END, *ROLES))
    assert len(tokenizer) <= VOCAB_SIZE


def test_base_and_small_read_alike() -> None:
    """Expert and base can only be mixed over one vocabulary; the templates are the same too."""
    small = AutoTokenizer.from_pretrained(TINY / "small")
    assert small.get_vocab() == BUNDLED.get_vocab()
    assert small.chat_template == BUNDLED.chat_template


@pytest.mark.parametrize("name", ["base", "small"])
def test_only_the_end_stops_a_reply(name: str) -> None:
    """The generation config says which token ends a reply, that nothing is sampled, and nothing else that matters."""
    config = json.loads((TINY / name / "generation_config.json").read_text())
    harmless = {
        "_from_model_config", "transformers_version", "bos_token_id", "pad_token_id",
        "use_cache", "cache_implementation", "output_attentions", "output_hidden_states",
    }  # fmt: skip
    assert {key: value for key, value in config.items() if key not in harmless} == {
        "eos_token_id": BUNDLED.eos_token_id,
        "do_sample": False,
    }
