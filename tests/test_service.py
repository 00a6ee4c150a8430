"""The verbs of Personalign on the bundled model and a real SQLite file."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from personalign.errors import AlreadyAnswered, BasisError, InputError, QuestionError
from personalign.service import Personalign

HELLO = [{"role": "user", "content": "I'd like to rent a car please."}]


@pytest.fixture
def p(tmp_path: Path) -> Iterator[Personalign]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft speaks about tied embeddings
        with Personalign.open(f"sqlite:///{tmp_path / 'p.db'}") as opened:
            yield opened


def onboard(p: Personalign, user: str) -> None:
    """Answer everything with the longer reply."""
    while question := p.ask(user):
        p.answer(user, question.id, "a" if len(question.a) > len(question.b) else "b")


def test_a_person_is_onboarded_and_served(p: Personalign) -> None:
    """Ten answers at most give a profile that explains itself and changes replies."""
    onboard(p, "ada")
    profile = p.profile("ada")
    assert 1 <= profile.answers <= p.stop_rule.max_questions
    assert p.why_stopped("ada")
    assert "prefers" in profile.explain() or "prefer" in profile.explain()
    reply = p.chat("ada", HELLO)
    assert reply.guided
    assert reply.kl > 0
    assert reply.revision == profile.revision


def test_nobody_gets_the_models_own_reply(p: Personalign) -> None:
    """A person without answers is served plain decoding, and told so; with answers it differs in kind."""
    plain = p.chat("nobody", HELLO)
    assert (plain.guided, plain.reason, plain.kl) == (False, "no_answers", 0.0)
    onboard(p, "ada")
    off = p.chat("ada", HELLO, strength=0)
    assert (off.text, off.guided, off.reason) == (plain.text, False, "strength_zero")
    assert p.chat("ada", HELLO).kl > 0  # the control: steering is felt


def test_a_stream_is_the_reply(p: Personalign) -> None:
    """The pieces joined are the text of chat."""
    onboard(p, "ada")
    assert "".join(p.stream("ada", HELLO)) == p.chat("ada", HELLO).text


def test_the_same_question_until_it_is_answered(p: Personalign) -> None:
    """Asking again shows the open question; answering again changes nothing; another answer is refused."""
    question = p.ask("ada")
    assert question is not None
    assert p.ask("ada") == question
    first = p.answer("ada", question.id, "a")
    assert p.answer("ada", question.id, "a").revision == first.revision
    with pytest.raises(AlreadyAnswered):
        p.answer("ada", question.id, "b")
    following = p.ask("ada")
    assert following is not None
    assert following.id != question.id


def test_undo_opens_the_question_again(p: Personalign) -> None:
    """An answer taken back leaves the profile as it was before it."""
    question = p.ask("ada")
    assert question is not None
    p.answer("ada", question.id, "b")
    assert p.undo("ada").informative == 0
    again = p.ask("ada")
    assert again is not None
    assert (again.a, again.b) == (question.a, question.b)
    with pytest.raises(QuestionError):
        p.undo("ada")


def test_forget_leaves_nothing(p: Personalign) -> None:
    """After forget the person is new again."""
    onboard(p, "ada")
    assert p.export("ada")
    p.forget("ada")
    assert p.profile("ada").answers == 0
    assert not p.chat("ada", HELLO).guided


def test_bad_input_is_refused(p: Personalign, tmp_path: Path) -> None:
    """Unknown choices, questions, rules and models are named."""
    question = p.ask("ada")
    assert question is not None
    with pytest.raises(QuestionError):
        p.answer("ada", "no such question", "a")
    with pytest.raises(InputError):
        p.chat("ada", HELLO, rule="magic")
    with pytest.raises(InputError):
        p.chat("ada", [])
    with pytest.raises(BasisError, match="basis bootstrap"):
        Personalign.open(f"sqlite:///{tmp_path / 'q.db'}", model="some/model")


@pytest.mark.parametrize(("code", "loads"), [("import personalign", False), ("import personalign, torch", True)])
def test_importing_is_cheap(code: str, loads: bool) -> None:
    """`import personalign` loads neither torch nor sqlalchemy; the control shows that it would be seen."""
    script = f"{code}\nimport sys\nprint(any(name in sys.modules for name in ('torch', 'sqlalchemy')))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(loads)
