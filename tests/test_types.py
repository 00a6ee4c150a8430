"""A profile in words, on a line and as a picture: what is served of it, and nothing that isn't."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from personalign.types import Profile
from personalign.words import IMPERSONAL, PAUSED, UNKNOWN, Axis

AXES = (
    Axis("length", "how long the reply is", "shorter replies", "longer <replies>"),
    Axis("warmth", "warm words", "plain words", "warm words"),
    Axis("names", "names", "no names", "names"),
)
ADA = Profile("ada", "4482a25b" * 8, 3, np.array([-2.0, 1.2, 0.1]), np.eye(3), 10, 10, AXES)


def test_a_profile_is_one_line() -> None:
    """User, basis, revision, answers and the tastes that stand out; somebody unknown has none."""
    assert repr(ADA) == (
        "Profile('ada', basis 4482a25b, revision 3, 10 answers: clearly prefers shorter replies; prefers warm words)"
    )
    assert repr(replace(ADA, mean=np.zeros(3))).endswith("10 answers: no taste stands out)")
    assert "\n" not in repr(replace(ADA, axes=()))  # before a basis has named its axes


def test_a_notebook_draws_its_bars() -> None:
    """A row for each axis, within the picture, its words escaped; without axes there is a title."""
    html = ADA._repr_html_()
    assert html.count("<svg") == html.count("<circle") == 3
    assert "longer &lt;replies&gt;" in html
    assert "ada: 10 answers, revision 3" in html
    places = [float(part.split('"')[0]) for part in html.split('cx="')[1:]]
    assert places[0] < 100 < places[2] < places[1] < 200
    assert "<svg" not in replace(ADA, axes=(), mean=np.zeros(0), covariance=np.zeros((0, 0)))._repr_html_()


COMMON = np.array([0.0, 1.2, 0.0])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, "clearly prefers shorter replies (how long the reply is)\nprefers warm words (warm words)"),
        ({"common": COMMON}, "clearly prefers shorter replies (how long the reply is)"),
        ({"common": COMMON, "is_personal": False}, IMPERSONAL),
        ({"common": ADA.mean}, "No taste stands out yet."),
        ({"informative": 0}, UNKNOWN),
        ({"informative": 0, "is_paused": True}, f"{PAUSED}\n{UNKNOWN}"),
        ({"common": ADA.mean, "is_paused": True}, f"{PAUSED}\nNo taste stands out yet."),
    ],
)
def test_explained_is_what_is_served(change: dict[str, object], told: str) -> None:
    """The profile's mean, unless the basis finds nothing personal; everybody's mean isn't told as a person's taste."""
    assert replace(ADA, **change).explain() == told  # type: ignore[arg-type]


def test_a_model_is_told_what_is_served() -> None:
    """A wish for each taste; none where nothing personal is served."""
    assert ADA.as_system_prompt().splitlines()[1:] == ["Strongly favour shorter replies.", "Favour warm words."]
    assert replace(ADA, common=COMMON, is_personal=False).as_system_prompt() == ""
    assert replace(ADA, is_paused=True).as_system_prompt() == ""
