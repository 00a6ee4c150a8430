"""What serves a person: their profile's mean itself, unless the bound or the operator says otherwise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from personalign.basis import Basis, Shares
from personalign.bundled import TINY
from personalign.errors import InputError
from personalign.learn.fit import fit
from personalign.learn.mixture import Mixture
from personalign.learn.served import Serving, bounded
from personalign.types import Gaussian, Profile, Statement
from personalign.words import IMPERSONAL
from tests.learn.people import Array, answers

BASIS = Basis.load(TINY / "basis")
ALIKE = replace(BASIS, shares=Shares(1.0, 0.0))  # nothing sets people apart
PRIOR = Mixture(BASIS.prior, BASIS.shares)


def distance(mean: Array, prior: Gaussian) -> float:
    shift = mean - prior.mean
    return float(np.sqrt(shift @ np.linalg.inv(prior.covariance) @ shift))


def profile_of(post: Gaussian, answered: int = 12) -> Profile:
    return Profile("ada", BASIS.id, 1, post.mean, post.covariance, answered, answered, BASIS.axes)


def somebody(seed: int, num_answers: int = 12) -> Gaussian:
    """A person drawn from the prior, who answers questions of the bank."""
    rng = np.random.default_rng(seed)
    w = rng.multivariate_normal(BASIS.prior.mean, BASIS.prior.covariance)
    v = BASIS.pool[rng.permutation(len(BASIS.pool))[:num_answers]]
    return fit(v, answers(v @ w, BASIS.noise, rng), PRIOR, BASIS.noise)


def test_the_posteriors_mean_is_what_steers() -> None:
    """Bit for bit, for people of the prior with few answers or many; with a pin it isn't (the control)."""
    for seed in range(20):
        for num_answers in (1, 9, 10, 100):
            profile = profile_of(somebody(seed, num_answers), num_answers)
            assert Serving(BASIS).weights(profile) is profile.mean
            assert not np.array_equal(Serving(BASIS, {"length": 9.0}).weights(profile), profile.mean)


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


def test_where_nothing_is_personal_answers_steer_nothing() -> None:
    """Whatever was answered, also under pins; where tastes differ, the control, the same profiles do steer."""
    alike = Serving(ALIKE, {"length": 1.0})
    for seed in range(5):
        profile = profile_of(somebody(seed))
        guidance, control = alike.guidance(profile), Serving(BASIS).guidance(profile)
        assert guidance is not None
        assert not guidance.is_personal
        assert alike.described(profile).explain() == IMPERSONAL
        assert control is not None
        assert control.is_personal


def test_what_a_person_states_steers_where_answers_cannot() -> None:
    """Their own word is personal even on a basis on which answers set nobody apart; to take it back ends that."""
    profile = replace(profile_of(somebody(2)), stated=(Statement("length", -1.0),))
    guidance = Serving(ALIKE).guidance(profile)
    assert guidance is not None
    assert guidance.is_personal
    assert "set to -1 by the person" in Serving(ALIKE).described(profile).explain()
    control = Serving(ALIKE).guidance(replace(profile, stated=()))
    assert control is not None
    assert not control.is_personal


def test_a_reward_that_is_everyones_needs_no_person() -> None:
    """It guides strangers and people whom nothing sets apart; by personal weights strangers aren't guided."""
    alike = Serving(ALIKE)
    stranger, known = BASIS.first_profile("ben"), profile_of(somebody(1))
    assert alike.guidance(stranger) is None
    for profile in (stranger, known):
        guidance = alike.guidance(profile, 2.0, is_everyones=True)
        assert guidance is not None
        assert (guidance.is_personal, guidance.strength) == (True, 2.0)


def test_whoever_paused_is_guided_by_no_profile() -> None:
    """Neither by their own, nor by what they stated, nor by everybody's mean taste; an impersonal reward is none."""
    known = Basis.load(TINY / "basis")
    log = replace(known, prior=Gaussian(known.prior.mean + 1, known.prior.covariance))  # which tells a mean taste
    stated = replace(profile_of(somebody(1)), stated=(Statement("length", -1.0),))
    for profile in (stated, log.first_profile("ben")):
        assert Serving(log).guidance(profile) is not None  # the control
        paused = replace(profile, is_paused=True)
        assert Serving(log).guidance(paused) is None
        assert Serving(log).guidance(paused, is_everyones=True) is not None


def test_guidance_tells_people_apart() -> None:
    """Its generation differs for a person who was erased and came back; shadow is passed on."""
    first, second = (Serving(BASIS, is_shadow=True).guidance(profile_of(somebody(seed))) for seed in (1, 2))
    assert first is not None
    assert second is not None
    assert first.generation != second.generation
    assert first.is_shadow
