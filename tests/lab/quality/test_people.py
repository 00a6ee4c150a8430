"""Simulated people on the real path: who they are, what is known of them after each answer, and what they gain."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from lab.quality import people
from lab.quality.people import run_people
from personalign.demo.people import Met, fresh_service, gain, meet_pair
from personalign.service import Personalign

SEED = 3

# a loaded model's libraries warn of things to come
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def service() -> Iterator[Personalign]:
    with fresh_service("cpu") as p:
        yield p


@pytest.fixture(scope="module")
def pair(service: Personalign) -> list[Met]:
    return meet_pair(service, SEED)


def test_every_answer_leaves_a_profile(service: Personalign, pair: list[Met]) -> None:
    """From nothing known to what is stored in the end, one answer at a time; each leaves less to know than none did."""
    for met in pair:
        profiles = met.profiles
        assert [profile.answers for profile in profiles] == list(range(len(profiles)))
        assert np.array_equal(profiles[0].mean, service.basis.prior.mean)
        assert np.array_equal(profiles[-1].mean, service.profile(met.name).mean)
        left = [np.trace(profile.covariance) / np.trace(service.basis.prior.covariance) for profile in profiles]
        assert left[0] == 1
        assert all(0 < share < 1 for share in left[1:])


def test_what_one_gains_the_opposite_loses(pair: list[Met]) -> None:
    """Other replies than base's are worth to one person what they cost the other; base's own are worth nothing."""
    prompts = people.load_prompts()[:3]
    base = ["Sure.", "What time would you like to leave tomorrow?", "I found 4 cars."]
    own = ["Yes.", "When?", "Ok, there are several to choose from, all of them in the centre of Paris."]
    ada, ben = (met.person for met in pair)
    assert gain(ada, prompts, base, base) == 0
    assert gain(ada, prompts, base, own) != 0
    assert gain(ada, prompts, base, own) == pytest.approx(-gain(ben, prompts, base, own))


@pytest.mark.slow
def test_seeds_begin_where_they_are_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair is the same whichever range it is in, and its neighbours are others (the control)."""
    monkeypatch.setattr(people, "NUM_PROMPTS", 3)
    both, later = run_people(2, SEED - 1, "cpu"), run_people(1, SEED, "cpu")
    assert [row["seed"] for row in both["rows"]] == [SEED - 1, SEED - 1, SEED, SEED]
    assert later["rows"] == both["rows"][2:]
    assert later["rows"][0]["agreement"] != both["rows"][0]["agreement"]
    assert later["command"] == f"personalign bench people --first {SEED} --seeds 1 --json"
