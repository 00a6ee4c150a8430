"""Profiles as they are now, without reading them anew for every request."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from personalign.errors import StoreError
from personalign.store.store import Store
from personalign.types import Profile

CAPACITY = 10_000
MAX_STALE_S = 300.0  # how long known people are served by what is at hand when the store can't be read

log = logging.getLogger(__name__)


class RecentProfiles:
    """The profiles asked for last, each read anew after any commit, by this process or another.

    A poll of the database's counter costs microseconds, a profile's read a millisecond. The counter is read before
    the profile: what is stored here may be newer than it says, never older. When one of these people is erased, here
    or elsewhere, ``forget`` is called with them once, before the next profile is given out.
    """

    def __init__(
        self,
        store: Store,
        read: Callable[[str], Profile],
        forget: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._read, self._forget, self._clock = store, read, forget, clock
        self._lock = Lock()
        self._version = -1  # up to which erasures were looked for
        self._erasures = 0  # how many there were then
        self._num_forgotten = 0
        self._profiles: OrderedDict[str, tuple[int, Profile]] = OrderedDict()  # and the version before each was read
        self._read_at = clock()  # when the store could be read last
        self.is_stale = False  # whether it couldn't be read the last time

    def get(self, user: str) -> Profile:
        """A person's profile; while the store can't be read, for five minutes, the last one known; else StoreError."""
        try:
            profile = self._newest(user)
        except StoreError:
            _, known = self._profiles.get(user, (None, None))
            if known is None or self._clock() - self._read_at > MAX_STALE_S:
                raise
            if not self.is_stale:
                log.warning("the store can't be read; known people are served by the profiles at hand")
            self.is_stale = True
            return known
        if self.is_stale:
            log.warning("the store can be read again")
        self._read_at, self.is_stale = self._clock(), False
        return profile

    def sweep(self) -> None:
        """Forget those who were erased, here or elsewhere, though nobody asks for a profile.

        Raises:
            StoreError: the store can't be read.
        """
        version = self._store.data_version()
        with self._lock:
            self._forget_erased(version)

    def forget(self, user: str) -> None:
        """Let go of a person's profile, and of those that are being read."""
        with self._lock:
            self._num_forgotten += 1
            self._profiles.pop(user, None)

    def _newest(self, user: str) -> Profile:
        version = self._store.data_version()
        with self._lock:
            self._forget_erased(version)
            known_at, profile = self._profiles.get(user, (None, None))
            num_forgotten = self._num_forgotten
        if profile is None or known_at != version:
            profile = self._read(user)
            with self._lock:
                if num_forgotten == self._num_forgotten:  # else perhaps this person was erased meanwhile
                    self._profiles[user] = version, profile
                    # strangers go first: who names nobody is another one with each request
                    self._profiles.move_to_end(user, last=not profile.is_silent)
                    if len(self._profiles) > CAPACITY:
                        self._profiles.popitem(last=False)
        return profile

    def _forget_erased(self, version: int) -> None:
        if version != self._version:
            erased, erasures = self._store.erased(list(self._profiles), self._erasures)
            if erasures != self._erasures:
                self._erasures, self._num_forgotten = erasures, self._num_forgotten + 1
            for user in erased:
                del self._profiles[user]
                self._forget(user)
            self._version = version
