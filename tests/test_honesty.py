"""No more is made of a person than their answers bear out, on the bundled model and a real SQLite file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from personalign.basis import Basis, Shares
from personalign.bundled import TINY
from personalign.errors import InputError
from personalign.learn.fit import fit
from personalign.learn.mixture import Mixture
from personalign.options import Options
from personalign.service import Personalign
from personalign.types import Gaussian, Guidance, Message
from personalign.words import IMPERSONAL
from tests.onboarded import HELLO, onboard


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'p.db'}"


@contextmanager
def fitted(url: str, folder: Path, shares: Shares) -> Iterator[Personalign]:
    """The bundled basis with other shares of the kinds of people, as one has that was fitted to people."""
    replace(Basis.load(TINY / "basis"), shares=shares).save(folder)
    with Personalign.open(url, basis=folder) as p:
        yield p


def guidance(p: Personalign, user: str) -> Guidance:
    found = p._replies.request(user, tuple(HELLO), Options()).guidance
    assert found is not None
    return found


def refitted(p: Personalign, user: str, shares: Shares) -> Gaussian:
    """What a person's answers say of them under these shares."""
    answers = p._store.answers(user, p.basis.id)
    v, choices = np.array([answer.v for answer in answers]), [answer.choice for answer in answers]
    return fit(v, choices, Mixture(p.basis.prior, shares), p.basis.noise)


# One posterior


def test_a_request_carries_the_profile_itself(url: str) -> None:
    """From the first answer on, to the byte, and the profile is the posterior of the basis's kinds of people."""
    with Personalign.open(url) as p:
        for _ in range(12):
            onboard(p, "ada", most=1)
            profile = p.profile("ada")
            assert guidance(p, "ada").weights.tobytes() == profile.mean.tobytes()
            assert profile.mean.tobytes() == refitted(p, "ada", p.basis.shares).mean.tobytes()
        assert profile.mean.tobytes() != refitted(p, "ada", Shares(0.0, 0.0)).mean.tobytes()  # the control
        assert p.chat("ada", HELLO).guided


def test_where_nothing_is_personal_answers_guide_nothing(url: str, tmp_path: Path) -> None:
    """Every reply is that of a stranger, the reason is told, and so is the profile; everybody's taste may be off."""
    basis = Basis.load(TINY / "basis")
    mean = basis.prior.mean + 0.6 * (np.arange(basis.num_axes) == 0)
    everybody = replace(basis, shares=Shares(1.0, 0.0), prior=Gaussian(mean, basis.prior.covariance))
    everybody.save(tmp_path / "basis")
    with Personalign.open(url, basis=tmp_path / "basis", guide_strangers=False) as p:
        onboard(p, "ada", most=4)
        profile = p.profile("ada")
        assert profile.informative == 4
        np.testing.assert_array_equal(profile.mean, mean)
        reply = p.chat("ada", HELLO)
        assert (reply.guided, reply.reason, reply.text) == (False, "nothing_personal", p.chat("nobody", HELLO).text)
        assert p.chat("nobody", HELLO).reason == "no_answers"
        assert p.chat("ada", HELLO, strength=0).reason == "nothing_personal"
        assert profile.explain() == IMPERSONAL
    with Personalign.open(url, basis=tmp_path / "basis") as p:
        reply = p.chat("ada", HELLO)
        assert (reply.reason, reply.text) == ("population", p.chat("nobody", HELLO).text)
        p.set("ada", length=1)
        assert p.chat("ada", HELLO).reason is None  # the control: what a person states is theirs


def test_who_agrees_with_nobody_in_particular_is_served_less(url: str, tmp_path: Path) -> None:
    """Where many are taken to have no taste of their own, the same answers move a profile less."""
    lengths = []
    for nothing in (0.0, 0.5, 0.9):
        with fitted(f"{url}{nothing}", tmp_path / f"{nothing}", Shares(nothing, 1 - nothing)) as p:
            onboard(p, "ada", most=3)
            lengths.append(np.linalg.norm(p.profile("ada").mean - p.basis.prior.mean))
    assert lengths[0] > lengths[1] > lengths[2] > 0


def test_shares_that_come_later_fit_what_was_answered(url: str, tmp_path: Path) -> None:
    """They make another basis: a refit takes everybody's answers over, and fits them as if they were given there."""
    with Personalign.open(url) as p:
        for user in ("ada", "ben"):
            onboard(p, user, most=3)
        before = p.profile("ada")
        assert p.behind() == []
    with fitted(url, tmp_path / "basis", Shares(0.6, 0.3)) as p:
        assert p.behind() == ["ada", "ben"]
        adopted = p.refit("ada")
        assert adopted is not None
        assert adopted.mean.tobytes() == refitted(p, "ada", Shares(0.6, 0.3)).mean.tobytes()
        assert adopted.mean.tobytes() != before.mean.tobytes()
        assert p.refit("ada") is None
        assert p.behind() == ["ben"]


# Pinned axes


def test_a_pinned_axis_is_the_operators(url: str) -> None:
    """It guides everybody as it is pinned, the profile keeps what was learnt, and the person is told."""
    with Personalign.open(url, pinned={"length": 0.0, "warmth": 2.0}) as p:
        assert "pinned" not in p.profile("ada").explain()  # nobody steers them yet
        onboard(p, "ada")
        profile, head = p.profile("ada"), guidance(p, "ada").weights
        names = [axis.name for axis in p.basis.axes]
        assert (head[names.index("length")], head[names.index("warmth")]) == (0.0, 2.0)
        assert profile.mean[names.index("length")] > 0
        told = profile.explain().splitlines()
        assert "how long the reply is: pinned to 0 by the operator, whatever was answered" in told
        assert not any("longer replies" in line for line in told)
        pinned = p.chat("ada", HELLO)
    with Personalign.open(url) as p:
        assert any("longer replies" in line for line in p.profile("ada").explain().splitlines())
        assert p.chat("ada", HELLO).text != pinned.text  # the control: the pins are felt


def test_an_axis_that_is_none_is_refused_at_the_door(url: str, tmp_path: Path) -> None:
    """The error lists the basis's axes, and no store is made."""
    with pytest.raises(InputError, match=r"'politeness'.*expected one of length, questions"):
        Personalign.open(url, pinned={"politeness": 1.0})
    assert not (tmp_path / "p.db").exists()


# Shadow mode


def test_in_shadow_replies_are_the_models_own(url: str) -> None:
    """Text for text, in every verb, while the account tells what guidance would have done; guided they differ."""
    with Personalign.open(url, shadow=True) as p:
        onboard(p, "ada")
        plain = p.chat("ada", HELLO, strength=0)
        shadow = p.chat("ada", HELLO)
        assert (shadow.text, shadow.guided, shadow.reason) == (plain.text, False, "shadow")
        assert shadow.revision == p.profile("ada").revision
        assert min(shadow.kl, shadow.changed, shadow.gained) > 0
        assert "".join(p.stream("ada", HELLO)) == plain.text
        assert [reply.text for reply in p.chat_many(["ada", "nobody"], [HELLO, HELLO])] == [plain.text] * 2
        assert p.chat("nobody", HELLO).reason == "no_answers"
        p.serving.is_shadow = False
        guided = p.chat("ada", HELLO)
        assert (guided.guided, guided.reason) == (True, None)
        assert guided.text != plain.text  # the control: what was written in shadow wasn't guided


# In words


def test_a_profile_in_words_for_a_language_model(url: str) -> None:
    """One imperative sentence for each taste that stands out or is pinned; nothing for a stranger or learnt axes."""
    with Personalign.open(url, pinned={"warmth": 1.0, "lists": 0.0}) as p:
        assert p.profile("ada").as_system_prompt() == ""
        onboard(p, "ada")
        lines = p.profile("ada").as_system_prompt().splitlines()
        assert lines[0] == "Write every reply the way this person likes replies to be."
        assert "Favour longer replies." in lines
        assert lines[-1] == "Favour warm and polite words."
        assert not any("enumerations" in line or "one thing" in line for line in lines)
        unnamed = tuple(replace(axis, name=f"learnt_{j}") for j, axis in enumerate(p.basis.axes))
        assert replace(p.profile("ada"), axes=unnamed, pinned={}).as_system_prompt() == ""
        told: list[Message] = [{"role": "system", "content": "\n".join(lines)}, *HELLO]
        assert p.chat("nobody", told).text != p.chat("nobody", HELLO).text
