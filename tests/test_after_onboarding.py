"""What comes after the questions, on the bundled basis and a real SQLite file: feedback from use."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from personalign.errors import InputError
from personalign.service import Personalign
from personalign.types import Message

HELLO: list[Message] = [{"role": "user", "content": "I'd like to rent a car please."}]


@pytest.fixture
def p(tmp_path: Path) -> Iterator[Personalign]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft speaks about tied embeddings
        with Personalign.open(f"sqlite:///{tmp_path / 'p.db'}") as opened:
            yield opened


def onboard(p: Personalign, user: str, most: int = 100) -> None:
    """Answer questions with the longer reply."""
    while most > 0 and (question := p.ask(user)):
        p.answer(user, question.id, "a" if len(question.a) > len(question.b) else "b")
        most -= 1


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
