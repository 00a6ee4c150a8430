"""No more is made of a person than their answers bear out, on the bundled model and a real SQLite file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from personalign.basis import Basis, Gate
from personalign.bundled import TINY
from personalign.errors import InputError
from personalign.learn.fit import Record
from personalign.options import Options
from personalign.service import Personalign
from personalign.types import Gaussian, Guidance, Message
from personalign.words import IMPERSONAL
from tests.learn.people import gain_of
from tests.onboarded import HELLO, onboard


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'p.db'}"


@contextmanager
def gated(url: str, folder: Path, kappa: float) -> Iterator[Personalign]:
    """The bundled basis with a gate, as one has that was fitted to people."""
    replace(Basis.load(TINY / "basis"), gate=Gate(kappa, 0.6)).save(folder)
    with Personalign.open(url, basis=folder) as p:
        yield p


def guidance(p: Personalign, user: str) -> Guidance:
    found = p._replies.request(user, tuple(HELLO), Options()).guidance
    assert found is not None
    return found


def gains(p: Personalign, user: str) -> list[float | None]:
    return [row["gain"] for row in p.export(user)["tables"]["answers"] if row["undone_at"] is None]


# The gate


def test_without_a_gate_a_request_carries_the_profile_itself(url: str) -> None:
    """The bundled basis was made without people: nothing is drawn back, and nothing is gained."""
    with Personalign.open(url) as p:
        onboard(p, "ada")
        profile = p.profile("ada")
        assert guidance(p, "ada").weights.tobytes() == profile.mean.tobytes()
        assert (profile.gain, set(gains(p, "ada"))) == (0.0, {None})


def test_a_gate_draws_the_head_back_and_leaves_the_profile(url: str, tmp_path: Path) -> None:
    """The stored profile is the posterior, the head what the gate lets through of it, and it still guides."""
    with gated(url, tmp_path / "basis", 0.5) as p:
        onboard(p, "ada", most=4)
        profile, mu = p.profile("ada"), p.basis.prior.mean
        head = guidance(p, "ada")
        np.testing.assert_allclose(head.weights, mu + 0.5 * (profile.mean - mu))
        assert head.confidence == p.basis.confidence(profile.covariance) > 0
        assert p.chat("ada", HELLO).guided


def test_with_a_shut_gate_a_person_is_served_unguided(url: str, tmp_path: Path) -> None:
    """With κ = 0 every reply is the model's own, the reason is told, and so is the profile; a μ presses nobody."""
    basis = Basis.load(TINY / "basis")
    mean = basis.prior.mean + 0.6 * (np.arange(basis.num_axes) == 0)
    everybody = replace(basis, gate=Gate(0.0, 0.5), prior=Gaussian(mean, basis.prior.covariance))
    everybody.save(tmp_path / "basis")
    with Personalign.open(url, basis=tmp_path / "basis") as p:
        onboard(p, "ada", most=4)
        assert p.profile("ada").informative == 4
        reply = p.chat("ada", HELLO)
        assert (reply.guided, reply.reason, reply.text) == (False, "nothing_personal", p.chat("nobody", HELLO).text)
        assert p.chat("nobody", HELLO).reason == "no_answers"
        assert p.chat("ada", HELLO, strength=0).reason == "nothing_personal"
        assert p.profile("ada").explain() == IMPERSONAL


def test_each_answer_is_judged_before_it_is_used(url: str, tmp_path: Path) -> None:
    """The profile's gain is the prequential one of its answers, kept answer by answer; undo takes its part back."""
    with gated(url, tmp_path / "basis", 0.5) as p:
        onboard(p, "ada", most=5)
        before = p.profile("ada")
        onboard(p, "ada", most=1)
        after, answers = p.profile("ada"), p._store.answers("ada", p.basis.id)
        record = Record(np.array([answer.v for answer in answers]), [answer.choice for answer in answers])
        assert after.gain == pytest.approx(gain_of(record, p.basis.prior, 0.5, p.basis.noise))
        assert after.gain == pytest.approx(sum(gain or 0.0 for gain in gains(p, "ada")))
        assert after.gain != before.gain
        assert p.undo("ada").gain == before.gain
        p.feedback("ada", HELLO, chosen="Sure! Where would you like to pick it up?", rejected="No.", kind="edit")
        assert len(gains(p, "ada")) == 6
        assert None not in gains(p, "ada")


def judged_at_once(p: Personalign, user: str) -> float:
    """What the answers of a person come to, in one block."""
    answers = p._store.answers(user, p.basis.id)
    record = Record(np.array([answer.v for answer in answers]), [answer.choice for answer in answers])
    return gain_of(record, p.basis.prior, 0.5, p.basis.noise)


def test_a_record_is_told_anew_on_another_basis(url: str, tmp_path: Path) -> None:
    """Gain and losses of answers that follow are those they have when they are given there, question by question."""
    with Personalign.open(url) as p:
        onboard(p, "ada", most=10)  # with more, a change may be seen, and the oldest count less
        old = [answer.loss for answer in p._store.answers("ada", p.basis.id)]
    other = Basis.load(TINY / "basis")
    replace(other, scale=2 * other.scale, gate=Gate(0.5, 0.6)).save(tmp_path / "basis")
    with Personalign.open(url, basis=tmp_path / "basis") as p:
        adopted = p.refit("ada")
        assert adopted is not None
        assert adopted.gain == pytest.approx(judged_at_once(p, "ada"))
        assert adopted.gain != 0
        answers = p._store.answers("ada", p.basis.id)
        assert None not in [answer.loss for answer in answers]
        assert [answer.loss for answer in answers][1:] != old[1:]
        assert [answer.loss for answer in answers] == [answer.loss for answer in p._onboarding._judge(None, answers)]


def test_a_gate_that_comes_later_judges_what_was_answered(url: str, tmp_path: Path) -> None:
    """Its basis keeps its id: a refit judges everybody once, and a person's next answer judges them too."""
    with Personalign.open(url) as p:
        for user in ("ada", "ben"):
            onboard(p, user, most=3)
        assert p.behind() == []
    with gated(url, tmp_path / "basis", 0.5) as p:
        assert p.behind() == ["ada", "ben"]
        before, adopted = p.profile("ada"), p.refit("ada")
        assert adopted is not None
        assert adopted.mean.tobytes() == before.mean.tobytes()
        assert adopted.gain == pytest.approx(judged_at_once(p, "ada"))
        assert p.refit("ada") is None
        onboard(p, "ben", most=1)
        assert p.profile("ben").gain == pytest.approx(judged_at_once(p, "ben"))
        assert p.behind() == []


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
