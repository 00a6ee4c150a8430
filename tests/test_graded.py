"""Graded answers: "much better" beside better, on a real SQLite file, from the question to the profile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from personalign import Personalign
from personalign.errors import AlreadyAnswered, InputError
from personalign.learn.fit import fit
from personalign.learn.mixture import Mixture
from personalign.types import Question


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'people.db'}"


@pytest.fixture
def p(url: str) -> Iterator[Personalign]:
    with Personalign.open(url, model="tiny") as opened:
        yield opened


def question(p: Personalign, user: str, *, graded: bool = True) -> Question:
    asked = p.ask(user, graded=graded)
    assert asked is not None
    return asked


def choices(p: Personalign, user: str) -> list[str]:
    return [row["choice"] for row in p.export(user)["tables"]["answers"]]


def length(p: Personalign, user: str) -> float:
    """How far the weights are from the prior's mean."""
    return float(np.linalg.norm(p.profile(user).mean - p.basis.prior.mean))


def test_a_is_a_little_better_only_where_much_better_was_offered(p: Personalign) -> None:
    """The same tap on the same question says less beside "a++"; plain it is fitted as it always was, to the byte."""
    for user, graded, choice in (("ada", True, "a"), ("ben", False, "a"), ("cleo", True, "a++")):
        p.answer(user, question(p, user, graded=graded).id, choice)
    assert [choices(p, user) for user in ("ada", "ben", "cleo")] == [["a+"], ["a"], ["a++"]]
    assert length(p, "ada") < length(p, "ben") < length(p, "cleo")
    (shown,) = p.export("ben")["tables"]["presentations"]
    plain = fit(np.array([shown["v"]]), ["a"], Mixture(p.basis.prior, p.basis.shares), p.basis.noise)
    assert p.profile("ben").mean.tobytes() == plain.mean.tobytes()


def test_much_better_is_taken_whatever_was_offered(p: Personalign) -> None:
    """An application that forgot to say so loses nothing; ties and skips are as ever."""
    for choice in ("b++", "tie", "skip"):
        p.answer("ada", question(p, "ada", graded=False).id, choice)
    assert choices(p, "ada") == ["b++", "tie", "skip"]
    assert p.profile("ada").informative == 2
    assert p.drift("ada").asked == 2


def test_the_same_answer_again_changes_nothing(p: Personalign) -> None:
    """Another tap on "a" is the same answer, also where it is stored as a little better; "a++" isn't."""
    asked = question(p, "ada").id
    first = p.answer("ada", asked, "a")
    assert p.answer("ada", asked, "a").revision == first.revision
    for other in ("b", "a++"):
        with pytest.raises(AlreadyAnswered):
            p.answer("ada", asked, other)


def test_what_is_offered_is_what_was_asked_for_last(p: Personalign, url: str) -> None:
    """An open question is shown again, by another process or after an undo, and "a" means what its buttons say."""
    asked = question(p, "ada", graded=False)
    with Personalign.open(url, model="tiny") as other:
        assert question(other, "ada") == asked
    p.answer("ada", asked.id, "a")
    p.undo("ada")
    p.answer("ada", asked.id, "b")
    p.undo("ada")
    assert question(p, "ada", graded=False) == asked
    p.answer("ada", asked.id, "b")
    assert sorted(choices(p, "ada")) == ["a+", "b", "b+"]
    assert [row["graded"] for row in p.export("ada")["tables"]["presentations"]] == [False]
    with pytest.raises(InputError, match="graded is 'yes', expected True or False"):
        p.ask("ada", graded="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize(("again", "agreed"), [("b", True), ("b++", True), ("a++", False), ("tie", False)])
def test_agreement_goes_by_sides(p: Personalign, again: str, agreed: bool) -> None:
    """Who found a much better and finds it a little better the other way round agrees."""
    p.answer("ada", question(p, "ada").id, "a++")
    check = p.reask("ada")
    assert check is not None
    p.answer("ada", check.id, again)
    assert p.agreed("ada") is agreed


def test_a_new_basis_takes_grades_over(p: Personalign, url: str, tmp_path: Path) -> None:
    """Copies for another basis say what was said, and what was offered."""
    p.answer("ada", question(p, "ada").id, "a")
    replace(p.basis, noise=replace(p.basis.noise, much=3.0)).save(tmp_path / "basis")
    with Personalign.open(url, basis=tmp_path / "basis") as other:
        assert other.basis.id != p.basis.id
        assert other.basis.noise.much == 3.0
        other.refit("ada")
        assert choices(other, "ada") == ["a+", "a+"]
        assert [row["graded"] for row in other.export("ada")["tables"]["presentations"]] == [True, True]
