"""The weights that serve a person: as much of their profile as is trusted, and what the operator decided.

In this order: the population's gate (``gate.py``), where the basis has one, w′ = μ + κ_u(w − μ); a bound on how far w′
is from everybody's; the operator's pins. The profile that is stored and shown stays the posterior itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from zlib import crc32

import numpy as np
from jaxtyping import Float
from scipy.special import chdtri

from personalign.basis import Basis
from personalign.errors import InputError
from personalign.learn.gate import gain_by, openness, shrink
from personalign.types import MAX_UTILITY, WEIGHTS, Array, Gaussian, Guidance, Profile

REACH = 0.999  # of the people whom the prior describes are within the bound
_NO_PINS: Mapping[str, float] = MappingProxyType({})


class Serving:
    """How profiles of one basis are served, to everybody alike.

    ``pinned`` are axes by name, each with the weight that everyone who is guided has on it, whatever they answered:
    utility for each standard deviation of the axis, 0 for an axis that no one is steered along. While
    ``is_shadow`` holds, replies are the model's own, and their account tells what guidance would have done to each
    token; it may be set at any time, and holds from the next reply on.

    Raises:
        InputError: a pinned axis that the basis doesn't have, or a weight that isn't a number from −100 to 100.
    """

    def __init__(self, basis: Basis, pinned: Mapping[str, float] = _NO_PINS, *, is_shadow: bool = False) -> None:
        _check_pins(pinned, [axis.name for axis in basis.axes])
        self._basis = basis
        self._gate = basis.gate
        self.pinned: Mapping[str, float] = MappingProxyType(dict(pinned))
        self.is_shadow = is_shadow

    def weights(self, profile: Profile) -> Float[Array, "d"]:
        """The weights that guide a person's replies; the profile's own array where nothing is to be changed."""
        post, prior = profile.posterior, self._basis.prior
        if self._gate is not None:
            post = shrink(self._gate, post, prior, profile.gain, profile.informative)
        return self._pin(bounded(post.mean, prior))

    def guidance(self, profile: Profile, strength: float = 1.0, *, is_everyones: bool = False) -> Guidance | None:
        """What a request carries of a person: nothing of someone without an informative answer.

        Where the gate is shut (κ = 0) everybody would get the same weights: they steer nothing, and the reason is told.
        ``is_everyones`` says that the reward is the same for all people, so that nothing has to be known of one.
        """
        if not profile.informative:
            return Guidance(profile.mean, 1.0, strength, is_shadow=self.is_shadow) if is_everyones else None
        is_personal = is_everyones or self.openness(profile) > 0
        return Guidance(
            weights=self.weights(profile),
            confidence=self._basis.confidence(profile.covariance) if is_personal else 0.0,
            strength=strength,
            revision=profile.revision,
            user=profile.user,
            generation=crc32(profile.mean.tobytes()),  # differs if the person was erased and came back
            is_shadow=self.is_shadow,
            is_personal=is_personal,
        )

    def openness(self, profile: Profile) -> float:
        """How much of what sets a person apart from everybody is served."""
        return 1.0 if self._gate is None else openness(self._gate, profile.gain, profile.informative)

    def described(self, profile: Profile) -> Profile:
        """The profile with what it takes to explain what of it is served."""
        basis, share = self._basis, self.openness(profile)
        return replace(profile, axes=basis.axes, pinned=self.pinned, common=basis.prior.mean, openness=share)

    def gain(self, v: Float[Array, "d"], choice: str, before: Gaussian, kind: str = "question") -> float | None:
        """Nats by which a posterior predicted an answer better than the prior's mean; None without a gate to tell."""
        if self._gate is None or WEIGHTS[kind] == 0:
            return None
        gain = gain_by(v, choice, before, self._basis.prior, self._gate.kappa, self._basis.noise)
        return None if gain is None else WEIGHTS[kind] * gain

    def _pin(self, weights: Float[Array, "d"]) -> Float[Array, "d"]:
        if not self.pinned:
            return weights
        return np.array([self.pinned.get(a.name, w) for a, w in zip(self._basis.axes, weights.tolist(), strict=True)])


def bounded(weights: Float[Array, "d"], prior: Gaussian, reach: float = REACH) -> Float[Array, "d"]:
    """Draw weights in towards μ to where a share ``reach`` of the prior's people are; within it nothing is changed.

    The distance is the prior's own, √((w − μ)ᵀ Σ₀⁻¹ (w − μ)), whose square is χ² with d degrees of freedom for people
    drawn from the prior.
    """
    shift = weights - prior.mean
    distance = np.sqrt(shift @ np.linalg.solve(prior.covariance, shift))
    limit = np.sqrt(chdtri(len(weights), 1 - reach))
    return weights if distance <= limit else np.asarray(prior.mean + shift * (limit / distance))


def _check_pins(pinned: Mapping[str, float], axes: list[str]) -> None:
    for name, weight in pinned.items():
        if name not in axes:
            raise InputError(
                f"found the pinned axis {name!r}, which the basis lacks; expected one of {', '.join(axes)}"
            )
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not (is_number and -MAX_UTILITY <= weight <= MAX_UTILITY):
            raise InputError(
                f"the axis {name!r} is pinned to {weight!r}, expected a number from {-MAX_UTILITY:g} to {MAX_UTILITY:g}"
            )
