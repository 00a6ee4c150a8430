"""Profiles as they are now, without reading them anew for every request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from personalign.store.erase import EPOCH
from personalign.store.store import Store
from personalign.types import Profile

CAPACITY = 10_000


class RecentProfiles:
    """The profiles asked for last, each read anew after a commit by anyone, this process or another.

    A poll of the database's counter costs microseconds, a profile's read a millisecond. The counter is read before
    the profile: what is kept may be newer than it says, never older. When one of these people is erased, here or
    elsewhere, ``forget`` is called with them once, before anybody's next profile is given out.
    """

    def __init__(self, store: Store, read: Callable[[str], Profile], forget: Callable[[str], None]) -> None:
        self._store, self._read, self._forget = store, read, forget
        self._lock = Lock()
        self._version = -1  # up to which erasures were looked for
        self._erased_at = EPOCH  # the last of them
        self._profiles: OrderedDict[str, tuple[int, Profile]] = OrderedDict()  # and the version before each was read

    def get(self, user: str) -> Profile:
        """A person's profile."""
        version = self._store.data_version()
        with self._lock:
            self._forget_erased(version)
            known_at, profile = self._profiles.get(user, (None, None))
        if profile is None or known_at != version:
            profile = self._read(user)
            self._keep(user, version, profile)
        return profile

    def _forget_erased(self, version: int) -> None:
        if version != self._version:
            erased, self._erased_at = self._store.erased(list(self._profiles), self._erased_at)
            for user in erased:
                del self._profiles[user]
                self._forget(user)
            self._version = version

    def _keep(self, user: str, version: int, profile: Profile) -> None:
        with self._lock:
            self._profiles[user] = version, profile
            self._profiles.move_to_end(user)
            if len(self._profiles) > CAPACITY:
                self._profiles.popitem(last=False)
