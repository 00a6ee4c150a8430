"""Picks: the best of several replies to one prompt, from the question to the profile, the store and the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import create_engine, text

from personalign import Personalign
from personalign.basis import Basis
from personalign.bundled import TINY
from personalign.errors import AlreadyAnswered, InputError, QuestionError
from personalign.learn.axes import features
from personalign.learn.rank import Picks
from personalign.types import Question
from tests.commands import run_verb

BASIS = Basis.load(TINY / "basis")


def with_others(basis: Basis, num_others: int = 2) -> Basis:
    """Each question with others' replies behind its own: what they say doesn't matter here."""
    bank = []
    for i, question in enumerate(basis.bank):
        others = [basis.bank[(i + 7 * (j + 1)) % len(basis.bank)].first for j in range(num_others)]
        measured = features(basis, [question.prompt] * num_others, others)
        bank.append(replace(question, others=tuple(others), other_features=tuple(measured)))
    return replace(basis, bank=tuple(q for q in bank if len({*q.replies}) == len(q.replies)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("picks") / "basis"
    with_others(BASIS).save(place)
    return place


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'people.db'}"


@pytest.fixture
def p(store: str, folder: Path) -> Iterator[Personalign]:
    with Personalign.open(store=store, model="tiny", basis=folder) as service:
        yield service


def longest(question: Question) -> str:
    """The longest reply is the best and the shortest the worst."""
    order = sorted(range(len(question.replies)), key=lambda i: len(question.replies[i]))
    return f"{'abcd'[order[-1]]}>{'abcd'[order[0]]}" if question.others else "ab"[order[-1]]


def ask(p: Personalign, user: str = "ada") -> Question:
    question = p.ask(user, replies=4)
    assert question is not None
    return question


def test_a_basis_keeps_the_other_replies(folder: Path) -> None:
    """Texts and features come back; the id is that of the basis without them (the control has another prior)."""
    back, made = Basis.load(folder), with_others(BASIS)
    assert [q.replies for q in back.bank] == [q.replies for q in made.bank]
    np.testing.assert_allclose(back.bank[0].features, made.bank[0].features, atol=1e-6)
    assert back.id == BASIS.id != replace(BASIS, noise=replace(BASIS.noise, tie=0.3)).id


def test_ten_picks_teach_more_than_ten_pairs(p: Personalign) -> None:
    """Somebody who likes long replies: after five picks more is known of them than after five pairs."""
    axes = [axis.name for axis in p.basis.axes]
    surety = {}
    for user, replies in (("picks", 4), ("pairs", 2)):
        for _ in range(5):
            question = p.ask(user, replies=replies)
            assert question is not None
            assert len(question.replies) == replies
            p.answer(user, question.id, longest(question))
        profile, j = p.profile(user), axes.index("length")
        surety[user] = profile.mean[j] / np.sqrt(profile.covariance[j, j])
    assert surety["picks"] > surety["pairs"] > 0


def test_who_shows_two_replies_gets_pairs(p: Personalign) -> None:
    """A pick that waits gives way to a pair; asked for picks again, the pair still waits."""
    assert len(ask(p).replies) == 4
    pair = p.ask("ada")
    assert pair is not None
    assert len(pair.replies) == 2
    assert ask(p).id == pair.id


def test_a_first_pick_that_gave_way_is_no_damage(p: Personalign) -> None:
    """Somebody who has answered nothing yet is known as new, and answers the pair."""
    ask(p)
    pair = p.ask("ada")
    assert pair is not None
    assert p.profile("ada").is_silent
    assert p.answer("ada", pair.id, "a").informative == 1


def test_the_same_pick_is_asked_until_it_is_answered(p: Personalign) -> None:
    """Its replies are in the same order, whoever reads it; the answer and its undo go round."""
    first = ask(p)
    assert ask(p) == first
    before = p.profile("ada")
    after = p.answer("ada", first.id, "c>a")
    assert after.informative == 1
    assert not np.array_equal(after.mean, before.mean)
    assert p.answer("ada", first.id, "c>a").revision == after.revision
    with pytest.raises(AlreadyAnswered):
        p.answer("ada", first.id, "c")
    np.testing.assert_array_equal(p.undo("ada").mean, before.mean)
    assert ask(p) == first


@pytest.mark.parametrize("choice", ["c>a", "a>d", "a", "b"])
@pytest.mark.parametrize("keeps_to_it", [True, False])
def test_a_pick_is_asked_again_as_a_pair(p: Personalign, choice: str, keeps_to_it: bool) -> None:
    """The best reply beside the worst, or beside another, in turned order; who prefers the best again agrees."""
    first = ask(p)
    before = p.answer("ada", first.id, choice)
    again = p.reask("ada")
    assert again is not None
    best = first.replies["abcd".index(choice[0])]
    worst = first.replies["abcd".index(choice[2])] if len(choice) > 1 else first.replies[int(choice == "a")]
    assert set(again.replies) == {best, worst}
    assert first.replies.index(again.a) > first.replies.index(again.b)
    after = p.answer("ada", again.id, "a" if (again.a == best) == keeps_to_it else "b")
    assert p.agreed("ada") is keeps_to_it
    assert after.mean.tobytes() == before.mean.tobytes()
    assert p.reask("ada") is None


def test_naming_the_worst_says_more(p: Personalign) -> None:
    """The same best with and without the worst: the covariance shrinks further with it; a skip leaves it alone."""
    volumes = {}
    for choice in ("skip", "b", "b>d"):
        question = ask(p)
        volumes[choice] = np.linalg.slogdet(p.answer("ada", question.id, choice).covariance)[1]
        p.undo("ada")
    assert volumes["skip"] > volumes["b"] > volumes["b>d"]


@pytest.mark.parametrize("choice", ["tie", "a++", "e", "a>a", "a>e", "a>", ">a", "ab", "d>c>a", ""])
def test_what_is_no_pick_is_refused(p: Personalign, choice: str) -> None:
    """The question stays open, and nothing is stored."""
    question = ask(p)
    with pytest.raises(QuestionError, match="expected"):
        p.answer("ada", question.id, choice)
    assert ask(p) == question
    assert p.profile("ada").answers == 0


def test_a_pick_among_replies_that_were_not_shown_is_refused(p: Personalign, store: str, tmp_path: Path) -> None:
    """A pair has no c, and three replies no d."""
    pair = p.ask("ben")
    assert pair is not None
    with pytest.raises(QuestionError, match="two replies were shown"):
        p.answer("ben", pair.id, "c")
    with_others(BASIS, 1).save(tmp_path / "three")
    with Personalign.open(store=store, model="tiny", basis=tmp_path / "three") as three:
        question = ask(three, "gia")
        assert len(question.replies) == 3
        with pytest.raises(QuestionError, match="a, b, c"):
            three.answer("gia", question.id, "d")


@pytest.mark.parametrize("replies", [1, 5, 2.5, "4", None])
def test_so_many_replies_are_not_shown(p: Personalign, replies: object) -> None:
    with pytest.raises(InputError, match="replies"):
        p.ask("ada", replies=replies)  # type: ignore[arg-type]


def test_a_new_basis_takes_picks_over(p: Personalign, store: str, tmp_path: Path) -> None:
    """With the features of the texts that were shown, so that the profile is the one of the same answers."""
    for _ in range(3):
        question = ask(p)
        p.answer("ada", question.id, longest(question))
    other = replace(with_others(BASIS), noise=replace(BASIS.noise, tie=0.21))
    other.save(tmp_path / "other")
    with Personalign.open(store=store, model="tiny", basis=tmp_path / "other") as later:
        refitted = later.refit("ada")
    assert refitted is not None
    np.testing.assert_allclose(refitted.mean, p.profile("ada").mean, atol=0.02)


def test_picks_are_exported_and_erased(p: Personalign, store: str) -> None:
    """All four replies are the person's data; afterwards no row has them."""
    question = ask(p)
    p.answer("ada", question.id, "d")
    (row,) = p.export("ada")["tables"]["presentations"]
    assert [row["a"], row["b"], *row["others"]] == list(question.replies)
    assert p.forget("ada")
    with create_engine(store).connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM presentations")).scalar() == 0


def test_feedback_and_picks_stay_within_what_a_fit_takes(p: Personalign) -> None:
    """Forty picks are more pairs than a fit takes: the newest count, and the fit goes on."""
    p.stop_rule = replace(p.stop_rule, max_questions=1000, accuracy=1.0, information=0.0)
    for _ in range(40):
        question = ask(p)
        p.answer("ada", question.id, longest(question))
    assert p.profile("ada").answers == 40


def test_a_slow_reader_is_asked_shorter_questions(p: Personalign) -> None:
    """The slower somebody reads, the dearer words are; a fast reader's question is at least as long."""
    basis, allowed = p.basis, np.ones(len(p.basis.bank), dtype=bool)
    picks, nothing = Picks.measure(basis), np.zeros(basis.num_axes)
    slow, fast = (picks.better(basis.prior, allowed, 0, nothing, basis.noise, pace) for pace in (0.5, 50.0))
    assert slow is not None
    assert fast is not None
    assert picks.words[slow] <= picks.words[fast]
    assert picks.better(basis.prior, ~allowed, 0, nothing, basis.noise, 4.0) is None


def test_the_terminal_shows_four_replies_and_takes_the_best_and_the_worst(
    store: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """``ba`` says that b is best and a worst; what isn't a pick is asked again. On request pairs alone are shown."""
    words = ("--store", store, "--model", "tiny", "--basis", str(folder))
    monkeypatch.setattr(sys, "stdin", StringIO("t\nba\nq\n"))
    done = run_verb(capfd, "onboard", "ada", *words)
    assert done.code == 0, done.err
    assert "found 't', expected one of a, b, c, d," in done.out
    with Personalign.open(store=store, model="tiny", basis=folder) as later:
        (answer,) = later.export("ada")["tables"]["answers"]
    assert answer["choice"] == "b>a"
    monkeypatch.setattr(sys, "stdin", StringIO("t\nq\n"))
    pairs = run_verb(capfd, "onboard", "ben", *words, "--replies", "2")
    assert ("found 't'" in pairs.out, "the best of" in pairs.out) == (False, False)


def test_a_pair_is_exported_as_sound(p: Personalign) -> None:
    """It has no other replies, which isn't damage; a pick whose other replies were changed is (the control)."""
    pair = p.ask("ben")
    assert pair is not None
    p.answer("ben", pair.id, "a")
    (row,) = p.export("ben")["tables"]["presentations"]
    assert (row["others"], "damaged" in row) == (None, False)


def test_changed_replies_are_noticed(p: Personalign, store: str) -> None:
    """The digest is over all four texts: with another third one the person's file counts as damaged."""
    question = ask(p)
    p.answer("ada", question.id, "d")
    with create_engine(store).begin() as connection:
        connection.execute(text("""UPDATE presentations SET others = '["no", "other"]'"""))
    (row,) = p.export("ada")["tables"]["presentations"]
    assert row["damaged"]
