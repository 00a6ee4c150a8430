"""Adapters: which are read, what is refused before anything is attached, and what a model is like afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor

from personalign.decode import lora as module
from personalign.decode.engine import generate
from personalign.decode.experts import Expert, load_expert, load_experts
from personalign.decode.load import CausalModel, load_causal
from personalign.decode.request import Request
from personalign.errors import ModelError
from personalign.options import Options
from tests.decode.tiny_models import Kit, bits, network, talk

IDS = torch.tensor([[5, 6, 7, 8]])
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
HOSTILE = r"((\w|\.)+)+!"  # a pattern that never ends

Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def good(kit: Kit) -> Expert:
    """An adapter on a small model that no other test shares; what is refused has to leave both as they are."""
    (expert,) = load_experts([kit.folder / "hotels"], kit.folder / "small").values()
    return expert


def logits(causal: CausalModel, expert: Expert | None = None) -> Tensor:
    with torch.no_grad():
        if expert is None or expert.peft is None:
            return causal.model(input_ids=IDS).logits
        return expert.peft(input_ids=IDS, adapter_names=[expert.name]).logits


def refused(folder: Path, good: Expert, complaint: str) -> None:
    """Refuse a folder beside another adapter and as the first one, and leave every weight and every logit alone."""
    fresh = load_causal(good.anti.name, "cpu")
    for small, neighbour in ((good.anti, good), (fresh, None)):
        names, plain, tuned = list(small.model.state_dict()), logits(small), logits(small, neighbour)
        with pytest.raises(ModelError, match=complaint):
            load_expert(folder, small, neighbour)
        assert list(small.model.state_dict()) == names
        assert torch.equal(bits(logits(small)), bits(plain))
        assert torch.equal(bits(logits(small, neighbour)), bits(tuned))
    assert not any(isinstance(layer, LoraLayer) for layer in fresh.model.modules())
    assert good.peft is not None
    assert list(good.peft.peft_config) == [good.name]


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"modules_to_save": ["lm_head"]}, "sets modules_to_save"),
    ({"modules_to_save": ["norm"]}, "sets modules_to_save"),
    ({"trainable_token_indices": {"embed_tokens": [5, 6]}}, "sets trainable_token_indices"),
    ({"layer_replication": [[0, 2], [1, 2]]}, "sets layer_replication"),
    ({"target_parameters": ["mlp.up_proj.weight"]}, "sets target_parameters"),
    ({"use_dora": True}, "sets use_dora"),
    ({"use_qalora": True}, "sets use_qalora"),
    ({"alora_invocation_tokens": [5]}, "sets alora_invocation_tokens"),
    ({"arrow_config": {"top_k": 1}}, "sets arrow_config"),
    ({"a_kind_that_comes_later": 1}, "sets a_kind_that_comes_later"),
    *(
        ({"init_lora_weights": kind}, "path_initial_model_for_weight_conversion")
        for kind in ("pissa", "pissa_niter_1000000", "olora", "corda", "loftq", "eva", "lora_ga")
    ),
    ({"init_lora_weights": 7}, "init_lora_weights"),
    ({"target_modules": HOSTILE}, "target_modules: "),
    ({"target_modules": "all-linear"}, "target_modules: "),
    ({"target_modules": [HOSTILE]}, "target_modules, 0: "),
    ({"target_modules": []}, "target_modules: "),
    ({"target_modules": ["no_such_layer"]}, "doesn't fit"),
    ({"target_modules": None}, "target_modules: "),
    ({"exclude_modules": HOSTILE}, "exclude_modules: "),
    ({"rank_pattern": {HOSTILE: 2}}, "rank_pattern"),
    ({"alpha_pattern": {HOSTILE: 2}}, "alpha_pattern"),
    ({"layers_to_transform": [0], "layers_pattern": HOSTILE}, "layers_pattern"),
    ({"r": 10**9}, r"r: .*\(found 1000000000\)"),
    ({"r": 0}, r"r: .*\(found 0\)"),
    ({"r": True}, r"r: .*\(found True\)"),
    ({"r": "4"}, r"r: .*\(found '4'\)"),
    ({"r": 8}, "lora_A"),
    ({"lora_alpha": float("nan")}, "lora_alpha: "),
    ({"lora_alpha": None}, "lora_alpha: "),
    ({"lora_dropout": 2}, "lora_dropout: "),
    ({"peft_type": "IA3"}, r"peft_type: .*\(found 'IA3'\)"),
    ({"task_type": "SEQ_CLS"}, r"task_type: .*\(found 'SEQ_CLS'\)"),
    ({"bias": "some"}, "bias: "),
]


@pytest.mark.parametrize(("change", "complaint"), CONFIGS)
def test_a_configuration_that_cannot_be_served_is_refused(
    kit: Kit, good: Expert, tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    """Only plain LoRAs with plain names get as far as PEFT; everything else leaves the models as they were."""
    folder = shutil.copytree(kit.folder / "empty", tmp_path / "other")
    config = json.loads((folder / CONFIG).read_text()) | change
    (folder / CONFIG).write_text(json.dumps(config))
    refused(folder, good, complaint)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"r": 1' + "0" * 5000 + "}", "\udcff"])
def test_a_configuration_that_is_no_json_object_is_refused(kit: Kit, good: Expert, tmp_path: Path, text: str) -> None:
    """Whatever stands in the file."""
    folder = shutil.copytree(kit.folder / "empty", tmp_path / "other")
    (folder / CONFIG).write_bytes(text.encode(errors="surrogateescape"))
    refused(folder, good, r"adapter_config\.json: ")


def first(change: Callable[[Tensor], Tensor]) -> Callable[[Weights], Weights]:
    """Change one weight of an adapter."""
    return lambda weights: weights | {(name := min(weights)): change(weights[name]).contiguous()}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda weights: dict(list(weights.items())[1:]), "lacks the weight"),
        (lambda weights: dict(list(weights.items())[::2]), "lacks the weight"),
        (lambda _: {}, "lacks the weight"),
        (lambda weights: {f"x.{name}": value for name, value in weights.items()}, "lacks the weight"),
        (lambda weights: weights | {"base_model.model.x.lora_A.weight": torch.zeros(4, 4)}, "holds the unknown weight"),
        (lambda weights: weights | {"base_model.model.lm_head.weight": torch.zeros(128, 32)}, "isn't the model's own"),
        (lambda weights: weights | {"unheard_of": torch.zeros(1)}, "isn't the model's own weight"),
        (first(lambda value: value[:, :1]), "expected \\["),
        (first(lambda value: value[None]), "expected \\["),
        (first(lambda value: value.to(torch.int64)), "is I64"),
        (first(lambda value: value.bool()), "is BOOL"),
        (first(lambda value: value.to(torch.float8_e4m3fn)), "is F8_E4M3"),
        (first(lambda value: value * torch.nan), "holds NaN or Inf"),
        (first(lambda value: value + torch.inf), "holds NaN or Inf"),
    ],
)
def test_weights_that_are_not_those_of_the_configuration_are_refused(
    kit: Kit, good: Expert, tmp_path: Path, change: Callable[[Weights], Weights], complaint: str
) -> None:
    """Missing, unknown, misshapen, of another type, or not finite: never loaded as an adapter without effect."""
    folder = shutil.copytree(kit.folder / "hotels", tmp_path / "other")
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})
    refused(folder, good, complaint)


@pytest.mark.parametrize("name", ["__base__", "hotels.v2", "keys", "training", "lora_A", "lora", "a b", "hotels"])
def test_a_folder_whose_name_means_something_to_peft_is_refused(
    kit: Kit, good: Expert, tmp_path: Path, name: str
) -> None:
    """Its own word for "no adapter", a name with a dot, an attribute of its modules, and a name that is taken."""
    folder = shutil.copytree(kit.folder / "empty", tmp_path / name)
    if name != "hotels":
        return refused(folder, good, "rename the folder")
    with pytest.raises(ModelError, match="already carries an adapter called 'hotels'"):
        return load_expert(folder, good.anti, good)


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_an_untrained_adapter_of_another_start_is_refused(kit: Kit, good: Expert, tmp_path: Path, kind: str) -> None:
    """As PEFT saves it; the same adapter with a plain start loads, and moves no logit of the untuned model."""
    for start in (kind, True):
        config = LoraConfig(r=4, target_modules=["c_attn", "q_proj"], init_lora_weights=start, task_type="CAUSAL_LM")
        module.with_lora(network(kit.family, 1), config).save_pretrained(tmp_path / "other")
        (tmp_path / "other" / "expert.json").write_text('{"alpha": 1}')
        if start == kind:
            refused(tmp_path / "other", good, f"init_lora_weights to '{kind}")
    plain = logits(load_causal(kit.folder / "small", "cpu"))
    small = load_causal(kit.folder / "small", "cpu")
    assert load_expert(tmp_path / "other", small).changes_nothing
    assert torch.equal(bits(logits(small)), bits(plain))


@pytest.mark.parametrize(
    "options",
    [
        {"rank_pattern": {"LAYER": 2}, "alpha_pattern": {"LAYER": 3}},
        {"use_rslora": True},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal"},
        {"layers_to_transform": [0]},
        {"target_modules": ["embed_tokens", "lm_head", "wte"]},  # PEFT saves the embeddings, too
    ],
)
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_plain_adapters_of_all_kinds_say_what_peft_says(kit: Kit, tmp_path: Path, options: dict[str, Any]) -> None:
    """The control of the refusals: these load, and their logits are PEFT's own."""
    torch.manual_seed(0)
    layer = "q_proj" if kit.family == "llama" else "c_attn"
    usual = {"r": 4, "target_modules": ["v_proj", "LAYER"], "task_type": "CAUSAL_LM"} | options
    config = LoraConfig(**json.loads(json.dumps(usual).replace("LAYER", layer)))
    adapted = module.with_lora(network(kit.family, 1), config).eval()
    for name, value in adapted.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(value, std=0.3)
    adapted.save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "expert.json").write_text('{"alpha": 1}')
    small = load_causal(kit.folder / "small", "cpu")
    expert = load_expert(tmp_path / "other", small)
    with torch.no_grad():
        torch.testing.assert_close(logits(small, expert), adapted(input_ids=IDS).logits, atol=1e-4, rtol=1e-4)
    assert (logits(small, expert) - logits(small)).abs().max() > 1e-2


@pytest.mark.parametrize("step", ["set_peft_model_state_dict", "get_peft_model"])
def test_what_fails_while_it_is_attached_is_taken_off_again(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whatever PEFT raises half-way, the small model is as it was, and a good adapter finds it free."""
    small = load_causal(kit.folder / "small", "cpu")
    plain, names = logits(small), list(small.model.state_dict())
    works = getattr(module, step)

    def fail(*args: Any, **kwargs: Any) -> None:
        if args[0] is small.model or getattr(args[0], "base_model", None) is not None:
            works(*args, **kwargs)
        raise AttributeError("half-way")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_expected_shapes", lambda *_: {n: list(v.shape) for n, v in weights.items()})
        weights = load_file(kit.folder / "hotels" / WEIGHTS)
        patch.setattr(module, step, fail)
        with pytest.raises(ModelError, match=r"can't be served \(half-way\)"):
            load_expert(kit.folder / "hotels", small)
    assert list(small.model.state_dict()) == names
    assert torch.equal(bits(logits(small)), bits(plain))
    hotels = load_expert(kit.folder / "hotels", small)
    request = Request(talk("hello")[0], Options(6, expert="hotels", alpha=1.0))
    expected = generate(kit.models(), [request])
    assert generate(kit.models(experts={"hotels": hotels}), [request])[0].ids == expected[0].ids


def test_an_untuned_model_that_moves_is_found_out(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last look: were the model under an adapter altered all the same, the adapter would be refused."""
    small = load_causal(kit.folder / "small", "cpu")
    works = module.set_peft_model_state_dict

    def alter(*args: Any, **kwargs: Any) -> None:
        works(*args, **kwargs)
        small.output_embedding.add_(0.1)

    monkeypatch.setattr(module, "set_peft_model_state_dict", alter)
    with pytest.raises(ModelError, match="untuned model gives other logits"):
        load_expert(kit.folder / "hotels", small)
