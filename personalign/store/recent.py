"""Profiles as they are now, without reading them anew for every request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from personalign.store.store import Store
from personalign.types import Profile

CAPACITY = 10_000


class RecentProfiles:
    """The profiles asked for last, all forgotten at the first commit by anyone, this process or another.

    A poll of the database's counter costs microseconds, a profile's read a millisecond. The counter is read before
    the profile: what is kept may be newer than it says, never older.
    """

    def __init__(self, store: Store, read: Callable[[str], Profile]) -> None:
        self._store, self._read = store, read
        self._version = -1
        self._profiles: OrderedDict[str, Profile] = OrderedDict()

    def get(self, user: str) -> Profile:
        """A person's profile."""
        version = self._store.data_version()
        if version != self._version:
            self._profiles, self._version = OrderedDict(), version
        profiles = self._profiles  # another thread may begin a new dictionary meanwhile
        profile = profiles.get(user)
        if profile is None:
            profile = profiles[user] = self._read(user)
            while len(profiles) > CAPACITY:
                profiles.popitem(last=False)
        return profile
