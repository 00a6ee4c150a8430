"""A model that was opened without a basis: it talks, and says what it can't do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from personalign import Personalign
from personalign.bundled import TINY
from personalign.cli import main
from personalign.errors import BasisError
from personalign.learn.ask import StopRule
from tests.onboarded import HELLO

COMMAND = "personalign basis bootstrap --model .*base --prompts FILE"


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Personalign]:
    """The bundled model's folder, whose basis isn't named."""
    with Personalign.open(f"sqlite:///{tmp_path / 'p.db'}", model=TINY / "base") as opened:
        yield opened


def test_it_talks_as_the_model_does(plain: Personalign, p: Personalign) -> None:
    """The same text as for somebody unknown, and the reason; a stream and several at once likewise."""
    reply = plain.chat("ada", HELLO)
    assert (reply.guided, reply.reason, reply.kl, reply.revision) == (False, "no_basis", 0.0, 0)
    assert reply.text == p.chat("nobody", HELLO).text
    assert "".join(plain.stream("ada", HELLO)) == reply.text
    assert [each.reason for each in plain.chat_many(["ada", "ben"], [HELLO, HELLO], strength=0)] == ["no_basis"] * 2


VERBS: dict[str, Callable[[Personalign], object]] = {
    "ask": lambda plain: plain.ask("ada"),
    "why_stopped": lambda plain: plain.why_stopped("ada"),
    "answer": lambda plain: plain.answer("ada", "q", "a"),
    "reask": lambda plain: plain.reask("ada"),
    "agreed": lambda plain: plain.agreed("ada"),
    "undo": lambda plain: plain.undo("ada"),
    "feedback": lambda plain: plain.feedback("ada", HELLO, "Yes.", "No.", "edit"),
    "profile": lambda plain: plain.profile("ada"),
    "drift": lambda plain: plain.drift("ada"),
    "behind": lambda plain: plain.behind(),
    "refit": lambda plain: plain.refit("ada"),
    "basis": lambda plain: plain.basis,
    "serving": lambda plain: plain.serving,
    "stop_rule": lambda plain: plain.stop_rule,
    "question_rule": lambda plain: plain.question_rule,
    "half_life_days": lambda plain: plain.half_life_days,
}


@pytest.mark.parametrize("verb", VERBS)
def test_what_needs_a_basis_says_so(plain: Personalign, verb: str) -> None:
    """With the command that makes one; nobody becomes known by it."""
    with pytest.raises(BasisError, match=f"has no basis.*{COMMAND}"):
        VERBS[verb](plain)
    assert not plain.is_known("ada")


@pytest.mark.parametrize(
    "option",
    [{"pinned": {"length": 0.0}}, {"half_life_days": 9.0}, {"question_rule": "bald"}, {"stop_rule": StopRule()}],
)
def test_options_of_a_basis_are_refused(tmp_path: Path, option: dict[str, object]) -> None:
    """They would do nothing."""
    with pytest.raises(BasisError, match=COMMAND):
        Personalign.open(f"sqlite:///{tmp_path / 'p.db'}", model=TINY / "base", **option)


def test_people_keep_their_rights(plain: Personalign, p: Personalign) -> None:
    """What another opening of the database stored can be told, paused, exported and erased; keys open it, too."""
    question = p.ask("ada")
    assert question is not None
    p.answer("ada", question.id, "a")
    assert plain.is_known("ada")
    assert plain.history("ada") == p.history("ada") != []
    plain.pause("ada")
    assert p.profile("ada").is_paused
    assert plain.keys.find(p.keys.create("backend", "shop")[1]) is not None
    assert plain.chat("ada", HELLO).reason == "no_basis"
    assert "ada" in json.dumps(plain.export("ada"))
    assert plain.forget("ada")
    assert not p.is_known("ada")


def run(*words: str) -> object:
    """Run a verb in this process; its exit code."""
    with pytest.raises(SystemExit) as end:
        main(words)
    return end.value.code


def test_the_command_line_replies_and_says_how_to_get_a_basis(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On stderr, so that the one line of JSON stays."""
    monkeypatch.setenv("PERSONALIGN_STORE", f"sqlite:///{tmp_path / 'p.db'}")
    model = str(TINY / "base")
    assert run("chat", "ada", "Hello", "--model", model, "--json") == 0
    output, errors = capfd.readouterr()
    assert json.loads(output)["reason"] == "no_basis"
    assert f"personalign basis bootstrap --model {model} --prompts FILE" in errors
    assert run("onboard", "ada", "--model", model) == 2
    assert "has no basis" in capfd.readouterr().err
    assert run("doctor", "--model", model, "--json") == 0
    assert json.loads(capfd.readouterr().out)["basis"] is None
