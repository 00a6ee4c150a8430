"""The typed client against a real server: the same verbs waited for and awaited, and retries that count once."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import stamina

from personalign.client import AsyncPeople, ClientError, NotAllowed, NotFound, People, Refused, Unavailable
from personalign.errors import PersonalignError
from personalign.service import Personalign
from personalign.views import NextView, ProfileView
from tests.onboarded import HELLO, onboard
from tests.serve.test_people import ODD
from tests.serve.test_records import completion_of


@pytest.fixture
def people(server: str, backend_key: str) -> Iterator[People]:
    with People(server, backend_key) as people:
        yield people


@pytest.fixture(autouse=True)
def _no_waits() -> Iterator[None]:
    """As many tries as ever, without the time between them."""
    with stamina.set_testing(True, attempts=4, cap=True):
        yield


class Flaky(httpx.HTTPTransport):
    """Breaks the connection after the server did its work, so many times."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures, self.requests = failures, 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        response = super().handle_request(request)
        if self.requests > self.failures:
            return response
        response.read()
        raise httpx.ReadError("the connection broke")


class AsyncFlaky(httpx.AsyncHTTPTransport):
    """The same on a loop."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures, self.requests = failures, 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        response = await super().handle_async_request(request)
        if self.requests > self.failures:
            return response
        await response.aread()
        raise httpx.ReadError("the connection broke")


def answers_with(*responses: httpx.Response) -> httpx.MockTransport:
    """A server that answers so, in this order."""
    rest = iter(responses)
    return httpx.MockTransport(lambda _: next(rest))


def test_a_person_is_onboarded_by_the_client(people: People, service: Personalign) -> None:
    """Typed values come back: a question, a profile that says what changed, and what is known in the end."""
    asked = people.ask("carl", consent="version 1", graded=True)
    assert isinstance(asked, NextView)
    assert asked.question is not None
    assert asked.question.graded
    profile = people.answer("carl", asked.question.id, "a++")
    assert isinstance(profile, ProfileView)
    assert (profile.user, profile.answers) == ("carl", 1)
    assert people.profile("carl").axes == profile.axes
    assert people.undo("carl").answers == 0
    assert people.set("carl", length=-1.0).stated[0].position == -1.0
    assert people.say("carl", "Be warmer please.").understood[0].axis == "warmth"
    assert people.consent("carl", "version 2").user == "carl"
    assert people.pause("carl").paused
    assert not people.resume("carl").paused
    assert people.history("carl").events[-1].undone_at is not None
    assert people.drift("carl").changed_at is None
    assert people.export("carl") == service.export("carl")
    assert people.forget("carl").forgotten


def test_use_is_told_by_the_client(people: People, client: httpx.Client) -> None:
    """Feedback on a completion and on two replies, links and tokens have verbs of their own."""
    completion = completion_of(client, "clea")["id"]
    assert people.rate("clea", completion, "edit", text="My own words.").informative == 0
    assert people.prefer("clea", HELLO, "Sure.", "No, never.", "thumbs").revision == 2
    assert "/me#" in people.link("clea", "me").url
    assert people.token("clea", 60).expires_in == 60


def test_replies_are_compared_by_the_client(people: People, service: Personalign) -> None:
    """A preview and a trial have verbs of their own, too."""
    seen = people.preview("cody", HELLO, max_tokens=8)
    assert seen.plain == service.chat("cody", HELLO, max_tokens=8, strength=0).text
    service.trials.start(["plain", "personal"])
    try:
        question = people.trial("cody", HELLO, max_tokens=8)
        assert people.answer("cody", question.id, "tie").answers == 1
    finally:
        service.trials.stop()


def test_the_awaited_client_is_the_same(server: str, backend_key: str, service: Personalign) -> None:
    """Every verb of one client is a verb of the other, with the same arguments and the same values."""

    async def use() -> tuple[ProfileView, ProfileView]:
        async with AsyncPeople(server, backend_key) as people:
            asked = await people.ask("cora")
            assert asked.question is not None
            return await people.answer("cora", asked.question.id, "b"), await people.profile("cora")

    first, second = asyncio.run(use())
    assert first.axes == second.axes
    assert first.answers == service.profile("cora").answers == 1
    verbs = {name for name, verb in vars(People).items() if hasattr(verb, "__wrapped__")}
    assert len(verbs) == 19
    for name in verbs:
        assert inspect.signature(getattr(People, name)) == inspect.signature(getattr(AsyncPeople, name))


@pytest.mark.parametrize("user", ODD)
def test_an_odd_id_reaches_its_person(people: People, user: str) -> None:
    """Slashes, dots and the routes' own words in an id lead to this person."""
    assert people.set(user, length=0.5).user == user
    assert people.export(user)["user"] == user
    assert people.forget(user).forgotten


def test_a_retry_counts_once(server: str, backend_key: str, service: Personalign) -> None:
    """An undo whose answer got lost twice is sent three times, and takes one answer back."""
    onboard(service, "rudi", 4)
    flaky = Flaky(failures=2)
    with People(server, backend_key, flaky) as people:
        assert people.undo("rudi").answers == 3
        assert flaky.requests == 3
        assert people.undo("rudi").answers == 2, "the control: a call of its own counts"


def test_an_awaited_retry_counts_once(server: str, backend_key: str, service: Personalign) -> None:
    """The same on a loop."""
    onboard(service, "rune", 4)
    flaky = AsyncFlaky(failures=2)

    async def undo() -> list[int]:
        async with AsyncPeople(server, backend_key, flaky) as people:
            return [(await people.undo("rune")).answers for _ in range(2)]

    assert asyncio.run(undo()) == [3, 2]
    assert flaky.requests == 4


def test_an_erasure_whose_answer_got_lost_is_told(server: str, backend_key: str, service: Personalign) -> None:
    """The retry says that the person is gone, not that nobody was there."""
    onboard(service, "ria", 1)
    with People(server, backend_key, Flaky(failures=1)) as people:
        assert people.forget("ria").forgotten
    assert not service.is_known("ria")


@pytest.mark.parametrize(
    ("status", "tries"), [(429, 2), (503, 2), (500, 1), (400, 1), (401, 1), (403, 1), (404, 1), (409, 1)]
)
def test_only_what_may_pass_is_tried_again(status: int, tries: int) -> None:
    """Too many requests and a server that can't answer now are tried again; every other refusal is final."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        body: Any = {"error": {"message": "not now"}} if len(seen) == 1 else {"forgotten": True}
        return httpx.Response(status if len(seen) == 1 else 200, json=body, headers={"Retry-After": "0"})

    with People("http://server", "pa_key", httpx.MockTransport(answer)) as people:
        if tries == 1:
            with pytest.raises(ClientError, match="not now"):
                people.forget("ada")
        else:
            assert people.forget("ada").forgotten
    assert len(seen) == tries
    assert len({request.headers["idempotency-key"] for request in seen}) == 1


@pytest.mark.parametrize(
    ("call", "kind", "status"),
    [
        (lambda people: people.answer("ada", "0" * 32, "a"), NotFound, 404),
        (lambda people: people.set("ada", lenght=1.0), Refused, 400),
        (lambda people: people.say(" ", "shorter"), Refused, 400),
    ],
)
def test_an_error_has_its_kind(people: People, call: Callable[[People], object], kind: type, status: int) -> None:
    """What the server refused is told by type, status and request id, in its own words."""
    with pytest.raises(kind) as raised:
        call(people)
    assert isinstance(raised.value, PersonalignError)
    assert raised.value.status == status
    assert raised.value.request_id


def test_a_wrong_key_and_a_wrong_address_have_their_kinds(server: str) -> None:
    """A key that isn't known is not allowed, and where no server is nothing is available."""
    with People(server, "pa_bad") as people, pytest.raises(NotAllowed, match="unknown, expired or revoked"):
        people.profile("ada")
    with People("http://127.0.0.1:9", "pa_bad") as people, pytest.raises(Unavailable, match="didn't answer") as raised:
        people.profile("ada")
    assert raised.value.status is None


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b'{"forgotten": "maybe"}', b"\xff"])
def test_an_answer_that_is_none_is_refused(content: bytes) -> None:
    """A proxy's page, an empty answer and another server's JSON are an error and no value."""
    with (
        People("http://server", "pa_key", answers_with(httpx.Response(200, content=content))) as people,
        pytest.raises(Unavailable, match="can't be read"),
    ):
        people.forget("ada")
    page = httpx.Response(502, content=content)
    with People("http://server", "pa_key", answers_with(page)) as people, pytest.raises(Unavailable, match="502"):
        people.forget("ada")


def test_the_client_needs_no_server_code() -> None:
    """Importing it loads neither the server, nor the service, nor torch."""
    code = (
        "import sys, personalign.client; "
        "print([m for m in ('fastapi', 'torch', 'sqlalchemy', 'personalign.service') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown == "[]\n"
