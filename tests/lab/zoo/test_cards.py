"""The cards: every figure that was measured stands in them, beside where the data comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

from lab.zoo.cards import closed, write_expert_card, write_model_card
from lab.zoo.corpus import TOKENS_PER_STEP
from personalign.train.loop import Recipe
from tests.train.test_card import rows

BASE, DIRECT = {"hotels": 1.0, "others": 0.5}, {"hotels": 0.6, "others": 0.7}
SWEEP = {0.5: {"hotels": 0.9, "others": 0.51}, 1.0: {"hotels": 0.7, "others": 0.533}}


def test_a_models_card_tells_its_size_training_and_bits(tmp_path: Path) -> None:
    """The number of parameters, steps and tokens, and both domains' bits, each as it was given."""
    model, recipe = nn.Linear(1000, 20, bias=False), Recipe(num_steps=1500, learning_rate=1e-3, seed=7)
    write_model_card(tmp_path, "small", model, recipe, {"others": 0.6543, "hotels": 0.9876})
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# tiny/small\n")
    for said in ("0.02 M parameters", "1,500 steps", f"{1500 * TOKENS_PER_STEP / 1e6:.1f} M tokens", "seed 7"):
        assert said in card
    assert "--stage small" in card
    assert [row[1] for row in rows(card)[2:]] == ["0.654", "0.988"]


def test_a_share_of_the_gap_is_zero_for_base_and_one_for_direct_tuning() -> None:
    """Half-way is a half, and worse than base is less than nothing."""
    assert closed(BASE, DIRECT, BASE) == 0
    assert closed(BASE, DIRECT, DIRECT) == 1
    assert closed(BASE, DIRECT, {"hotels": 0.8}) == pytest.approx(0.5)
    assert closed(BASE, DIRECT, {"hotels": 1.2}) == pytest.approx(-0.5)


def test_an_experts_card_tells_the_sweep_beside_its_controls(tmp_path: Path) -> None:
    """A row for base, direct tuning and each α, with what it closes; the same figures stand in the JSON, exactly."""
    expert = nn.ModuleDict({"lora_A": nn.Linear(100, 200, bias=False), "base": nn.Linear(300, 300)})
    recipe = Recipe(num_steps=40, learning_rate=1e-3)
    write_expert_card(tmp_path, expert, recipe, {"base": BASE, "direct": DIRECT}, SWEEP, alpha=0.5)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    _, _, base, direct, half, whole = rows(card)
    assert base == ["base", "1.000", "", "0.500"]
    assert direct[1:] == ["0.600", "100 %", "0.700"]
    assert half == ["base + 0.5 (hotels − small)", "0.900", "25%", "0.510"]
    assert whole == ["base + 1.0 (hotels − small)", "0.700", "75%", "0.533"]
    assert "A LoRA of 0.02 M parameters" in card  # not counting the model that it adapts
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["alpha"] == 0.5
    assert figures["control"] == {"base": BASE, "direct": DIRECT}
    assert {float(alpha): bits for alpha, bits in figures["sweep"].items()} == SWEEP


def test_a_card_links_to_the_licence_from_where_it_lies(tmp_path: Path) -> None:
    """The expert's card lies a folder deeper than the others; each finds the one licence."""
    (tmp_path / "LICENSE").touch()
    base, hotels = (tmp_path / name for name in ("base", "experts/hotels"))
    for folder in (base, hotels):
        folder.mkdir(parents=True)
    recipe = Recipe(num_steps=1, learning_rate=1e-3)
    write_model_card(base, "base", nn.Linear(1, 1), recipe, BASE)
    write_expert_card(hotels, nn.Linear(1, 1), recipe, {"base": BASE, "direct": DIRECT}, SWEEP, 0.5)
    for folder in (base, hotels):
        link = (folder / "README.md").read_text(encoding="utf-8").partition("(see `")[2].partition("`")[0]
        assert (folder / link).is_file()
    assert not (base / "../../LICENSE").is_file()  # control: one folder off would not be found
