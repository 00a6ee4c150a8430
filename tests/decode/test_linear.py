"""Linear layers by oneDNN: the same numbers, whoever else is in the batch, and nothing else about a model changes."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from personalign.decode.checkpoint import OneDnnLinear, use_onednn
from tests.decode.tiny_models import Kit

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def pair(bias: bool = True) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    plain = nn.Linear(96, 40, bias=bias)
    quick = nn.Sequential(copy.deepcopy(plain))
    use_onednn(quick)
    assert type(quick[0]) is OneDnnLinear
    return plain, quick[0]


@pytest.mark.parametrize("shape", [(96,), (1, 96), (2, 1, 96), (3, 7, 96), (0, 96)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_torch(shape: tuple[int, ...], bias: bool) -> None:
    """Any leading shape, with a bias or without: the same to float32 precision."""
    plain, quick = pair(bias)
    x = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(quick(x), plain(x), rtol=1e-5, atol=1e-5)


def test_a_row_does_not_depend_on_the_others() -> None:
    """A hundred batches of each size: a row's bits are the same whatever stands beside it, and wherever it stands."""
    _, quick = pair()
    different = 0
    with torch.no_grad():
        for number in range(100):
            size = (1, 2, 8, 10, 32)[number % 5]
            x, others, order = torch.randn(size, 96), torch.randn(size, 96), torch.randperm(size)
            others[0] = x[0]
            y = quick(x)
            assert torch.equal(quick(others)[0], y[0])
            assert torch.equal(quick(x[order]), y[order])
            different += not torch.equal(quick(others), y)
    assert different >= 80, "control: other rows do give other products"


def test_gradients_and_other_precisions_are_torch_s() -> None:
    """With gradients on it is the layer it was, bit for bit; so it is in another precision."""
    plain, quick = pair()
    x = torch.randn(5, 96)
    assert torch.equal(quick(x), plain(x))
    quick(x).sum().backward()
    assert quick.weight.grad is not None
    with torch.no_grad():
        halves = plain.double(), quick.double()
        assert torch.equal(halves[0](x.double()), halves[1](x.double()))


def test_autocast_is_torch_s() -> None:
    """Under autocast, where an input comes in half precision and weights don't, it is the layer it was."""
    plain, quick = pair()
    x = torch.randn(3, 96)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for given in (x, x.bfloat16()):
            assert torch.equal(quick(given), plain(given))


def test_a_loaded_model_keeps_weights_and_names(kit: Kit) -> None:
    """Loading changes which library multiplies, and nothing that can be saved."""
    loaded = kit.base.model
    plain = AutoModelForCausalLM.from_pretrained(kit.folder / "base").eval()
    linear = [module for module in loaded.modules() if isinstance(module, nn.Linear)]
    assert linear
    assert all(type(module) is OneDnnLinear for module in linear)
    assert list(loaded.state_dict()) == list(plain.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), plain.state_dict().values(), strict=True)
    )
    ids = torch.arange(6)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-5)


def test_layers_of_others_are_left_alone() -> None:
    """Only torch's own linear layer is changed: a subclass may do something of its own."""

    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model = nn.Sequential(Doubled(4, 4), nn.Conv1d(1, 1, 1))
    use_onednn(model)
    assert [type(module).__name__ for module in model] == ["Doubled", "Conv1d"]
