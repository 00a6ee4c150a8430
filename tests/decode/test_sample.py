"""Temperature, top-p, draw: in this order, each row by its own seed."""

import math

import pytest
import torch

from personalign.decode.sample import Sampler, draw, uniforms
from personalign.types import Sampling

P = torch.tensor([0.5, 0.3, 0.15, 0.05])


def _drawn(temperature: float, top_p: float, num: int = 2000) -> list[float]:
    """How often each of four tokens is drawn."""
    ones = torch.ones(num)
    ids = draw(P.log().expand(num, 4), ones * temperature, ones * top_p, torch.linspace(0, 1, num + 1)[:-1].double())
    return (torch.bincount(ids, minlength=4) / num).tolist()


def _expected(temperature: float, kept: int) -> list[float]:
    p = (P.log() / temperature).softmax(-1)[:kept]
    return [*(p / p.sum()).tolist(), *[0.0] * (4 - kept)]


def test_draws_follow_the_distribution() -> None:
    """At temperature 1 and top-p 1 every token comes as often as it is likely."""
    assert _drawn(1.0, 1.0) == pytest.approx(P.tolist(), abs=2e-3)


def test_top_p_keeps_the_token_that_reaches_it() -> None:
    """0.5 + 0.3 reaches 0.6, so two tokens are left; a tiny top-p leaves the best one."""
    assert _drawn(1.0, 0.6) == pytest.approx(_expected(1.0, 2), abs=2e-3)
    assert _drawn(1.0, 1e-9) == [1, 0, 0, 0]


def test_the_temperature_comes_before_top_p() -> None:
    """At temperature 3 the best two hold less than 0.65, so a third stays; the other order would keep two."""
    warm = (P.log() / 3).softmax(-1)
    assert warm[:2].sum() < 0.65 < P[:2].sum()  # the two orders differ here, or this test proves nothing
    assert _drawn(3.0, 0.65) == pytest.approx(_expected(3.0, 3), abs=2e-3)
    assert _drawn(3.0, 0.65) != pytest.approx(_expected(3.0, 2), abs=2e-3)


def test_temperature_0_takes_the_best_whatever_the_random_number() -> None:
    """Greedy rows ignore seed and top-p, beside rows that don't."""
    logits = P.log().expand(3, 4)
    for u in (0.0, 0.5, 1 - 1e-12):
        ids = draw(logits, torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 0.1]), torch.full((3,), u).double())
        assert ids[[0, 2]].tolist() == [0, 0]


def test_what_is_ruled_out_is_never_drawn() -> None:
    """A token at −∞ isn't drawn even by the last random number there is."""
    logits = torch.tensor([[0.0, -math.inf, 1.0, -math.inf]])
    for u in (0.0, 0.9999999, 1 - 2**-53):
        one = torch.ones(1)
        assert draw(logits, one * 2, one, torch.tensor([u], dtype=torch.float64)).item() in {0, 2}


def test_random_numbers_depend_on_the_seed_alone() -> None:
    """More tokens, other rows or another seed beside it don't change a request's random numbers."""
    assert torch.equal(uniforms(7, 3), uniforms(7, 300)[:3])
    assert not torch.equal(uniforms(7, 3), uniforms(8, 3))
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    mine = Sampling(max_tokens=4, temperature=1.0, seed=7)
    alone = [Sampler([mine], torch.device("cpu"))(logits, i).item() for i in range(4)]
    beside = Sampler([Sampling(99, 2.0, 0.5, 1), mine], torch.device("cpu"))
    assert [beside(logits.expand(2, 50), i)[1].item() for i in range(4)] == alone
