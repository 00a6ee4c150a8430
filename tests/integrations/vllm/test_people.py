"""What a request's arguments say, and what the store knows of the person that they name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from personalign import Personalign
from personalign.errors import BasisError, InputError
from personalign.integrations.vllm.people import STRENGTH, USER, Ask, People, read_ask


@pytest.mark.parametrize(
    ("arguments", "ask"),
    [
        (None, None),
        ({}, None),
        ({"other": 1}, None),
        ({USER: "ada"}, Ask("ada")),
        ({USER: "ada", STRENGTH: 0}, Ask("ada", 0.0)),
        ({USER: "ada", STRENGTH: 2.5, "other": 1}, Ask("ada", 2.5)),
    ],
)
def test_arguments_name_a_person(arguments: Mapping[str, Any] | None, ask: Ask | None) -> None:
    """Others' arguments are none of ours."""
    assert read_ask(arguments) == ask


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"personalign_usr": "ada"}, "did you mean personalign_user"),
        ({STRENGTH: 1.0}, "without personalign_user"),
        ({USER: "ada", STRENGTH: -1}, "a number from 0 to 100"),
        ({USER: "ada", STRENGTH: "strong"}, "a number from 0 to 100"),
        ({USER: 7}, "person's id"),
        ({USER: ""}, "person's id"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(arguments: Mapping[str, Any], message: str) -> None:
    """Nobody is served plainly because of a misspelt word."""
    with pytest.raises(InputError, match=message):
        read_ask(arguments)


@pytest.fixture
def people(p: Personalign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., People]]:
    """Those of the same store, as a process of vLLM opens them."""
    monkeypatch.setenv("PERSONALIGN_STORE", f"sqlite:///{tmp_path / 'p.db'}")
    opened: list[People] = []

    def open_one(*arguments: Any) -> People:
        opened.append(People.open(*arguments))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def test_a_person_guides_by_their_newest_profile(p: Personalign, people: Callable[..., People]) -> None:
    """What they said in one process holds for the next request in the other."""
    known = people()
    for position in (-1.0, 1.0):
        profile = p.set("ada", length=position)
        guidance = known.guidance(Ask("ada", 0.5))
        assert guidance is not None
        assert (guidance.revision, guidance.strength) == (profile.revision, 0.5)
        assert guidance.weights.tolist() == p.serving.weights(p.profile("ada")).tolist()


def test_who_is_unknown_or_erased_is_refused(p: Personalign, people: Callable[..., People]) -> None:
    """And who is known but has said nothing, or has paused, isn't: they get plain replies."""
    known = people()
    with pytest.raises(InputError, match="doesn't know") as caught:
        known.guidance(Ask("a secret name"))
    assert "secret" not in str(caught.value)
    p.ask("ben")
    p.set("ada", length=-1)
    p.pause("ada")
    assert known.guidance(Ask("ben")) is None
    assert known.guidance(Ask("ada")) is None
    p.resume("ada")
    assert known.guidance(Ask("ada")) is not None
    p.forget("ada")
    with pytest.raises(InputError, match="doesn't know"):
        known.guidance(Ask("ada"))


def test_a_sweep_finds_the_erased_though_nobody_asks(p: Personalign, people: Callable[..., People]) -> None:
    """Once for each erasure, and nobody else."""
    gone: list[str] = []
    known = people(gone.append)
    for user in ("ada", "ben"):
        p.set(user, length=-1)
        known.guidance(Ask(user))
    known.sweep()
    assert gone == []
    p.forget("ada")
    known.sweep()
    known.sweep()
    assert gone == ["ada"]
    assert known.is_gone("ada")
    assert not known.is_gone("ben")


def test_a_model_without_a_basis_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing could guide anybody."""
    monkeypatch.setenv("PERSONALIGN_MODEL", "owner/name")
    with pytest.raises(BasisError, match="has no basis"):
        People.open()
