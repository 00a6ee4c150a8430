"""Whatever is passed to the public API, only errors of ours come out, and they can be printed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from personalign import Basis, Feedback, Options, Personalign
from personalign.bundled import TINY
from personalign.errors import InputError, PersonalignError
from personalign.learn.ask import StopRule

HELLO = [{"role": "user", "content": "Hello"}]
ODD: dict[str, Any] = {
    "None": None,
    "a number": 3,
    "True": True,
    "NaN": math.nan,
    "bytes": b"ada",
    "a list": ["ada"],
    "a mapping": {"ada": 1},
    "an array": np.array(["ada", "ben"]),
    "an object": object(),
    "an empty text": "",
    "half a character": "ada\ud800",
    "a control character": "ada\x1b[2J",
    "a long text": "a" * 200_000,
}
Verb = Callable[[Personalign, Any], object]

USER_VERBS: dict[str, Verb] = {
    "ask": lambda p, user: p.ask(user),
    "why_stopped": lambda p, user: p.why_stopped(user),
    "answer": lambda p, user: p.answer(user, "0", "a"),
    "reask": lambda p, user: p.reask(user),
    "agreed": lambda p, user: p.agreed(user),
    "undo": lambda p, user: p.undo(user),
    "feedback": lambda p, user: p.feedback(user, HELLO, "a", "b", "edit"),
    "set": lambda p, user: p.set(user, length=-1),
    "say": lambda p, user: p.say(user, "shorter please"),
    "messages": lambda p, user: p.messages(user, HELLO),
    "profile": lambda p, user: p.profile(user),
    "refit": lambda p, user: p.refit(user),
    "drift": lambda p, user: p.drift(user),
    "is_known": lambda p, user: p.is_known(user),
    "forget": lambda p, user: p.forget(user),
    "export": lambda p, user: p.export(user),
    "history": lambda p, user: p.history(user),
    "consent": lambda p, user: p.consent(user, "yes"),
    "pause": lambda p, user: p.pause(user),
    "resume": lambda p, user: p.resume(user),
    "chat": lambda p, user: p.chat(user, HELLO),
    "stream": lambda p, user: p.stream(user, HELLO),
    "chat_many": lambda p, user: p.chat_many([user], [HELLO]),
    "shift": lambda p, user: p.shift(user, [HELLO]),
    "trial": lambda p, user: p.trial(user, HELLO),
}
OTHER: dict[str, tuple[Verb, set[str]]] = {  # and which odd values are none there
    "consent": (lambda p, odd: p.ask("ada", odd), {"None", "a control character"}),
    "words of consent": (lambda p, odd: p.consent("ada", odd), {"a control character"}),
    "caller": (lambda p, odd: p.write_once(odd, "key", "request"), {"a control character"}),
    "idempotency key": (lambda p, odd: p.write_once("caller", odd, "request"), set()),
    "request": (lambda p, odd: p.write_once("caller", "key", odd), {"a control character"}),
    "question": (lambda p, odd: p.answer("ada", odd, "a"), set()),
    "choice": (lambda p, odd: p.answer("ada", p.ask("ada").id, odd), set()),
    "messages of chat": (lambda p, odd: p.chat("ada", odd), set()),
    "messages of stream": (lambda p, odd: p.stream("ada", odd), set()),
    "content of chat": (
        lambda p, odd: p.chat("ada", [{"role": "user", "content": odd}]),
        {"a control character"},
    ),
    "users of chat_many": (lambda p, odd: p.chat_many(odd, [HELLO]), {"a list"}),
    "conversations of chat_many": (lambda p, odd: p.chat_many(["ada"], odd), set()),
    "conversations of shift": (lambda p, odd: p.shift("ada", odd), set()),
    "messages of feedback": (lambda p, odd: p.feedback("ada", odd, "a", "b", "edit"), set()),
    "chosen": (lambda p, odd: p.feedback("ada", HELLO, odd, "b", "edit"), {"a control character"}),
    "wish": (lambda p, odd: p.say("ada", odd), {"a control character"}),
    "read_wishes": (lambda p, odd: setattr(p, "read_wishes", odd), set()),
    "messages of messages": (lambda p, odd: p.messages("ada", odd), set()),
    "position": (lambda p, odd: p.set("ada", length=odd), {"None"}),
    "axis": (lambda p, odd: p.set("ada", **{odd: 0} if isinstance(odd, str) else {"no axis": odd}), set()),
    "arms": (lambda p, odd: p.trials.start(odd), set()),
    "messages of trial": (lambda p, odd: p.trial("ada", odd), set()),
    "kind": (lambda p, odd: p.feedback("ada", HELLO, "a", "b", odd), set()),
    "question_rule": (lambda p, odd: setattr(p, "question_rule", odd), set()),
    "stop_rule": (lambda p, odd: setattr(p, "stop_rule", odd), set()),
    "half_life_days": (lambda p, odd: setattr(p, "half_life_days", odd), {"None", "a number"}),
    "prompt of Feedback": (lambda _, odd: Feedback("edit", odd, "a", "b"), set()),
}
OPENED = {  # with which values opening is right
    "store": set(),
    "model": set(),
    "basis": {"None"},
    "experts": {"a list"},
    "reward": {"None"},
    "embedder": {"None"},
    "device": set(),
    "pinned": {"None"},
    "shadow": {"True"},
    "question_rule": {"None"},
    "stop_rule": {"None"},
    "half_life_days": {"None", "a number"},
    "slots": {"a number"},
    "waiting": {"a number"},
    "max_length": {"None", "a number"},
    "create": {"True"},
}
LONG = "a" * 256  # characters: no file has such a name


@pytest.fixture(scope="module")
def p(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Personalign]:
    """The bundled model with a store of its own; nothing here gets as far as loading the model."""
    with Personalign.open(store=f"sqlite:///{tmp_path_factory.mktemp('door') / 'p.db'}") as opened:
        yield opened


def refuse(call: Callable[[], object], kind: type[PersonalignError] = InputError) -> None:
    """Demand that a call ends in an error of ours, in a line that any terminal can show."""
    with pytest.raises(kind) as refusal:
        call()
    assert str(refusal.value).encode()
    assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("verb", USER_VERBS)
def test_odd_ids_are_refused_by_every_verb(p: Personalign, verb: str, odd: str) -> None:
    """What isn't an id is an InputError before anything is read or written."""
    refuse(lambda: USER_VERBS[verb](p, ODD[odd]))


@pytest.mark.parametrize(("argument", "odd"), [(a, odd) for a in OTHER for odd in ODD if odd not in OTHER[a][1]])
def test_odd_arguments_are_refused(p: Personalign, argument: str, odd: str) -> None:
    """Everything else that a verb takes, too."""
    refuse(lambda: OTHER[argument][0](p, ODD[odd]))


@pytest.mark.parametrize(("argument", "odd"), [(a, odd) for a in OPENED for odd in ODD if odd not in OPENED[a]])
def test_odd_arguments_open_nothing(tmp_path: Path, argument: str, odd: str) -> None:
    """Opening with any of them is refused, and leaves no database behind."""
    arguments: dict[str, Any] = {"store": f"sqlite:///{tmp_path / 'p.db'}", argument: ODD[odd]}
    refuse(lambda: Personalign.open(**arguments), PersonalignError)


@pytest.mark.parametrize("argument", ["store", "model", "basis", "experts", "reward"])
def test_names_that_no_file_has_are_refused(tmp_path: Path, argument: str) -> None:
    """A part of a path that is too long is an InputError at the door, not the system's error later."""
    arguments: dict[str, Any] = {"store": f"sqlite:///{tmp_path / 'p.db'}", "basis": TINY / "basis"}
    refuse(lambda: Personalign.open(**(arguments | {argument: {LONG: LONG} if argument == "experts" else LONG})))


def test_all_that_is_asked_for_is_checked_before_the_model_is_loaded(p: Personalign) -> None:
    """Of several conversations the last is checked, too, and a task's as well."""
    refuse(lambda: p.chat_many(["ada", "ben"], [HELLO, [{"role": "user", "content": ""}]]))
    refuse(lambda: p.shift("ada", [HELLO, []]))
    refuse(lambda: asyncio.run(p.achat("ada", [])))
    refuse(lambda: asyncio.run(p.achat("ada", HELLO, max_token=3)))
    assert p._loaded is None


def test_verbs_take_what_is_right(p: Personalign) -> None:
    """The control: the same calls with an id and a conversation go through."""
    for verb in ("ask", "why_stopped", "profile", "is_known", "export", "drift"):
        USER_VERBS[verb](p, "ada")
    p.question_rule, p.stop_rule, p.half_life_days = "random", StopRule(max_questions=3), 180
    assert Options.from_keywords({"temperature": 0.5}).temperature == 0.5
    assert Basis.load(TINY / "basis").id == Basis.load(str(TINY / "basis")).id == p.basis.id
