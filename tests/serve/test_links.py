"""How people get in: links that open a page, and tokens for one person alone."""

from __future__ import annotations

import base64
import json
import time
from urllib.parse import urlsplit

import httpx
import jwt
import pytest

from personalign.serve.access import Door
from personalign.service import Personalign
from tests.serve.test_people import error, path


def link_of(client: httpx.Client, user: str, page: str) -> str:
    url = client.post(path(user, "links"), json={"page": page}).json()["url"]
    assert urlsplit(url).path == f"/{page}"
    return urlsplit(url).fragment


def session(server: str, link: str, attempt: str | None = None) -> httpx.Response:
    headers = {} if attempt is None else {"Idempotency-Key": attempt}
    return httpx.post(f"{server}/v1/sessions", json={"link": link}, headers=headers)


def test_a_link_becomes_a_token_for_its_person(client: httpx.Client, server: str) -> None:
    """What is behind the # of a link is changed into a token, with which the page acts as "me"."""
    opened = session(server, link_of(client, "lea/1", "me")).json()
    assert (opened["user"], opened["page"]) == ("lea/1", "me")
    mine = httpx.get(f"{server}/v1/people/me/profile", headers={"Authorization": f"Bearer {opened['token']}"})
    assert mine.json()["user"] == "lea/1"
    assert 0 < opened["expires_in"] <= 3600


def test_a_link_for_onboarding_works_once(client: httpx.Client, server: str) -> None:
    """The second use is refused, and says what to do; a link to one's own page works until it expires."""
    once, again = link_of(client, "lou", "onboard"), link_of(client, "lou", "me")
    assert session(server, once).status_code == 200
    status, message = error(session(server, once))
    assert status == 401
    assert "used already" in message
    assert [session(server, again).status_code for _ in range(2)] == [200, 200]


def test_an_answer_that_got_lost_uses_no_link_up(client: httpx.Client, server: str) -> None:
    """The same attempt may send a link again; another attempt may not."""
    once = link_of(client, "lia", "onboard")
    attempts = [session(server, once, attempt).status_code for attempt in ("first", "first", "second", None)]
    assert attempts == [200, 200, 401, 401]


def test_a_link_that_is_none_opens_nothing(client: httpx.Client, server: str, service: Personalign) -> None:
    """A changed link, an expired one, a token and a megabyte are refused alike."""
    link = link_of(client, "lin", "me")
    token = client.post(path("lin", "tokens")).json()["token"]
    for text in (link[:-1], link[::-1], Door(service).link("lin", "me", -1.0), token, "", "é", "x" * 500_000, "\ud800"):
        body, headers = json.dumps({"link": text}), {"Content-Type": "application/json"}
        assert error(httpx.post(f"{server}/v1/sessions", content=body, headers=headers))[0] == 401, text[:80]


def test_a_token_lasts_as_long_as_asked(client: httpx.Client, server: str) -> None:
    """A token may be shorter than the server's own time and not longer; a shorter one says so."""
    opened = client.post(path("toni", "tokens"), json={"seconds": 60}).json()
    assert opened["expires_in"] == 60
    assert client.post(path("toni", "tokens")).json()["expires_in"] == 3600


def test_a_token_that_is_none_opens_nothing(server: str, service: Personalign) -> None:
    """Signed with nothing, another secret or in another way, for more than a person or for ever: refused alike."""
    secret, now = service.keys.secret("user tokens"), time.time()
    claims = {"sub": "lin", "iat": now, "exp": now + 60, "jti": "1", "scope": "user"}
    endless = {name: value for name, value in claims.items() if name != "exp"}
    tokens = [
        jwt.encode(claims, "", "none"),
        jwt.encode(claims, b"x" * 32, "HS256"),
        jwt.encode(claims, secret * 2, "HS512"),
        *(jwt.encode(claims | changed, secret) for changed in ({"scope": "operator"}, {"sub": "\n"}, {"exp": now - 1})),
        jwt.encode(endless, secret),
        f"{base64.urlsafe_b64encode(b'[' * 2000).decode()}.e30.x",
    ]
    assert [profile_by(server, token).status_code for token in tokens] == [401] * len(tokens)
    assert profile_by(server, jwt.encode(claims, secret)).json()["user"] == "lin", "the control"


def test_a_clock_that_is_put_back_refuses_no_token(server: str, service: Personalign) -> None:
    """A token that seems to have been made in an hour is good, until it expires."""
    claims = {"sub": "lin", "iat": time.time() + 3600, "exp": time.time() + 7200, "jti": "1", "scope": "user"}
    assert profile_by(server, jwt.encode(claims, service.keys.secret("user tokens"))).status_code == 200


def profile_by(server: str, token: str) -> httpx.Response:
    return httpx.get(f"{server}/v1/people/me/profile", headers={"Authorization": f"Bearer {token}"})


@pytest.mark.parametrize("seconds", [0, -1, 1e9, "NaN", True])
def test_a_time_that_is_none_is_refused(client: httpx.Client, seconds: object) -> None:
    """No time, a negative one, one beyond the server's own and what is no number are refused."""
    for verb, body in (("tokens", {}), ("links", {"page": "me"})):
        assert error(client.post(path("tina", verb), json=body | {"seconds": seconds}))[0] == 400


def test_a_page_that_is_none_has_no_link(client: httpx.Client) -> None:
    """Only the pages of people can be linked to."""
    assert error(client.post(path("paul", "links"), json={"page": "operator"}))[0] == 400
