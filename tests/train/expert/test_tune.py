"""A LoRA expert: no change at first, a change once trained, and the same change after saving."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from personalign.decode import load_causal, load_expert
from personalign.decode.lane import forward
from personalign.train.expert.tune import LINEAR, Stack, add_lora, save_expert, train_expert
from personalign.train.loop import Recipe
from tests.decode.tiny_models import Kit, V, network

IDS = torch.arange(5, 25)[None]
RECIPE = Recipe(20, 1e-2, "adamw", warmup_steps=2)
ALL = (*LINEAR, "embed_tokens", "lm_head")


@pytest.fixture(autouse=True)
def peft_speaks() -> Iterator[None]:
    """Peft asks for an attribute that transformers has renamed, and remarks on adapted embeddings."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="peft")
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield


def rows(step: int) -> Tensor:
    """Always the same token, whatever came before."""
    return torch.cat(
        [torch.randint(V, (8, 1), generator=torch.Generator().manual_seed(step)), torch.full((8, 11), 7)], 1
    )


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    return model(input_ids=IDS).logits


def tuned(kit: Kit, work: Path, targets: tuple[str, ...] = LINEAR) -> PeftModel:
    base, small = (load_causal(kit.folder / "small", "cpu").model for _ in range(2))
    return train_expert(
        base, small, rows, RECIPE, 4, targets, lambda stack: float(-logits(stack)[..., 7].mean()), work, "sevens"
    )


def test_a_fresh_lora_changes_nothing() -> None:
    """Every logit keeps its bits under it, on plain layers and on embeddings."""
    plain = logits(network("llama", 1))
    expert = add_lora(network("llama", 1), rank=4, targets=ALL)
    assert torch.equal(logits(expert), plain)
    with torch.no_grad():
        next(value for name, value in expert.named_parameters() if "lora_B" in name).add_(0.1)
    assert not torch.equal(logits(expert), plain)  # control: it is in the way of the logits


def test_training_moves_the_expert_and_not_the_small_model(kit: Kit, tmp_path: Path) -> None:
    """Its logits go where the rows are; with the adapter off they are those they were."""
    before = logits(load_causal(kit.folder / "small", "cpu").model)
    expert = tuned(kit, tmp_path)
    assert (logits(expert)[..., 7] - before[..., 7]).mean() > 1
    with expert.disable_adapter():
        assert torch.equal(logits(expert), before)


def test_a_stack_is_base_plus_alpha_times_the_difference() -> None:
    """With α 0 it is the base alone, with the base as its anti-expert and α 1 the expert; with α ½ neither."""
    base, expert, anti = (network("llama", seed).requires_grad_(requires_grad=False) for seed in (0, 1, 2))
    plain, tuned_one, untuned = logits(base), logits(expert), logits(anti)
    assert logits(Stack(base, expert, anti, 0.0)).equal(plain)
    torch.testing.assert_close(logits(Stack(base, expert, base, 1.0)), tuned_one, atol=1e-4, rtol=1e-4)
    half = logits(Stack(base, expert, anti, 0.5))
    torch.testing.assert_close(half, plain + 0.5 * (tuned_one - untuned))
    assert (half - plain).abs().max() > 0.1


def test_a_stacks_loss_is_that_of_the_next_tokens() -> None:
    """It is what transformers would say of the same logits."""
    base, expert = network("llama", 0), network("llama", 1)
    found = Stack(base, expert, base)(IDS, labels=IDS)
    wanted = expert(input_ids=IDS, labels=IDS).loss
    torch.testing.assert_close(found.loss, wanted, atol=1e-4, rtol=1e-4)
    assert (found.loss - base(input_ids=IDS, labels=IDS).loss).abs() > 1e-3  # control: the base says otherwise


@pytest.mark.parametrize("targets", [LINEAR, ALL], ids=["linear", "embeddings too"])
def test_a_saved_expert_comes_back(kit: Kit, tmp_path: Path, targets: tuple[str, ...]) -> None:
    """Loaded beside the small model it gives the trained one's logits, up to half precision, and its α."""
    expert = tuned(kit, tmp_path / "work", targets)
    wanted = logits(expert)
    save_expert(expert, tmp_path / "sevens", 0.75)
    loaded = load_expert(tmp_path / "sevens", load_causal(kit.folder / "small", "cpu"))
    assert (loaded.name, loaded.alpha) == ("sevens", 0.75)
    found, _ = forward(loaded.anti, IDS, loaded.peft, adapter_names=[loaded.name] * len(IDS))
    anti, _ = forward(loaded.anti, IDS)
    torch.testing.assert_close(found, wanted[:, -1], atol=0.05, rtol=0.01)
    assert (anti - wanted[:, -1]).abs().max() > 1  # control: the tolerance can tell the two apart


@pytest.mark.parametrize("targets", [LINEAR, ALL], ids=["linear", "embeddings too"])
def test_the_folder_holds_half_precision_and_no_pickle(kit: Kit, tmp_path: Path, targets: tuple[str, ...]) -> None:
    """The adapter is a safetensors file of float16, and nothing of the small model goes with it."""
    save_expert(tuned(kit, tmp_path / "work", targets), tmp_path / "sevens", 0.5)
    tensors = load_file(tmp_path / "sevens" / "adapter_model.safetensors")
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    assert all("lora" in name for name in tensors)
    assert not [path for path in (tmp_path / "sevens").iterdir() if path.suffix in {".bin", ".pt", ".pkl"}]


def test_the_folder_does_not_say_where_it_was_made(kit: Kit, tmp_path: Path) -> None:
    """It names the small model, but not its path on this machine."""
    expert = tuned(kit, tmp_path / "work")
    assert str(kit.folder) in expert.peft_config["default"].base_model_name_or_path  # control: peft took note of it
    save_expert(expert, tmp_path / "sevens", 0.5)
    config = json.loads((tmp_path / "sevens" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "small"
