"""The weights that guide a person's replies: as much of their profile as is trusted, and the operator's pins.

In this order: the gate, where the basis has one, w′ = μ + κ_u(w − μ) (``gate.py``); a bound on how far w′ is from μ;
the pins. The profile that is stored and shown remains the posterior itself.
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
from personalign.learn.prior import conditioned
from personalign.options import check_number
from personalign.types import MAX_UTILITY, WEIGHTS, Array, Gaussian, Guidance, Profile

REACH = 0.999  # the share of the prior's people who are within the bound
_NO_PINS: Mapping[str, float] = MappingProxyType({})


class Serving:
    """How profiles of one basis guide replies, the same for all people.

    ``pinned`` gives axes by name the weight that everyone has on them, whatever they answered: utility for each
    standard deviation of the axis, 0 to steer no one along it. While ``is_shadow`` is set, replies are the model's own,
    and their account says what guidance would have done to each token. It may be set at any time for later replies.
    """

    def __init__(self, basis: Basis, pinned: Mapping[str, float] = _NO_PINS, *, is_shadow: bool = False) -> None:
        _check_pins(pinned, [axis.name for axis in basis.axes])
        self.basis = basis
        self._gate = basis.gate
        self.pinned: Mapping[str, float] = MappingProxyType(dict(pinned))
        self.is_shadow = is_shadow

    def weights(self, profile: Profile) -> Float[Array, "d"]:
        """The weights that guide a person's replies; the profile's own array where nothing changes."""
        post, prior = profile.posterior, self.basis.prior
        if self._gate is not None:
            start = conditioned(prior, profile.stated, self.basis.axes)  # the gate judges answers, not what is stated
            post = shrink(self._gate, post, start, profile.gain, profile.informative)
        weights = bounded(post.mean, prior)
        if not self.pinned:
            return weights
        return np.array([self.pinned.get(a.name, w) for a, w in zip(self.basis.axes, weights.tolist(), strict=True)])

    def belief(self, profile: Profile) -> Gaussian:
        """What is believed of the weights that are served: the posterior around them, and pinned ones are certain."""
        is_free = np.array([axis.name not in self.pinned for axis in self.basis.axes])
        return Gaussian(self.weights(profile), profile.covariance * np.outer(is_free, is_free))

    def guidance(self, profile: Profile, strength: float = 1.0, *, is_everyones: bool = False) -> Guidance | None:
        """What a request carries of a person; None for someone without an informative answer or statement.

        Where the gate is shut (κ = 0) all people have the same weights but for what they stated: without that they
        steer nothing, and the reply says why.
        ``is_everyones`` says that the reward is the same for all people, so that it guides strangers, too.
        """
        if profile.is_silent:
            return Guidance(profile.mean, 1.0, strength, is_shadow=self.is_shadow) if is_everyones else None
        is_personal = is_everyones or bool(profile.stated) or self.openness(profile) > 0
        weights = self.weights(profile)
        return Guidance(
            weights=weights,
            confidence=self._confidence(profile, weights) if is_personal else 0.0,
            strength=strength,
            revision=profile.revision,
            user=profile.user,
            generation=crc32(profile.mean.tobytes()),  # another one if the person was erased and came back
            is_shadow=self.is_shadow,
            is_personal=is_personal,
        )

    def _confidence(self, profile: Profile, weights: Float[Array, "d"]) -> float:
        """ρ of the basis; for someone who stated a taste, the same along the weights that are served."""
        if not profile.stated:
            return self.basis.confidence(profile.covariance)
        before = weights @ self.basis.prior.covariance @ weights
        return 1 - float(weights @ profile.covariance @ weights / before) if before > 0 else 0.0

    def openness(self, profile: Profile) -> float:
        """How much of what sets a person apart from μ is served."""
        return 1.0 if self._gate is None else openness(self._gate, profile.gain, profile.informative)

    def described(self, profile: Profile) -> Profile:
        """The profile with all that explaining it takes."""
        basis, names = self.basis, {axis.name for axis in self.basis.axes}
        return replace(
            profile,
            axes=basis.axes,
            pinned=self.pinned,
            common=basis.prior.mean,
            openness=self.openness(profile),
            stated=tuple(statement for statement in profile.stated if statement.axis in names),
        )

    def gain(self, v: Float[Array, "d"], choice: str, before: Gaussian, kind: str = "question") -> float | None:
        """Nats by which a posterior predicted an answer better than the prior's mean; None without a gate."""
        if self._gate is None or WEIGHTS[kind] == 0:
            return None
        gain = gain_by(v, choice, before, self.basis.prior, self._gate.kappa, self.basis.noise)
        return None if gain is None else WEIGHTS[kind] * gain


def bounded(weights: Float[Array, "d"], prior: Gaussian, reach: float = REACH) -> Float[Array, "d"]:
    """Draw weights towards μ until a share ``reach`` of the prior's people are as far from it; change none within.

    The distance is √((w − μ)ᵀ Σ₀⁻¹ (w − μ)), whose square is χ² with d degrees of freedom over the prior's people.
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
        check_number(f"the weight of the pinned axis {name!r}", weight, -MAX_UTILITY, MAX_UTILITY)
