"""From many people's answers to axes, prior and noise: held-out people are foretold, mixed-up ones aren't."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from personalign.basis import Shares
from personalign.errors import InputError
from personalign.learn.axes import measure_many, restandardised, varying_axes
from personalign.train.basis.build import named_basis
from personalign.train.basis.people import MIN_PEOPLE, Findings, fit_basis
from personalign.train.log import Answer, AnswerLog, LogCounts
from personalign.types import Fingerprints
from tests.train.crowd import AXES, HIDDEN, LENGTH, Embed, Row, answers_of, embed, length_and_hidden, replies_to

TEXTS = replies_to(40, 6)
SOME = replies_to(20, 4)


def log_of(rows: Sequence[Row]) -> AnswerLog:
    answers = tuple(Answer(*row) for row in rows)
    return AnswerLog(answers, LogCounts(len(rows), len({row[0] for row in rows}), 0, 0, 0, 0, 0, {}), "log")


def find(log: AnswerLog, embed: Embed, **options) -> Findings:
    """What is found of people for a model that nobody has."""
    return fit_basis(log, embed, named_basis("none", Fingerprints("tokenizer", "model"), "assistant"), **options)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return answers_of(100, 30, TEXTS, length_and_hidden)


@pytest.fixture(scope="module")
def findings(rows: list[Row]) -> Findings:
    return find(log_of(rows), embed)


@pytest.fixture(scope="module")
def few() -> list[Row]:
    """Just as many people as have to be, with as much to say as is needed to be refused or not."""
    return answers_of(MIN_PEOPLE, 8, SOME, length_and_hidden)


@pytest.mark.slow
def test_held_out_people_are_foretold(findings: Findings) -> None:
    """The more of their answers are known the better, and more accurately than by the population's mean."""
    after = {step.answers: step for step in findings.judgement.after}
    assert list(after) == [0, 5, 10, 20]
    assert after[0].accuracy == after[0].population_accuracy
    assert after[20].log_loss < after[10].log_loss < after[5].log_loss < after[0].log_loss
    assert after[10].accuracy > after[10].population_accuracy + 0.15
    assert after[10].log_loss < after[10].population_log_loss
    assert findings.judgement.shares.nothing < 0.3
    assert findings.judgement.active
    assert findings.judgement.calibration_error < 0.08
    assert findings.held_out == findings.people / 4 == 25


@pytest.mark.slow
def test_a_learnt_axis_is_what_people_differ_in(findings: Findings) -> None:
    """It is the entry of the embedding that they feel about; the prior knows both of their tastes, and no third one."""
    assert findings.basis.learnt is not None
    weights = np.abs(findings.basis.learnt.projection[:, 0])
    assert weights[HIDDEN] > 0.9 * np.linalg.norm(weights)
    names, deviation = [axis.name for axis in findings.basis.axes], np.sqrt(np.diag(findings.basis.prior.covariance))
    others = deviation[names.index("learnt_1") + 1 :]
    assert deviation[names.index("learnt_1")] > 1
    assert np.all(others < 0.2)
    assert deviation[names.index("reply_length")] > 0.5


@pytest.mark.slow
def test_made_up_people_are_on_the_axes_of_the_basis(findings: Findings) -> None:
    """Around everybody's mean, as different as people are; on axes of other units they like the same replies."""
    basis = findings.basis
    assert basis.particles is not None
    np.testing.assert_allclose(basis.particles.mean(axis=0), basis.prior.mean, atol=1e-9)
    assert 0.5 < np.trace(np.cov(basis.particles.T)) / np.trace(basis.prior.covariance) < 2
    scale = np.linspace(0.5, 2, basis.num_axes)
    other = restandardised(basis, np.arange(basis.num_axes), np.zeros(basis.num_axes), scale)
    assert other.particles is not None
    np.testing.assert_allclose((basis.reference / scale) @ other.particles.T, basis.reference @ basis.particles.T)


@pytest.mark.slow
def test_its_axes_are_standardised_over_the_log(rows: list[Row], findings: Findings) -> None:
    """Every axis has mean 0 and standard deviation 1 over the different replies of the log."""
    replies = {(row[1][0]["content"], text): row[1] for row in rows for text in row[2:4]}
    prompts, texts = list(replies.values()), [text for _, text in replies]
    basis = findings.basis
    raw = np.hstack([measure_many(prompts, texts, basis.named), embed(prompts, texts) @ basis.learnt.projection])
    assert findings.replies == len(texts)
    assert np.allclose(basis.standardise(raw).mean(axis=0), 0)
    assert np.allclose(basis.standardise(raw).std(axis=0), 1)


@pytest.mark.slow
def test_mixed_up_people_have_nothing_personal(rows: list[Row]) -> None:
    """Where every answer is given to somebody at random, nobody leaves the population, and questions are at random."""
    users = np.random.default_rng(0).permutation([row[0] for row in rows])
    mixed = find(log_of([(str(user), *row[1:]) for user, row in zip(users, rows, strict=True)]), embed)
    assert mixed.judgement.shares == Shares(1.0, 0.0)
    assert not mixed.judgement.active
    assert all(step.accuracy == step.population_accuracy for step in mixed.judgement.after)


@pytest.mark.slow
def test_where_named_axes_say_it_all_none_is_learnt() -> None:
    """People who care about length alone; with a rank that is asked for there are learnt axes all the same."""
    alike = answers_of(60, 20, TEXTS, lambda prompt, reply: measure_many([prompt], [reply], AXES)[0, [LENGTH]])
    log = log_of(alike)
    assert find(log, embed).basis.learnt is None
    asked = find(log, embed, rank=2)
    assert asked.row()["learnt"] == 2
    assert [axis.name for axis in asked.basis.axes][-2:] == ["learnt_1", "learnt_2"]


@pytest.mark.slow
def test_seeded(few: list[Row]) -> None:
    """The same seed gives the same bytes, another one another split."""
    one, again, other = (find(log_of(few), embed, seed=seed) for seed in (3, 3, 4))
    assert one.basis.prior.covariance.tobytes() == again.basis.prior.covariance.tobytes()
    assert one.judgement == again.judgement
    assert one.basis.prior.covariance.tobytes() != other.basis.prior.covariance.tobytes()


def test_too_few_people_are_refused(few: list[Row]) -> None:
    """People who only skip don't count; one more person is enough (the control)."""
    skipping = [(*row[:4], "skip") if row[0] == "person 0" else row for row in few]
    with pytest.raises(InputError, match=f"of {MIN_PEOPLE - 1} of {MIN_PEOPLE} people, expected {MIN_PEOPLE}"):
        find(log_of(skipping), embed)
    assert find(log_of(few), embed).people == MIN_PEOPLE


def test_embeddings_that_are_no_numbers_are_named(few: list[Row]) -> None:
    """By the answer and the side that the reply was first seen on."""
    row = few[12]

    def broken(prompts, replies):
        findings = embed(prompts, replies)
        findings[[text == row[3] for text in replies]] = np.nan
        return findings

    with pytest.raises(InputError, match=r"hold NaN or Inf, the first is [ab] of answer \d+ of the log"):
        find(log_of(few), broken)


def test_embeddings_that_are_all_alike_are_refused(few: list[Row]) -> None:
    """They can't tell replies apart."""
    with pytest.raises(InputError, match=r"embeddings of all \d+ replies are alike"):
        find(log_of(few), lambda _, replies: np.full((len(replies), 7), 0.1))


@pytest.mark.parametrize("rank", [0, 64, "many"])
def test_a_rank_that_cannot_be_is_refused(few: list[Row], rank: int | str) -> None:
    """With the ranks that can."""
    with pytest.raises(InputError, match=r'expected "auto" or a whole number from 1 to'):
        find(log_of(few), embed, rank=rank)


def test_odd_people_are_no_obstacle(few: list[Row]) -> None:
    """Somebody who never prefers anything, and somebody who always takes the left."""
    odd = {"person 1": "tie", "person 2": "a"}
    findings = find(log_of([(*row[:4], odd.get(row[0], row[4])) for row in few]), embed)
    assert np.linalg.eigvalsh(findings.basis.prior.covariance).min() > 0


@pytest.mark.slow
def test_how_people_answer_is_estimated(rows: list[Row], findings: Findings) -> None:
    """Ties where the log has some, else as without data; and a lean to the left that everyone's answers show."""
    rng = np.random.default_rng(0)
    tied = [(*row[:4], "tie" if rng.random() < 0.3 else row[4]) for row in rows]
    leaning = [(*row[:4], "a" if leans_left(row[0]) else "b") if rng.random() < 0.4 else row for row in rows]
    assert findings.basis.noise.tie == 0  # as it was fitted: nobody was offered one
    assert find(log_of(tied), embed).basis.noise.tie > 0.2
    assert find(log_of(leaning), embed).basis.noise.side > 0.4 > findings.basis.noise.side


def leans_left(user: str) -> bool:
    """The side that a person leans to."""
    return int(user.split()[1]) % 2 == 0


def test_an_axis_that_hardly_ever_moves_is_left_out() -> None:
    """One reply of two hundred with an emoji makes no axis, three do; nor does one on which all are alike."""
    raw = np.zeros((200, 3))
    raw[0, 0], raw[:3, 1] = 1.0, 1.0
    assert varying_axes(raw).tolist() == [1]
