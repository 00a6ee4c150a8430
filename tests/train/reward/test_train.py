"""Reward models: they learn what was preferred and nothing else, and come back as they were saved."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from personalign.decode import load_causal
from personalign.decode.reward_model import RewardModel, load_reward
from personalign.errors import InputError, MessageError
from personalign.train.reward import train as module
from personalign.train.reward.pairs import Pair, comparison, hold_out, measure, soft_choices
from personalign.train.reward.train import RewardRecipe, TrainedReward, save_reward, train_reward
from tests.decode.tiny_models import Kit, bits, make_kit
from tests.train.talker import SUBJECTS, prompt

WORDS = ("the", "hat", "mat", "on", "sat", "and")
RECIPE = RewardRecipe(units="replies", epochs=6, learning_rate=1e-2, dev_share=0.25)
SHORT = replace(RECIPE, epochs=1)
IDS = torch.arange(5, 25)[None]


def rewards(model: RewardModel, ids: Tensor = IDS) -> Tensor:
    return model.rewards(ids, torch.ones_like(ids))


def planted(number: int = 200, seed: int = 0) -> list[Pair]:
    """Whoever answers wants the reply that begins with "cat", on whichever side it is."""
    rng = random.Random(seed)
    pairs = []
    for i in range(number):
        others = [rng.choices(WORDS, k=rng.randint(3, 7)) for _ in range(2)]
        good, bad = " ".join(["cat", *others[0]]), " ".join([rng.choice(WORDS), *others[1]])
        pair = Pair(prompt(SUBJECTS[i % len(SUBJECTS)]), good, bad)
        pairs.append(pair if rng.random() < 0.5 else Pair(pair.prompt, bad, good, (0.0,)))
    return pairs


def shuffled(pairs: list[Pair]) -> list[Pair]:
    rng = random.Random(1)
    return [replace(pair, target=(float(rng.random() < 0.5),)) for pair in pairs]


@pytest.fixture(scope="module")
def trained(kit: Kit) -> TrainedReward:
    return train_reward(kit.base, planted(), RECIPE)


def test_a_planted_preference_is_learnt(kit: Kit, trained: TrainedReward) -> None:
    """On prompts never trained on nine in ten are ordered right; answers given at random teach nothing."""
    report = trained.report
    assert report.num_train + report.num_dev == 200
    assert report.num_dev >= 40
    assert abs(report.before.replies[0] - 0.5) < 0.25
    assert report.after.replies[0] >= 0.9
    nothing = train_reward(kit.base, shuffled(planted()), RECIPE)
    assert abs(nothing.report.after.replies[0] - 0.5) < 0.25  # control


@pytest.mark.slow
def test_training_on_prefixes_orders_prefixes(kit: Kit, trained: TrainedReward) -> None:
    """The first token decides here: a reward trained on prefixes says so at once, one of whole replies in the end."""
    prefixes = train_reward(kit.base, planted(), replace(RECIPE, units="prefixes")).report.after
    assert prefixes.replies[0] >= 0.9
    assert prefixes.prefixes[0] >= 0.95
    assert trained.report.after.prefixes[0] <= 0.9  # control: it orders whole replies as well


def counted(number: int = 200) -> tuple[list[Pair], np.ndarray]:
    """Pairs that differ in how many cats and hats they have, hats known of every third one only."""
    rng = random.Random(2)
    pairs, differences = [], []
    for i in range(number):
        words = [rng.choices(["cat", "hat", "the", "sat"], k=6) for _ in range(2)]
        features = np.array([[each.count("cat"), each.count("hat")] for each in words], dtype=float)
        target = soft_choices(features[:1], features[1:])[0]
        if i % 3:
            target[1] = np.nan
        pair = Pair(prompt(SUBJECTS[i % len(SUBJECTS)]), *map(" ".join, words), tuple(target.tolist()))
        if pair.first != pair.second:
            pairs.append(pair)
            differences.append(features[0] - features[1])
    return pairs, np.array(differences)


@pytest.mark.slow
def test_axes_are_learnt_each_by_itself(kit: Kit) -> None:
    """Two features, one mostly unknown, come out as two rewards that differ between replies as the features do."""
    pairs, wanted = counted()
    found = train_reward(kit.base, pairs, replace(RECIPE, epochs=12), ("cats", "hats"))
    assert found.model.axes == ("cats", "hats")
    assert found.report.after.replies.min() > 0.8
    rows = [comparison(kit.base, pair) for pair in pairs]
    moved = [rewards(found.model, torch.tensor([row.first]))[0, -1] for row in rows]
    moved = [a - rewards(found.model, torch.tensor([row.second]))[0, -1] for a, row in zip(moved, rows, strict=True)]
    slope = np.linalg.lstsq(wanted, torch.stack(moved).numpy())[0]
    assert np.diag(slope) == pytest.approx([1, 1], abs=0.5)
    assert np.abs(slope - np.diag(np.diag(slope))).max() < 0.3  # control: each tells its own feature


def test_the_loss_is_the_likelihood_of_what_is_known() -> None:
    """Cross-entropy averaged over a pair's places, then over the pairs and axes of which something is known."""
    difference = torch.tensor([[0.5, 1.0], [-1.0, 2.0], [0.3, 0.0]])
    target, pair = torch.tensor([[1.0, 0.8], [0.2, torch.nan]]), torch.tensor([0, 0, 1])

    def entropy(x: float, p: float) -> float:
        q = 1 / (1 + np.exp(-x))
        return -(p * np.log(q) + (1 - p) * np.log(1 - q))

    places = [(entropy(0.5, 1) + entropy(-1, 1)) / 2, (entropy(1, 0.8) + entropy(2, 0.8)) / 2, entropy(0.3, 0.2)]
    assert float(module.pair_loss(difference, target, pair)) == pytest.approx(np.mean(places), rel=1e-5)
    swapped = module.pair_loss(-difference, 1 - target, pair)
    assert float(swapped) == pytest.approx(np.mean(places), rel=1e-5)
    assert float(module.pair_loss(-difference, target, pair)) != pytest.approx(np.mean(places), rel=1e-2)  # control


def test_the_base_comes_out_unharmed(kit: Kit, trained: TrainedReward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every logit keeps its bits; without a copy of its own the reward model would have changed them."""

    def logits(base: torch.nn.Module) -> Tensor:
        with torch.no_grad():
            return base(input_ids=IDS).logits

    base = load_causal(kit.folder / "base", "cpu")
    before = logits(base.model)
    train_reward(base, planted(40), SHORT)
    assert torch.equal(bits(logits(base.model)), bits(before))
    assert not any(value.requires_grad for value in base.model.parameters())
    monkeypatch.setattr(module, "deepcopy", lambda decoder: decoder)
    train_reward(base, planted(40), SHORT)
    assert not torch.equal(bits(logits(base.model)), bits(before))  # control


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_saved_reward_comes_back_bit_for_bit(family: str, tmp_path: Path) -> None:
    """Loaded beside its base it says what the trained one says."""
    base = make_kit(family, tmp_path).base
    trained = train_reward(base, planted(40), SHORT)
    save_reward(trained, tmp_path / "reward", "Planted.", "CC0")
    loaded = load_reward(tmp_path / "reward", "cpu")
    assert torch.equal(bits(rewards(loaded)), bits(rewards(trained.model)))
    untuned = replace(trained.model, backbone=base.model.base_model)
    assert (rewards(untuned) - rewards(loaded)).abs().max() > 1e-3  # control: the LoRA has a part in it
    assert not any(p.requires_grad for m in (trained.model.backbone, trained.model.head) for p in m.parameters())


def test_the_folder_is_safetensors_and_tells_its_story(kit: Kit, trained: TrainedReward, tmp_path: Path) -> None:
    """No pickle, no path of this machine, and a card with data, figures and licence."""
    save_reward(trained, tmp_path / "cats", "Planted replies.", "CC0-1.0")
    names = {path.name for path in (tmp_path / "cats").iterdir()}
    weights = {"adapter_model.safetensors", "reward.safetensors"}
    assert names == {"adapter_config.json", "reward.json", "README.md"} | weights
    assert all("lora" in name for name in load_file(tmp_path / "cats" / "adapter_model.safetensors"))
    texts = {name: (tmp_path / "cats" / name).read_text() for name in names - weights}
    assert not any(str(kit.folder) in text or str(tmp_path) in text for text in texts.values())
    manifest = json.loads(texts["reward.json"])
    assert (manifest["base"], manifest["axes"], manifest["trained_on"]) == ("../base", ["reward"], "replies")
    accuracy = f"{trained.report.after.replies[0]:.3f}"
    assert all(said in texts["README.md"] for said in ("# cats", "Planted replies.", "CC0-1.0", "`base`", accuracy))


def test_a_seed_gives_the_same_bits_again(kit: Kit) -> None:
    """Weights and figures repeat; another seed gives others."""
    first, again, other = (train_reward(kit.base, planted(40), replace(SHORT, seed=seed)) for seed in (0, 0, 1))
    assert all(torch.equal(bits(value), bits(again.adapter[name])) for name, value in first.adapter.items())
    assert torch.equal(bits(rewards(first.model)), bits(rewards(again.model)))
    assert first.report.after.prefixes.tolist() == again.report.after.prefixes.tolist()
    assert not torch.equal(bits(rewards(first.model)), bits(rewards(other.model)))  # control


def test_an_axis_without_dev_preferences_has_no_accuracy(kit: Kit) -> None:
    """NaN says that nothing was measured: an even choice is no preference."""
    pairs = [replace(pair, target=(*pair.target, 0.5)) for pair in planted(40)]
    after = train_reward(kit.base, pairs, SHORT, ("cats", "even")).report.after
    assert np.isnan(after.replies).tolist() == np.isnan(after.prefixes).tolist() == [False, True]


@pytest.mark.parametrize(
    ("target", "axes", "complaint"),
    [
        ((1.0, 0.0), ("reward",), r"pair 0 has the target \(1\.0, 0\.0\)"),
        ((1.5,), ("reward",), "expected P"),
        ((-0.1,), ("reward",), "expected P"),
        ((1.0, float("nan")), ("cats", "hats"), "says anything about 'hats'"),
    ],
)
def test_targets_that_are_no_probabilities_are_refused(kit: Kit, target, axes, complaint: str) -> None:
    """One number from 0 to 1 an axis, and something known of every axis."""
    with pytest.raises(InputError, match=complaint):
        train_reward(kit.base, [replace(pair, target=target) for pair in planted(40)], SHORT, axes)


def test_bad_pairs_are_named(kit: Kit) -> None:
    """The message says which of them can't be compared; no pairs at all can't be learnt from."""
    pairs = planted(40)
    pairs[7] = replace(pairs[7], first=pairs[7].second)
    with pytest.raises(MessageError, match="pair 7 can't be compared"):
        train_reward(kit.base, pairs, SHORT)
    with pytest.raises(InputError, match="0 prompts"):
        train_reward(kit.base, [], SHORT)


def test_a_training_that_diverges_is_refused(kit: Kit) -> None:
    """Weights that aren't finite are never handed on."""
    with pytest.raises(InputError, match="lower the recipe's learning_rate"):
        train_reward(kit.base, planted(40), replace(SHORT, learning_rate=1e30))


def test_ten_steps_are_enough(kit: Kit) -> None:
    """A warm-up of exactly one step is none; it used to divide by zero."""
    recipe = replace(SHORT, epochs=10, batch_size=64)
    report = train_reward(kit.base, planted(40), recipe).report
    assert report.num_train <= recipe.batch_size, "a step an epoch"


def test_the_people_to_measure_on_are_not_trained_on(kit: Kit) -> None:
    """With their answers turned round the same weights come out, and the opposite figures."""
    pairs, people = planted(40), ["ada", "ben", "cleo", "dan"] * 10
    judges = hold_out(people, 0.1, SHORT.seed)
    turned = [
        replace(pair, target=(1 - pair.target[0],)) if user in judges else pair
        for pair, user in zip(pairs, people, strict=True)
    ]
    found, other = (train_reward(kit.base, each, SHORT, people=people) for each in (pairs, turned))
    assert (found.report.num_train, found.report.num_dev, found.report.unseen) == (30, 10, "people")
    assert torch.equal(bits(rewards(found.model)), bits(rewards(other.model)))
    assert other.report.after.replies == pytest.approx(1 - found.report.after.replies)
    everything = train_reward(kit.base, turned, SHORT)
    assert not torch.equal(bits(rewards(everything.model)), bits(rewards(other.model)))  # control: they would matter
    with pytest.raises(InputError, match="about 1 people; expected at least 2"):
        train_reward(kit.base, pairs, SHORT, people=["ada"] * 40)


@pytest.mark.parametrize("num_shared", [0, 5, 20])
def test_pairs_about_new_prompts_are_measured_by_themselves(kit: Kit, num_shared: int) -> None:
    """Of the held-out person's pairs those about prompts that the other one answered don't count; all may, or none."""
    about = [prompt(f"{SUBJECTS[i % 10]} {WORDS[i // 10]}") for i in range(40)]
    shared = [about[i % 20 if i % 20 < num_shared else i] for i in range(40)]
    pairs = [replace(pair, prompt=messages) for pair, messages in zip(planted(40), shared, strict=True)]
    people = ["ada"] * 20 + ["ben"] * 20
    trained = train_reward(kit.base, pairs, SHORT, people=people)
    (judge,) = hold_out(people, SHORT.dev_share, SHORT.seed)
    assert (trained.report.num_dev, trained.report.num_new) == (20, 20 - num_shared)
    new = [pairs[i] for i, user in enumerate(people) if user == judge and i % 20 >= num_shared]
    if not new:
        assert trained.report.new is None
        return
    target, rows = torch.tensor([pair.target for pair in new]), [comparison(kit.base, pair) for pair in new]
    by_hand = measure(trained.model.backbone, trained.model.head, rows, target, np.arange(len(new)))
    assert trained.report.new is not None
    assert trained.report.new.replies.tolist() == by_hand.replies.tolist()
    assert trained.report.new.log_loss == pytest.approx(by_hand.log_loss)


def test_the_log_loss_is_that_of_whole_replies(kit: Kit, trained: TrainedReward) -> None:
    """−log σ of the rewards' difference at the last tokens, averaged over what is known; a tie is half of each."""
    targets = (1.0, 0.0, 0.5, float("nan"))
    pairs = planted(4)
    rows = [comparison(kit.base, pair) for pair in pairs]
    losses = []
    for target, row in zip(targets[:3], rows, strict=False):
        first, second = (rewards(trained.model, torch.tensor([ids]))[0, -1, 0] for ids in (row.first, row.second))
        likely = torch.sigmoid(first - second).item()
        losses.append(-(target * np.log(likely) + (1 - target) * np.log(1 - likely)))
    wanted = torch.tensor(targets)[:, None]
    measured = measure(trained.model.backbone, trained.model.head, rows, wanted, np.arange(4))
    assert measured.log_loss == pytest.approx([np.mean(losses)], rel=1e-4)
    assert measured.replies.tolist() in ([0.0], [0.5], [1.0]), "of the two that were decided"


class Steps:
    """Counts the training's forward passes, and may end it."""

    def __init__(self, most: int = 10_000) -> None:
        self.taken, self.most = 0, most

    def __call__(self, *batch):
        if torch.is_grad_enabled():
            if self.taken == self.most:
                raise KeyboardInterrupt
            self.taken += 1
        return differences(*batch)


differences = module.differences


def test_a_killed_training_goes_on_where_it_was(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after three steps it takes the others alone, and ends in the same bits and figures."""
    recipe = replace(RECIPE, epochs=1, checkpoint_every_s=-1.0)
    train = partial(train_reward, kit.base, planted(), recipe)
    monkeypatch.setattr(module, "differences", whole_steps := Steps())
    whole = train(work=tmp_path / "whole")
    monkeypatch.setattr(module, "differences", Steps(most=3))
    with pytest.raises(KeyboardInterrupt):
        train(work=tmp_path / "killed")
    monkeypatch.setattr(module, "differences", rest := Steps())
    resumed = train(work=tmp_path / "killed")
    assert rest.taken == whole_steps.taken - 3 > 0
    assert all(torch.equal(bits(resumed.adapter[name]), bits(value)) for name, value in whole.adapter.items())
    assert np.array_equal(resumed.report.before.log_loss, whole.report.before.log_loss)
    assert np.array_equal(resumed.report.after.log_loss, whole.report.after.log_loss)
    monkeypatch.setattr(module, "differences", other := Steps())
    train_reward(kit.base, planted(), replace(recipe, seed=1), work=tmp_path / "killed")
    assert other.taken == whole_steps.taken  # control: another seed's training begins at the beginning
