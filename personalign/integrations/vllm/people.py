"""For whom a request to vLLM is: what its arguments say, whether the store knows the person, and what guides them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from personalign.basis import Basis
from personalign.bundled import locate, no_basis
from personalign.errors import BasisError, InputError
from personalign.learn.served import Serving
from personalign.messages import check_user
from personalign.options import check_name, check_number
from personalign.settings import Settings
from personalign.store import Store
from personalign.store.recent import RecentProfiles
from personalign.types import Guidance, Profile

PREFIX = "personalign_"
UNKNOWN = "names someone whom the store doesn't know, or who was erased"
USER, STRENGTH = f"{PREFIX}user", f"{PREFIX}strength"  # in SamplingParams.extra_args, or vllm_xargs over HTTP


@dataclass(frozen=True)
class Ask:
    """The person that a request names, and how strongly they guide it."""

    user: str
    strength: float = 1.0


def read_ask(arguments: Mapping[str, Any] | None) -> Ask | None:
    """Read a request's extra arguments; None where they name nobody.

    Raises:
        InputError: one of ours is unknown, or has another type or range.
    """
    named = {name: value for name, value in (arguments or {}).items() if name.startswith(PREFIX)}
    for name in named:
        check_name("argument", name, (USER, STRENGTH))
    if not named:
        return None
    if USER not in named:
        raise InputError(f"found {STRENGTH} without {USER}; expected the person whom it concerns; pass both or none")
    strength = named.get(STRENGTH, 1.0)
    check_number(STRENGTH, strength, 0.0, 100.0)
    return Ask(check_user(named[USER]), float(strength))


class People:
    """The people of a store, as one process of vLLM knows them; ``forget`` is called with those who are erased."""

    def __init__(self, store: Store, serving: Serving, forget: Callable[[str], None] = lambda _: None) -> None:
        self._store, self._serving = store, serving
        self._recent = RecentProfiles(store, self._read, forget)

    @classmethod
    def open(cls, forget: Callable[[str], None] = lambda _: None) -> People:
        """Open the store and the basis that the environment names.

        Raises:
            BasisError: the model has none; StoreError where there is no such store.
        """
        settings = Settings()
        folder = locate(settings.model, settings.basis).basis
        if folder is None:
            raise BasisError(no_basis(settings.model))
        serving = Serving(Basis.load(folder), settings.pinned, is_shadow=settings.shadow)
        return cls(Store.open(settings.store, create=False), serving, forget)

    @property
    def basis(self) -> Basis:
        """The axes that their profiles are written in."""
        return self._serving.basis

    def guidance(self, ask: Ask) -> Guidance | None:
        """What guides a person's reply by their newest profile; None for one who has said nothing, or has paused.

        Raises:
            InputError: the store doesn't know the person.
        """
        profile = self._recent.get(ask.user)
        if profile.is_silent and self._store.person(ask.user).created_at is None:
            raise InputError(
                f"{USER} {UNKNOWN}; expected a person who was asked "
                f"something or said something; ask them first, or leave out {USER} for a plain reply"
            )
        return self._serving.guidance(profile, ask.strength)

    def is_gone(self, user: str) -> bool:
        """Whether nothing is known of a person any more."""
        return self._recent.get(user).is_silent

    def sweep(self) -> None:
        """Forget those who were erased, though nobody asks for them."""
        self._recent.sweep()

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def _read(self, user: str) -> Profile:
        basis = self.basis
        profile = self._store.profile(user, basis.id) or basis.first_profile(user)
        basis.check_profile(profile)
        return replace(profile, is_paused=self._store.person(user).is_paused)
