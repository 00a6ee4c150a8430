"""What people can do with what is stored of them, on the bundled model: pause it, look back at it, agree to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from personalign.errors import InputError
from personalign.service import Personalign
from personalign.store import AnswerEvent, StatementEvent
from tests.onboarded import HELLO, onboard

CANDIDATES = ["Sure, I can do that for you. Where would you like to go?", "Where to?"]


def answers(p: Personalign, user: str) -> list[AnswerEvent]:
    """The answers of a history."""
    return [event for event in p.history(user) if isinstance(event, AnswerEvent)]


# Pausing


def test_whoever_paused_gets_plain_replies_until_they_resume(p: Personalign) -> None:
    """The model's own text, in every way to ask for one; then the same as before."""
    onboard(p, "ada")
    guided, plain = p.chat("ada", HELLO), p.chat("nobody", HELLO)
    p.pause("ada")
    paused = p.chat("ada", HELLO)
    assert (paused.text, paused.guided, paused.reason, paused.kl) == (plain.text, False, "paused", 0.0)
    assert "".join(p.stream("ada", HELLO)) == plain.text
    assert [reply.reason for reply in p.chat_many(["ada", "nobody"], [HELLO, HELLO])] == ["paused", "no_answers"]
    p.resume("ada")
    assert p.chat("ada", HELLO) == guided
    assert guided.text != plain.text  # the control


def test_a_pause_is_seen_by_every_process(open_store: Callable[..., Personalign]) -> None:
    """At once, also by one that has the person's profile at hand."""
    here, there = open_store(), open_store()
    onboard(here, "ada", most=3)
    assert there.chat("ada", HELLO).guided
    here.pause("ada")
    assert there.chat("ada", HELLO).reason == "paused"
    here.resume("ada")
    assert there.chat("ada", HELLO).guided


def test_a_pause_reaches_all_that_a_profile_does(p: Personalign) -> None:
    """Ranking, system messages and trials; without it each of them goes by the person (the control)."""
    onboard(p, "ada", longer=False)
    p.trials.start(["plain", "personal"])
    own, prior = p.choose("ada", HELLO, CANDIDATES), p.choose("nobody", HELLO, CANDIDATES)
    assert own.reason is None
    assert p.messages("ada", HELLO) != HELLO
    assert p.trial("ada", HELLO).a
    p.pause("ada")
    ranking = p.choose("ada", HELLO, CANDIDATES)
    assert ranking == replace(prior, reason="paused") != own
    assert p.messages("ada", HELLO) == HELLO
    with pytest.raises(InputError, match="resume it first"):
        p.trial("ada", HELLO)


def test_a_person_who_paused_is_asked_and_learnt_from(p: Personalign) -> None:
    """Nothing that they said is lost, and the profile goes on as if there had been no pause, and says that there is."""
    for user in ("ada", "ben"):
        onboard(p, user, most=2)
        if user == "ada":
            p.pause(user)
        onboard(p, user, most=2)
        p.set(user, length=-1)
        p.feedback(user, HELLO, "Where to?", "Sure, where would you like to go?", "edit")
    ada, ben = p.profile("ada"), p.profile("ben")
    assert (ada.is_paused, ben.is_paused) == (True, False)
    assert (ada.answers, ada.revision, ada.stated) == (ben.answers, ben.revision, ben.stated)
    paused, *lines = ada.explain().splitlines()
    assert paused == "Personalisation is paused: replies are the model's own until it is resumed."
    assert len(lines) == len(ada.explain().splitlines()) - 1 > 0
    assert not any("paused" in line for line in ben.explain().splitlines())


def test_a_stranger_may_pause(p: Personalign) -> None:
    """They are known from then on; to resume is nothing for a stranger."""
    p.resume("eve")
    assert not p.is_known("eve")
    p.pause("ada")
    assert p.is_known("ada")
    assert p.chat("ada", HELLO).reason == "paused"


def test_a_pause_is_the_persons_own(p: Personalign) -> None:
    """Exported with when it was, first one first, and erased with them."""
    p.pause("ada")
    (row,) = p.export("ada")["tables"]["users"]
    p.pause("ada")
    assert row["paused_at"] is not None
    assert p.export("ada")["tables"]["users"] == [row]
    p.forget("ada")
    p.ask("ada")
    assert p.export("ada")["tables"]["users"][0]["paused_at"] is None


# Looking back


def test_a_history_tells_what_was_said(p: Personalign) -> None:
    """Newest first, with what was shown; what was undone is marked, and what was stated and holds no longer."""
    first = p.ask("ada")
    assert first is not None
    p.answer("ada", first.id, "a")
    second = p.ask("ada")
    assert second is not None
    p.answer("ada", second.id, "tie")
    p.undo("ada")
    p.answer("ada", second.id, "b")
    p.feedback("ada", HELLO, "Where to?", "Sure, where would you like to go?", "edit")
    p.set("ada", length=-1)
    p.say("ada", "Be a bit warmer.")
    p.set("ada", length=None)
    events = p.history("ada")
    assert [event.time for event in events] == sorted((event.time for event in events), reverse=True)
    given = answers(p, "ada")
    assert [(event.kind, event.choice) for event in given[1:]] == [
        ("question", "b"),
        ("question", "tie"),
        ("question", "a"),
    ]
    assert [event.undone_at is None for event in given] == [True, True, False, True]
    assert (given[3].prompt, given[3].replies) == (first.prompt, first.replies)
    assert given[0].kind == "edit"
    assert set(given[0].replies) == {"Where to?", "Sure, where would you like to go?"}
    assert given[3].seconds >= 0
    stated = [event for event in events if isinstance(event, StatementEvent)]
    assert [(event.kind, event.axis, event.position, event.holds) for event in stated] == [
        ("set", "length", None, False),
        ("said", "warmth", 0.25, True),
        ("set", "length", -1.0, False),
    ]
    assert stated[1].words == "Be a bit warmer"


def test_a_history_is_json(p: Personalign) -> None:
    """Each event says what it is."""
    onboard(p, "ada", most=1)
    p.set("ada", length=-1)
    rows = [json.loads(json.dumps(event.to_json())) for event in p.history("ada")]
    assert [row["event"] for row in rows] == ["statement", "answer"]
    assert rows[0].keys() == {"event", "kind", "time", "axis", "position", "words", "holds"}
    assert rows[1].keys() == {"event", "kind", "time", "prompt", "replies", "choice", "seconds", "undone_at"}


def test_a_stranger_has_no_history(p: Personalign) -> None:
    """And nobody has another's."""
    onboard(p, "ada", most=1)
    assert p.history("eve") == []
    assert len(p.history("ada")) == 1  # the control
    p.forget("ada")
    assert p.history("ada") == []


def test_a_new_basis_tells_each_answer_once(open_store: Callable[..., Personalign]) -> None:
    """A refit copies answers; the history has none twice, and an undo on the new basis marks the one there is."""
    p = open_store()
    onboard(p, "ada", most=2)
    before = p.history("ada")
    store, person = p._store, p.profile("ada")
    store.save_basis("new", "tiny", {})

    def fit(_: object) -> object:
        return person.posterior

    store.adopt("ada", "new", lambda shown: np.asarray(shown.v), fit)
    assert p.history("ada") == before
    assert len(p.export("ada")["tables"]["answers"]) == 4
    store.undo_answer("ada", "new", fit)
    assert [event.undone_at is None for event in answers(p, "ada")] == [False, True]


# Agreeing, and once


def test_consent_is_recorded_without_a_question(p: Personalign) -> None:
    """The newest one, with its time; the same again leaves it."""
    p.consent("ada", "version 1")
    p.consent("ada", "version 2")
    (row,) = p.export("ada")["tables"]["users"]
    p.consent("ada", "version 2")
    assert p.export("ada")["tables"]["users"] == [row]
    assert row["consent"] == "version 2"
    assert p.export("ada")["tables"]["presentations"] == []


def test_an_undo_that_is_sent_again_counts_once(p: Personalign) -> None:
    """The service's verbs carry the key by themselves; the last undo of two at once ends quietly."""
    onboard(p, "ada", most=1)
    with p.write_once("shop", "key", "undo") as slower:
        with p.write_once("shop", "key", "undo") as faster:
            p.undo("ada")
        p.undo("ada")  # QuestionError: there is nothing left
    with p.write_once("shop", "key", "undo") as again:
        assert (slower, faster, again) == (True, True, False)
    assert p.profile("ada").answers == 0
