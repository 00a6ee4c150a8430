"""Reward models: what they say of a prefix, where they come from, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DynamicCache,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

from personalign.basis import Basis, Learnt
from personalign.decode.cache import cache_argument
from personalign.decode.lora import WEIGHTS as ADAPTER
from personalign.decode.reward_model import (
    HEAD,
    MANIFEST,
    RewardModel,
    axis_measures,
    load_reward,
    load_reward_beside,
    matched,
)
from personalign.errors import ModelError
from personalign.train.reward.pairs import Pair
from personalign.train.reward.train import RewardRecipe, save_reward, train_reward
from personalign.types import Axis, Fingerprints, Gaussian, Noise, Steering
from tests.decode.tiny_models import H, Kit, V, bits, network, save_adapter, saved, talk, tokenizer

D = 3
FAMILIES = ["llama", "qwen2", "gpt2"]
ROPE = {
    "vocab_size": V, "hidden_size": H, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip
IDS = torch.arange(5, 29).reshape(2, 12)


def classifier(family: str, num_labels: int = D, **changes):
    torch.manual_seed(0)
    if family == "llama":
        return LlamaForSequenceClassification(LlamaConfig(**ROPE, num_labels=num_labels, **changes)).eval()
    if family == "qwen2":
        return Qwen2ForSequenceClassification(Qwen2Config(**ROPE, num_labels=num_labels, **changes)).eval()
    config = GPT2Config(
        vocab_size=V, n_embd=H, n_layer=2, n_head=4, n_positions=256, pad_token_id=0, initializer_range=0.3,
        num_labels=num_labels,
    )  # fmt: skip
    return GPT2ForSequenceClassification(config).eval()


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sequence classifier on disk."""
    return saved(tmp_path_factory.mktemp(request.param), classifier(request.param), tokenizer())


@pytest.fixture(scope="module")
def reward(folder: Path) -> RewardModel:
    return load_reward(folder, "cpu")


@pytest.fixture(scope="module")
def tuned(kit: Kit) -> Path:
    """A LoRA's folder beside its base."""
    pairs = [Pair(tuple(messages), "the cat", "the hat", (1.0, 0.0)) for messages in talk("mat", "sat", "at")]
    trained = train_reward(kit.base, pairs, RewardRecipe(rank=2, epochs=1, learning_rate=1e-2), ("warmth", "length"))
    save_reward(trained, kit.folder / "reward", "Three pairs.", "CC0")
    return kit.folder / "reward"


def everywhere(reward: RewardModel, ids: torch.Tensor) -> torch.Tensor:
    return reward.rewards(ids, torch.ones_like(ids))


def test_a_classifiers_own_logits_are_the_rewards_at_the_last_position(folder: Path, reward: RewardModel) -> None:
    """Whatever transformers says of a padded batch, we say at each row's last token, and more."""
    family = json.loads((folder / "config.json").read_text())["model_type"]
    ids, mask = IDS.clone(), torch.ones_like(IDS)
    ids[1, 7:], mask[1, 7:] = 0, 0
    with torch.no_grad():
        theirs = classifier(family)(input_ids=ids, attention_mask=mask).logits
    ours = reward.rewards(ids, mask)
    assert ours.shape == (2, 12, D)
    torch.testing.assert_close(torch.stack([ours[0, 11], ours[1, 6]]), theirs, atol=1e-5, rtol=0)
    assert (ours[0, 10] - theirs[0]).abs().max() > 1e-2  # control: elsewhere it says something else


def test_a_prefixs_reward_does_not_depend_on_what_comes_later(reward: RewardModel) -> None:
    """Other later tokens leave every bit of the earlier rewards, and cutting them off leaves 1e-5."""
    later = IDS.clone()
    later[:, 6:] = 99
    assert torch.equal(bits(everywhere(reward, IDS)[:, :6]), bits(everywhere(reward, later)[:, :6]))
    torch.testing.assert_close(everywhere(reward, IDS[:, :6]), everywhere(reward, IDS)[:, :6], atol=1e-5, rtol=0)
    earlier = IDS.clone()
    earlier[:, 0] = 99
    moved = (everywhere(reward, IDS) - everywhere(reward, earlier)).abs().amax((0, 2))
    assert moved.min() > 1e-4  # control: an earlier token moves every later reward


def test_padding_on_the_left_changes_nothing(reward: RewardModel) -> None:
    """Positions count from the first token, wherever it stands."""
    ids = torch.nn.functional.pad(IDS, (3, 0), value=7)
    mask = torch.nn.functional.pad(torch.ones_like(IDS), (3, 0))
    torch.testing.assert_close(reward.rewards(ids, mask)[:, 3:], everywhere(reward, IDS), atol=1e-5, rtol=0)
    assert (everywhere(reward, ids)[:, 3:] - everywhere(reward, IDS)).abs().max() > 1e-2  # control: without the mask


def test_siblings_over_one_cached_prefix_are_scored_as_if_each_were_alone(reward: RewardModel) -> None:
    """The backbone takes a cache, positions and a mask of the caller's: prefix and itself for each candidate."""
    prefix, candidates = IDS[:1, :6], torch.tensor([[40, 41, 42, 43]])
    cache = DynamicCache(config=reward.backbone.config)
    alone = torch.cat([prefix.repeat(4, 1), candidates.T], 1)
    wanted = everywhere(reward, alone)[:, -1]
    sees = torch.cat([torch.ones(4, 6, dtype=torch.bool), torch.eye(4, dtype=torch.bool)], 1)
    with torch.no_grad():
        reward.backbone(input_ids=prefix, use_cache=True, **{cache_argument(reward.backbone): cache})
        output = reward.backbone(
            input_ids=candidates,
            position_ids=torch.full((1, 4), 6),
            attention_mask=torch.zeros(1, 1, 4, 10).masked_fill(~sees, torch.finfo(torch.float32).min),
            use_cache=True,
            **{cache_argument(reward.backbone): cache},
        )
    torch.testing.assert_close(reward.score(output.last_hidden_state)[0], wanted, atol=1e-5, rtol=0)
    assert (wanted[0] - wanted[1]).abs().max() > 1e-2  # control: the candidates differ


def test_a_reward_model_is_frozen_and_has_no_output_layer(reward: RewardModel) -> None:
    """In float32 on a CPU, in eval mode, without gradients, and no logits are computed."""
    modules = (reward.backbone, reward.head)
    assert {value.dtype for module in modules for value in module.parameters()} == {torch.float32}
    assert not any(module.training for module in modules)
    assert not any(value.requires_grad for module in modules for value in module.parameters())
    assert not everywhere(reward, IDS).requires_grad
    assert reward.backbone.get_output_embeddings() is None
    assert (reward.num_axes, reward.hidden_size, reward.context, reward.device.type) == (D, H, 256, "cpu")


def test_the_axes_are_the_classifiers_labels(tmp_path: Path) -> None:
    """In their order, however many there are."""
    labels = {0: "helpful", 1: "kind"}
    saved(tmp_path, classifier("llama", 2, id2label=labels), tokenizer())
    assert load_reward(tmp_path, "cpu").axes == ("helpful", "kind")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": {"5": "helpful", "0": "kind"}}))
    assert load_reward(tmp_path, "cpu").axes == ("kind", "LABEL_1")


def test_a_classifier_without_a_causal_backbone_is_refused(tmp_path: Path) -> None:
    """BERT has no head over a last position, and a Llama that looks ahead is found out by looking."""
    bert = BertConfig(
        vocab_size=V, hidden_size=H, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, num_labels=1
    )
    saved(tmp_path / "bert", BertForSequenceClassification(bert), tokenizer())
    with pytest.raises(ModelError, match=r"BertForSequenceClassification, .* expected a classifier with a causal"):
        load_reward(tmp_path / "bert", "cpu")
    saved(tmp_path / "both", classifier("llama", is_causal=False), tokenizer())
    with pytest.raises(ModelError, match="looks ahead"):
        load_reward(tmp_path / "both", "cpu")


def test_what_is_no_reward_model_is_refused(kit: Kit, tmp_path: Path) -> None:
    """A language model has no rewards, and heads are never made up; other adapters and pickles aren't read."""
    with pytest.raises(ModelError, match=r"lacks 1 weights .* score"):
        load_reward(kit.folder / "base", "cpu")
    with pytest.raises(ModelError, match="no model"):
        load_reward(tmp_path / "missing" / "folder", "cpu")
    with pytest.raises(ModelError, match=r"adapter without reward\.json"):
        load_reward(save_adapter(tmp_path / "adapter", network(kit.family, 1), 0), "cpu")
    saved(tmp_path / "pickled", classifier("llama"), tokenizer())
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load_reward(tmp_path / "pickled", "cpu")


def test_a_lora_finds_its_base_beside_it_or_where_it_is_told(kit: Kit, tuned: Path, tmp_path: Path) -> None:
    """Moved away from its base it says what it needs."""
    beside = load_reward(tuned, "cpu")
    assert beside.axes == ("warmth", "length")
    moved = shutil.copytree(tuned, tmp_path / "elsewhere" / "reward")
    told = load_reward(moved, "cpu", base=kit.folder / "base")
    assert torch.equal(bits(everywhere(told, IDS)), bits(everywhere(beside, IDS)))
    with pytest.raises(ModelError, match="pass it as base="):
        load_reward(moved, "cpu")


def test_a_lora_of_another_base_is_refused(kit: Kit, tuned: Path) -> None:
    """The same shapes with other weights are another model."""
    with pytest.raises(ModelError, match="trained on another model"):
        load_reward(tuned, "cpu", base=kit.folder / "whole")


def test_a_lora_may_be_loaded_twice(tuned: Path) -> None:
    """Each has a models of its own, and merging one moves no other."""
    first = load_reward(tuned, "cpu")
    before = everywhere(first, IDS)
    second = load_reward(tuned, "cpu")
    assert torch.equal(bits(everywhere(first, IDS)), bits(before))
    assert torch.equal(bits(everywhere(second, IDS)), bits(before))
    assert first.backbone is not second.backbone


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        (MANIFEST, "{", r"reward\.json: Invalid JSON"),
        (MANIFEST, "[" * 100_000, r"reward\.json: Invalid JSON"),
        (MANIFEST, '{"base": "base", "axes": ["warmth"]}', r"reward\.json, trained_on: "),
        (MANIFEST, '{"base": 5, "axes": {}}', r"reward\.json, base: "),
        (HEAD, None, r"reward\.safetensors can't be read"),
        (HEAD, "junk", r"reward\.safetensors can't be read"),
        (ADAPTER, None, r"lacks adapter_model\.safetensors"),
        (ADAPTER, "junk", r"adapter_model\.safetensors can't be read"),
        ("adapter_config.json", None, r"adapter_config\.json can't be read"),
        ("adapter_config.json", "{}", r"adapter_config\.json, peft_type: "),
    ],
)
def test_a_broken_folder_is_refused(
    kit: Kit, tuned: Path, tmp_path: Path, file: str, content: str | None, complaint: str
) -> None:
    """Each file that is missing or malformed is named."""
    folder = shutil.copytree(tuned, tmp_path / "reward")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(ModelError, match=complaint):
        load_reward(folder, "cpu", base=kit.folder / "base")


@pytest.mark.parametrize(
    ("file", "change", "complaint"),
    [
        (HEAD, lambda tensors: tensors | {"weight": tensors["weight"][:1]}, "holds"),
        (HEAD, lambda tensors: tensors | {"bias": tensors["bias"] * torch.nan}, "finite numbers"),
        (HEAD, lambda tensors: tensors | {"bias": tensors["bias"].long()}, "finite numbers"),
        (ADAPTER, lambda tensors: dict(list(tensors.items())[1:]), "lacks the weight"),
        (ADAPTER, lambda tensors: {name: value[:, :1] for name, value in tensors.items()}, "doesn't fit"),
        (ADAPTER, lambda tensors: {name: value * torch.nan for name, value in tensors.items()}, "holds NaN or Inf"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    kit: Kit, tuned: Path, tmp_path: Path, file: str, change, complaint: str
) -> None:
    """Wrong shapes, missing layers and NaN never become a reward."""
    folder = shutil.copytree(tuned, tmp_path / "reward")
    save_file({name: value.contiguous() for name, value in change(load_file(folder / file)).items()}, folder / file)
    with pytest.raises(ModelError, match=complaint):
        load_reward(folder, "cpu", base=kit.folder / "base")


def basis(*names: str, learnt: np.ndarray | None = None, scale: float = 1.0) -> Basis:
    """A basis of axes by these names; the last ones are projected, where there is a projection."""
    d = len(names)
    return Basis(
        model="it",
        fingerprints=Fingerprints("tokens", "weights"),
        axes=tuple(Axis(name, "about", "less", "more") for name in names),
        center=np.arange(d, dtype=float),
        scale=np.full(d, scale),
        prior=Gaussian(np.zeros(d), np.eye(d)),
        noise=Noise(),
        reference=np.ones((1, d)),
        steering=Steering(1.0, 1.0, 10),
        learnt=None if learnt is None else Learnt(learnt, "hidden"),
    )


def of_basis(reward: RewardModel, made_for: Basis) -> RewardModel:
    """The same reward model, trained on the axes of a basis."""
    return replace(reward, axes=tuple(axis.name for axis in made_for.axes), measures=axis_measures(made_for))


def test_rewards_come_in_the_order_of_the_basis(reward: RewardModel) -> None:
    """The same axes in another order are put right, and a person's weights meet the rewards they were learnt for."""
    own = basis("warmth", "length", "lists")
    trained = of_basis(reward, own)
    assert torch.equal(bits(everywhere(matched(trained, own), IDS)), bits(everywhere(reward, IDS)))
    turned = replace(own, axes=own.axes[::-1], center=own.center[::-1], scale=own.scale[::-1])
    found = matched(trained, turned)
    assert found.axes == ("lists", "length", "warmth")
    assert found.measures == axis_measures(turned)
    torch.testing.assert_close(everywhere(found, IDS), everywhere(reward, IDS).flip(-1), atol=1e-5, rtol=0)
    by_name = matched(replace(reward, axes=("lists", "length", "warmth")), own)  # a classifier, by its labels
    torch.testing.assert_close(everywhere(by_name, IDS), everywhere(reward, IDS).flip(-1), atol=1e-5, rtol=0)


PROJECTION = np.arange(8.0).reshape(4, 2)
LEARNT = basis("warmth", "learnt_1", "learnt_2", learnt=PROJECTION)
OTHERS = {
    "another scale": (basis("warmth", "length", "lists"), basis("warmth", "length", "lists", scale=2.0)),
    "another axis": (basis("warmth", "length", "lists"), basis("warmth", "length", "opening")),
    "more axes": (basis("warmth", "length", "lists"), basis("warmth", "length", "lists", "opening")),
    "another projection": (LEARNT, basis("warmth", "learnt_1", "learnt_2", learnt=PROJECTION + 1)),
    "another embedder": (LEARNT, replace(LEARNT, learnt=Learnt(PROJECTION, "encoder:owner/name"))),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_reward_model_of_another_basis_is_refused(reward: RewardModel, case: str) -> None:
    """Equal names and widths aren't enough: learnt_1 means something else in every basis."""
    made_for, other = OTHERS[case]
    trained = of_basis(reward, made_for)
    assert matched(trained, made_for).measures == axis_measures(made_for)
    with pytest.raises(ModelError, match="personalign basis fit LOG --backbone --basis"):
        matched(trained, other)


@pytest.mark.parametrize("served", [basis("warmth", "length", "lists"), LEARNT])
def test_a_classifier_of_some_labels_is_refused(reward: RewardModel, served: Basis) -> None:
    """As many labels as axes say nothing, and the names of learnt axes say nothing either."""
    names = tuple(axis.name for axis in served.axes) if served.learnt else reward.axes
    with pytest.raises(ModelError, match="personalign basis fit LOG --backbone --basis"):
        matched(replace(reward, axes=names), served)


def test_a_folder_that_names_no_basis_is_not_matched_by_names(kit: Kit, tuned: Path) -> None:
    """Axes of the same names may be standardised in another way, and nothing in the folder says how these were."""
    load_reward_beside(str(tuned), str(kit.folder / "base"), "cpu")  # control: by itself it can be read
    with pytest.raises(ModelError, match="doesn't say which basis it was trained for") as caught:
        load_reward_beside(str(tuned), str(kit.folder / "base"), "cpu", basis("warmth", "length"))
    assert "personalign basis fit LOG --backbone --basis" in str(caught.value)


def test_one_reward_is_everyones_with_any_basis(tmp_path: Path) -> None:
    """It isn't weighed by a person's axes."""
    saved(tmp_path, classifier("llama", 1), tokenizer())
    reward = load_reward(tmp_path, "cpu")
    assert matched(reward, LEARNT) is reward


def test_a_folder_says_which_basis_it_was_trained_for(kit: Kit, tmp_path: Path) -> None:
    """The manifest keeps the basis's id and what each axis measures; loaded for another one it is refused."""
    own = basis("warmth", "length")
    pairs = [Pair(tuple(messages), "the cat", "the hat", (1.0, 0.0)) for messages in talk("mat", "sat", "at")]
    trained = train_reward(kit.base, pairs, RewardRecipe(rank=2, epochs=1), ("warmth", "length"))
    save_reward(trained, tmp_path / "reward", "Three pairs.", "CC0", basis=own)
    manifest = json.loads((tmp_path / "reward" / MANIFEST).read_text())
    assert manifest["basis"] == {
        "id": own.id,
        "measures": dict(zip(("warmth", "length"), axis_measures(own), strict=True)),
    }
    loaded = load_reward_beside(str(tmp_path / "reward"), str(kit.folder / "base"), "cpu", own)
    assert loaded.measures == axis_measures(own)
    with pytest.raises(ModelError, match="which this basis doesn't have, or measures in another way"):
        load_reward_beside(
            str(tmp_path / "reward"), str(kit.folder / "base"), "cpu", basis("warmth", "length", scale=2.0)
        )
    for change in ({"measures": {"warmth": "x"}}, {"id": 5}):
        (tmp_path / "reward" / MANIFEST).write_text(json.dumps(manifest | {"basis": manifest["basis"] | change}))
        with pytest.raises(ModelError, match="train the reward model again"):
            load_reward(tmp_path / "reward", "cpu", base=kit.folder / "base")
