"""Whoever has said nothing: plain replies, or everybody's mean taste where a log tells one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from personalign import Personalign
from personalign.basis import ASSUMED, Basis, Shares
from personalign.bundled import TINY
from personalign.errors import InputError
from personalign.learn.served import Serving
from personalign.types import Gaussian
from tests.onboarded import HELLO, onboard


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'p.db'}"


def with_a_mean(folder: Path, shares: Shares = ASSUMED) -> Path:
    """The bundled basis, whose people like long replies."""
    basis = Basis.load(TINY / "basis")
    mean = 0.6 * (basis.prior.mean + [axis.name == "length" for axis in basis.axes])
    replace(basis, shares=shares, prior=Gaussian(mean, basis.prior.covariance)).save(folder)
    return folder


def test_everybodys_taste_guides_a_stranger_and_can_be_turned_off(url: str, tmp_path: Path) -> None:
    """The reply says so; off, it is the model's own to the byte; a person's own answers come before it."""
    basis = with_a_mean(tmp_path / "basis")
    with Personalign.open(url, basis=basis) as p:
        reply, plain = p.chat("nobody", HELLO), p.chat("nobody", HELLO, strength=0)
        assert (reply.guided, reply.reason) == (True, "population")
        assert (plain.guided, plain.reason) == (False, "strength_zero")
        assert reply.text != plain.text
        onboard(p, "ada", most=4)
        assert p.chat("ada", HELLO).reason is None
    with Personalign.open(url, basis=basis, guide_strangers=False) as p:
        off = p.chat("nobody", HELLO)
        assert (off.guided, off.reason, off.text) == (False, "no_answers", plain.text)


def test_without_a_log_a_stranger_gets_plain_replies(url: str) -> None:
    """The bundled basis knows no mean taste."""
    with Personalign.open(url) as p:
        assert p.chat("nobody", HELLO).reason == "no_answers"


def test_where_nothing_is_personal_people_are_served_as_strangers_are(tmp_path: Path) -> None:
    """Their answers change neither the weights nor the strength, however many they gave."""
    basis = Basis.load(with_a_mean(tmp_path / "basis", Shares(1.0, 0.0)))
    stranger = basis.first_profile("ben")
    known = replace(stranger, user="ada", revision=9, answers=9, informative=9)
    for serving, is_guided in ((Serving(basis), True), (Serving(basis, guides_strangers=False), False)):
        guidance, control = serving.guidance(known), serving.guidance(stranger)
        assert guidance is not None
        assert (guidance.is_population, guidance.is_personal) == (is_guided, is_guided)
        assert (control is not None) is is_guided
        assert guidance.weights.tobytes() == basis.prior.mean.tobytes()


def test_the_switch_is_a_switch(url: str) -> None:
    """What isn't True or False is refused."""
    with pytest.raises(InputError, match="guide_strangers is 'yes', expected True or False"):
        Personalign.open(url, guide_strangers="yes")  # type: ignore[arg-type]
