"""Two servers on one file, as two processes have it: what one of them does holds in the other at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from personalign.service import Personalign
from tests.onboarded import HELLO, onboard
from tests.serve.running import serving
from tests.serve.test_people import error, path
from tests.serve.test_repeats import AGAIN, keyed

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Personalign, Personalign]]:
    url = f"sqlite:///{tmp_path_factory.mktemp('two') / 'p.db'}"
    with Personalign.open(url, model="tiny") as one, Personalign.open(url, model="tiny") as other:
        yield one, other


@pytest.fixture(scope="module")
def clients(services: tuple[Personalign, Personalign]) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """A backend that talks to both."""
    headers = {"Authorization": f"Bearer {services[0].keys.create('backend', 'tests')[1]}"}
    with (
        serving(services[0]) as one,
        serving(services[1]) as other,
        httpx.Client(base_url=one, headers=headers, timeout=60) as first,
        httpx.Client(base_url=other, headers=headers, timeout=60) as second,
    ):
        yield first, second


@pytest.fixture
def account(clients: tuple[httpx.Client, httpx.Client]) -> Callable[[str], dict[str, Any]]:
    """How the second server steers a person's reply, with its id."""

    def ask(user: str) -> dict[str, Any]:
        answer = clients[1].post(CHAT, json={"messages": HELLO, "max_tokens": 24, "user": user}).json()
        return answer["personalign"] | {"id": answer["id"]}

    return ask


def test_a_change_acts_in_the_other(
    services: tuple[Personalign, Personalign],
    clients: tuple[httpx.Client, httpx.Client],
    account: Callable[[str], dict[str, Any]],
) -> None:
    """A position and a pause hold for the other's next reply."""
    onboard(services[0], "ada", 3)
    before = account("ada")
    assert before["guided"]
    clients[0].post(path("ada", "set"), json={"positions": {"length": -1}})
    assert account("ada")["revision"] > before["revision"]
    clients[0].post(path("ada", "pause"))
    assert account("ada")["reason"] == "paused"


def test_an_erasure_reaches_what_the_other_keeps(
    services: tuple[Personalign, Personalign],
    clients: tuple[httpx.Client, httpx.Client],
    account: Callable[[str], dict[str, Any]],
) -> None:
    """Neither a profile nor a reply of the person is left there, so no feedback brings their texts back."""
    for user in ("eve", "ben"):
        onboard(services[0], user, 3)
    feedback = {"kind": "edit", "text": "In better words."}
    kept = {user: {"completion": account(user)["id"]} | feedback for user in ("eve", "ben")}
    assert clients[0].delete(path("eve")).json() == {"forgotten": True}
    assert error(clients[1].post(path("eve", "feedback"), json=kept["eve"]))[0] == 404
    assert not services[1].is_known("eve")
    assert not account("eve")["guided"]
    assert clients[1].post(path("ben", "feedback"), json=kept["ben"]).status_code == 200, (
        "the control: others' are kept"
    )


def test_a_revoked_key_opens_neither(
    services: tuple[Personalign, Personalign], clients: tuple[httpx.Client, httpx.Client]
) -> None:
    """The next request with it is refused by both."""
    key, text = services[0].keys.create("backend", "another")
    headers = {"Authorization": f"Bearer {text}"}
    assert [client.get("/v1/models", headers=headers).status_code for client in clients] == [200, 200]
    services[0].keys.revoke(key.id)
    assert [client.get("/v1/models", headers=headers).status_code for client in clients] == [401, 401]


def test_what_counts_once_counts_once_in_both(
    services: tuple[Personalign, Personalign], clients: tuple[httpx.Client, httpx.Client]
) -> None:
    """A write under one key, and a link for onboarding; a token of one is good in the other."""
    onboard(services[0], "una", 3)
    undone = [client.post(path("una", "undo"), headers=keyed("once")) for client in clients]
    assert [(answer.json()["answers"], AGAIN in answer.headers) for answer in undone] == [(2, False), (2, True)]
    url = clients[0].post(path("una", "links"), json={"page": "onboard"}).json()["url"]
    sessions = [client.post("/v1/sessions", json={"link": url.partition("#")[2]}) for client in reversed(clients)]
    assert [session.status_code for session in sessions] == [200, 401]
    headers = {"Authorization": f"Bearer {sessions[0].json()['token']}"}
    assert [client.get(path("me", "profile"), headers=headers).json()["user"] for client in clients] == ["una"] * 2
