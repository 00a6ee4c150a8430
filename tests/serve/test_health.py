"""Whoever watches the server learns what is wrong, and what is wrong with the store doesn't end replies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from personalign.serve.app import create_app
from personalign.service import Personalign
from personalign.store.sqlite.database import locate
from tests.onboarded import HELLO
from tests.serve.running import serving


@pytest.fixture
def address(p: Personalign) -> Iterator[str]:
    """A server on a store of its own."""
    p.set("ada", length=-1)
    with serving(p) as address:
        yield address


@pytest.fixture
def backend(p: Personalign, address: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {p.keys.create('backend', 'tests')[1]}"}
    with httpx.Client(base_url=address, headers=headers, timeout=60) as client:
        yield client


@contextmanager
def away(path: Path) -> Iterator[None]:
    """A store that can't be reached for a while."""
    elsewhere = path.with_suffix(".away")
    path.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(path)


def chat(client: httpx.Client, user: str) -> httpx.Response:
    body: dict[str, Any] = {"model": "tiny", "messages": HELLO, "user": user, "max_tokens": 8}
    return client.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize(
    "path", ["/livez", "/readyz", "/health", "/metrics", "/onboard", "/static/page.css", "/nowhere"]
)
def test_a_head_is_a_get_without_its_body(address: str, path: str) -> None:
    """Who looks whether a server or a page is there needs no content."""
    get, head = httpx.get(f"{address}{path}"), httpx.head(f"{address}{path}")
    assert head.status_code == get.status_code
    assert head.headers["content-type"] == get.headers["content-type"]
    assert (head.content, bool(get.content)) == (b"", True)


def test_a_head_changes_nothing(address: str) -> None:
    """What is sent to a route that only takes a POST is refused as a GET is."""
    assert httpx.head(f"{address}/v1/sessions").status_code == 405


def test_a_server_that_is_well_says_so(address: str) -> None:
    """It is live, ready, and tells what it has done; none of it needs a key."""
    assert httpx.get(f"{address}/livez").json() == {"status": "live"}
    ready = httpx.get(f"{address}/readyz")
    assert (ready.status_code, ready.json()["status"], ready.json()["reasons"]) == (200, "ready", [])
    assert httpx.get(f"{address}/health").json() == ready.json()
    assert httpx.get(f"{address}/metrics").headers["content-type"].startswith("text/plain")


def test_known_people_go_on_while_the_store_is_away(
    address: str, backend: httpx.Client, p: Personalign, tmp_path: Path
) -> None:
    """They get the replies that they got before, strangers 503 and readyz its reasons; a second later all is well."""
    before = chat(backend, "ada").json()
    with away(tmp_path / "p.db"):
        for _ in range(5):
            reply = chat(backend, "ada")
            assert reply.status_code == 200
            assert reply.json()["choices"] == before["choices"]
            assert reply.json()["personalign"]["guided"]
        refused = chat(backend, "ben")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert str(tmp_path) not in refused.text
        degraded = httpx.get(f"{address}/readyz")
        assert (degraded.status_code, degraded.json()["status"]) == (503, "degraded")
        assert "known people are served" in degraded.json()["reasons"][0]
        assert str(tmp_path) not in degraded.text
        assert httpx.get(f"{address}/livez").status_code == 200
        assert "personalign:profiles_stale 1.0" in httpx.get(f"{address}/metrics").text
    back = asked = time.monotonic()
    while httpx.get(f"{address}/readyz").status_code != 200:
        assert asked - back < 1
        asked = time.monotonic()
    assert chat(backend, "ben").status_code == 200
    assert "personalign:profiles_stale 0.0" in httpx.get(f"{address}/metrics").text


def test_another_schema_is_a_reason(address: str, tmp_path: Path) -> None:
    """A store that a newer release has migrated meanwhile makes this server unready, and it says what to do."""
    with closing(locate(f"sqlite:///{tmp_path / 'p.db'}").connect("mode=rw")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    answer = httpx.get(f"{address}/readyz")
    assert answer.status_code == 503
    assert "newer than this code" in answer.json()["reasons"][0]


def test_who_is_stopping_is_not_ready(service: Personalign) -> None:
    """A server that drains says so, and answers the probes alone."""
    app = create_app(service)
    app.state.traffic.in_flight += 1  # a reply that is still being written
    app.state.traffic.drain()

    async def statuses() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return [(await client.get(path)).status_code for path in ("/livez", "/metrics", "/readyz", "/v1/models")]

    assert asyncio.run(statuses()) == [200, 200, 503, 503]
