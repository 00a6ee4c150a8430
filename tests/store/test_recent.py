"""Profiles that are kept at hand are never older than the store, whoever commits, whenever."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from personalign.errors import StoreError
from personalign.store import Store, recent
from personalign.store.recent import RecentProfiles
from personalign.store.store import Fit
from personalign.types import Profile

ON_BOTH = True  # databases

NUM_COMMITS = 25


class Stale(RecentProfiles):
    """The trap: the counter is read after the profile, and tells of a commit that the profile lacks."""

    def get(self, user: str) -> Profile:
        version, profile = self._profiles.get(user, (-1, None))
        if profile is None or self._store.data_version() != version:
            profile = self._read(user)
            self._profiles[user] = self._store.data_version(), profile
        return profile


def nobody(user: str) -> None:
    raise AssertionError(user)


@pytest.fixture
def read(store: Store) -> Callable[[str], Profile]:
    def newest(user: str) -> Profile:
        found = store.profile(user, "basis")
        return found or Profile(user, "basis", 0, np.zeros(3), np.eye(3), 0, 0)

    return newest


@pytest.fixture(autouse=True)
def hasty_threads() -> Iterator[None]:
    """Threads change as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize(("kind", "is_fresh"), [(RecentProfiles, True), (Stale, False)], ids=["ours", "control"])
def test_a_commit_while_a_profile_is_read_is_seen(
    store: Store, show: Callable[..., object], fit: Fit, read: Callable[[str], Profile], kind: type, *, is_fresh: bool
) -> None:
    """What was read before the commit is forgotten after it."""

    def read_slowly(user: str) -> Profile:
        before = read(user)
        if not before.revision:
            store.commit_answer(user, show("q").id, "a", fit)
        return before

    profiles = kind(store, read_slowly, nobody)
    assert profiles.get("ada").revision == 0
    assert (profiles.get("ada").revision == 1) == is_fresh


def test_no_thread_gets_an_older_profile(
    store: Store,
    show: Callable[..., object],
    fit: Fit,
    read: Callable[[str], Profile],
) -> None:
    """While one thread commits, others read: each finds at least the revision that was committed when it asked."""
    profiles, committed, is_over = RecentProfiles(store, read, nobody), 0, threading.Event()

    def commit() -> None:
        nonlocal committed
        try:
            for number in range(NUM_COMMITS):
                committed = store.commit_answer("ada", show(f"q{number}").id, "a", fit).revision
        finally:
            is_over.set()

    def ask() -> int:
        num_seen = 0
        while not is_over.is_set():
            least = committed
            assert profiles.get("ada").revision >= least
            num_seen += 1
        return num_seen

    with ThreadPoolExecutor(5) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        pool.submit(commit).result()
        assert all(done.result() for done in asking)
    assert profiles.get("ada").revision == NUM_COMMITS


def test_a_profile_is_read_once_until_someone_commits(
    store: Store, show: Callable[..., object], fit: Fit, read: Callable[[str], Profile]
) -> None:
    """Asking again costs no read; any commit, of another person too, costs one."""
    users: list[str] = []

    def count(user: str) -> Profile:
        users.append(user)
        return read(user)

    profiles = RecentProfiles(store, count, nobody)
    for _ in range(3):
        profiles.get("ada")
    assert users == ["ada"]
    store.add_user("ben")
    profiles.get("ada")
    assert users == ["ada", "ada"]


def test_little_room_is_shared(store: Store, read: Callable[[str], Profile], monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that push each other's profiles out still get them."""
    monkeypatch.setattr(recent, "CAPACITY", 1)
    profiles = RecentProfiles(store, lambda user: Profile(user, "basis", 0, np.zeros(3), np.eye(3), 0, 0), nobody)
    users = [f"user-{number % 3}" for number in range(3000)]
    with ThreadPoolExecutor(6) as pool:
        assert [profile.user for profile in pool.map(profiles.get, users)] == users


def test_strangers_push_nobody_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more people than there is room for those stay who said something, whoever is asked for last."""
    monkeypatch.setattr(recent, "CAPACITY", 3)
    reads: list[str] = []

    def read(user: str) -> Profile:
        reads.append(user)
        return Profile(user, "basis", 0, np.zeros(3), np.eye(3), 1, int(user.startswith("known")))

    profiles = RecentProfiles(store, read, nobody)
    for user in ("stranger 1", "known 1", "known 2", "stranger 2", "stranger 3", "known 1", "known 2"):
        profiles.get(user)
    assert reads == ["stranger 1", "known 1", "known 2", "stranger 2", "stranger 3"]
    for user in ("known 3", "known 4", "known 1"):
        profiles.get(user)
    assert reads[5:] == ["known 3", "known 4", "known 1"], "the control: among themselves the oldest goes first"


def test_each_erasure_of_a_person_asked_for_is_told_once(
    store: Store, url: str, read: Callable[[str], Profile], soon: Callable[[Callable[[], bool]], bool]
) -> None:
    """Whoever erases them, and whether or not they are back since; erasures before and of others are no news."""
    told: list[str] = []

    def told_of(*users: str) -> bool:
        for user in ("ben", "ada", "ben"):
            profiles.get(user)
        return told == [*users]

    store.forget("ada")
    store.add_user("ada")
    profiles = RecentProfiles(store, read, told.append)
    for user in ("ada", "ben"):
        store.add_user(user)
        profiles.get(user)
    store.add_user("eve")
    store.forget("eve")
    profiles.get("ben")
    assert told == []
    with Store.open(url) as other:
        for count in (1, 2):
            other.forget("ada")
            other.add_user("ada")
            assert soon(lambda: told_of(*["ada"] * count))  # noqa: B023
    store.forget("ben")
    profiles.get("ada")
    assert told == ["ada", "ada", "ben"]


def test_polls_read_no_key(store: Store, read: Callable[[str], Profile], path: Path) -> None:
    """Where nobody was erased, nothing is made beside the database."""
    profiles = RecentProfiles(store, read, nobody)
    for user in ("ada", "ben"):
        store.add_user(user)
        profiles.get(user)
    assert not path.with_name("profiles.db.key").exists()


def test_known_people_are_served_while_the_store_is_away(
    store: Store, read: Callable[[str], Profile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For five minutes since it was read last, and as they were known; nobody else is; then it is read again."""
    now = [0.0]
    profiles = RecentProfiles(store, read, nobody, lambda: now[0])
    known = profiles.get("ada")
    now[0] = 1000.0
    profiles.get("ben")  # the store was read then
    for method in ("data_version", "erased"):
        with monkeypatch.context() as away:
            away.setattr(store, method, lambda *_: (_ for _ in ()).throw(StoreError("disk I/O error")))
            store.add_user(f"somebody after {method}")
            now[0] += recent.MAX_STALE_S
            assert profiles.get("ada") is known
            assert profiles.is_stale
            with pytest.raises(StoreError):
                profiles.get("cleo")
            now[0] += 1
            with pytest.raises(StoreError):
                profiles.get("ada")
        profiles.get("ben")
        assert not profiles.is_stale


def test_nobody_stays_who_is_forgotten(store: Store, read: Callable[[str], Profile]) -> None:
    """At once, and also where their profile was being read meanwhile."""
    profiles = RecentProfiles(store, read, nobody)
    profiles.get("ada")
    profiles.forget("ada")
    assert not profiles._profiles

    def read_slowly(user: str) -> Profile:
        profile = read(user)
        if user == "ada":
            profiles.forget("ada")
        return profile

    profiles = RecentProfiles(store, read_slowly, nobody)
    assert profiles.get("ada").user == "ada"
    assert not profiles._profiles
    profiles.get("ben")
    assert list(profiles._profiles) == ["ben"]  # the control: others stay
