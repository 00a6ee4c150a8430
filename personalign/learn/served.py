"""The weights that guide a person's replies: the posterior's mean, a bound on how far it is from μ, and pinned axes."""

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
from personalign.options import check_number
from personalign.types import MAX_UTILITY, Array, Gaussian, Guidance, Profile

REACH = 0.999  # the share of the prior's people who are within the bound
_NO_PINS: Mapping[str, float] = MappingProxyType({})


class Serving:
    """How profiles of one basis guide replies, the same for all people.

    ``pinned`` gives axes by name the weight that everyone has on them, whatever they answered: utility for each
    standard deviation of the axis, 0 to steer no one along it. While ``is_shadow`` is set, replies are the model's own,
    and their account says what guidance would have done to each token. It may be set at any time for later replies.
    ``guides_strangers`` lets everybody's mean taste guide whoever has said nothing, where the basis knows one.
    """

    def __init__(
        self,
        basis: Basis,
        pinned: Mapping[str, float] = _NO_PINS,
        *,
        is_shadow: bool = False,
        guides_strangers: bool = True,
    ) -> None:
        _check_pins(pinned, [axis.name for axis in basis.axes])
        self.basis = basis
        self.pinned: Mapping[str, float] = MappingProxyType(dict(pinned))
        self.is_shadow = is_shadow
        self.guides_strangers = guides_strangers and bool(basis.prior.mean.any())

    def weights(self, profile: Profile) -> Float[Array, "d"]:
        """The weights that guide a person's replies; the profile's own array where nothing changes."""
        weights = bounded(profile.mean, self.basis.prior)
        if not self.pinned:
            return weights
        return np.array([self.pinned.get(a.name, w) for a, w in zip(self.basis.axes, weights.tolist(), strict=True)])

    def belief(self, profile: Profile) -> Gaussian:
        """What is believed of the weights that are served: the posterior around them, and pinned ones are certain."""
        is_free = np.array([axis.name not in self.pinned for axis in self.basis.axes])
        return Gaussian(self.weights(profile), profile.covariance * np.outer(is_free, is_free))

    def guidance(self, profile: Profile, strength: float = 1.0, *, is_everyones: bool = False) -> Guidance | None:
        """What a request carries of a person; None for one who has said nothing, unless everybody's mean taste guides.

        Where nothing is personal on the basis, all people have the same weights but for what they stated: without that
        they are served as strangers are. ``is_everyones`` says that the reward is the same for all people, so that it
        guides strangers, too, and whoever paused, whom nothing else guides.
        """
        if profile.is_paused and not is_everyones:
            return None
        is_own = bool(profile.stated) or (self._is_personal and not profile.is_silent)
        is_population = self.guides_strangers and not is_own and not is_everyones
        if profile.is_silent and not is_everyones and not is_population:
            return None
        return Guidance(
            weights=self.weights(profile),
            strength=strength,
            revision=profile.revision,
            user="" if is_population else profile.user,  # everybody's weights outlive a person
            generation=crc32(profile.mean.tobytes()),  # another one if the person was erased and came back
            is_shadow=self.is_shadow,
            is_personal=is_own or is_everyones or is_population,
            is_population=is_population,
        )

    @property
    def _is_personal(self) -> bool:
        """Whether answers on this basis can set a person apart."""
        return self.basis.shares.nothing < 1

    def described(self, profile: Profile) -> Profile:
        """The profile with all that explaining it takes."""
        basis, names = self.basis, {axis.name for axis in self.basis.axes}
        return replace(
            profile,
            axes=basis.axes,
            pinned=self.pinned,
            common=basis.prior.mean,
            is_personal=self._is_personal,
            stated=tuple(statement for statement in profile.stated if statement.axis in names),
        )


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
