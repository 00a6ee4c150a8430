"""Many profiles at once: whole rows that the store believes, and nobody's own answers lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from personalign.errors import ProfileError
from personalign.store import Shown, Store, bulk
from personalign.store.bulk import Profiles, Written
from personalign.types import Gaussian, Statement

USERS = ["ada", "ben", "Zoë"]


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path / 'p.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    with Store.open(url) as store:
        store.save_basis("basis", "tiny", {})
        yield store


def profiles(users: list[str], scale: float = 1.0, basis_id: str = "basis") -> Profiles:
    rows = np.arange(3.0 * len(users)).reshape(-1, 3)
    counts = np.arange(len(users))
    return Profiles(basis_id, users, scale * rows, 1 + rows, 10 + counts, 9 + counts)


def answered(store: Store, user: str) -> None:
    store.add_user(user)
    pair = Shown.pair(user, "q", ({"role": "user", "content": "x"},), "first", "second", np.ones(3))
    shown = store.present(user, "basis", pair)
    store.commit_answer(user, shown.id, "a", lambda _: Gaussian(np.full(3, 7.0), np.eye(3)))


def test_profiles_are_served(store: Store) -> None:
    """What was put is what is read, whole, with the variances as a diagonal covariance."""
    assert store.bulk.put(profiles(USERS)) == Written(3, 0, 0)
    for i, user in enumerate(USERS):
        profile = store.profile(user, "basis")
        assert profile is not None
        assert (profile.revision, profile.answers, profile.informative) == (1, 10 + i, 9 + i)
        np.testing.assert_array_equal(profile.mean, [3 * i, 3 * i + 1, 3 * i + 2])
        np.testing.assert_array_equal(profile.covariance, np.diag(1 + profile.mean))
    assert store.num_people() == 3


def test_newer_ones_replace_them(store: Store) -> None:
    """Each writing makes another revision, which is seen at once."""
    store.bulk.put(profiles(USERS))
    before = store.data_version()
    assert store.bulk.put(profiles(USERS, 2.0)).written == 3
    profile = store.profile("ben", "basis")
    assert profile is not None
    assert (profile.revision, profile.mean[0]) == (2, 6.0)
    assert store.data_version() != before


def test_own_answers_win(store: Store) -> None:
    """Whoever answered or stated something here keeps the profile that follows from it."""
    answered(store, "ada")
    store.commit_statements(
        "ben", "basis", {("x", "set"): Statement("x", 1.0)}, lambda _: Gaussian(np.zeros(3), np.eye(3))
    )
    assert store.bulk.put(profiles(USERS)) == Written(1, 2, 0)
    profile = store.profile("ada", "basis")
    assert profile is not None
    assert profile.mean[0] == 7.0


def test_an_answer_adds_to_the_log(store: Store) -> None:
    """Someone with such a profile goes on answering from what the log told, and an undo brings it back whole."""
    store.bulk.put(profiles(USERS))
    before = store.profile("ben", "basis")
    assert store.before_answers("eve", "basis") == ({}, None)
    answered(store, "ben")
    after = store.profile("ben", "basis")
    assert (after.revision, after.mean[0], after.answers, after.informative, after.logged) == (2, 7.0, 12, 11, 11)
    stated, logged = store.before_answers("ben", "basis")
    assert (stated, logged.answers, logged.informative) == ({}, 11, 10)
    np.testing.assert_array_equal(logged.belief.mean, before.mean)
    np.testing.assert_array_equal(logged.belief.covariance, before.covariance)
    undone = store.undo_answer("ben", "basis", lambda _: logged.belief)
    assert (undone.answers, undone.informative, undone.logged) == (11, 10, 11)
    np.testing.assert_array_equal(undone.mean, before.mean)
    assert store.before_answers("ben", "basis")[1].answers == 11
    assert store.bulk.put(profiles(USERS, 2.0)) == Written(3, 0, 0)  # a newer log, as nothing of their own stands
    assert store.profile("ben", "basis").mean[0] == 6.0


def test_a_log_is_exported_and_erased(store: Store) -> None:
    """What a log told is the person's, too."""
    store.bulk.put(profiles(USERS))
    answered(store, "ben")
    (row,) = store.export("ben")["tables"]["profiles"]
    assert row["logged"] == [11.0, 10.0, 3.0, 4.0, 5.0, 4.0, 5.0, 6.0]
    assert store.forget("ben")
    assert store.profile("ben", "basis") is None
    answered(store, "ben")
    assert store.profile("ben", "basis").logged == 0


def test_erased_people_stay_erased(store: Store) -> None:
    """A log that still has someone who was erased doesn't bring them back."""
    store.bulk.put(profiles(USERS))
    store.forget("ada")
    assert store.bulk.put(profiles(USERS)) == Written(2, 0, 1)
    assert store.profile("ada", "basis") is None
    assert store.num_people() == 2


def test_erased_while_sealing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """So does an erasure between looking and writing."""
    store.bulk.put(profiles(USERS))
    seal = bulk._rows

    def sealed(*words):
        store.forget("ada")
        return seal(*words)

    monkeypatch.setattr(bulk, "_rows", sealed)
    assert store.bulk.put(profiles(USERS)) == Written(2, 0, 1)
    assert store.profile("ada", "basis") is None


def test_nothing_unsound(store: Store) -> None:
    """A number that isn't finite refuses the whole block."""
    with pytest.raises(ProfileError, match="NaN or Inf"):
        store.bulk.put(profiles(USERS, np.nan))
    assert store.num_people() == 0


def test_nobody(store: Store) -> None:
    """No people are no rows."""
    assert store.bulk.put(profiles([])) == Written(0, 0, 0)
