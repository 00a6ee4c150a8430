"""The bounded tilt: how far a reward may move the next token."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from personalign.decode.steer import shortlist
from personalign.decode.tilt import tilt

CASES = 2500


def _divergence(logits: Tensor, delta: Tensor) -> Tensor:
    """KL(q ‖ p) in float64, from its definition."""
    p, q = logits.double().log_softmax(-1), (logits.double() + delta.double()).log_softmax(-1)
    return torch.where(q.exp() > 0, q.exp() * (q - p), 0.0).nan_to_num(0.0).sum(-1)


def _adversarial(generator: torch.Generator, K: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Flat, peaked, two-point and cut distributions under rewards of every size, ±1e30 among them."""

    def scale(low: float, high: float) -> Tensor:
        return 10 ** (low + (high - low) * torch.rand(CASES, 1, generator=generator))

    logits = torch.randn(CASES, K, generator=generator) * scale(-3, 2)
    logits[: CASES // 4, 2:] = -math.inf
    logits[: CASES // 8, :2] = 0.0
    logits[CASES // 4 : CASES // 2, 5:] = -math.inf
    rewards = torch.randn(CASES, K, generator=generator) * scale(-3, 30)
    gain = scale(-3, 2).squeeze(-1)
    order = torch.randperm(K, generator=generator)
    return logits[:, order], rewards[:, order], gain


@pytest.mark.parametrize("clip", [0.1, 1.0, 3.0, 8.0])
def test_no_reward_moves_a_token_further_than_the_bound(clip: float) -> None:
    """KL(q ‖ p) ≤ c²/8 nats whatever the rewards, and what is returned is KL(q ‖ p)."""
    logits, rewards, gain = _adversarial(torch.Generator().manual_seed(int(clip * 10)))
    delta, kl, finite, _ = tilt(logits, rewards, gain, clip)
    true = _divergence(logits, delta)
    assert finite.all()
    assert delta.abs().max() <= clip / 2
    assert (true <= clip**2 / 8 + 1e-9).all()
    assert torch.allclose(kl.double(), true, atol=1e-5)
    assert true.max() > 0.5 * clip**2 / 8 or clip > 3  # the bound is nearly met: the test reaches for it


def test_without_the_clip_the_bound_is_broken() -> None:
    """Control: the same cases break the bound of a clip that isn't applied."""
    logits, rewards, gain = _adversarial(torch.Generator().manual_seed(0))
    delta, *_ = tilt(logits, rewards, gain, clip=60.0)
    assert (_divergence(logits, delta) > 1 / 8).any()


@settings(max_examples=50)
@given(st.integers(0, 2**31), st.floats(-100, 100))
def test_a_constant_added_to_every_reward_changes_nothing(seed: int, constant: float) -> None:
    """Only differences of rewards act, to 1e-4."""
    generator = torch.Generator().manual_seed(seed)
    logits, rewards = torch.randn(3, 8, generator=generator), torch.randn(3, 8, generator=generator)
    gain = torch.rand(3, generator=generator)
    before, *_ = tilt(logits, rewards, gain, 3.0)
    after, *_ = tilt(logits, rewards + constant, gain, 3.0)
    assert torch.allclose(before, after, atol=1e-4)


@settings(max_examples=50)
@given(st.integers(0, 2**31))
def test_higher_rewards_win(seed: int) -> None:
    """δ keeps the order of the rewards, and is not zero where they differ."""
    generator = torch.Generator().manual_seed(seed)
    logits, rewards = torch.randn(1, 8, generator=generator), torch.randn(1, 8, generator=generator)
    delta, kl, *_ = tilt(logits, rewards, torch.tensor([0.7]), 3.0)
    order = rewards[0].argsort()
    assert (delta[0, order].diff() >= 0).all()
    assert delta.abs().max() > 0
    assert kl.item() > 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_is_told_and_stays_in_its_row(bad: float) -> None:
    """Only the row that holds it is marked, and the other row's numbers are the same bits."""
    logits, rewards, gain = torch.randn(2, 5), torch.randn(2, 5), torch.ones(2)
    clean, clean_kl, *_ = tilt(logits, rewards, gain, 3.0)
    rewards[0, 3] = bad
    delta, kl, finite, _ = tilt(logits, rewards, gain, 3.0)
    assert finite.tolist() == [False, True]
    assert torch.equal(delta[1], clean[1])
    assert torch.equal(kl[1], clean_kl[1])


def test_a_reward_of_an_impossible_candidate_does_not_count() -> None:
    """A candidate at −∞ may have any reward: it stays out and marks nothing."""
    logits = torch.tensor([[0.5, 0.1, -math.inf]])
    delta, kl, finite, _ = tilt(logits, torch.tensor([[1.0, 0.0, math.nan]]), torch.ones(1), 3.0)
    alone, alone_kl, *_ = tilt(logits[:, :2], torch.tensor([[1.0, 0.0]]), torch.ones(1), 3.0)
    assert finite.all()
    assert torch.allclose(delta[:, :2], alone)
    assert torch.allclose(kl, alone_kl)


@pytest.mark.parametrize("size", [10, 128, 8192, 49152, 50257, 151936])
@pytest.mark.parametrize("num", [1, 20, 200])
def test_the_short_list_is_the_likeliest_tokens(size: int, num: int) -> None:
    """As topk finds them, whole blocks or not, with most tokens ruled out, and with NaN first."""
    generator = torch.Generator().manual_seed(size + num)
    logits = torch.randn(3, size, generator=generator).double() * 4
    logits[1] = torch.where(torch.rand(size, generator=generator) < 0.9, -math.inf, logits[1])
    logits[2, size // 2] = math.nan
    expected, (top, ids) = logits.topk(min(num, size)), shortlist(logits, num)
    assert torch.equal(top.nan_to_num(), expected.values.nan_to_num())
    possible = expected.values > -math.inf
    assert torch.equal(ids[possible], expected.indices[possible])
