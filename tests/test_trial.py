"""A trial on the bundled model: blinded pairs, choices that teach, failures that count, and the report."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from personalign.basis import Basis
from personalign.bundled import TINY
from personalign.demo.run import load_prompts
from personalign.errors import AlreadyAnswered, BasisError, EngineError, InputError, QuestionError
from personalign.learn.shares import COUNTED
from personalign.messages import instructed
from personalign.service import Personalign
from personalign.store import Comparison, Trial
from personalign.trial import ARMS, draw, report
from personalign.types import Gaussian, Message
from tests.decode.test_failures import failing
from tests.onboarded import HELLO, onboard

PEOPLE = 24
BUS: list[Message] = [{"role": "user", "content": "When does the next bus leave?"}]


def rows(p: Personalign, user: str) -> list[dict[str, object]]:
    """What the store knows of a person's trial."""
    found: list[dict[str, object]] = p.export(user)["tables"]["comparisons"]
    return found


# Starting, stopping


@pytest.mark.parametrize(
    "arms",
    [
        "plain,personal",
        [],
        ["plain"],
        ["plain", "plain"],
        ["plain", "magic"],
        ["plain", None],
        {"plain": "personal"},
        None,
        ["plain", "population"],
    ],
    ids=repr,
)
def test_arms_that_can_not_be_compared_are_refused(p: Personalign, arms) -> None:
    """Too few, unknown ones, none at all, and everybody's taste where there is none; sound ones start (the control)."""
    with pytest.raises(InputError):
        p.trials.start(arms)
    with pytest.raises(InputError, match="there has been no trial"):
        p.trials.report()
    assert p.trials.start(["words", "plain"]).arms == ("plain", "words")


def test_a_running_trial_keeps_its_arms(p: Personalign) -> None:
    """Others are refused until it is stopped; the same ones go on with it, also after opening anew."""
    with pytest.raises(InputError, match="no trial is running"):
        p.trial("ada", HELLO)
    with pytest.raises(InputError, match="no trial is running"):
        p.trials.stop()
    first = p.trials.start(["plain", "personal"])
    assert p.trials.start(["personal", "plain"]) == first
    with pytest.raises(InputError, match="stop it first"):
        p.trials.start(["plain", "words"])
    stopped = p.trials.stop()
    assert stopped.id == first.id
    with pytest.raises(InputError, match="no trial is running"):
        p.trial("ada", HELLO)
    assert p.trials.report().stopped_at == stopped.stopped_at
    assert p.trials.start(["plain", "words"]).id != first.id
    assert p.trials.report().stopped_at is None


def test_what_else_would_act_on_the_replies_is_refused(p: Personalign) -> None:
    """An expert, a reward model, and shadow mode; and nothing is noted of the person."""
    p.trials.start(["plain", "personal"])
    for options in ({"expert": "hotels"}, {"rule": "args"}):
        with pytest.raises(InputError, match="leave out the expert"):
            p.trial("ada", HELLO, **options)
    p.serving.is_shadow = True
    with pytest.raises(InputError, match="shadow"):
        p.trial("ada", HELLO)
    assert not p.is_known("ada")


def test_without_a_basis_there_is_no_trial(tmp_path: Path) -> None:
    """There is nothing to compare; the error names the command that makes one."""
    with Personalign.open(f"sqlite:///{tmp_path / 'p.db'}", model=TINY / "base") as plain:
        for call in (lambda: plain.trial("ada", HELLO), lambda: plain.trials):
            with pytest.raises(BasisError, match="basis bootstrap"):
                call()


# Pairs and choices


def test_a_pair_is_blinded_and_its_choice_teaches(p: Personalign) -> None:
    """The question holds texts alone; the choice is an answer like another, which can be undone and not changed."""
    onboard(p, "ada")
    before = p.profile("ada")
    p.trials.start(["plain", "personal"])
    question = p.trial("ada", HELLO)
    assert set(vars(question)) == {"id", "prompt", "a", "b", "others"}
    assert not question.others
    texts = {p.chat("ada", HELLO).text, p.chat("ada", HELLO, strength=0).text}
    assert {question.a, question.b} == texts
    assert len(texts) == 2
    assert p.trial("ada", HELLO) == question  # until it is answered
    profile = p.answer("ada", question.id, "a")
    assert (profile.answers, profile.informative) == (before.answers + 1, before.informative + 1)
    assert profile.mean.tobytes() != before.mean.tobytes()
    with pytest.raises(AlreadyAnswered):
        p.answer("ada", question.id, "b")
    assert p.trials.report().people == 1
    assert p.undo("ada").mean.tobytes() == before.mean.tobytes()
    assert p.trial("ada", HELLO) == question
    assert (p.trials.report().people, p.trials.report().waiting) == (0, 1)
    with pytest.raises(QuestionError):
        p.answer("ben", question.id, "a")


def test_a_pair_and_an_open_question_are_beside_each_other(p: Personalign) -> None:
    """Onboarding goes on where it was, and each answer goes to what it was given to."""
    p.trials.start(["plain", "words"])
    question = p.ask("ada")
    assert question is not None
    pair, other = p.trial("ada", HELLO), p.trial("ada", BUS)
    assert p.ask("ada") == question
    assert len({question.id, pair.id, other.id}) == 3
    p.answer("ada", other.id, "tie")
    p.answer("ada", question.id, "a")
    p.answer("ada", pair.id, "b")
    assert Counter(row["choice"] for row in p.export("ada")["tables"]["answers"]) == Counter(["tie", "a", "b"])
    assert p.trials.report().people == 1


def test_each_arm_writes_in_its_own_way(open_store: Callable[..., Personalign], tmp_path: Path) -> None:
    """Plain, by everybody's mean taste, by the profile, and in words: each as a request of its own would be written."""
    basis = Basis.load(TINY / "basis")
    mean = np.where([axis.name == "length" for axis in basis.axes], 0.8, 0.0)
    replace(basis, prior=Gaussian(mean, basis.prior.covariance)).save(tmp_path / "basis")
    p = open_store(basis=tmp_path / "basis")
    onboard(p, "ada", longer=False)
    p.trials.start([*ARMS])
    words = instructed(tuple(HELLO), p.profile("ada").as_system_prompt())
    alone = {
        "plain": p.chat("ada", HELLO, strength=0).text,
        "personal": p.chat("ada", HELLO).text,
        "words": p.chat("ada", words, strength=0).text,
        "population": p.chat("a stranger", HELLO).text,
    }
    written: dict[object, str] = {}
    for _ in range(40):
        pair = p.trial("ada", HELLO)
        p.answer("ada", pair.id, "skip")
        row = next(row for row in rows(p, "ada") if row["presentation_id"] == pair.id)
        for arm, text in ((row["arm_a"], pair.a), (row["arm_b"], pair.b)):
            assert written.setdefault(arm, text) == text
        if set(written) == set(ARMS):
            break
    assert written == alone
    assert len({*written.values()}) == len(ARMS)


def test_draws_are_fair_and_can_be_repeated() -> None:
    """Each arm is on each side as often as another, within chance, and the same pair is drawn the same again."""
    trial = Trial("1f", ("plain", "personal", "words"), datetime.now(UTC), None, 0)
    drawn = [draw(trial, f"user-{i % 40}", i // 40) for i in range(6000)]
    assert drawn == [draw(trial, f"user-{i % 40}", i // 40) for i in range(6000)]
    sides = Counter(side for side, _ in drawn)
    assert len(sides) == 6
    assert all(abs(count - 1000) < 4 * np.sqrt(6000 * (1 / 6) * (5 / 6)) for count in sides.values())
    assert len({seed for _, seed in drawn}) == 6000
    other = Trial("2e", trial.arms, trial.started_at, None, 0)
    assert drawn != [draw(other, f"user-{i % 40}", i // 40) for i in range(6000)]


def test_a_task_gets_the_same_pair(p: Personalign) -> None:
    """``atrial`` shows what ``trial`` shows."""
    p.trials.start(["plain", "personal"])
    assert asyncio.run(p.atrial("ada", HELLO)) == p.trial("ada", HELLO)


# Failures and erasure


def test_arms_that_fail_are_counted_and_not_replaced(p: Personalign) -> None:
    """Both fail with the device: an error, nothing is shown, and the next call draws anew."""
    p.trials.start(["plain", "personal"])
    with failing(p.models.base.model), pytest.raises(EngineError, match="which its report counts") as failure:
        p.trial("ada", HELLO)
    assert "personal" not in str(failure.value)
    assert [arm.failures for arm in p.trials.report().arms] == [1, 1]
    assert p.trials.report().waiting == 0
    assert p.trial("ada", HELLO).a
    assert [row["failed"] for row in rows(p, "ada")].count("") == 1


def test_one_arm_that_fails_is_named_in_the_report(p: Personalign) -> None:
    """The words have no room before a prompt that fills the context; a prompt that fits nowhere is no arm's failure."""
    onboard(p, "ada")
    p.trials.start(["plain", "words"])
    room = p.models.base.context
    assert room is not None
    talk = next(
        talk for talk in ([{"role": "user", "content": "car " * size}] for size in range(room, 0, -1)) if _fits(p, talk)
    )
    with pytest.raises(EngineError, match="which its report counts"):
        p.trial("ada", talk, max_tokens=8)
    assert {arm.arm: arm.failures for arm in p.trials.report().arms} == {"plain": 0, "words": 1}
    with pytest.raises(InputError):
        p.trial("ada", [{"role": "user", "content": "car " * (2 * room)}], max_tokens=8)
    assert {arm.arm: arm.failures for arm in p.trials.report().arms} == {"plain": 0, "words": 1}


def _fits(p: Personalign, talk: list[Message]) -> bool:
    try:
        p.chat("nobody", talk, max_tokens=8)
    except InputError:
        return False
    return True


def test_somebody_erased_in_mid_trial_is_a_number(p: Personalign) -> None:
    """Their rows go, the others' stay, and the report says how many there were; their pair can't be answered."""
    p.trials.start(["plain", "personal"])
    pairs = {user: p.trial(user, HELLO) for user in ("ada", "ben")}
    for user, pair in pairs.items():
        p.answer(user, pair.id, "a")
    waiting = p.trial("ada", BUS)
    p.forget("ada")
    told = p.trials.report()
    assert (told.people, told.waiting, told.erased) == (1, 0, 1)
    with pytest.raises(QuestionError):
        p.answer("ada", waiting.id, "a")
    assert not any(p.export("ada")["tables"].values())


# The report


def test_choices_become_shares() -> None:
    """A win counts 1, however clear, a tie and neither ½; what was skipped, waits or failed counts nothing."""
    trial = Trial("1f", ("plain", "personal"), datetime.now(UTC), None, 3)
    sides = ("plain", "personal")
    choices = {0: "a", 1: "b++", 2: "tie", 3: "neither", 4: "skip", 5: None}
    read = [Comparison(person, *sides, "", choice, (10, 20)) for person, choice in choices.items()]
    told = report(trial, [*read, Comparison(6, *sides, failed="b"), Comparison(6, *sides[::-1], failed="ab")])
    assert (told.people, told.waiting, told.erased) == (4, 2, 3)
    assert [arm.share.value for arm in told.arms] == [0.5, 0.5]
    assert [(arm.arm, arm.choices, arm.failures) for arm in told.arms] == [("plain", 4, 1), ("personal", 4, 2)]
    won = report(trial, read[1:2])
    assert [arm.share.value for arm in won.arms] == [0.0, 1.0]
    assert not won.is_known
    assert "with 1 person so far" in won.explain()


@pytest.mark.slow
def test_a_trial_finds_what_people_like(p: Personalign) -> None:
    """Half like long replies and half short ones: the profile beats none; had they thrown coins, neither would."""
    trial, rng, prompts = p.trials.start(["plain", "personal"]), np.random.default_rng(2026), load_prompts()
    for number in range(PEOPLE):
        user, longer = f"user-{number}", number % 2 == 0
        onboard(p, user, longer=longer)
        for place in rng.choice(len(prompts), COUNTED[1], replace=False):
            pair = p.trial(user, prompts[place])
            left, right = len(pair.a), len(pair.b)
            p.answer(user, pair.id, "tie" if left == right else "a" if (left > right) == longer else "b")
    told = p.trials.report()
    assert told.explain().startswith("personal beats plain")
    assert told.is_known
    blind = [replace(one, choice=str(rng.choice(["a", "b"]))) for one in p._store.comparisons(trial.id)]
    assert not report(trial, blind).is_known
