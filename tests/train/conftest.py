"""The tiny models that are trained, and the basis of one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from personalign.basis import Basis
from personalign.decode import Models, SuccessorHead, load_causal
from personalign.train.basis.build import Making
from personalign.train.card import Report
from personalign.train.plans import GRID, UNCALIBRATED, Calibration, HeadRecipe, Plan, Plans
from personalign.train.prompts import Prompts
from tests.decode.tiny_models import Kit, make_kit
from tests.train.talker import SUBJECTS, prompt, teach

PLAN = Plan(replies_per_prompt=6, max_tokens=64, num_candidates=20, expert="hotels", alphas=(0.0, 0.25))
BANK_PLAN = Plan(replies_per_prompt=6, max_tokens=64, num_candidates=20, forced_share=0.0, seed=1)
PROMPTS = Prompts(
    train=[prompt(subject) for subject in SUBJECTS],
    held_out=[prompt(subject) for subject in SUBJECTS[:3]],
    dev=[prompt(subject) for subject in SUBJECTS[3:7]],
)
SMALL_HEAD = HeadRecipe(rank=8, hidden=64, learning_rate=1e-2)  # for a few thousand tokens
PLANS = Plans(PLAN, BANK_PLAN, SMALL_HEAD, Calibration(GRID[::8], num_people=2), "dialogue")


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """A Llama only: training takes no part in how families differ."""
    return make_kit("llama", tmp_path_factory.mktemp("llama"))


@dataclass(frozen=True, eq=False)
class Made:
    """What a bootstrap took and gave."""

    models: Models  # without a head
    work: Path
    basis: Basis
    report: Report

    @property
    def guided(self) -> Models:
        assert self.basis.head is not None
        return replace(self.models, head=SuccessorHead.from_arrays(self.basis.head))


@pytest.fixture(scope="session")
def made(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The basis of a tiny model that was taught a few replies."""
    folder = tmp_path_factory.mktemp("talker")
    models = Models(load_causal(teach(folder), "cpu"), None, UNCALIBRATED, {"hotels": kit.experts["hotels"]})
    basis, report = Making(models, PROMPTS, PLANS, folder / "rollouts").basis()
    return Made(models, folder / "rollouts", basis, report)
