"""The bundled folder: small enough, loadable by anyone's tools, and open about where it comes from."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from personalign.basis import Basis
from personalign.bundled import TINY
from personalign.decode import load_causal

MAX_BYTES = 16_000_000
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}
CARDS = ["base", "small", "basis", "experts/hotels"]


def files() -> list[Path]:
    return [path for path in TINY.rglob("*") if path.is_file()]


def test_everything_together_is_small() -> None:
    assert sum(path.stat().st_size for path in files()) <= MAX_BYTES


def test_nothing_is_a_pickle() -> None:
    """By name and by content: all weights are half-precision or plain safetensors."""
    assert not [path for path in files() if path.suffix in PICKLES]
    assert not [path for path in files() if path.read_bytes()[:2] in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05")]
    weights = [path for path in files() if path.suffix == ".safetensors"]
    assert len(weights) == len(CARDS)
    assert all(load_file(path) for path in weights)


@pytest.mark.parametrize(("name", "millions"), [("base", (4, 6)), ("small", (0.8, 2))])
def test_the_models_load_with_transformers_alone(name: str, millions: tuple[float, float]) -> None:
    """Of the sizes promised, stored in half precision, made for contexts of 1,024; and they answer."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(TINY / name), AutoTokenizer.from_pretrained(TINY / name)
    assert millions[0] < sum(p.numel() for p in model.parameters()) / 1e6 < millions[1]
    assert {value.dtype for value in load_file(TINY / name / "model.safetensors").values()} == {torch.float16}
    assert model.config.max_position_embeddings >= 1024
    assert model.config.vocab_size == len(tokenizer) == 4096
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "I'd like to rent a car."}], add_generation_prompt=True, return_tensors="pt"
    )
    reply = model.float().generate(**prompt, max_new_tokens=40)[0, prompt["input_ids"].shape[1] :]
    assert reply[-1] == tokenizer.eos_token_id
    assert len(tokenizer.decode(reply, skip_special_tokens=True).split()) >= 3


def test_the_expert_loads_with_peft_alone() -> None:
    """On small, of which it is an adapter; it moves the logits."""
    small = AutoModelForCausalLM.from_pretrained(TINY / "small", dtype=torch.float32)
    ids = torch.arange(6, 40)[None]
    with torch.no_grad():
        before = small(input_ids=ids).logits
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft remarks on tied embeddings
            expert = PeftModel.from_pretrained(small, TINY / "experts" / "hotels")
        assert (expert(input_ids=ids).logits - before).abs().max() > 0.1


def test_no_path_of_the_machine_that_made_it_is_shipped() -> None:
    assert not [path for path in files() if path.suffix == ".json" and '": "/' in path.read_text(encoding="utf-8")]


def test_the_basis_is_the_bases() -> None:
    """It loads, knows the bundled base, and has as many axes and questions as were promised."""
    basis = Basis.load(TINY / "basis")
    basis.check_model(load_causal(TINY / "base", "cpu").fingerprints)
    assert basis.num_axes >= 12
    assert len(basis.bank) >= 300
    assert basis.head is not None
    assert len({q.id for q in basis.bank}) == len(basis.bank)


@pytest.mark.parametrize("name", CARDS)
def test_every_card_says_licence_sources_and_data(name: str) -> None:
    card = (TINY / name / "README.md").read_text(encoding="utf-8")
    for said in ("CC BY-SA 4.0", "Schema-Guided Dialogue", "google-research-datasets", "self_dialogue", "BSD-3-Clause"):
        assert said in card
    assert "lab.zoo.train" in card  # the command that made it
    link = re.search(r"[./]*LICENSE", card)
    assert link is not None
    assert (TINY / name / link[0]).resolve() == (TINY / "LICENSE").resolve()


def test_the_licence_is_there() -> None:
    licence = (TINY / "LICENSE").read_text(encoding="utf-8")
    for said in ("Attribution-ShareAlike 4.0", "Rastogi", "Fainberg", "Changes:"):
        assert said in licence
