"""``choose`` on the bundled basis: replies of any model, ranked by what is known of a person."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from personalign import Personalign, Ranking
from personalign.errors import InputError
from personalign.learn.axes import features
from tests.onboarded import HELLO, onboard

SHORT = "When?"
LONG = "Certainly! I have found four cars that you might like in Paris, and I would be glad to reserve one of them."
MIDDLE = "I have found four cars in Paris."
CANDIDATES = [MIDDLE, LONG, SHORT]

WITHOUT_TORCH = """
import json, sys
from personalign import Personalign
with Personalign.open(sys.argv[1]) as p:
    ranking = p.choose("ada", [{"role": "user", "content": "I need a car."}], ["When?", "I have found four cars."])
print(json.dumps([ranking.best, [name for name in ("torch", "transformers") if name in sys.modules]]))
"""


def test_people_put_the_same_replies_into_their_own_order(p: Personalign) -> None:
    """Whoever tapped the longer replies gets the longest first, whoever tapped the shorter ones the shortest."""
    onboard(p, "ada", longer=True)
    onboard(p, "ben", longer=False)
    ada, ben = p.choose("ada", HELLO, CANDIDATES), p.choose("ben", HELLO, CANDIDATES)
    assert isinstance(ada, Ranking)
    assert (ada.best, ben.best) == (LONG, SHORT)
    assert ada.order.index(1) < ada.order.index(2)
    assert ada.surety > 0.5
    assert (ada.reason, ada.revision) == (None, p.profile("ada").revision)


def test_utilities_are_those_of_the_weights_that_are_served(p: Personalign) -> None:
    """⟨w, φ⟩ with the same w that guides replies."""
    onboard(p, "ada")
    phi = features(p.basis, [HELLO] * 3, CANDIDATES)
    expected = phi @ p.serving.weights(p.profile("ada"))
    assert {c.index: c.utility for c in p.choose("ada", HELLO, CANDIDATES).candidates} == pytest.approx(
        dict(enumerate(expected))
    )


def test_someone_unknown_gets_everybodys_order(p: Personalign) -> None:
    """Without answers it is by the mean over people, 0 here: as they were passed, a toss of a coin, and it says why."""
    ranking = p.choose("nobody", HELLO, CANDIDATES)
    assert (ranking.order, ranking.surety, ranking.reason) == ((0, 1, 2), 0.5, "no_answers")
    assert not p.is_known("nobody")  # asking doesn't create anyone


def test_a_pinned_axis_is_certain(open_store: Callable[..., Personalign]) -> None:
    """What an operator pins has no variance, and nobody's answers change it."""
    p = open_store(pinned={"length": -3.0})
    onboard(p, "ada", longer=True)
    belief = p.serving.belief(p.profile("ada"))
    place = [axis.name for axis in p.basis.axes].index("length")
    assert belief.mean[place] == -3.0
    assert not belief.covariance[place].any()
    assert (np.diag(belief.covariance) > 0).sum() == p.basis.num_axes - 1


def test_no_torch_is_loaded(tmp_path: Path) -> None:
    """Named axes are measured in the text, so that a hosted model's replies can be ranked anywhere."""
    url = f"sqlite:///{tmp_path / 'other.db'}"
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, url], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["When?", []]


def test_it_never_blocks_a_loop(p: Personalign) -> None:
    """``achoose`` gives what ``choose`` gives."""
    assert asyncio.run(p.achoose("ada", HELLO, CANDIDATES)) == p.choose("ada", HELLO, CANDIDATES)


def test_odd_candidates(p: Personalign) -> None:
    """One is the best for certain, equal ones are equal, none is an error."""
    onboard(p, "ada", 3)
    alone, twins = p.choose("ada", HELLO, ["only"]), p.choose("ada", HELLO, ["same", "same"])
    assert (alone.best, alone.surety, alone.candidates[0].probability) == ("only", 1.0, 1.0)
    assert (twins.order, twins.surety) == ((0, 1), 0.5)
    with pytest.raises(InputError, match="found 0 candidates"):
        p.choose("ada", HELLO, [])
    p.close()
    with pytest.raises(Exception, match="closed"):
        p.choose("ada", HELLO, ["a"])
