"""What comes after the questions, on the bundled basis and a real SQLite file: feedback, drift, a new basis, checks."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from personalign.basis import Basis
from personalign.bundled import TINY
from personalign.errors import InputError, ProfileError
from personalign.service import Personalign
from personalign.types import Message
from tests.onboarded import HELLO, onboard


def edit(p: Personalign, user: str, times: int, longer: bool) -> None:
    """Edit replies, each another one, to be longer or shorter."""
    for number in range(times):
        long, short = f"Sure! I have found {number + 2} cars that you might like, where shall I look?", f"{number}."
        chosen, rejected = (long, short) if longer else (short, long)
        p.feedback(user, HELLO, chosen=chosen, rejected=rejected, kind="edit")


def liking_of_length(p: Personalign, user: str) -> float:
    profile = p.profile(user)
    return float(profile.mean[[axis.name for axis in profile.axes].index("length")])


# Feedback


def test_feedback_makes_a_profile_of_its_own(p: Personalign) -> None:
    """Edited down again and again, a person comes to prefer shorter replies; the other way round, longer ones."""
    edit(p, "ada", 8, longer=False)
    edit(p, "ben", 8, longer=True)
    assert liking_of_length(p, "ada") < 0 < liking_of_length(p, "ben")
    profile = p.profile("ben")
    assert (profile.answers, profile.informative, profile.revision) == (0, 5, 8)
    assert p.chat("ben", HELLO).guided
    assert p.ask("ben") is not None  # questions are asked as before
    p.forget("ben")
    assert not any(p.export("ben")["tables"].values())


def test_a_single_thumb_does_not_guide_yet(p: Personalign) -> None:
    """It is kept, and joins what comes later; nobody is steered by less than one answer's worth."""
    profile = p.feedback("ada", HELLO, chosen="Sure, where?", rejected="No.", kind="thumbs")
    assert (profile.revision, profile.informative) == (1, 0)
    assert p.chat("ada", HELLO).reason == "no_answers"


@pytest.mark.slow
def test_more_feedback_than_a_fit_takes(p: Personalign) -> None:
    """A hundred and two regenerated replies are all kept, and fitted with two answers."""
    onboard(p, "ada", most=2)
    for number in range(102):
        profile = p.feedback("ada", HELLO, chosen=f"Yes, {number}.", rejected="No.", kind="regenerate")
    assert profile.revision == 104
    assert len(p.export("ada")["tables"]["answers"]) == 104


BAD_FEEDBACK: dict[str, tuple[list[Message], str, str, str]] = {
    "kind": (HELLO, "Yes.", "No.", "applause"),
    "no messages": ([], "Yes.", "No.", "edit"),
    "the assistant's turn": ([*HELLO, {"role": "assistant", "content": "Where?"}], "Yes.", "No.", "edit"),
    "an unknown role": ([{"role": "bishop", "content": "Yes?"}, *HELLO], "Yes.", "No.", "edit"),
    "a blank message": ([{"role": "user", "content": " "}], "Yes.", "No.", "edit"),
    "a blank reply": (HELLO, "Yes.", "", "edit"),
    "a huge reply": (HELLO, "Yes. " * 30_000, "No.", "edit"),
    "the same reply": (HELLO, "Yes.", "Yes.", "thumbs"),
    "half a character": (HELLO, "\ud800", "No.", "edit"),
}


@pytest.mark.parametrize("case", BAD_FEEDBACK)
def test_bad_feedback_is_refused(p: Personalign, case: str) -> None:
    """Each is an InputError, and leaves no answer; the same with sound texts is taken (the control)."""
    messages, chosen, rejected, kind = BAD_FEEDBACK[case]
    with pytest.raises(InputError):
        p.feedback("ada", messages, chosen, rejected, kind)
    assert not p.export("ada")["tables"]["answers"]
    assert p.feedback("ada", HELLO, "Yes.", "No.", "edit").revision == 1


@pytest.mark.parametrize("is_known", [True, False])
def test_feedback_under_way_brings_nobody_back(p: Personalign, monkeypatch, is_known: bool) -> None:
    """Erased while it is measured, a person stays erased, and their text isn't stored; sent again it starts anew."""
    if is_known:
        edit(p, "ada", 1, longer=True)
    measure = p._onboarding.compare

    def forget_meanwhile(*pair):
        p._store.add_user("ada")
        p.forget("ada")
        return measure(*pair)

    with monkeypatch.context() as erased:
        erased.setattr(p._onboarding, "compare", forget_meanwhile)
        with pytest.raises(InputError, match="erased meanwhile"):
            p.feedback("ada", HELLO, "SECRET.", "No.", "edit")
    assert not any(p.export("ada")["tables"].values())
    assert p.feedback("ada", HELLO, "Yes.", "No.", "edit").revision == 1


# Drift and forgetting


def test_a_change_of_taste_opens_questions_again(p: Personalign) -> None:
    """Who liked long replies and now likes short ones is asked anew, and the new taste wins over the older answers."""
    usual = p.stop_rule
    p.stop_rule = replace(usual, max_questions=40, accuracy=0.999)
    for user, longer in (("ada", False), ("ben", True)):
        onboard(p, user, most=14)
        assert liking_of_length(p, user) > 0
        onboard(p, user, most=10, longer=longer)
    p.stop_rule = usual
    assert (p.drift("ada").alarms, p.drift("ben").alarms) == (1, 0)
    assert "The taste seems to have changed" in p.drift("ada").explain()
    assert p.why_stopped("ada") is None
    assert p.ask("ada") is not None
    assert p.ask("ben") is None  # the control: who goes on as before is left in peace
    assert liking_of_length(p, "ada") < 0 < liking_of_length(p, "ben")
    onboard(p, "ada", longer=False)
    assert p.drift("ada").asked <= usual.max_questions
    assert p.why_stopped("ada")


def test_old_answers_are_forgotten_by_half_lives(p: Personalign, monkeypatch) -> None:
    """Under a half-life answers of years ago count next to nothing; without one, the default, as much as ever."""
    with monkeypatch.context() as past:
        past.setattr("personalign.store.answering.now", lambda: datetime(2001, 1, 1, tzinfo=UTC))
        onboard(p, "ada", most=6)
    known = {}
    for days in (None, 30.0):
        p.half_life_days = days
        p.feedback("ada", HELLO, "Sure, where?", f"No, not for {days}.", "edit")
        known[days] = np.linalg.norm(p.profile("ada").mean - p.basis.prior.mean)
    assert known[30.0] < known[None] / 2


def test_what_says_nothing_ages_nothing(p: Personalign, monkeypatch) -> None:
    """A skip or a check years later leaves a profile under a half-life as it was; an answer doesn't (the control)."""
    p.half_life_days = 180.0
    with monkeypatch.context() as past:
        past.setattr("personalign.store.answering.now", lambda: datetime(2001, 1, 1, tzinfo=UTC))
        onboard(p, "ada", most=4)
    before = p.profile("ada")
    for choice in ("a", "skip", "neither"):  # the first answers a check
        question = p.reask("ada") or p.ask("ada")
        assert question is not None
        assert p.answer("ada", question.id, choice).mean.tobytes() == before.mean.tobytes()
    onboard(p, "ada", most=1)
    assert p.profile("ada").mean.tobytes() != before.mean.tobytes()


@pytest.mark.parametrize("days", [0.0, -1.0, float("nan"), float("inf")])
def test_a_half_life_that_is_none_is_refused(p: Personalign, days: float) -> None:
    """It has to be a number above 0."""
    with pytest.raises(InputError, match="half_life_days"):
        p.half_life_days = days


# A new basis


@pytest.fixture
def renewed(tmp_path: Path) -> Path:
    """The bundled basis with half the axes, in another order and scale."""
    old = Basis.load(TINY / "basis")
    kept = np.arange(old.num_axes)[::-2]
    bank = tuple(
        replace(q, first_features=q.first_features[kept] / 2, second_features=q.second_features[kept] / 2)
        for q in old.bank
    )
    new = replace(
        old,
        axes=tuple(old.axes[j] for j in kept),
        center=old.center[kept],
        scale=old.scale[kept] * 2,
        prior=replace(old.prior, mean=old.prior.mean[kept], covariance=old.prior.covariance[np.ix_(kept, kept)]),
        reference=old.reference[:, kept] / 2,
        bank=bank,
        head=None,
    )
    new.save(tmp_path / "renewed")
    return tmp_path / "renewed"


def test_everybody_follows_to_a_new_basis(p: Personalign, tmp_path: Path, renewed: Path) -> None:
    """A refit gives the profiles that the same answers give there; stopped half-way and run again, it is the same."""
    users = [f"user-{number}" for number in range(4)]
    for number, user in enumerate(users):
        onboard(p, user, most=number + 2)
        edit(p, user, number, longer=True)
    before = {user: p.profile(user) for user in users}
    with Personalign.open(f"sqlite:///{tmp_path / 'p.db'}", basis=renewed) as new:
        assert new.behind() == users
        for user in users[:2]:
            new.refit(user)
    with Personalign.open(f"sqlite:///{tmp_path / 'p.db'}", basis=renewed) as new:
        assert new.behind() == users[2:]
        refitted = {user: new.refit(user) or new.profile(user) for user in users}
        assert new.behind() == []
    again = Personalign.open(f"sqlite:///{tmp_path / 'q.db'}")
    with again, Personalign.open(f"sqlite:///{tmp_path / 'q.db'}", basis=renewed) as at_once:
        for number, user in enumerate(users):
            onboard(again, user, most=number + 2)
            edit(again, user, number, longer=True)
        for user in at_once.behind():
            found = at_once.refit(user)
            assert found is not None
            assert found.mean.tobytes() == refitted[user].mean.tobytes()
            assert (found.answers, found.informative) == (before[user].answers, before[user].informative)
            assert np.linalg.norm(found.mean) > 0
    for user in users:
        kept = p.profile(user)
        assert (kept.revision, kept.mean.tobytes()) == (before[user].revision, before[user].mean.tobytes())


def test_what_is_asked_and_edited_there_is_measured_alike(p: Personalign, tmp_path: Path, renewed: Path) -> None:
    """Feedback taken over gives the very profile that it gives when it is told under the new basis."""
    edit(p, "ada", 5, longer=False)
    with Personalign.open(f"sqlite:///{tmp_path / 'p.db'}", basis=renewed) as new:
        followed = new.refit("ada")
        assert followed is not None
    with Personalign.open(f"sqlite:///{tmp_path / 'q.db'}", basis=renewed) as fresh:
        edit(fresh, "ada", 5, longer=False)
        assert fresh.profile("ada").mean.tobytes() == followed.mean.tobytes()


# Effects in words, and asking again


def test_an_answers_effect_is_said_in_words(p: Personalign) -> None:
    """The axis that moved most comes first, with what was and what is; a skip changes nothing."""
    before = p.profile("ada")
    edit(p, "ada", 6, longer=False)
    after = p.profile("ada")
    lines = after.changes(before, top=16).splitlines()
    assert "towards shorter replies (how long the reply is): undecided → " in "\n".join(lines)
    surety = [of.mean / np.sqrt(np.diag(of.covariance)) for of in (before, after)]
    moved = after.axes[int(np.argmax(np.abs(surety[1] - surety[0])))]
    assert f"({moved.about})" in lines[0]
    assert len(after.changes(before, top=2).splitlines()) == 2
    question = p.ask("ada")
    assert question is not None
    assert p.answer("ada", question.id, "skip").changes(after) == "Nothing changed that could be seen."
    with pytest.raises(ProfileError, match="compared"):
        after.changes(replace(before, basis_id="another"))


@pytest.mark.parametrize(("keep_to_it", "agreed"), [(True, True), (False, False)])
def test_one_question_is_asked_again(p: Personalign, keep_to_it: bool, agreed: bool) -> None:
    """Its sides are changed; who prefers the same text agrees; profile and counts stay, and it is asked once."""
    assert p.reask("ada") is None
    onboard(p, "ada", most=4)
    first = min(p.export("ada")["tables"]["presentations"], key=lambda shown: shown["shown_at"])
    liked = max(first["a"], first["b"], key=len)
    before, again = p.profile("ada"), p.reask("ada")
    assert again is not None
    assert p.reask("ada") == again
    assert p.ask("ada") == again
    assert (again.a, again.b) == (first["b"], first["a"])
    assert p.agreed("ada") is None
    after = p.answer("ada", again.id, "a" if (again.a == liked) == keep_to_it else "b")
    assert p.agreed("ada") == agreed
    assert (after.answers, after.informative, after.mean.tobytes()) == (4, 4, before.mean.tobytes())
    assert p.reask("ada") is None
    assert p.drift("ada").asked == 4


def test_a_check_that_is_skipped_says_nothing(p: Personalign) -> None:
    """Neither agreed nor not; a tie is another choice than before. Taken back, it is asked again."""
    onboard(p, "ada", most=2)
    for choice, agreed in (("skip", None), ("tie", False)):
        again = p.reask("ada")
        assert again is not None
        p.answer("ada", again.id, choice)
        assert p.agreed("ada") is agreed
        p.undo("ada")
    assert p.agreed("ada") is None
