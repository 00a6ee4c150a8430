"""For whom a reply is: one order of places, and a token that decides by itself."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import httpx
import pytest

from personalign.errors import InputError
from personalign.serve.access import Caller
from personalign.serve.failures import Refusal
from personalign.serve.subject import subject_of
from personalign.service import Personalign
from tests.onboarded import HELLO, onboard

BACKEND = Caller("backend", "key:1")
# every place that may name a user, the first that holds above the others: in the body, and in the headers
PLACES: list[tuple[str, Callable[[str], dict[str, Any]], Callable[[str], dict[str, str]]]] = [
    ("personalign.user", lambda name: {"personalign": {"user": name}}, lambda _: {}),
    ("metadata.personalign_user", lambda name: {"metadata": {"personalign_user": name}}, lambda _: {}),
    ("x-openwebui-user-id", lambda _: {}, lambda name: {"x-openwebui-user-id": name}),
    ("x-litellm-end-user-id", lambda _: {}, lambda name: {"x-litellm-end-user-id": name}),
    ("safety_identifier", lambda name: {"safety_identifier": name}, lambda _: {}),
    ("user", lambda name: {"user": name}, lambda _: {}),
]
NAMES = [place for place, *_ in PLACES]


def test_the_first_place_that_names_somebody_holds() -> None:
    """Of any two neighbours in the order the first wins, and each holds alone."""
    for (_, body, headers), (_, later_body, later_headers) in pairwise(PLACES):
        both = subject_of(BACKEND, later_body("late") | body("first"), later_headers("late") | headers("first"))
        assert (both.user, both.is_named) == ("first", True)
        assert subject_of(BACKEND, later_body("late"), later_headers("late")).user == "late"


def test_an_empty_place_names_nobody() -> None:
    """It is passed over; where all are empty, each request is somebody new."""
    assert subject_of(BACKEND, {"personalign": {"user": None}, "user": "ada", "metadata": None}, {}).user == "ada"
    assert subject_of(BACKEND, {"safety_identifier": "", "user": "ada"}, {}).user == "ada"
    first, second = (subject_of(BACKEND, {}, {}) for _ in range(2))
    assert not first.is_named
    assert first.user != second.user


def test_a_name_that_cannot_be_an_id_is_refused() -> None:
    """The next place doesn't stand in for it."""
    with pytest.raises(InputError, match="person's id"):
        subject_of(BACKEND, {"safety_identifier": "\n", "user": "ada"}, {})


@pytest.mark.parametrize(("place", "body", "headers"), PLACES, ids=NAMES)
def test_a_token_decides_by_itself(
    place: str, body: Callable[[str], dict[str, Any]], headers: Callable[[str], dict[str, str]]
) -> None:
    """Its own name may be repeated; somebody else's is refused wherever it stands, and not ignored."""
    token = Caller("user", "user:ada", "ada")
    assert subject_of(token, body("ada"), headers("ada")).user == "ada"
    with pytest.raises(Refusal, match="names somebody else") as refusal:
        subject_of(token, body("ben"), headers("ben"))
    assert (refusal.value.status_code, refusal.value.param) == (403, place)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize(("place", "body", "headers"), PLACES, ids=NAMES)
def test_each_place_steers_a_reply(
    client: httpx.Client,
    service: Personalign,
    path: str,
    place: str,
    body: Callable[[str], dict[str, Any]],
    headers: Callable[[str], dict[str, str]],
) -> None:
    """Over HTTP the account is the named person's; nobody's is without guidance (the control)."""
    onboard(service, "subject-ada", 3)
    sent = {"messages": HELLO, "max_tokens": 2} if "chat" in path else {"input": "Hello", "max_output_tokens": 2}
    named = client.post(path, json=sent | body("subject-ada"), headers=headers("subject-ada")).json()["personalign"]
    assert (named["guided"], named["revision"]) == (True, service.profile("subject-ada").revision)
    assert not client.post(path, json=sent).json()["personalign"]["guided"]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_name_in_a_header_is_read_as_it_was_written(
    client: httpx.Client, service: Personalign, encoding: str
) -> None:
    """An id with an accent is the same person there as in a body, whichever way a client writes headers."""
    onboard(service, "subject-zoë", 3)
    sent = {"messages": HELLO, "max_tokens": 2}
    headers = {"x-openwebui-user-id": "subject-zoë".encode(encoding)}
    for response in (
        client.post("/v1/chat/completions", json=sent, headers=headers),
        client.post("/v1/chat/completions", json=sent | {"user": "subject-zoë"}),
    ):
        assert response.json()["personalign"]["guided"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_a_user_token_chats_for_its_own_person(
    server: str, service: Personalign, token_for: Callable[[str], str], path: str
) -> None:
    """Without any name in the body; a body that names somebody else is refused, and nothing is written."""
    onboard(service, "subject-ada", 3)
    sent = {"messages": HELLO, "max_tokens": 2} if "chat" in path else {"input": "Hello", "max_output_tokens": 2}
    headers = {"Authorization": f"Bearer {token_for('subject-ada')}"}
    with httpx.Client(base_url=server, headers=headers, timeout=60) as client:
        assert client.post(path, json=sent).json()["personalign"]["guided"]
        for stream in (False, True):
            refused = client.post(path, json=sent | {"user": "subject-ben", "stream": stream})
            assert (refused.status_code, refused.json()["error"]["param"]) == (403, "user")
        assert client.get("/v1/models").json()["data"]
    assert httpx.post(f"{server}{path}", json=sent).status_code == 401
