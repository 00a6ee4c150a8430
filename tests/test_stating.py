"""Tastes that a person states, on the bundled model and a real SQLite file."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from personalign.basis import Basis, Shares
from personalign.bundled import TINY
from personalign.errors import InputError, MessageError
from personalign.learn.wishes import Understood
from personalign.service import Personalign
from personalign.types import Message, Profile, Statement
from personalign.words import Axis
from tests.onboarded import HELLO, onboard

BASIS = Basis.load(TINY / "basis")


def weight(profile: Profile, axis: str) -> float:
    """In standard deviations of the bundled prior."""
    j = [known.name for known in profile.axes].index(axis)
    return float(profile.mean[j] / np.sqrt(BASIS.prior.covariance[j, j]))


# Set


def test_whoever_only_sets_something_is_guided(p: Personalign) -> None:
    """No question was answered; shorter and longer are felt, and taken back the reply is the model's own."""
    plain = p.chat("nobody", HELLO)
    profile = p.set("ada", length=-1)
    assert (profile.revision, profile.answers, profile.informative) == (1, 0, 0)
    p.set("ben", length=1)
    short, long = p.chat("ada", HELLO), p.chat("ben", HELLO)
    assert short.guided
    assert long.guided
    assert len(short.text) < len(long.text)
    assert p.set("ada", length=None).stated == ()
    again = p.chat("ada", HELLO)
    assert (again.text, again.reason) == (plain.text, "no_answers")
    np.testing.assert_array_equal(p.profile("ada").mean, p.basis.prior.mean)


def test_what_is_set_stands_beside_what_is_learnt(p: Personalign) -> None:
    """It wins over ten answers that say the opposite, is told as the person's own, and stays when an answer goes."""
    onboard(p, "ada", longer=True)
    assert weight(p.profile("ada"), "length") > 0
    told = p.set("ada", length=-1, figures=0).explain().splitlines()
    assert "how long the reply is: set to -1 by the person (shorter replies)" in told
    assert "numbers, times and prices: set to 0 by the person (indifferent)" in told
    assert told[0].startswith(("prefers", "clearly prefers", "may prefer"))
    assert not any("longer replies" in line or "concrete figures" in line for line in told)
    assert weight(p.profile("ada"), "length") < -1
    undone = p.undo("ada")
    assert [statement.axis for statement in undone.stated] == ["length", "figures"]
    assert "Strongly favour shorter replies." in undone.as_system_prompt()


def test_pins_win_over_what_is_set(open_store: Callable[..., Personalign]) -> None:
    """The operator's weight serves everybody, whatever they set; it is told."""
    pinned = open_store(pinned={"length": 0.0})
    profile = pinned.set("ada", length=-1, names=-1)
    served = dict(zip([axis.name for axis in profile.axes], pinned.serving.weights(profile).tolist(), strict=True))
    assert served["length"] == 0
    assert served["names"] < 0
    assert "pinned to 0 by the operator" in profile.explain()
    assert "set to -1 by the person" in profile.explain()


def test_where_nothing_is_personal_what_is_set_still_is(open_store: Callable[..., Personalign], tmp_path: Path) -> None:
    """Where answers set nobody apart, a slider still does what it says; without one nothing is served."""
    replace(BASIS, shares=Shares(1.0, 0.0)).save(tmp_path / "basis")
    p = open_store(basis=tmp_path / "basis")
    onboard(p, "ada", most=4)
    before = p.serving.guidance(p.profile("ada"))
    assert before is not None
    assert not before.is_personal
    after = p.serving.guidance(p.set("ada", warmth=1))
    assert after is not None
    assert after.is_personal
    by_name = dict(zip([axis.name for axis in p.basis.axes], after.weights.tolist(), strict=True))
    assert by_name["warmth"] > 1.5 * np.sqrt(p.basis.prior.covariance.diagonal()[0])
    assert by_name.pop("warmth") > 2 * max(map(abs, by_name.values()))  # others move by the prior's correlations


BAD_POSITIONS: dict[str, tuple[dict[str, object], str]] = {
    "an unknown axis": ({"lenght": 0}, "did you mean length?"),
    "an axis of another set": ({"bullets": -1}, "which is unknown"),
    "out of range": ({"length": -1.5}, "expected a number from -1 to 1"),
    "NaN": ({"length": float("nan")}, "expected a number from -1 to 1"),
    "text": ({"length": "short"}, "expected a number from -1 to 1"),
    "nothing": ({}, "found no axis to set"),
}


@pytest.mark.parametrize("case", BAD_POSITIONS)
def test_a_bad_position_changes_nothing(p: Personalign, case: str) -> None:
    """Each is an InputError, also beside a sound one, and what was set before stays."""
    positions, message = BAD_POSITIONS[case]
    before = p.set("ada", warmth=0.5)
    with pytest.raises(InputError, match=message):
        p.set("ada", **({"warmth": -1} if positions else {}), **positions)  # type: ignore[arg-type]
    assert p.profile("ada").stated == before.stated


def test_what_is_set_is_exported_and_erased(p: Personalign) -> None:
    """With its history; the next person under the id has none of it."""
    p.set("ada", length=-1)
    asyncio.run(p.aset("ada", length=0.5))
    p.set("ada", length=None)
    rows = p.export("ada")["tables"]["statements"]
    assert [(row["axis"], row["position"]) for row in rows] == [("length", -1.0), ("length", 0.5), ("length", None)]
    assert p.forget("ada")
    assert not any(p.export("ada")["tables"].values())
    assert p.profile("ada").stated == ()


# Say


def test_a_wish_is_weak_evidence(p: Personalign) -> None:
    """It guides someone who said nothing else, less than a slider does; ten answers outweigh it; it is taken back."""
    understood = p.say("ada", "Shorter please, and stop the rain.")
    assert [(wish.axis, wish.position, wish.words) for wish in understood.wishes] == [
        ("length", -0.5, "Shorter please")
    ]
    assert understood.remainder == ("and stop the rain",)
    said, placed = p.profile("ada"), p.set("ben", length=-0.5)
    assert weight(placed, "length") < weight(said, "length") < 0
    assert "said “Shorter please” by the person (shorter replies)" in said.explain()
    assert p.chat("ada", HELLO).guided
    onboard(p, "ada", longer=True)
    assert weight(p.profile("ada"), "length") > 0
    assert p.set("ada", length=None).stated == ()


def test_an_ordinary_request_leaves_no_trace(p: Personalign) -> None:
    """Nobody is added by it; a wish adds them (the control)."""
    assert p.say("ada", "make the pasta sauce thicker") == Understood((), ("make the pasta sauce thicker",))
    assert not p.is_known("ada")
    asyncio.run(p.asay("ada", "Longer, please."))
    assert p.is_known("ada")


@pytest.mark.parametrize("text", ["", " ", "shorter please " * 100_000, "shorter \ud800", None])
def test_a_bad_wish_changes_nothing(p: Personalign, caplog, text: str) -> None:
    """Blank, huge, half a character or no text: a MessageError; what was said before stays, and no log has a word."""
    caplog.set_level(logging.DEBUG)
    p.say("ada", "Please use formal language.")
    before = p.profile("ada").stated
    with pytest.raises(MessageError, match="the wish"):
        p.say("ada", text)
    assert p.profile("ada").stated == before
    assert "formal" not in caplog.text
    assert "shorter" not in caplog.text


def test_an_application_reads_wishes_itself(p: Personalign) -> None:
    """Its own function gets text and axes; what it gives is checked, and kept as said."""

    def read(text: str, axes: Sequence[Axis]) -> Understood:
        assert {axis.name for axis in axes} >= {"length", "warmth"}
        position = {"kürzer": -0.5, "viel": -9.0}[text]
        return Understood((Statement("length" if position > -1 else "warmth", position, words=text),), ())

    p.read_wishes = read
    p.say("ada", "kürzer")
    assert p.profile("ada").stated == (Statement("length", -0.5, "said", "kürzer"),)
    with pytest.raises(InputError, match="expected a number from -1 to 1"):
        p.say("ada", "viel")
    assert len(p.profile("ada").stated) == 1


# Messages

SYSTEM: Message = {"role": "system", "content": "You book cars."}


def test_a_prompted_model_is_told_what_is_certain(p: Personalign) -> None:
    """What was set or said comes into the system message, which is kept; nothing is added for a stranger."""
    assert p.messages("ada", [SYSTEM, *HELLO]) == [SYSTEM, *HELLO]
    p.set("ada", length=-1)
    p.say("ada", "Much more formal, please.")
    told, asked = p.messages("ada", [SYSTEM, *HELLO])
    assert told["content"].startswith("You book cars.\n\nWrite every reply")
    assert "\nStrongly favour shorter replies." in told["content"]
    assert "words written in full" in told["content"]
    assert asked == HELLO[0]
    alone = p.messages("ada", HELLO)
    assert [message["role"] for message in alone] == ["system", "user"]
    assert "Lean" not in alone[0]["content"]


def test_what_is_uncertain_is_not_told(p: Personalign) -> None:
    """A taste that answers leave open is in the longer description, and not here."""
    onboard(p, "ada", most=3)
    profile = p.profile("ada")
    assert "Lean towards" in profile.as_system_prompt()
    assert "Lean towards" not in str(p.messages("ada", HELLO))


def test_what_is_told_is_short(p: Personalign) -> None:
    """At most eighty tokens of the smallest vocabulary there is, whatever was set; at least one taste is told."""
    encode = p.models.base.tokenizer.encode
    rng = np.random.default_rng(0)
    names = [axis.name for axis in p.basis.axes]
    for _ in range(20):
        told = p.set("ada", **dict(zip(names, rng.choice([-1.0, 1.0], len(names)), strict=True))).as_system_prompt(
            is_certain=True
        )
        assert told.count("\n") >= 1
        assert len(encode(told, add_special_tokens=False)) <= 80
