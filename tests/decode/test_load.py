"""Loading models and turning messages into tokens."""

import json

import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from personalign.decode import load as module
from personalign.decode.engine import generate
from personalign.decode.load import CausalModel, load_causal, model_sha256, render, tokenizer_sha256
from personalign.decode.models import Models
from personalign.decode.request import Request
from personalign.errors import MessageError, ModelError
from personalign.options import Options
from tests.decode.tiny_models import STEERING, TEMPLATE, Kit, network, saved, talk, tokenizer


def test_a_model_loads_in_float32_and_can_learn_nothing(kit: Kit) -> None:
    """On a CPU a model computes in float32, in eval mode, without gradients."""
    assert {value.dtype for value in kit.base.model.parameters()} == {torch.float32}
    assert not kit.base.model.training
    assert not any(value.requires_grad for value in kit.base.model.parameters())
    assert kit.base.ends == (1,)
    assert (kit.base.num_logits, kit.base.hidden_size, kit.base.context) == (128, 32, 256)


def test_fingerprints_do_not_depend_on_the_precision(kit: Kit) -> None:
    """A model has one fingerprint in float32 and in bfloat16."""
    half = type(kit.base.model).from_pretrained(kit.folder / "base", dtype=torch.bfloat16)
    assert model_sha256(half) == kit.base.fingerprints.model


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_other_weights_and_other_words_have_other_fingerprints(family: str) -> None:
    """Another seed, another token, another template: each has a fingerprint of its own."""
    assert model_sha256(network(family, 0)) == model_sha256(network(family, 0))
    assert model_sha256(network(family, 0)) != model_sha256(network(family, 7))
    words = [tokenizer(), tokenizer(extra="ß😀日 the cat sat"), tokenizer(template="{{ messages }}")]
    assert len({tokenizer_sha256(each) for each in words}) == 3
    assert tokenizer_sha256(words[0]) == tokenizer_sha256(tokenizer())


def test_an_unknown_model_is_refused_by_name(tmp_path) -> None:
    """Neither a missing folder, nor an empty one, nor an impossible name gets further than a ModelError."""
    for name in (tmp_path / "missing" / "folder", tmp_path, "no such/model at/all"):
        with pytest.raises(ModelError, match="model"):
            load_causal(name, "cpu")


def test_an_unknown_device_is_refused(kit: Kit) -> None:
    """A device that torch doesn't know is a ModelError that names what it expects."""
    for device in ("toaster", "hpu"):  # one that torch knows, and has no module for
        with pytest.raises(ModelError, match="expected auto, cpu or cuda"):
            load_causal(kit.folder / "base", device)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path) -> None:
    """Missing weights are never made up."""
    saved(tmp_path, network("llama", 0), tokenizer())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"lacks \d+ weights"):
        load_causal(tmp_path, "cpu")


def test_pickled_weights_are_refused(tmp_path) -> None:
    """Only safetensors are read: a pickle could run anything."""
    saved(tmp_path, network("llama", 0), tokenizer())
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load_causal(tmp_path, "cpu")


def test_messages_render_by_the_models_own_template(kit: Kit) -> None:
    """The template decides, and special tokens in it are single tokens."""
    words = kit.base.tokenizer
    ids = render(words, [{"role": "system", "content": "cat"}, {"role": "user", "content": "sat"}])
    assert words.decode(ids) == "<|system|>cat<|end|><|user|>sat<|end|><|assistant|>"
    assert render(words, talk("sat")[0], add_generation_prompt=False)[-1] == kit.base.ends[0]


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "no messages"),
        ([{"role": "user", "content": ""}], "blank"),
        ([{"role": "user", "content": " \n\t"}], "blank"),
        ([{"role": "robot", "content": "hi"}], "'robot'"),
        ([{"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}], "message 1"),
        ([{"role": "user", "content": "x" * 5000}], "5003 tokens, and at most 200"),
    ],
)
def test_messages_that_cannot_be_answered_are_refused(kit: Kit, messages, complaint: str) -> None:
    """Empty, blank, unknown and huge messages are told apart, each with what was found."""
    with pytest.raises(MessageError, match=complaint):
        render(kit.base.tokenizer, messages, max_prompt_tokens=200)


def test_nobody_forges_a_turn(kit: Kit) -> None:
    """A special token spelt out in a message is refused; without the check it would come back as a turn's end."""
    tokenizer = load_causal(kit.folder / "small", "cpu").tokenizer
    for token in {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}:
        with pytest.raises(MessageError, match="marks turns"):
            render(tokenizer, [{"role": "user", "content": f"the cat {token} sat"}])
        assert len(tokenizer(token, add_special_tokens=False)["input_ids"]) == 1  # control: it would be that token


def test_a_template_may_refuse(kit: Kit) -> None:
    """What the chat template raises comes out as a MessageError."""
    strict = tokenizer(template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(MessageError, match="roles must alternate"):
        render(strict, talk("hi")[0])


def test_a_tokenizer_without_template_is_refused() -> None:
    """A base model that was never a chat model says so."""
    bare = tokenizer()
    bare.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        render(bare, talk("hi")[0])


@pytest.mark.parametrize(
    ("named", "template", "ends"),
    [
        (5, "{{ messages }}", (5,)),
        ([5, 1], "{{ messages }}", (5, 1)),
        (None, "{{ messages }}", ()),
        (None, TEMPLATE, (1,)),
        (5, TEMPLATE, (5, 1)),
        ([1, 5], TEMPLATE, (1, 5)),
        ([5, 128], TEMPLATE, (5, 1)),  # one that can't be drawn
    ],
)
def test_the_end_tokens_are_the_models_and_the_one_that_ends_turns(kit: Kit, named, template, ends) -> None:
    """What the generation config names, and the tokenizer's end token where the template ends turns with it."""
    model = network(kit.family, 0)
    model.generation_config.eos_token_id = named
    assert CausalModel(model, tokenizer(template), kit.base.fingerprints, "it").ends == ends


def test_a_model_inside_another_has_its_context(tmp_path) -> None:
    """A checkpoint of text and images keeps its length in the text's config; its fingerprint knows the dimensions."""
    text = {
        "vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8, "sliding_window": 32,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    torch.manual_seed(0)
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, eos_token_id=1, pad_token_id=0)
    saved(tmp_path, Gemma3ForConditionalGeneration(config), tokenizer())
    causal = load_causal(tmp_path, "cpu")
    assert causal.context == 64
    request = Request(talk("the cat sat " * 40)[0], Options(4))
    with pytest.raises(MessageError, match="at most 60 fit"):
        generate(Models(causal, None, STEERING), [request])
    wider = Gemma3Config(
        text_config=text | {"max_position_embeddings": 128, "num_attention_heads": 2, "head_dim": 16},
        vision_config=vision, mm_tokens_per_image=4, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    assert model_sha256(Gemma3ForConditionalGeneration(wider)) != causal.fingerprints.model


def test_megabytes_are_refused_before_they_are_read(kit: Kit, monkeypatch) -> None:
    """By their characters and number: neither template nor tokenizer see them; what could fit is counted in tokens."""
    seen = []
    monkeypatch.setattr(module, "rendered", lambda *args, **_: seen.append(args) or "x")
    turns = [{"role": role, "content": "x" * 100_000} for role in ("user", "assistant")] * 5
    with pytest.raises(MessageError, match=r"1,000,000 characters, and at most 6,400 can fit"):
        render(kit.base.tokenizer, turns, max_prompt_tokens=200)
    with pytest.raises(MessageError, match=r"20,000 messages, and at most 200 can fit"):
        render(kit.base.tokenizer, [{"role": "user", "content": "a"}] * 20_000, max_prompt_tokens=200)
    assert not seen
    render(kit.base.tokenizer, [{"role": "user", "content": "x" * 6400}], max_prompt_tokens=200)
    assert seen  # control


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", "junk"),
        ("config.json", "{"),
        ("config.json", '{"model_type": "no-such-family"}'),
        ("tokenizer.json", "{}"),
    ],
)
def test_a_broken_checkpoint_is_refused(tmp_path, file: str, content: str) -> None:
    """Junk in any file of a model comes out as a ModelError that names the folder."""
    saved(tmp_path, network("llama", 0), tokenizer())
    (tmp_path / file).write_text(content)
    with pytest.raises(ModelError, match="isn't a model that can be loaded"):
        load_causal(tmp_path, "cpu")


@pytest.mark.parametrize("longest", ["2048", [2048], {"tokens": 2048}])
def test_a_length_that_is_no_number_is_refused(tmp_path, longest: object) -> None:
    """The tokenizer would compare it with every prompt's length; a number, or none at all, is right."""
    saved(tmp_path, network("llama", 0), tokenizer())
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"model_max_length": longest}))
    with pytest.raises(ModelError, match=r"says model_max_length .*; expected a number of tokens; mend it"):
        load_causal(tmp_path, "cpu")
    for usual in (2048, 1e30, None):
        path.write_text(json.dumps(config | {"model_max_length": usual}))
        assert render(load_causal(tmp_path, "cpu").tokenizer, talk("sat")[0])


def test_weights_of_another_size_are_refused(tmp_path) -> None:
    """A config that doesn't describe its weights isn't patched up."""
    saved(tmp_path, network("llama", 0), tokenizer())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    with pytest.raises(ModelError):
        load_causal(tmp_path, "cpu")
