"""The successor head, and the reward it gives to each candidate."""

import numpy as np
import pytest
import torch

from personalign.decode.successor import SuccessorHead, reward
from personalign.errors import BasisError
from tests.decode.tiny_models import D, H, R, random_head


def test_the_reward_is_the_inner_product_with_the_expected_features() -> None:
    """Q(v) = ⟨w, ψ(h, v)⟩ for every candidate but for what is the same for all, by whichever way it is computed."""
    head, embeddings = random_head(), torch.randn(20, H, generator=torch.Generator().manual_seed(0))
    hidden, weights = torch.randn(4, H), torch.randn(4, D)
    candidates = torch.randint(0, 20, (4, 6))
    quick = reward(head, head.table(embeddings), hidden, head.merged(weights), candidates)
    for row in range(4):
        psi = head(hidden[row].expand(6, H), embeddings[candidates[row]])
        slow = psi @ weights[row]
        assert torch.allclose(quick[row] - quick[row].mean(), slow - slow.mean(), atol=1e-4)


def test_a_head_survives_its_arrays_bit_for_bit() -> None:
    """to_arrays and from_arrays are each other's inverse, sizes included."""
    head = random_head()
    again = SuccessorHead.from_arrays(head.to_arrays())
    assert (again.hidden_size, again.num_axes, again.rank) == (H, D, R)
    hidden, tokens = torch.randn(5, H), torch.randn(5, H)
    assert torch.equal(head(hidden, tokens), again(hidden, tokens))
    assert not any(value.requires_grad for value in again.parameters())


def test_half_precision_arrays_are_read() -> None:
    """A basis may keep its head in float16."""
    halves = {name: value.astype(np.float16) for name, value in random_head().to_arrays().items()}
    assert SuccessorHead.from_arrays(halves).body.weight.dtype == torch.float32


def _without(arrays, name):
    return {key: value for key, value in arrays.items() if key != name}


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        (lambda a: _without(a, "body.weight"), "can't be read"),
        (lambda a: _without(a, "direction.bias"), "has the arrays"),
        (lambda a: a | {"extra": a["body.bias"]}, "has the arrays"),
        (lambda a: a | {"direction.bias": a["direction.bias"][:-1]}, r"direction.bias is float32 \(23,\)"),
        (lambda a: a | {"body.bias": a["body.bias"].astype(np.float64)}, "body.bias is float64"),
        (lambda a: a | {"body.bias": a["body.bias"] * np.float32("nan")}, "body.bias holds NaN or Inf"),
        (lambda a: a | {"projection.weight": a["projection.weight"] + np.float32("inf")}, "holds NaN or Inf"),
    ],
)
def test_a_broken_head_is_refused_by_the_name_of_what_is_broken(broken, complaint: str) -> None:
    """A missing, foreign, misshapen or non-finite array never becomes a head."""
    with pytest.raises(BasisError, match=complaint):
        SuccessorHead.from_arrays(broken(random_head().to_arrays()))


def test_training_reaches_every_weight() -> None:
    """The forward pass for training is differentiable in all of the head."""
    head = SuccessorHead(H, D, R, hidden=16)
    head(torch.randn(9, H), torch.randn(9, H)).square().mean().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in head.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {"body.weight": np.zeros((40_000, 1), np.float16), "constant.bias": np.zeros(40_000, np.float16)},
        {"constant.bias": np.zeros(100_000, np.float16), "projection.weight": np.zeros((100_000, 0), np.float16)},
        {"body.weight": np.zeros((1 << 31, 0), np.float16)},
        {"direction.weight": np.zeros((3, 3), np.float16)},
    ],
)
def test_arrays_that_disagree_ask_for_no_memory(changes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred kilobytes that imply gigabytes are refused by their shapes, before anything of that size is made."""
    arrays = random_head().to_arrays()
    made: list[int] = []
    works = torch.nn.Linear.reset_parameters

    def watch(layer: torch.nn.Linear) -> None:
        made.append(0 if layer.weight.is_meta else layer.weight.numel())
        works(layer)

    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", watch)
    with pytest.raises(BasisError, match="train it again"):
        SuccessorHead.from_arrays(arrays | changes)
    assert sum(made) == 0
    SuccessorHead(8, 2, 2, 4)
    assert sum(made) > 0  # control: made the usual way, a head would be counted
