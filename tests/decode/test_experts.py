"""Experts: what may be mixed, and what mixing does."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from personalign.decode.chain import mix
from personalign.decode.engine import generate
from personalign.decode.experts import Expert, load_expert, load_experts
from personalign.decode.lane import forward
from personalign.decode.load import load_causal
from personalign.decode.models import check_vocabulary
from personalign.decode.request import Request
from personalign.errors import MessageError, ModelError
from personalign.options import Options
from personalign.types import Guidance
from tests.decode.serving import Caller, Desk
from tests.decode.tiny_models import Kit, bits, network, save_adapter, saved, talk, tokenizer


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
    with pytest.raises(ModelError, match="two experts are called 'whole'"):
        load_experts([kit.folder / "whole", kit.folder / "whole"], kit.folder / "small")


def test_a_second_adapter_of_a_name_leaves_the_first_as_it_was(kit: Kit, tmp_path) -> None:
    """It is refused, even from another folder: its weights would be written over those of the first."""
    (hotels,) = load_experts([kit.folder / "hotels"], kit.folder / "small").values()
    assert not hotels.changes_nothing
    shutil.copytree(kit.folder / "empty", tmp_path / "hotels")
    with pytest.raises(ModelError, match="called 'hotels'; rename one of the folders"):
        load_expert(tmp_path / "hotels", hotels.anti, neighbour=hotels)
    assert not hotels.changes_nothing


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


def test_a_model_on_another_device_is_refused(kit: Kit) -> None:
    """The step would fail half way otherwise."""
    away = load_causal(kit.folder / "small", "cpu")
    away.model.to("meta")
    with pytest.raises(ModelError, match=r"is on meta, .* on cpu; expected one device"):
        kit.models(experts={"away": Expert("away", 1.0, kit.experts["whole"].anti, tuned=away)})


def test_a_prompt_has_to_fit_into_both_models(kit: Kit) -> None:
    """An expert of its own weights may have a shorter context than the anti-expert."""
    whole = load_expert(kit.folder / "whole", load_causal(kit.folder / "small", "cpu"))
    whole.tuned.model.config.max_position_embeddings = 40
    assert whole.context == 40
    models, short, long = kit.models(experts={"whole": whole}), *talk("hello", "Q" * 30)
    generate(models, [Request(short, Options(4, expert="whole"))])
    with pytest.raises(MessageError, match="at most 36 fit"):
        generate(models, [Request(long, Options(4, expert="whole"))])


def test_what_others_write_is_not_read_by_an_expert(kit: Kit) -> None:
    """Its lanes run over their rows, too, but a token of base's padded tail is none that a small model has."""
    models = kit.models(base=load_causal(kit.folder / "padded", "cpu"))
    known = dict.fromkeys(range(kit.base.num_tokens), -100.0)
    stacked, other = Request(talk("hello")[0], Options(6, expert="hotels")), Request(talk("the cat")[0], Options(6))
    alone, _ = generate(models, [stacked, other])
    beside, foreign = generate(models, [stacked, replace(other, options=Options(6, logit_bias=known))])
    assert max(foreign.ids) >= kit.base.num_tokens
    assert beside.ids == alone.ids


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("expert.json", None, "expert.json can't be read"),
        ("expert.json", "{}", "expected .*alpha"),
        ("expert.json", '{"alpha": -1}', r"alpha: .*\(found -1\)"),
        ("expert.json", '{"alpha": NaN}', r"alpha: .*\(found nan\)"),
        ("adapter_model.safetensors", None, "lacks adapter_model.safetensors"),
        ("adapter_model.safetensors", "junk", "can't be read"),
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
    with pytest.raises(ModelError, match="sets use_dora"):
        load_expert(dora, kit.folder / "small")


# ---------------------------------------------------------------- while replies are written

W = np.array([1.0, -2.0, 0.5])
HELLO, CAT = talk("hello", "the cat")
PLAIN, HOTELS = Request(HELLO, Options(12), Guidance(W, 0.8)), Request(CAT, Options(12, expert="hotels"))


def _serving(kit: Kit, *names: str) -> Desk:
    """An engine whose experts, adapters of a small model of its own, come by these names."""
    experts = load_experts([kit.folder / name for name in names], load_causal(kit.folder / "small", "cpu"))
    return Desk(kit.models(experts=experts), 3, 128)


def _step_until_written(desk: Desk, caller: Caller, num_tokens: int) -> None:
    while sum(len(piece.ids) for piece in caller.pieces) < num_tokens:
        desk.engine.step()


def test_an_adapter_that_does_not_fit_leaves_the_small_model_whole(kit: Kit, tmp_path) -> None:
    """Refused as often as it is tried, by itself and beside another, and nothing of it stays."""
    small = load_causal(kit.folder / "small", "cpu")
    wide = save_adapter(tmp_path / "wide", network(kit.family, 1, hidden=64), 0)
    hotels = None
    for _ in range(2):
        for _ in range(2):
            with pytest.raises(ModelError, match="doesn't fit"):
                load_expert(wide, small, hotels)
        assert not any("wide" in name for name, _ in small.model.named_parameters())
        hotels = hotels or load_expert(kit.folder / "hotels", small)
    desk = Desk(kit.models(experts={"hotels": hotels}), 3, 128)
    assert desk.serve([HOTELS])[0].ids == Desk(kit.models(), 3, 128).serve([HOTELS])[0].ids
