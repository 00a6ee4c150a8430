"""The benchmark of prose, on the bundled toy: every arm is written, kept, and told with its interval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lab.prose import bench, traits, writing
from lab.prose.arms import ARMS, choose_arms
from lab.prose.bench import Plan, run_prose
from lab.prose.people import draw
from personalign.errors import InputError

PLAN = Plan(num_people=2, num_prompts=4, prompts_each=2, num_draws=2)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short replies, no sentence encoder, and the arms that need two drafts at most."""
    monkeypatch.setattr(traits, "_likeness", lambda texts: np.zeros((len(texts), len(traits.STYLES))))
    monkeypatch.setattr(writing, "MAX_TOKENS", 8)
    arms = [arm for arm in ARMS if arm.name in ("tilt", "length", "stranger", "words")]
    monkeypatch.setattr(bench, "ARMS", arms)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_run_tells_every_arm_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gains, fluency and paired differences; the same run again writes no reply and tells the same."""
    result = run_prose(PLAN, "cpu", tmp_path, model="tiny")
    figures = result["figures"]
    assert {f"smollm2.gain.{arm}" for arm in ("tilt", "length", "stranger", "words")} <= figures.keys()
    assert {
        "smollm2.person_over_length.tilt",
        "smollm2.person_over_stranger.tilt",
        "smollm2.fluency.tilt",
    } <= figures.keys()
    assert all(np.isfinite(value) for value in figures.values())
    tilt = next(row for row in result["rows"] if row["figure"] == "smollm2.gain.tilt")
    assert tilt["kl"] > 0
    written: list[int] = []
    monkeypatch.setattr(writing, "generate", lambda _, requests: written.append(len(requests)))
    again = run_prose(PLAN, "cpu", tmp_path, model="tiny")
    assert (again["figures"], written) == (figures, [])


@pytest.mark.usefixtures("small")
def test_an_unknown_arm_is_refused(tmp_path: Path) -> None:
    """The error names those there are."""
    with pytest.raises(InputError, match=r"no arm begins with 'tlit'; expected one of tilt, "):
        run_prose(PLAN, "cpu", tmp_path, only="tlit", model="tiny")


def test_people_are_drawn_by_their_number_alone() -> None:
    """The same person again, one to three traits of random signs, of length 1; others differ."""
    people = [draw(number, 12) for number in range(200)]
    assert all(np.array_equal(draw(number, 12).weights, person.weights) for number, person in enumerate(people[:5]))
    sizes = {np.count_nonzero(person.weights) for person in people}
    assert sizes == {1, 2, 3}
    assert all(abs(np.linalg.norm(person.weights) - 1) < 1e-9 for person in people)
    mains = np.bincount([person.main for person in people], minlength=12)
    assert mains.min() > 5  # no trait is left out
    assert 0.3 < np.mean([person.saturates for person in people]) < 0.7


def test_arms_are_chosen_by_name_or_by_how_names_begin() -> None:
    """A whole name stands for its arm alone; anything else for all that begin so; what begins none is refused."""
    assert [arm.name for arm in choose_arms(ARMS, "tilt,blocks.4.16")] == ["tilt", "blocks.4.16"]
    dotted = {arm.name for arm in ARMS if arm.name.startswith("tilt.")}
    assert {arm.name for arm in choose_arms(ARMS, "tilt.")} == dotted >= {"tilt.half", "tilt.double"}
    assert choose_arms(ARMS, "") == list(ARMS)
    with pytest.raises(InputError, match="no arm begins with 'nothing'"):
        choose_arms(ARMS, "nothing")
