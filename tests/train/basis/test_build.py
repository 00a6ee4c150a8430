"""From a model and a few prompts to a basis that loads, knows its model, and steers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from personalign.basis import ASSUMED, Basis
from personalign.decode import Request, SuccessorHead, generate
from personalign.errors import BasisError, InputError
from personalign.learn.axes import features, measure_many, named_axes
from personalign.options import Options
from personalign.train.basis.bank import is_distinct, is_readable
from personalign.train.basis.build import Making
from personalign.train.basis.rollouts import roll_out
from personalign.train.plans import MIN_QUESTIONS, Plans
from personalign.train.prompts import Prompts
from personalign.types import Guidance, Steering
from tests.decode.tiny_models import Kit
from tests.train.conftest import BANK_PLAN, PLAN, PLANS, PROMPTS, Made
from tests.train.talker import SUBJECTS, prompt

pytestmark = pytest.mark.slow  # a basis is made; tests/test_cli_training.py makes a small one


@pytest.fixture(scope="module")
def loaded(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Basis:
    folder = tmp_path_factory.mktemp("basis")
    made.basis.save(folder)
    return Basis.load(folder)


def mean_measure(made: Made, basis: Basis, axis: str, weight: float) -> float:
    """What someone who cares about this axis alone is told, measured on it."""
    assert basis.head is not None
    j = [a.name for a in basis.axes].index(axis)
    guidance = Guidance(weight * np.eye(basis.num_axes)[j])
    requests = [Request(prompt(s), Options(64, 1.0, seed=i), guidance) for s in SUBJECTS[:2] for i in range(6)]
    models = replace(made.models, head=SuccessorHead.from_arrays(basis.head), steering=Steering(16.0, 5.0, 20))
    replies = generate(models, requests)
    return float(measure_many([r.messages for r in requests], [r.text for r in replies], basis.axes)[:, j].mean())


@pytest.mark.parametrize("axis", ["length", "enthusiasm"])
def test_the_basis_steers(made: Made, loaded: Basis, axis: str) -> None:
    """Saved and loaded, its head moves replies up an axis for one person and down for another, either side of plain."""
    down, plain, up = (mean_measure(made, loaded, axis, weight) for weight in (-0.5, 0.0, 0.5))
    assert down < plain < up
    assert mean_measure(made, loaded, axis, 1e-9) == plain  # control: a taste too weak to notice moves nothing


def test_it_comes_back_from_its_folder(made: Made, loaded: Basis) -> None:
    """The same id, steering, questions and head."""
    assert loaded.id == made.basis.id
    assert loaded.steering == made.basis.steering
    assert [q.id for q in loaded.bank] == [q.id for q in made.basis.bank]
    assert loaded.head is not None
    assert all(np.array_equal(loaded.head[name], value) for name, value in (made.basis.head or {}).items())


def test_it_belongs_to_its_model(made: Made, loaded: Basis, kit: Kit) -> None:
    """The model it was made for is welcome, another is refused."""
    loaded.check_model(made.models.base.fingerprints)
    with pytest.raises(BasisError, match="was made for"):
        loaded.check_model(kit.base.fingerprints)


def test_its_axes_vary_and_are_standardised(made: Made) -> None:
    """Over the natural roll-outs the head learnt from, every axis has mean 0 and standard deviation 1."""
    learnt = roll_out(made.models, PROMPTS.train, PLAN, made.work / "train")
    raw = measure_many([PROMPTS.train[i] for i in learnt.prompt], list(learnt.text), made.basis.axes)
    own = made.basis.standardise(raw[learnt.natural])
    assert np.allclose(own.mean(0), 0)
    assert np.allclose(own.std(0), 1)
    assert not np.allclose(made.basis.standardise(raw).mean(0), 0, atol=1e-3)  # control: forced replies are others
    assert {axis.name for axis in made.basis.axes} <= {axis.name for axis in named_axes(PLANS.axes)}


def test_what_is_written_so_far_is_measured_before_each_token(made: Made) -> None:
    """Nothing before the first token; before the last of a reply that ended by itself, all of its text."""
    making = Making(made.models, PROMPTS, PLANS, made.work)
    rollouts = roll_out(made.models, PROMPTS.train, PLAN, made.work / "train")
    so_far = making.so_far(made.basis, rollouts)["so_far"]

    def measured(reply: int, text: str) -> np.ndarray:
        return features(made.basis, [PROMPTS.train[rollouts.prompt[reply]]], [text])[0]

    begins = np.flatnonzero(rollouts.position == 0)
    ends = np.append(begins[1:], len(rollouts.token)) - 1
    ended = np.flatnonzero(rollouts.complete)
    assert len(ended) > 10
    for reply in ended[:10].tolist():
        assert so_far[begins[reply]] == pytest.approx(measured(reply, ""), abs=1e-5)
        assert so_far[ends[reply]] == pytest.approx(measured(reply, rollouts.text[reply]), abs=1e-5)
    assert np.ptp(so_far[ends[ended]], axis=0).min() > 0.1  # the control: other replies are measured otherwise


def test_its_questions_are_good_and_its_prior_is_of_them(made: Made) -> None:
    """Readable, distinct pairs, with the features of their texts; the reference pairs are among them."""
    basis = made.basis
    assert len(basis.bank) >= 10
    for question in basis.bank:
        assert is_readable(question.first)
        assert is_readable(question.second)
        assert is_distinct(question.first, question.second)
        raw = measure_many([question.prompt] * 2, [question.first, question.second], basis.axes)
        assert np.allclose(basis.standardise(raw), [question.first_features, question.second_features])
    assert all(any(np.array_equal(v, pair) for pair in basis.pool) for v in basis.reference)
    assert basis.shares == ASSUMED  # nobody was asked


def test_the_report_tells_what_was_measured(made: Made) -> None:
    """Numbers of replies, R² of every axis, the grid with the unsteered model first, and each α with and without."""
    report = made.report
    assert report.num_replies == len(PROMPTS.train) * (PLAN.replies_per_prompt + BANK_PLAN.replies_per_prompt)
    assert report.r2.shape == report.r2_forced.shape == (made.basis.num_axes,)
    assert report.grid[0].steering.beta == 0
    assert set(report.by_alpha) == set(PLAN.alphas)
    for plain, steered in report.by_alpha.values():
        assert plain.steering.beta == plain.kl == 0
        assert steered.steering == made.basis.steering


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        (
            replace(PROMPTS, train=PROMPTS.train[:9]),
            "9 prompts to learn from, 3 to test on and 4 to calibrate on, expected at least 10,",
        ),
        (replace(PROMPTS, held_out=[]), "0 to test on and 4 to calibrate on"),
        (replace(PROMPTS, dev=[]), "3 to test on and 0 to calibrate on"),
    ],
)
def test_too_few_prompts_are_refused_at_once(made: Made, prompts: Prompts, said: str, tmp_path: Path) -> None:
    """Before a single roll-out is written."""
    with pytest.raises(InputError, match=said):
        Making(made.models, prompts, PLANS, tmp_path).basis()
    assert not list(tmp_path.iterdir())


def test_a_bank_of_fewer_than_ten_questions_is_refused(made: Made, tmp_path: Path) -> None:
    """Before a head is trained: a person would be asked more than there is to ask."""
    assert len(made.basis.bank) >= MIN_QUESTIONS  # control
    work = shutil.copytree(made.work, tmp_path / "work")
    shutil.rmtree(work / "head")
    few = Plans(PLAN, replace(BANK_PLAN, replies_per_prompt=1, temperature=PLAN.temperature / 2))
    with pytest.raises(InputError, match=f"only 0 of {len(PROMPTS.train)} prompts got two readable replies"):
        Making(made.models, PROMPTS, few, work).basis()
    assert not (work / "head").exists()


def test_replies_that_are_all_the_same_give_no_axes(made: Made, tmp_path: Path) -> None:
    """A model that always says the same, or is never left to itself, can't be asked about."""
    same = replace(
        PLAN,
        expert=None,
        alphas=(0.0,),
        temperature=0.0,
        forced_share=0.0,
        replies_per_prompt=1,
    )
    alike = replace(PROMPTS, train=[PROMPTS.train[0]] * 10)
    with pytest.raises(InputError, match="differ on none"):
        Making(made.models, alike, Plans(same, BANK_PLAN), tmp_path).basis()
    with pytest.raises(InputError, match="no reply to the model alone"):
        Making(made.models, PROMPTS, Plans(replace(PLAN, alphas=(1.0,)), BANK_PLAN), tmp_path).basis()


def test_a_killed_bootstrap_goes_on(made: Made) -> None:
    """Called again it writes no roll-out twice and ends in the same basis, head and calibration included."""
    before = written(made.work)
    next(iter(before)).unlink()
    basis, _ = Making(made.models, PROMPTS, PLANS, made.work).basis()
    after = written(made.work)
    assert [path for path in before if before[path] != after[path]] == [next(iter(before))]
    assert basis.id == made.basis.id
    assert basis.steering == made.basis.steering
    assert basis.head is not None
    assert all(np.array_equal(basis.head[name], value) for name, value in (made.basis.head or {}).items())


def written(work: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(work.rglob("*.safetensors"))}
