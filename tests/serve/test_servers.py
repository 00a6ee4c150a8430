"""Two servers of one Postgres: one may die under load, and no answer that it acknowledged is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from lab.speed.load import Server, running
from personalign.service import Personalign
from tests.decode.gate import until
from tests.onboarded import HELLO
from tests.serve.test_people import path

CHAT = "/v1/chat/completions"
PEOPLE = tuple(f"person-{number}" for number in range(6))
FEW_S, SOON_S = 1.0, 1.0


@pytest.fixture
def key(postgres_url: str) -> str:
    with Personalign.open(postgres_url, model="tiny") as p:
        return p.keys.create("backend", "tests")[1]


@pytest.fixture
def servers(postgres_url: str, key: str) -> Iterator[list[Server]]:
    """Two processes of ``personalign serve``."""
    with running(Server(postgres_url, "tiny")) as one, running(Server(postgres_url, "tiny")) as other:
        yield [one, other]


class Person(threading.Thread):
    """Answers questions at one server, and at the other where that fails, until told to stop."""

    def __init__(self, user: str, servers: list[Server], key: str) -> None:
        super().__init__(name=user)
        self.user, self.servers = user, servers
        self.headers = {"Authorization": f"Bearer {key}"}
        self.acknowledged: dict[str, str] = {}  # choices by question
        self.is_over = threading.Event()
        self.num_refused = self.num_after = 0

    def run(self) -> None:
        with httpx.Client(headers=self.headers, timeout=20) as client:
            while not self.is_over.is_set():
                try:
                    self._answer(client)
                except httpx.TransportError:
                    self.num_refused += 1
                    self.servers = self.servers[::-1]

    def _answer(self, client: httpx.Client) -> None:
        address = self.servers[0].url
        question = client.get(address + path(self.user, "question")).json()["question"]
        if question is None:  # enough is known; the newest answer is taken back and given anew
            undone = client.post(address + path(self.user, "undo"))
            assert undone.status_code == 200, undone.text
            question = client.get(address + path(self.user, "question")).json()["question"]
        choice = "a" if hash(question["id"]) % 2 else "b"
        given = client.post(address + path(self.user, "answers"), json={"question": question["id"], "choice": choice})
        assert given.status_code == 200, given.text
        self.acknowledged[question["id"]] = choice
        self.num_after += bool(self.num_refused)


@pytest.mark.slow
def test_a_server_that_dies_under_load_loses_no_answer(servers: list[Server], key: str, postgres_url: str) -> None:
    """People go on at the other one; each answer that was acknowledged is stored, and known people stay known.

    Before that an erasure reaches both within a second.
    """
    _erase(servers, {"Authorization": f"Bearer {key}"})
    people = [Person(user, servers if number % 2 else servers[::-1], key) for number, user in enumerate(PEOPLE)]
    for person in people:
        person.start()
    until(lambda: all(person.acknowledged for person in people))
    time.sleep(FEW_S)
    servers[0].kill()
    until(lambda: all(person.num_after for person in people[1::2]))  # who began at the one that died
    time.sleep(FEW_S)
    for person in people:
        person.is_over.set()
        person.join()
    assert sum(person.num_refused for person in people) >= 1, "the control: the kill was noticed"
    with Personalign.open(postgres_url, model="tiny") as p:
        for person in people:
            stored = {row["presentation_id"]: row for row in p.export(person.user)["tables"]["answers"]}
            assert person.acknowledged.keys() <= stored.keys()
            assert {name: stored[name]["choice"].rstrip("+") for name in person.acknowledged} == person.acknowledged
    with _client(servers[1], people[0].headers) as client:
        assert all(_account(client, user)["revision"] for user in PEOPLE)


def _erase(servers: list[Server], headers: dict[str, str]) -> None:
    """An erasure reaches the one that has just served the person; others are served on (the control)."""
    with _client(servers[0], headers) as one, _client(servers[1], headers) as other:
        for user in ("eve", "kay"):
            assert one.post(path(user, "set"), json={"positions": {"length": -1}}).status_code == 200
            until(lambda: _account(other, user)["guided"])  # noqa: B023
        assert one.delete(path("eve")).json() == {"forgotten": True}
        erased_at = asked_at = time.monotonic()
        while _account(other, "eve")["guided"]:
            assert asked_at - erased_at < SOON_S
            asked_at = time.monotonic()
        assert not _account(one, "eve")["guided"]
        assert _account(other, "kay")["guided"]


def _client(server: Server, headers: dict[str, str]) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers=headers, timeout=60)


def _account(client: httpx.Client, user: str) -> dict[str, Any]:
    """How a person's reply is steered."""
    answer = client.post(CHAT, json={"messages": HELLO, "max_tokens": 8, "user": user})
    account: dict[str, Any] = answer.json()["personalign"]
    return account
