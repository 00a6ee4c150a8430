"""How questions are chosen, on a real SQLite file: by rule, at random where a basis is too weak, none twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from personalign.basis import Basis
from personalign.bundled import TINY
from personalign.errors import InputError
from personalign.learn.ask import StopRule
from personalign.service import Personalign
from personalign.types import Choice

BASIS = Basis.load(TINY / "basis")
Opener = Callable[[Basis], Personalign]


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    """Opens a store of its own for each basis."""

    def open_with(basis: Basis) -> Personalign:
        folder = tmp_path / f"basis {len(list(tmp_path.iterdir()))}"
        basis.save(folder)
        return Personalign.open(f"sqlite:///{folder / 'p.db'}", basis=folder)

    return open_with


def asked(p: Personalign, user: str, most: int = 6) -> list[str]:
    """Answer questions with the longer reply; the prompts asked about."""
    found = []
    while len(found) < most and (question := p.ask(user)):
        found.append(str(question.prompt))
        p.answer(user, question.id, "a" if len(question.a) > len(question.b) else "b")
    return found


def test_questions_are_chosen_by_the_rule_that_is_set(opened: Opener) -> None:
    """Another rule asks other questions, from the next one on; one that isn't known is refused."""
    with opened(BASIS) as p:
        assert p.question_rule == "accuracy"
        first = asked(p, "ada", 3)
        assert asked(p, "ben", 3) == first  # the control: one rule, the same answers, the same questions
        p.question_rule = "eubo"
        assert asked(p, "cleo", 3) != first
        with pytest.raises(InputError, match="expected one of d_optimal"):
            p.question_rule = "magic"
        assert p.question_rule == "eubo"
        p.question_rule = "d_optimal"
        assert asked(p, "dan", 3) != first


def test_a_weak_basis_asks_at_random_and_says_so(opened: Opener) -> None:
    """Each person gets questions of their own, the same until they are answered, and learns why; a rule overrides."""
    with opened(replace(BASIS, active=False)) as p:
        assert p.question_rule == "random"
        assert p.ask("ada") == p.ask("ada")
        assert asked(p, "ada", 100) != asked(p, "ben", 100)
        assert "drawn at random" in (p.why_stopped("ada") or "")
        p.question_rule = "d_optimal"
        assert "drawn at random" not in (p.why_stopped("ada") or "")
    with opened(BASIS) as p:
        asked(p, "ada", 100)
        assert "drawn at random" not in (p.why_stopped("ada") or "")


def test_nobody_is_asked_nearly_the_same_twice(opened: Opener) -> None:
    """Of three questions that are all but alike one is asked, of three that differ each (the control)."""
    one = BASIS.bank[0]
    longer = replace(one, first_features=1.5 * one.first_features, second_features=1.5 * one.second_features)
    alike = (one, replace(longer, id="longer"), replace(one, id="louder", first=f"{one.first}!", second=one.second))
    far = [replace(question, id=f"{question.id} again", prompt=BASIS.bank[9].prompt) for question in BASIS.bank[1:3]]
    with opened(replace(BASIS, bank=alike)) as p:
        assert len(asked(p, "ada", 9)) == 1
        assert "no question left" in (p.why_stopped("ada") or "")
    with opened(replace(BASIS, bank=(one, *far))) as p:
        assert len(asked(p, "ada", 9)) == 3


@pytest.mark.parametrize("silent", ["skip", "neither"])
def test_a_question_that_is_passed_over_uses_none_up(opened: Opener, silent: Choice) -> None:
    """Those answered count; who passes over three times as many is left in peace, and told why."""
    with opened(BASIS) as p:
        p.stop_rule = StopRule(accuracy=0.999, information=0.0, max_questions=3)
        for number in range(6):
            question = p.ask("ada")
            assert question is not None
            p.answer("ada", question.id, "a" if number % 2 else silent)
        assert p.why_stopped("ada") == "reached 3 questions"
        assert p.profile("ada").informative == 3
        shown = 0
        while question := p.ask("ben"):
            p.answer("ben", question.id, silent)
            shown += 1
        assert shown == 9
        assert "9 questions, most of which were passed over" in (p.why_stopped("ben") or "")
