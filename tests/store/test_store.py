"""The verbs: what goes in comes out, and a question is answered once."""

from __future__ import annotations

import json
import logging
import threading
from datetime import UTC

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalign.errors import AlreadyAnswered, BasisError, InputError, ProfileError, QuestionError
from personalign.store import Shown, Store
from personalign.types import CHOICES, INFORMATIVE, Gaussian
from tests.store.store_worker import is_known

ON_BOTH = True  # databases

COPY_OF_EACH = """
    INSERT INTO presentations
    SELECT 'other', user_id, basis_id, question_id, prompt, a, b, swapped, num_axes, v, checksum, state, shown_at, kind,
        origin, digest, graded, others
    FROM presentations
"""


def test_a_person_is_added_once_and_consent_is_recorded(store: Store) -> None:
    """Adding is idempotent; consent comes with its time, and a later add without it leaves it."""
    assert not is_known(store, "bob")
    store.add_user("bob")
    store.add_user("bob", consent="yes, for this app")
    store.add_user("bob")
    (row,) = store.export("bob")["tables"]["users"]
    assert row["consent"] == "yes, for this app"
    assert row["consent_at"] >= row["created_at"]


@pytest.mark.parametrize("user", ["", "x" * 129, "a\nb", "nul\0", "half \ud800 pair", "\x85"])
def test_an_id_that_is_no_name_is_refused(store: Store, user: str) -> None:
    """Empty, overlong and unprintable ids are an InputError, and nothing is stored."""
    with pytest.raises(InputError):
        store.add_user(user)


def test_half_a_surrogate_pair_is_refused_everywhere(store: Store, show, fit) -> None:
    """Text that isn't Unicode is an InputError in every verb, not a crash."""
    broken = "\ud800"
    for call in (
        lambda: is_known(store, broken),
        lambda: store.add_user("ada", consent=broken),
        lambda: store.presentation("ada", broken),
        lambda: store.export(broken),
        lambda: store.forget(broken),
        lambda: show("q", a=broken),
        lambda: store.commit_answer(broken, "x", "a", fit),
    ):
        with pytest.raises(InputError):
            call()


@settings(max_examples=30)
@given(user=st.text(min_size=1, max_size=128))
def test_any_id_is_kept_as_it_is_or_refused(tmp_path_factory, user: str) -> None:
    """An accepted id is found again under exactly its own characters."""
    with Store.open(f"sqlite:///{tmp_path_factory.getbasetemp() / 'ids.db'}") as store:
        try:
            store.add_user(user)
        except InputError:
            return
        assert is_known(store, user)
        assert store.export(user)["tables"]["users"][0]["id"] == user


def test_a_basis_is_saved_once(store: Store, sql) -> None:
    """Saving a basis again changes nothing."""
    store.save_basis("basis", "another", {})
    assert sql("SELECT model FROM bases") == [("tiny",)]


def test_what_was_shown_comes_back(store: Store, show, database: str) -> None:
    """A presentation keeps texts, sides, features to the last bit, and its time in UTC."""
    v = np.array([0.1, -0.0, 5e-324])
    b = "no\n\0" if database == "sqlite" else "no\n\1"  # Postgres has no text with NUL
    shown = show("q1", v=v, a="Sí, señor", b=b)
    for found in (store.presentation("ada", shown.id), store.open_presentation("ada", "basis")):
        assert found is not None
        assert (found.id, found.question_id, found.swapped) == (shown.id, "q1", False)
        assert (found.a, found.b) == ("Sí, señor", b)
        assert found.prompt == ({"role": "user", "content": "a taxi, please"},)
        assert found.v.tobytes() == v.tobytes()
        assert found.shown_at == shown.shown_at
        assert found.shown_at.tzinfo is UTC


def test_never_two_questions_are_open(store: Store, show, sql) -> None:
    """While a question is open, showing another returns the first; the table itself refuses a second."""
    first = show("q1")
    assert show("q2").id == first.id
    assert store.asked("ada", "basis") == {"q1"}
    with pytest.raises(Exception, match=r"(?i)unique"):
        sql(COPY_OF_EACH)


def test_a_stranger_and_an_unknown_basis_are_refused(store: Store, show) -> None:
    """A question is shown only to a known person, on a saved basis, with finite features."""
    with pytest.raises(InputError, match="isn't known"):
        show("q", user="bob")
    with pytest.raises(BasisError, match="save it first"):
        store.present("ada", "unknown", Shown("q", (), "a", "b", swapped=False, v=np.zeros(3)))
    with pytest.raises(ProfileError, match="NaN"):
        show("q", v=(0.0, np.nan, 0.0))
    assert store.open_presentation("ada", "basis") is None


def test_a_foreign_and_an_absent_question_look_the_same(store: Store, show, fit) -> None:
    """Nobody learns from the error whether another person's question exists."""
    store.add_user("eve")
    shown = show("q1")
    messages = set()
    for presentation_id in (shown.id, "absent"):
        for call in (store.presentation, lambda user, found: store.commit_answer(user, found, "a", fit)):
            with pytest.raises(QuestionError) as refused:
                call("eve", presentation_id)
            messages.add(str(refused.value))
    assert len(messages) == 1
    assert store.answers("ada", "basis") == ()


@pytest.mark.parametrize("choice", CHOICES)
def test_an_answer_is_stored_with_its_profile(store: Store, show, fit, choice: str) -> None:
    """Answer and revision appear together, and the profile is what the fit returned, bit for bit."""
    shown = show("q1", v=(0.1, 0.2, -0.3))
    profile = store.commit_answer("ada", shown.id, choice, fit)
    (answer,) = store.answers("ada", "basis")
    assert (answer.presentation_id, answer.choice) == (shown.id, choice)
    assert answer.seconds >= 0
    assert (profile.revision, profile.answers, profile.informative) == (1, 1, int(choice in INFORMATIVE))
    found = store.profile("ada", "basis")
    assert found is not None
    assert found.mean.tobytes() == shown.v.tobytes()
    assert found.covariance.tobytes() == (np.eye(3) * 2).tobytes()
    assert store.open_presentation("ada", "basis") is None


def test_the_same_answer_again_changes_nothing_and_another_is_refused(store: Store, show, fit, sql) -> None:
    """An answer is idempotent; a second, different one is AlreadyAnswered."""
    shown = show("q1")
    first = store.commit_answer("ada", shown.id, "a", fit)
    second = show("q2")
    latest = store.commit_answer("ada", second.id, "b", fit)
    again = store.commit_answer("ada", shown.id, "a", fit)
    assert (first.revision, latest.revision, again.revision) == (1, 2, 2)
    assert again.mean.tobytes() == latest.mean.tobytes()
    with pytest.raises(AlreadyAnswered, match="undo"):
        store.commit_answer("ada", shown.id, "tie", fit)
    assert sql("SELECT count(*) FROM answers") == [(2,)]
    assert sql("SELECT revision FROM profiles") == [(2,)]


def test_an_unknown_choice_is_refused(store: Store, show, fit) -> None:
    """A choice that there isn't is a QuestionError that lists them."""
    with pytest.raises(QuestionError, match="neither"):
        store.commit_answer("ada", show("q1").id, "left", fit)


@pytest.mark.parametrize(
    "fitted",
    [
        Gaussian(np.array([np.nan, 0, 0]), np.eye(3)),
        Gaussian(np.zeros(3), np.full((3, 3), np.inf)),
        Gaussian(np.zeros(3), np.eye(2)),
    ],
)
def test_a_fit_that_makes_no_sense_stores_nothing(store: Store, show, fitted: Gaussian) -> None:
    """NaN, Inf or a wrong shape from the fit takes the answer back with it."""
    shown = show("q1")
    with pytest.raises(ProfileError):
        store.commit_answer("ada", shown.id, "a", lambda _: fitted)
    assert store.answers("ada", "basis") == ()
    assert store.profile("ada", "basis") is None
    assert store.open_presentation("ada", "basis").id == shown.id


def test_a_fit_that_fails_stores_nothing(store: Store, show) -> None:
    """The fit's own error comes through, and the question stays open."""
    shown = show("q1")
    with pytest.raises(ZeroDivisionError):
        store.commit_answer("ada", shown.id, "a", lambda _: 1 / 0)
    assert store.open_presentation("ada", "basis").id == shown.id


def test_the_fit_sees_all_answers_that_stand_oldest_first(store: Store, show, fit) -> None:
    """The newest answer is among those the fit is given, and it comes last."""
    seen = []
    for number in range(4):
        store.commit_answer(
            "ada", show(f"q{number}", v=(number, 0, 0)).id, "a", lambda given: (seen.append(given), fit(given))[1]
        )
    assert [[answer.v[0] for answer in given] for given in seen] == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]


def test_undo_withdraws_the_newest_answer_and_opens_its_question(store: Store, show, fit) -> None:
    """The answer is kept and marked, a revision without it is appended, and the question may get another answer."""
    first = show("q1")
    store.commit_answer("ada", first.id, "a", fit)
    second = show("q2", v=(9, 9, 9))
    store.commit_answer("ada", second.id, "a", fit)
    profile = store.undo_answer("ada", "basis", fit)
    assert profile is not None
    assert (profile.revision, profile.answers, profile.mean.tolist()) == (3, 1, [1, 2, 3])
    assert store.open_presentation("ada", "basis").id == second.id
    assert [answer.presentation_id for answer in store.answers("ada", "basis")] == [first.id]
    assert len(store.export("ada")["tables"]["answers"]) == 2
    assert store.commit_answer("ada", second.id, "b", fit).revision == 4


def test_undo_withdraws_a_question_that_was_open(store: Store, show, fit) -> None:
    """Never two are open: the later question is withdrawn, can't be answered, and may be asked again."""
    first = show("q1")
    store.commit_answer("ada", first.id, "a", fit)
    later = show("q2")
    store.undo_answer("ada", "basis", fit)
    assert store.open_presentation("ada", "basis").id == first.id
    with pytest.raises(QuestionError, match="undo withdrew"):
        store.commit_answer("ada", later.id, "a", fit)
    assert store.asked("ada", "basis") == {"q1"}


def test_undo_without_answers_is_nothing(store: Store, fit) -> None:
    """With nothing to undo there is no new revision."""
    assert store.undo_answer("ada", "basis", fit) is None
    assert store.profile("ada", "basis") is None


def test_exposures_count_over_all_people(store: Store, show, fit) -> None:
    """Each showing counts, whoever saw it."""
    store.add_user("bob")
    for user, question in [("ada", "q1"), ("ada", "q2"), ("bob", "q1")]:
        store.commit_answer(user, show(question, user=user).id, "skip", fit)
    assert store.exposures("basis") == {"q1": 2, "q2": 1}
    assert store.exposures("other") == {}


def test_bases_do_not_mix(store: Store, show, fit) -> None:
    """Answers and profiles belong to one basis."""
    store.save_basis("second", "tiny", {})
    store.commit_answer("ada", show("q1").id, "a", fit)
    assert store.profile("ada", "second") is None
    assert store.answers("ada", "second") == ()
    other = store.present("ada", "second", Shown("q1", (), "a", "b", swapped=True, v=np.ones(5)))
    assert other.swapped
    assert store.asked("ada", "second") == {"q1"}


def test_data_version_tells_of_commits_only(store: Store, url: str, soon) -> None:
    """It changes with a commit of this store or another, and only then."""
    before = store.data_version()
    is_known(store, "ada")
    assert store.data_version() == before
    store.add_user("bob")
    after_own = store.data_version()
    with Store.open(url) as other:
        other.add_user("eve")
    assert before != after_own
    assert soon(lambda: store.data_version() not in {before, after_own})


def test_threads_share_a_store(store: Store, show, fit) -> None:
    """Threads that answer for one person at once lose no update."""
    failed = []

    def answer(thread: int) -> None:
        try:
            for step in range(4):
                store.commit_answer("ada", show(f"{thread}-{step}").id, "a", fit)
        except Exception as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=answer, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    profile = store.profile("ada", "basis")
    assert failed == []
    assert profile.revision == profile.answers == len(store.answers("ada", "basis")) > 0


def test_export_is_plain_json_and_complete(store: Store, show, fit) -> None:
    """What export returns survives JSON, numbers as they were."""
    store.commit_answer("ada", show("q1").id, "a", fit)
    exported = store.export("ada")
    assert json.loads(json.dumps(exported)) == exported
    assert exported["tables"]["profiles"][0]["mean"] == [1.0, 2.0, 3.0]
    assert exported["tables"]["presentations"][0]["a"] == "left"


def test_logs_hold_no_ids_and_no_texts(store: Store, show, fit, caplog) -> None:
    """At the chattiest level of logging, neither an id nor a text appears; a line of ours does (the control)."""
    with caplog.at_level(logging.DEBUG):
        store.add_user("canary-user")
        store.commit_answer("canary-user", show("q1", user="canary-user", a="canary-text").id, "a", fit)
        store.forget("canary-user")
        logging.getLogger("test").debug("control")
    assert "control" in caplog.text
    assert "canary" not in caplog.text
