"""Who may do what: every route of the server with every kind of caller. A route without a row here fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from personalign.serve.access import Door
from personalign.serve.app import create_app
from personalign.service import Personalign
from tests.onboarded import HELLO, onboard
from tests.serve.test_people import path as path_of

CALLERS = ("nobody", "bad", "revoked", "expired", "own", "other", "backend", "operator")
STRANGERS = {"nobody": 401, "bad": 401, "revoked": 401, "expired": 401}
OK = 200
RIGHTS: dict[str, dict[str, int]] = {
    "open": dict.fromkeys(CALLERS, OK),
    "caller": STRANGERS | {"own": OK, "other": OK, "backend": OK, "operator": OK},
    "person": STRANGERS | {"own": OK, "other": 403, "backend": OK, "operator": OK},
    "backend": STRANGERS | {"own": 403, "other": 403, "backend": OK, "operator": OK},
    "operator": STRANGERS | {"own": 403, "other": 403, "backend": 403, "operator": OK},
}
USER = "/v1/people/{user}"
CHAT: dict[str, Any] = {"messages": HELLO, "max_tokens": 2}
PAIR = {"messages": HELLO, "chosen": "Yes, of course.", "rejected": "No.", "kind": "thumbs"}
# the body of a request that does what it says; "{user}" in it is the person, "{question}" one that waits for them
ROWS: dict[tuple[str, str], tuple[str, dict[str, Any] | None]] = {
    ("GET", "/livez"): ("open", None),
    ("GET", "/readyz"): ("open", None),
    ("GET", "/health"): ("open", None),
    ("GET", "/metrics"): ("open", None),
    ("GET", "/openapi.json"): ("open", None),
    ("GET", "/"): ("open", None),
    ("GET", "/onboard"): ("open", None),
    ("GET", "/me"): ("open", None),
    ("GET", "/static/{name}"): ("open", None),
    ("POST", "/v1/sessions"): ("open", {"link": "{link}"}),
    ("GET", "/v1/models"): ("caller", None),
    ("GET", "/v1/models/{model}"): ("caller", None),
    ("POST", "/v1/chat/completions"): ("person", CHAT | {"personalign": {"user": "{user}"}}),
    ("POST", "/v1/responses"): ("person", {"input": "Hello", "max_output_tokens": 2, "user": "{user}"}),
    ("GET", f"{USER}/question"): ("person", None),
    ("POST", f"{USER}/answers"): ("person", {"question": "{question}", "choice": "b"}),
    ("POST", f"{USER}/undo"): ("person", None),
    ("POST", f"{USER}/set"): ("person", {"positions": {"length": -1}}),
    ("POST", f"{USER}/say"): ("person", {"text": "Be warmer please."}),
    ("PUT", f"{USER}/consent"): ("person", {"text": "version 1"}),
    ("POST", f"{USER}/trial"): ("person", CHAT),
    ("POST", f"{USER}/preview"): ("person", CHAT),
    ("POST", f"{USER}/feedback"): ("person", PAIR),
    ("GET", f"{USER}/profile"): ("person", None),
    ("GET", f"{USER}/history"): ("person", None),
    ("GET", f"{USER}/drift"): ("person", None),
    ("GET", f"{USER}/export"): ("person", None),
    ("POST", f"{USER}/pause"): ("person", None),
    ("POST", f"{USER}/resume"): ("person", None),
    ("DELETE", USER): ("person", None),
    ("POST", f"{USER}/links"): ("backend", {"page": "me"}),
    ("POST", f"{USER}/tokens"): ("backend", None),
    ("GET", "/v1/operator/summary"): ("operator", None),
}
STYLE = "page.css"
OF_PERSON = [route for route in ROWS if USER in route[1]]


@pytest.fixture(scope="module")
def app(service: Personalign) -> FastAPI:
    return create_app(service)


@pytest.fixture(scope="module", autouse=True)
def _running_trial(service: Personalign) -> Iterator[None]:
    service.trials.start(["plain", "personal"])
    yield
    service.trials.stop()


@pytest.fixture(scope="module")
def revoked_key(service: Personalign) -> str:
    key, text = service.keys.create("operator", "revoked")
    service.keys.revoke(key.id)
    return text


@pytest.fixture
def credentials(
    service: Personalign, backend_key: str, operator_key: str, revoked_key: str, token_for: Callable[[str], str]
) -> Callable[[str], dict[str, str | None]]:
    """What each kind of caller shows who calls for a person."""
    return lambda user: {
        "nobody": None,
        "bad": "pa_" + "x" * 43,
        "revoked": revoked_key,
        "expired": Door(service).token(user, -1.0),
        "own": token_for(user),
        "other": token_for("somebody else"),
        "backend": backend_key,
        "operator": operator_key,
    }


def ask(server: str, route: tuple[str, str], user: str, credential: str | None, **words: str) -> httpx.Response:
    """Send the request of a row, its places filled in."""
    method, path = route
    if path.startswith(USER):
        path = path_of(user) + path.removeprefix(USER)
    body = ROWS[route][1]
    content = None if body is None else json.dumps(body)
    for name, word in {"user": user, **words}.items():
        content = content and content.replace(f"{{{name}}}", word)
        path = path.replace(f"{{{name}}}", word)
    headers = {"Content-Type": "application/json"} | (
        {} if credential is None else {"Authorization": f"Bearer {credential}"}
    )
    return httpx.request(method, server + path, content=content, headers=headers, timeout=60)


def test_every_route_has_a_row(app: FastAPI) -> None:
    """The table has exactly the routes that the server has, those that its OpenAPI file leaves out included."""
    described = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}
    served = {
        (method, route.path.replace(":path", ""))
        for route in iter_route_contexts(app.routes)
        for method in route.methods - {"HEAD"}
    }
    assert described <= served
    assert served == set(ROWS)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("route", ROWS, ids=" ".join)
def test_a_caller_gets_what_is_theirs(
    server: str,
    service: Personalign,
    credentials: Callable[[str], dict[str, str | None]],
    route: tuple[str, str],
    caller: str,
) -> None:
    """Each kind of caller gets the status that the table says, and what is refused changes nothing."""
    user = f"{caller} {route[0]} {route[1].rpartition('/')[2]}"
    onboard(service, user, 1)
    question = service.ask(user)
    assert question is not None
    before = service.export(user)
    words = {"question": question.id, "model": "tiny", "name": STYLE, "link": Door(service).link(user, "me", 60.0)}
    response = ask(server, route, user, credentials(user)[caller], **words)
    assert response.status_code == RIGHTS[ROWS[route][0]][caller], response.text
    if response.status_code >= 400:
        assert service.export(user) == before
        assert set(response.json()) == {"error"}
        assert question.prompt[-1]["content"] not in response.text


@pytest.mark.parametrize("route", OF_PERSON, ids=" ".join)
def test_nobody_learns_who_is_known(
    server: str, service: Personalign, credentials: Callable[[str], dict[str, str | None]], route: tuple[str, str]
) -> None:
    """A person's token gets the same refusal for somebody who is known as for somebody who isn't."""
    onboard(service, "well known", 1)
    words = {"question": "0" * 32}
    known, absent = (
        ask(server, route, user, credentials(user)["other"], **words) for user in ("well known", "never heard of")
    )
    assert known.status_code == absent.status_code == 403
    assert known.json() == absent.json()
    assert not service.is_known("never heard of")


def test_a_refused_caller_learns_nothing_of_a_body(server: str, operator_key: str) -> None:
    """Without a key a broken body is refused for the key, not for the body; with one for the body."""
    url = f"{server}/v1/people/ada/answers"
    assert httpx.post(url, content=b"{").status_code == 401
    assert httpx.post(url, content=b"{", headers={"Authorization": f"Bearer {operator_key}"}).status_code == 400
