"""What serves a person: their profile's mean itself, unless a gate, the bound or the operator says otherwise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from personalign.basis import Basis, Gate
from personalign.bundled import TINY
from personalign.errors import InputError
from personalign.learn.fit import fit
from personalign.learn.gate import FROM, openness
from personalign.learn.served import Serving, bounded
from personalign.types import Gaussian, Profile
from personalign.words import IMPERSONAL
from tests.learn.people import Array, answers

BASIS = Basis.load(TINY / "basis")
GATED = replace(BASIS, gate=Gate(0.6, 0.5))


def distance(mean: Array, prior: Gaussian) -> float:
    shift = mean - prior.mean
    return float(np.sqrt(shift @ np.linalg.inv(prior.covariance) @ shift))


def profile_of(post: Gaussian, answered: int = 12, gain: float = 0.0) -> Profile:
    return Profile("ada", BASIS.id, 1, post.mean, post.covariance, answered, answered, BASIS.axes, gain)


def somebody(seed: int, num_answers: int = 12) -> Gaussian:
    """A person drawn from the prior, who answers questions of the bank."""
    rng = np.random.default_rng(seed)
    w = rng.multivariate_normal(BASIS.prior.mean, BASIS.prior.covariance)
    v = BASIS.pool[rng.permutation(len(BASIS.pool))[:num_answers]]
    return fit(v, answers(v @ w, BASIS.noise, rng), BASIS.prior, BASIS.noise)


def test_without_a_gate_the_head_is_the_profiles_own_mean() -> None:
    """Bit for bit, for people of the prior with few answers or many; under a gate it isn't (the control)."""
    for seed in range(20):
        for num_answers in (1, 12, 100):
            profile = profile_of(somebody(seed, num_answers), num_answers)
            assert Serving(BASIS).weights(profile) is profile.mean
            assert not np.array_equal(Serving(GATED).weights(profile), profile.mean)


@pytest.mark.parametrize("gain", [-30.0, 0.0, 30.0])
def test_the_gate_says_how_much_of_a_profile_serves(gain: float) -> None:
    """μ + κ_u(w − μ) with κ_u by what the person's answers gained; no head is switched off."""
    post, prior = somebody(3), BASIS.prior
    head = Serving(GATED).weights(profile_of(post, FROM, gain))
    own = openness(Gate(0.6, 0.5), gain, FROM)
    np.testing.assert_allclose(head, prior.mean + own * (post.mean - prior.mean))
    assert np.abs(head).max() > 0
    few = Serving(GATED).weights(profile_of(post, FROM - 1, gain))
    np.testing.assert_allclose(few, prior.mean + 0.6 * (post.mean - prior.mean))


def test_an_open_gate_changes_nothing() -> None:
    """κ = 1 with a record that speaks for the person, or with too few answers for one."""
    free = Serving(replace(BASIS, gate=Gate(1.0, 0.5)))
    for profile in (profile_of(somebody(4), FROM, 50.0), profile_of(somebody(4), FROM - 1)):
        assert free.weights(profile) is profile.mean


def test_nobody_is_pulled_further_than_the_prior_reaches() -> None:
    """A hundred answers that all say the same lead a narrow prior beyond its bound, and no further than to it."""
    prior = Gaussian(np.array([0.2, -0.1]), np.diag([0.5, 1.5]))
    v = np.tile([[0.4, 0.0]], (100, 1))
    adversary = fit(v, ["a"] * 100, prior)
    assert distance(adversary.mean, prior) > 4  # the control: without the bound there is nothing in the way
    held = bounded(adversary.mean, prior)
    limit = np.sqrt(-2 * np.log(0.001))  # χ² with two degrees of freedom is exponential
    assert distance(held, prior) == pytest.approx(limit)
    np.testing.assert_allclose((held - prior.mean) / np.linalg.norm(held - prior.mean), [1, 0], atol=1e-6)
    within = prior.mean + np.array([0.5, -1.0])
    assert bounded(within, prior) is within


def test_the_bundled_basis_bounds_whoever_writes_their_own_profile() -> None:
    """Weights from elsewhere, however large, are drawn in."""
    wild = Gaussian(np.full(BASIS.num_axes, 50.0), BASIS.prior.covariance)
    head = Serving(BASIS).weights(profile_of(wild))
    assert distance(head, BASIS.prior) < 7 < distance(wild.mean, BASIS.prior)


def test_pinned_axes_are_what_the_operator_says() -> None:
    """Whatever a person answered, and to the bit; all other axes are theirs."""
    profile = profile_of(somebody(5))
    head = Serving(BASIS, {"length": 0.0, "warmth": 1.5}).weights(profile)
    names = [axis.name for axis in BASIS.axes]
    assert (head[names.index("length")], head[names.index("warmth")]) == (0.0, 1.5)
    others = [j for j, name in enumerate(names) if name not in {"length", "warmth"}]
    np.testing.assert_array_equal(head[others], profile.mean[others])


@pytest.mark.parametrize(
    ("pinned", "found"),
    [
        ({"lenght": 0.0}, "'lenght'.*expected one of length, questions"),
        ({"length": float("nan")}, "nan"),
        ({"length": 1e9}, "1000000000"),
        ({"length": True}, "True"),
    ],
)
def test_pins_that_mean_nothing_are_refused(pinned: dict[str, float], found: str) -> None:
    """The error lists the axes there are, or names the weight."""
    with pytest.raises(InputError, match=found):
        Serving(BASIS, pinned)


def test_gains_are_told_by_a_gate_only() -> None:
    """Without one, for what says nothing, and for a question asked again as a check there is none."""
    v, profile = BASIS.pool[0], profile_of(somebody(6))
    assert Serving(BASIS).gain(v, "a", profile.posterior) is None
    gated = Serving(GATED)
    asked = gated.gain(v, "a", profile.posterior)
    assert asked is not None
    assert gated.gain(v, "a", profile.posterior, "thumbs") == pytest.approx(0.36 * asked)
    assert gated.gain(v, "skip", profile.posterior) is None
    assert gated.gain(v, "a", profile.posterior, "check") is None


def test_with_a_shut_gate_nothing_personal_is_served() -> None:
    """κ = 0: whatever was answered, nothing is steered, also under pins; an open gate, the control, does steer."""
    shut = Serving(replace(BASIS, gate=Gate(0.0, 0.5)), {"length": 1.0})
    for seed in range(5):
        profile = profile_of(somebody(seed))
        found = shut.guidance(profile)
        assert found is not None
        assert (found.confidence, found.is_personal) == (0.0, False)
        assert shut.described(profile).explain() == IMPERSONAL
        control = Serving(GATED).guidance(profile)
        assert control is not None
        assert control.is_personal
        assert control.confidence == BASIS.confidence(profile.covariance) > 0


def test_a_reward_that_is_everyones_needs_no_person() -> None:
    """Strangers and people behind a shut gate are guided by it; by personal weights strangers aren't."""
    shut = Serving(replace(BASIS, gate=Gate(0.0, 0.5)))
    stranger, known = BASIS.first_profile("ben"), profile_of(somebody(1))
    assert shut.guidance(stranger) is None
    for profile in (stranger, known):
        found = shut.guidance(profile, 2.0, is_everyones=True)
        assert found is not None
        assert (found.is_personal, found.strength) == (True, 2.0)
        assert found.confidence > 0


def test_guidance_tells_people_apart() -> None:
    """Its generation differs for a person who was erased and came back; shadow is passed on."""
    first, second = (Serving(BASIS, is_shadow=True).guidance(profile_of(somebody(seed))) for seed in (1, 2))
    assert first is not None
    assert second is not None
    assert first.generation != second.generation
    assert first.is_shadow
