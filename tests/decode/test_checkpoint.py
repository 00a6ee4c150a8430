"""Model folders with something odd in them: each is refused by an error of ours, or loads, and none hangs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaModel, PreTrainedModel

from personalign.decode.checkpoint import first_line
from personalign.decode.load import load_causal, render
from personalign.errors import MessageError, ModelError
from tests.decode.tiny_models import network, saved, talk, tokenizer


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder in which nothing is odd."""
    return saved(tmp_path_factory.mktemp("good"), network("llama", 0), tokenizer())


def test_nothing_odd_loads(good: Path) -> None:
    """The control of all that follows."""
    causal = load_causal(good, "cpu")
    assert render(causal.tokenizer, talk("hello")[0])


HUGE = "9" * 400
CONFIGS: list[dict[str, Any]] = [
    {"num_hidden_layers": 10**6},
    {"num_hidden_layers": 10**12},
    {"num_hidden_layers": -1},
    {"num_hidden_layers": "2"},
    {"num_hidden_layers": 2.5},
    {"num_hidden_layers": None},
    {"num_attention_heads": 0},
    {"num_attention_heads": 10**9},
    {"num_key_value_heads": 3},
    {"hidden_size": 10**9},
    {"hidden_size": 0},
    {"hidden_size": "wide"},
    {"head_dim": 10**9},
    {"intermediate_size": 10**12},
    {"vocab_size": 10**9},
    {"vocab_size": -5},
    {"vocab_size": 10**30},
    {"vocab_size": []},
    {"max_position_embeddings": "256"},
    {"max_position_embeddings": 0},
    {"max_position_embeddings": 2.5},
    {"max_position_embeddings": [256]},
    {"max_position_embeddings": True},
    {"model_type": ["llama"]},
    {"model_type": None},
    {"model_type": "bert"},
    {"model_type": "no-such-family"},
    {"architectures": "LlamaForCausalLM"},
    {"architectures": 5},
    {"hidden_act": "no-such-function"},
    {"hidden_act": {}},
    {"rms_norm_eps": "small"},
    {"rope_parameters": {"rope_type": "no-such-type"}},
    {"rope_parameters": 5},
    {"layer_types": ["full_attention"] * 5},
    {"torch_dtype": "float99"},
    {"dtype": {}},
    {"tie_word_embeddings": "yes"},
    {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    {"quantization_config": {"quant_method": "no-such-method"}},
    {"quantization_config": []},
    {"attn_implementation": "kernels-community/flash-attn"},
    {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}},
    {"id2label": 5},
    {"text_config": {"num_hidden_layers": 10**9}},
    {"num_local_experts": 10**9},
]


def refused_or_loaded(folder: Path) -> str:
    """What is said of a folder; a model that loads renders a conversation, or says why it doesn't."""
    try:
        causal = load_causal(folder, "cpu")
        causal.ends, causal.context, causal.num_tokens  # noqa: B018 - read as an engine does
        render(causal.tokenizer, talk("hello")[0])
    except (ModelError, MessageError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("change", CONFIGS, ids=lambda change: f"{change}"[:50])
def test_an_odd_configuration_ends_in_an_error_of_ours(good: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    """Wrong types, absurd sizes, packages that aren't there: whatever transformers makes of it, it is a ModelError."""
    folder = shutil.copytree(good, tmp_path / "odd")
    (folder / "evil.py").write_text("raise SystemExit('this ran')")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    assert len(refused_or_loaded(folder)) < 1000
    assert "this ran" not in sys.modules


FILES: list[tuple[str, str | bytes]] = [
    *(("config.json", text) for text in ("[]", "null", "5", '"x"', "{}", "", "[" * 100_000, '{"a":' * 100_000, "\0")),
    ("config.json", f'{{"model_type": "llama", "hidden_size": {HUGE}}}'),
    ("config.json", b"\xff\xfe"),
    *(
        ("generation_config.json", text)
        for text in ("[]", "null", "{", '{"eos_token_id": "1"}', '{"eos_token_id": {}}')
    ),
    *(
        ("generation_config.json", f'{{"eos_token_id": {value}}}')
        for value in ('"1"', "{}", "-1", "[[1]]", "[true]", "1.5", HUGE, '["<|end|>"]', "99999999")
    ),
    *(("tokenizer.json", text) for text in ("", "[]", "null", "{}", "garbage", "[" * 100_000, '{"model": 5}', b"\xff")),
    ("tokenizer.json", '{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}'),
    ("tokenizer.json", '{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}}'),
    *(("tokenizer_config.json", text) for text in ("[]", "null", "{", '{"tokenizer_class": 5}', '{"eos_token": 5}')),
    ("tokenizer_config.json", '{"tokenizer_class": "NoSuchTokenizer"}'),
    ("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["evil.T", null]}}'),
    *(
        ("chat_template.jinja", text)
        for text in (
            "{{ 1 / 0 }}",
            "{% for %}",
            "{{ messages[99].content }}",
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "{{ 'x' * 100000000 }}",
            "{{" * 5000,
            "",
        )
    ),
    ("model.safetensors", ""),
    ("model.safetensors", b"\xff" * 100),
    ("model.safetensors", (10**15).to_bytes(8, "little") + b"{}"),
    ("model.safetensors", (2).to_bytes(8, "little") + b"{}"),
]


@pytest.mark.parametrize(("file", "content"), FILES, ids=lambda value: repr(value)[:40])
def test_an_odd_file_ends_in_an_error_of_ours(good: Path, tmp_path: Path, file: str, content: str | bytes) -> None:
    """Whatever stands in any file of a model's folder."""
    folder = shutil.copytree(good, tmp_path / "odd")
    (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refused_or_loaded(folder)
    assert len(message) < 1000
    if file in ("config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja") and content:
        assert message


def first(
    change: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """Change one weight."""
    return lambda weights: weights | {(name := max(weights)): change(weights[name])}


@pytest.mark.parametrize(
    "change",
    [
        lambda _: {},
        lambda weights: {f"x.{name}": value for name, value in weights.items()},
        first(lambda value: value.to(torch.int64)),
        first(lambda value: value.bool()),
        first(lambda value: value[:1]),
        first(lambda value: value * torch.nan),
    ],
)
def test_odd_weights_end_in_an_error_of_ours(good: Path, tmp_path: Path, change: Callable[..., Any]) -> None:
    """Missing, renamed, of another type or shape, or not finite."""
    folder = shutil.copytree(good, tmp_path / "odd")
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert len(refused_or_loaded(folder)) < 1000


@pytest.mark.parametrize(
    "name", ["x" * 10**8, "x/" * 10**6, "a\0b", "", "a\nb", "../" * 400, "owner/name/more", "~", "."]
)
def test_an_odd_name_ends_in_an_error_of_ours(name: str) -> None:
    """However long; the message is short."""
    with pytest.raises(ModelError) as caught:
        load_causal(name, "cpu")
    assert len(str(caught.value)) < 2000


def test_nothing_is_built_that_the_weights_do_not_fill(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config of a million layers is refused before a layer is made."""
    folder = shutil.copytree(good, tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text())
    built: list[bool] = []
    works = PreTrainedModel.__init__

    def watch(self: PreTrainedModel, *args: Any, **kwargs: Any) -> None:
        built.append(True)
        works(self, *args, **kwargs)

    monkeypatch.setattr(PreTrainedModel, "__init__", watch)
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**6}))
    with pytest.raises(ModelError, match="num_hidden_layers 1000000, and holds 21 weights"):
        load_causal(folder, "cpu")
    assert not built
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 10**9}))
    with pytest.raises(ModelError, match=r"describes .* numbers, and its weights are"):
        load_causal(folder, "cpu")
    load_causal(good, "cpu")
    assert built  # control


def test_a_missing_package_is_named_with_its_command(good: Path, tmp_path: Path) -> None:
    """A model that was quantised asks for what it was quantised with."""
    folder = shutil.copytree(good, tmp_path / "odd")
    config = json.loads((folder / "config.json").read_text())
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": quantised}))
    with pytest.raises(ModelError, match=r"needs a package .* install it with: pip install (accelerate|bitsandbytes)"):
        load_causal(folder, "cpu")


def test_no_bars_are_drawn_where_stderr_is_no_terminal(
    good: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading writes nothing; on a terminal it shows how far it is (the control)."""
    load_causal(good, "cpu")
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    load_causal(good, "cpu")
    assert "Loading weights" in capfd.readouterr().err


def test_a_model_that_fails_when_it_is_tried_is_refused(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its code raises at its first tokens."""

    def fail(*_: Any, **__: Any) -> None:
        raise AttributeError("half a model")

    monkeypatch.setattr(LlamaModel, "forward", fail)
    with pytest.raises(ModelError, match=r"\(AttributeError: half a model\)"):
        load_causal(good, "cpu")


def test_the_first_line_of_an_error_is_short() -> None:
    """Other libraries say much."""
    assert first_line(ValueError("x" * 1000 + "\nmore")) == "x" * 300
    assert first_line(KeyError()) == "KeyError"
