"""Experts: what may be mixed, and what mixing does."""

import json
import math
import shutil

import pytest
import torch
from tiny_models import Kit, bits, network, save_adapter, saved, tokenizer

from personalign.decode.experts import check_vocabulary, load_expert, load_experts, mix
from personalign.decode.lane import forward
from personalign.decode.load import load_causal
from personalign.errors import ModelError


def test_a_weight_of_zero_and_equal_experts_keep_every_bit() -> None:
    """−0.0 stays −0.0, and an infinite difference times zero stays out."""
    base = torch.tensor([[-0.0, 1.0, 2.0], [-0.0, 1.0, 2.0]])
    tuned = torch.tensor([[math.inf, 5.0, -math.inf], [0.3, 0.4, 0.5]])
    anti = torch.tensor([[math.inf, 0.0, 0.0], [0.3, 0.4, 0.5]])
    mixed = mix(base, tuned, anti, torch.tensor([0.0, 1.0]), 3)
    assert torch.equal(bits(mixed), bits(base))
    assert not torch.equal(bits(base + 0.0), bits(base))  # control: adding zero would have changed bits


def test_the_padded_tail_is_ruled_out_where_experts_are_mixed() -> None:
    """Rows of the output layer that are no token get −∞, but in rows without an expert they keep their bits."""
    base, small = torch.randn(2, 6), torch.randn(2, 5)
    mixed = mix(base, small, torch.zeros(2, 5), torch.tensor([0.5, 0.0]), 4)
    assert torch.allclose(mixed[0, :4], base[0, :4] + 0.5 * small[0, :4])
    assert mixed[0, 4:].tolist() == [-math.inf, -math.inf]
    assert torch.equal(bits(mixed[1]), bits(base[1]))


def test_a_small_model_stays_untuned_when_it_is_called_by_itself(kit: Kit) -> None:
    """Loading an adapter changes nothing for whoever calls the small model plainly."""
    ids = torch.tensor([[5, 6, 7, 8]])
    fresh, _ = forward(load_causal(kit.folder / "small", "cpu"), ids)
    carrying, _ = forward(kit.experts["hotels"].anti, ids)
    tuned, _ = forward(kit.experts["hotels"].anti, ids, kit.experts["hotels"].peft, adapter_names=["hotels"])
    assert torch.equal(bits(fresh), bits(carrying))
    assert (tuned - carrying).abs().max() > 1e-2  # control: the adapter does act where it is asked for


def test_several_experts_share_one_small_model(kit: Kit) -> None:
    """Adapters loaded together hang on one model, each under its folder's name and with its own α."""
    experts = load_experts([kit.folder / "hotels", kit.folder / "empty", kit.folder / "whole"], kit.folder / "small")
    assert list(experts) == ["hotels", "empty", "whole"]
    assert experts["hotels"].peft is experts["empty"].peft
    assert (experts["hotels"].alpha, experts["whole"].alpha) == (0.5, 1.0)
    with pytest.raises(ModelError, match="already carries an adapter"):
        load_expert(kit.folder / "empty", experts["hotels"].anti)
    with pytest.raises(ModelError, match="two experts are called 'hotels'"):
        load_experts([kit.folder / "hotels", kit.folder / "hotels"], kit.folder / "small")


def test_another_vocabulary_is_refused_by_its_first_token_that_differs(kit: Kit, tmp_path) -> None:
    """Mixing logits of different tokens would be nonsense; the message shows where they part."""
    saved(tmp_path, network(kit.family, 1), tokenizer(extra="ß😀日 the cat sat"))
    other = load_causal(tmp_path, "cpu")
    ours, theirs = (model.tokenizer.convert_ids_to_tokens(range(128)) for model in (kit.base, other))
    first = next(i for i in range(128) if ours[i] != theirs[i])
    with pytest.raises(ModelError, match=f"token {first} is {ours[first]!r} in .* and {theirs[first]!r}"):
        check_vocabulary(kit.base, other)


def test_a_longer_output_layer_is_welcome_and_a_shorter_one_is_not(kit: Kit, tmp_path) -> None:
    """Padded tails differ between sizes of one family; a token without a logit can't be mixed."""
    check_vocabulary(kit.base, load_causal(kit.folder / "padded", "cpu"))
    check_vocabulary(load_causal(kit.folder / "padded", "cpu"), kit.base)
    saved(tmp_path, network(kit.family, 1, vocabulary=120), tokenizer())
    with pytest.raises(ModelError, match="120 logits for 128 tokens"):
        check_vocabulary(kit.base, load_causal(tmp_path, "cpu"))


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("expert.json", None, "expert.json can't be read"),
        ("expert.json", "{}", "expected .*alpha"),
        ("expert.json", '{"alpha": -1}', "alpha -1"),
        ("expert.json", '{"alpha": NaN}', "alpha nan"),
        ("adapter_model.safetensors", None, "lacks adapter_model.safetensors"),
        ("adapter_model.safetensors", "junk", "doesn't fit"),
    ],
)
def test_a_broken_expert_folder_is_refused(kit: Kit, tmp_path, file: str, content: str | None, complaint: str) -> None:
    """Each file that is missing or malformed is named."""
    folder = shutil.copytree(kit.folder / "hotels", tmp_path / "hotels")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(ModelError, match=complaint):
        load_expert(folder, kit.folder / "small")


def test_an_adapter_of_another_size_or_kind_is_refused(kit: Kit, tmp_path) -> None:
    """An adapter must fit the small model, and be a LoRA that can share a batch."""
    wide = save_adapter(tmp_path / "wide", network(kit.family, 1, hidden=64), 0)
    with pytest.raises(ModelError, match="doesn't fit"):
        load_expert(wide, kit.folder / "small")
    dora = shutil.copytree(kit.folder / "hotels", tmp_path / "dora")
    config = json.loads((dora / "adapter_config.json").read_text())
    (dora / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(ModelError, match="isn't a plain LoRA"):
        load_expert(dora, kit.folder / "small")
