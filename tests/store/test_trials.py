"""A trial's rows: one runs at a time, who chose what is read without names, and damage and erasure are seen."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from personalign.errors import InputError, StoreError
from personalign.store import Comparison, Presentation, Shown, Store, Trial, schema, upkeep
from personalign.store.places import find

ON_BOTH = True  # databases

ARMS = ("plain", "personal")
Compare = Callable[..., Presentation]


@pytest.fixture
def trial(store: Store) -> Trial:
    return store.start_trial("basis", ARMS)


@pytest.fixture
def compare(store: Store, trial: Trial) -> Compare:
    def show(name: str = "trial:1", user: str = "ada", sides: tuple[str, str] = ARMS) -> Presentation:
        shown = Shown(
            name, ({"role": "user", "content": "a taxi"},), "left", "right!", swapped=False, v=np.ones(3), kind="trial"
        )
        return store.present_comparison(store.add_user(user), "basis", trial.id, sides, shown)

    return show


def test_one_trial_runs_at_a_time(store: Store, trial: Trial) -> None:
    """The same arms again go on with it, others are refused, and once it is stopped others may start."""
    assert store.start_trial("basis", ARMS) == trial == store.newest_trial("basis")
    with pytest.raises(InputError, match="stop it first"):
        store.start_trial("basis", ("plain", "words"))
    store.save_basis("other", "tiny", {})
    assert store.newest_trial("other") is None
    stopped = store.stop_trial("basis")
    assert stopped is not None
    assert stopped.stopped_at is not None
    assert store.stop_trial("basis") is None
    assert store.newest_trial("basis") == stopped
    assert store.start_trial("basis", ("plain", "words")).id != trial.id
    newest = store.newest_trial("basis")
    assert newest is not None
    assert newest.arms == ("plain", "words")


def test_two_running_trials_are_no_rows(trial: Trial, sql) -> None:
    """Not even a race gets there: the index refuses a second one, and takes one that is stopped (the control)."""
    copy = "INSERT INTO trials SELECT 'other', basis_id, arms, started_at, {}, num_erased, checksum FROM trials"
    with pytest.raises(Exception, match=r"(?i)unique"):
        sql(copy.format("NULL"))
    sql(copy.format("started_at"))


def test_what_was_compared_is_read_without_names(store: Store, trial: Trial, compare: Compare, fit) -> None:
    """Arms, choice and lengths, in the order of the answers; what failed or waits comes first."""
    first, second, third = compare(user="ben"), compare(), compare("trial:2", "ben", ARMS[::-1])
    store.note_failure(store.person("ada"), trial.id, ARMS, "b")
    for user, shown, choice in (("ada", second, "tie"), ("ben", third, "b")):
        store.commit_answer(user, shown.id, choice, fit)
    read = store.comparisons(trial.id)
    assert {one.person for one in read} == {0, 1}
    ben = next(one.person for one in read if one.choice == "b")
    assert sorted(read[:2], key=lambda one: one.failed) == [
        Comparison(ben, *ARMS, failed="", choice=None, lengths=(4, 6)),
        Comparison(1 - ben, *ARMS, failed="b"),
    ]
    assert read[2:] == [
        Comparison(1 - ben, *ARMS, failed="", choice="tie", lengths=(4, 6)),
        Comparison(ben, *ARMS[::-1], failed="", choice="b", lengths=(4, 6)),
    ]
    assert [store.num_compared(user, trial.id) for user in ("ada", "ben", "eve")] == [2, 2, 0]
    store.commit_answer("ben", first.id, "a", fit)
    store.undo_answer("ben", "basis", fit)
    assert [one.choice for one in store.comparisons(trial.id)] == [None, None, "tie", "b"]


def test_a_conversation_waits_once(store: Store, trial: Trial, compare: Compare, fit) -> None:
    """Shown again it is the same until it is answered, and its question may be asked beside an open one."""
    shown = compare()
    found = store.open_comparison("ada", "basis", "trial:1")
    assert found is not None
    assert compare().id == shown.id == found.id
    assert store.num_compared("ada", trial.id) == 1
    question = store.present("ada", "basis", Shown("q1", (), "a", "b", swapped=False, v=np.ones(3)))
    assert store.open_presentation("ada", "basis") is not None
    assert compare("trial:2").id not in {shown.id, question.id}
    assert store.commit_answer("ada", shown.id, "a", fit).answers == 1
    assert store.open_comparison("ada", "basis", "trial:1") is None
    assert compare().id != shown.id
    store.undo_answer("ada", "basis", fit)
    waiting = store.open_presentation("ada", "basis")
    assert waiting is not None
    assert waiting.id == question.id  # which an undo of a question's answer would have withdrawn


def test_erasure_takes_the_rows_and_counts_the_person(
    store: Store, trial: Trial, compare: Compare, fit, url: str, path: Path, tmp_path: Path
) -> None:
    """Of someone erased nothing is left but a count, in a copy from before, too; others stay as they are."""
    for user in ("ada", "ben"):
        store.commit_answer(user, compare(user=user).id, "a", fit)
    store.note_failure(store.person("ada"), trial.id, ARMS, "ab")
    assert len(store.export("ada")["tables"]["comparisons"]) == 2
    store.close()
    copy = tmp_path / "copy"
    shutil.copy(path, copy)
    for _ in ("erased", "and the copy"):
        with Store.open(url) as opened:
            opened.forget("ada")
            after = opened.newest_trial("basis")
            assert after is not None
            assert after.num_erased == 1
            assert len(opened.comparisons(trial.id)) == 1
            assert not any(opened.export("ada")["tables"].values())
        shutil.copy(copy, path)
    with Store.open(url) as opened:
        opened.add_user("eve")
        opened.forget("eve")  # who was in no trial
        again = opened.newest_trial("basis")
        assert again is not None
        assert again.num_erased == 1


def test_someone_erased_while_arms_write_does_not_come_back(store: Store, trial: Trial) -> None:
    """What was begun before is refused, replies and failures alike."""
    person = store.person("ada")
    store.forget("ada")
    shown = Shown("trial:1", (), "left", "right", swapped=False, v=np.ones(3), kind="trial")
    with pytest.raises(InputError, match="erased meanwhile"):
        store.present_comparison(person, "basis", trial.id, ARMS, shown)
    with pytest.raises(InputError, match="erased meanwhile"):
        store.note_failure(person, trial.id, ARMS, "a")
    assert store.comparisons(trial.id) == []


@pytest.mark.parametrize(
    ("table", "change"), [("trials", "arms = 'words,plain'"), ("comparisons", "arm_a = 'personal', arm_b = 'plain'")]
)
def test_a_changed_row_is_not_believed(store: Store, trial: Trial, compare: Compare, sql, table, change) -> None:
    """Arms that were changed behind the store's back are an error, and no result."""
    compare()
    sql(f"UPDATE {table} SET {change}")
    with pytest.raises(StoreError, match="checksum"):
        (store.newest_trial("basis"), store.comparisons(trial.id))


def test_going_back_to_the_older_schema_keeps_one_open_question(
    store: Store, compare: Compare, url: str, sql, fit
) -> None:
    """What waits in a trial goes, as the older code takes one question at a time; what is asked and answered stays."""
    store.commit_answer("ada", compare("trial:0").id, "a", fit)
    compare("trial:1")
    store.present("ada", "basis", Shown("q1", (), "a", "b", swapped=False, v=np.ones(3)))
    store.close()
    schema.migrate(find(url), "0009")
    assert sql("SELECT question_id, state FROM presentations ORDER BY question_id") == [
        ("q1", "open"),
        ("trial:0", "answered"),
    ]
    upkeep.upgrade(url)
    with Store.open(url) as opened:
        assert opened.newest_trial("basis") is None


def test_times_are_those_of_the_calls(trial: Trial) -> None:
    """A trial has begun when it was started, and runs."""
    assert abs((datetime.now(UTC) - trial.started_at).total_seconds()) < 60
    assert (trial.stopped_at, trial.num_erased) == (None, 0)
