"""Many people on few slots, through HTTP: whatever is asked, changed, erased and left, nobody gets what is another's.

Each person's profile forces tokens that are theirs alone, so a token tells whose weights it was drawn under.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from torch import Tensor

from personalign.decode.successor import SuccessorHead
from personalign.serve.policy import Policy
from personalign.service import Personalign
from personalign.types import Steering
from tests.serve.running import serving
from tests.serve.test_people import path

NUM_PEOPLE, NUM_SLOTS, NUM_ROUNDS = 64, 8, 6
KINDS = {"talk": 40, "change": 25, "erase": 15, "leave": 10, "look": 10}
FAR = 4  # positions that any two tastes differ in, at least
RARE = 2000  # ids of tokens that a plain reply doesn't have


class Telling(SuccessorHead):
    """A head whose reward of a token is how near a person's weights are to the taste that the token stands for."""

    def __init__(self, hidden_size: int, tastes: Tensor) -> None:
        num_axes = tastes.shape[1]
        super().__init__(hidden_size, num_axes, num_axes, hidden=1)
        self._tastes = tastes
        torch.nn.init.zeros_(self.direction.weight)
        self.direction.bias = torch.nn.Parameter(torch.eye(num_axes).flatten())
        self.eval().requires_grad_(requires_grad=False)

    def table(self, embeddings: Tensor) -> Tensor:  # noqa: ARG002 - the tokens' own meaning doesn't matter
        """The taste of each token."""
        return self._tastes


@dataclass
class Person:
    """Somebody who changes between two tastes, each of which has a token, and is erased now and then."""

    number: int
    tastes: list[dict[str, float]]
    tokens: list[str]
    headers: dict[str, str]
    taste: int | None = None  # None: nothing is known of them

    @property
    def user(self) -> str:
        return f"person {self.number}"

    @property
    def word(self) -> str:
        """What only they say."""
        return f"word-{self.number:03d}"

    @property
    def own(self) -> set[str]:
        """The token that they should get now; none while nothing is known of them."""
        return set() if self.taste is None else {self.tokens[self.taste]}


@dataclass
class Outcome:
    """What came of it all."""

    kinds: Counter[str] = field(default_factory=Counter)
    foreign: int = 0  # tokens that stand for another person, or for what this one doesn't want
    own: int = 0
    plain: int = 0
    rows: int = 0  # exports that hold another's words


class Crowd:
    """People who use one server at once."""

    def __init__(self, client: httpx.AsyncClient, people: list[Person], disturb: Callable[[], None] | None) -> None:
        self._client, self._people, self._disturb = client, people, disturb
        self._forced = {token for person in people for token in person.tokens}
        self.outcome = Outcome()

    async def run(self, num_rounds: int) -> Outcome:
        """Let all live, and half-way something else happen."""
        for half in range(2):
            await asyncio.gather(*(self._live(person, half, num_rounds // 2) for person in self._people))
            if half == 0 and self._disturb is not None:
                self._disturb()
        return self.outcome

    async def _live(self, person: Person, half: int, num_rounds: int) -> None:
        rng = random.Random(f"{person.number} {half}")
        for _ in range(num_rounds):
            (kind,) = rng.choices(list(KINDS), list(KINDS.values()))
            await getattr(self, f"_{kind}")(person)
            self.outcome.kinds[kind] += 1

    async def _talk(self, person: Person) -> None:
        """They get their token, and while nothing is known of them nobody's."""
        self._judge([token async for token in self._stream(person)], person.own, can_be_plain=person.taste is None)

    async def _change(self, person: Person) -> None:
        """While a reply is written they want something else; afterwards they get that."""
        before = person.own
        writing = asyncio.create_task(self._collect(person))
        taste = 0 if person.taste is None else 1 - person.taste
        answer = await self._call(person, "POST", "set", {"positions": person.tastes[taste]})
        assert answer.status_code == 200
        person.taste = taste
        self._judge(await writing, before | person.own, can_be_plain=not before)
        await self._talk(person)

    async def _erase(self, person: Person) -> None:
        """While a reply is written they are erased; it may go on without their weights, and later ones begin so."""
        before = person.own
        writing = asyncio.create_task(self._collect(person))
        assert (await self._call(person, "DELETE", "")).status_code == 200
        person.taste = None
        self._judge(await writing, before, can_be_plain=True)
        await self._talk(person)

    async def _leave(self, person: Person) -> None:
        """They read a little, and go."""
        async with aclosing(self._stream(person)) as tokens:
            async for token in tokens:
                self._judge([token], person.own, can_be_plain=person.taste is None)
                break

    async def _look(self, person: Person) -> None:
        """They say what only they say, and take everything along."""
        given = {"messages": _said(person), "chosen": person.word, "rejected": "No.", "kind": "edit"}
        assert (await self._call(person, "POST", "feedback", given)).status_code == 200
        exported = (await self._call(person, "GET", "export")).text
        assert person.word in exported
        self.outcome.rows += any(other.word in exported for other in self._people if other is not person)
        assert (await self._call(person, "DELETE", "")).status_code == 200
        person.taste = None

    def _judge(self, tokens: list[str], allowed: set[str], *, can_be_plain: bool) -> None:
        forced = [token for token in tokens if token in self._forced]
        self.outcome.own += sum(token in allowed for token in forced)
        self.outcome.plain += len(tokens) - len(forced)
        self.outcome.foreign += sum(token not in allowed for token in forced)
        self.outcome.foreign += 0 if can_be_plain else len(tokens) - len(forced)

    async def _collect(self, person: Person) -> list[str]:
        return [token async for token in self._stream(person)]

    async def _stream(self, person: Person) -> AsyncIterator[str]:
        """The tokens of a reply."""
        body = {"messages": _said(person), "max_tokens": 6, "stream": True, "logprobs": True, "user": person.user}
        async with self._client.stream("POST", "/v1/chat/completions", json=body, headers=person.headers) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    chunk = json.loads(line.removeprefix("data: "))
                    assert "error" not in chunk
                    for choice in chunk["choices"]:
                        for token in (choice["logprobs"] or {"content": []})["content"]:
                            yield token["token"]

    async def _call(self, person: Person, method: str, verb: str, body: dict[str, Any] | None = None) -> httpx.Response:
        return await self._client.request(method, path(person.user, verb), json=body, headers=person.headers)


def _said(person: Person) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Hello, I say {person.word}."}]


@pytest.fixture
def p(tmp_path: Path) -> Iterator[Personalign]:
    with Personalign.open(f"sqlite:///{tmp_path / 'p.db'}", model="tiny", slots=NUM_SLOTS, waiting=512) as p:
        yield p


@pytest.fixture
def people(p: Personalign) -> list[Person]:
    """Each with two tastes and their tokens; the server's head is made so that a taste forces its token."""
    rng, base, axes = np.random.default_rng(0), p.models.base, [axis.name for axis in p.basis.axes]
    signs: list[Any] = []
    while len(signs) < 2 * NUM_PEOPLE:
        drawn = rng.choice([-1.0, 1.0], len(axes))
        if all((drawn != other).sum() >= FAR for other in signs):
            signs.append(drawn)
    spelt = {base.detokenize.spell(token)[0]: token for token in range(RARE, p.models.table.shape[0])}
    words = [text for text in spelt if text.strip().isalpha()][: len(signs)]
    tastes = torch.zeros(p.models.table.shape[0], len(axes))
    for text, drawn in zip(words, signs, strict=True):
        tastes[spelt[text]] = torch.from_numpy(drawn) / len(axes) ** 0.5
    steering = Steering(beta=1000.0, clip=1e9, num_candidates=len(tastes))
    p._replies.models = replace(p.models, head=Telling(base.hidden_size, tastes), steering=steering)
    key = p.keys.create("backend", "tests")[1]
    wants = [dict(zip(axes, drawn.tolist(), strict=True)) for drawn in signs]
    return [
        Person(i, wants[2 * i : 2 * i + 2], words[2 * i : 2 * i + 2], {"Authorization": f"Bearer {key}"})
        for i in range(NUM_PEOPLE)
    ]


def crowded(
    p: Personalign, people: list[Person], num_rounds: int, disturb: Callable[[], None] | None = None
) -> Outcome:
    """Let people live on a server; every other one comes with a token of their own."""

    async def live(address: str) -> Outcome:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=address, timeout=300, limits=limits) as client:
            for person in people[::2]:
                token = (await client.post(path(person.user, "tokens"), headers=person.headers)).json()["token"]
                person.headers = {"Authorization": f"Bearer {token}"}
            return await Crowd(client, people, disturb).run(num_rounds)

    with serving(p, Policy(rate="1000000/minute", in_flight=4 * NUM_PEOPLE)) as address:
        return asyncio.run(live(address))


@pytest.mark.slow
def test_nobody_gets_what_is_anothers(p: Personalign, people: list[Person]) -> None:
    """64 people stream, change their minds, are erased and leave, all at once: no token and no row is foreign."""
    outcome = crowded(p, people, NUM_ROUNDS)
    print(outcome)  # noqa: T201 - a figure
    assert (outcome.foreign, outcome.rows) == (0, 0)
    assert min(outcome.kinds[kind] for kind in KINDS) > NUM_PEOPLE / 8
    assert min(outcome.own, outcome.plain) > 600


@pytest.mark.slow
def test_foreign_weights_are_noticed(p: Personalign, people: list[Person]) -> None:
    """The control: once weights are in each other's rows, tokens are somebody else's."""

    def swap() -> None:
        bank = p._replies.worker._engine._chain.tilt.rows._bank
        bank.weights[1:] = bank.weights[1:].roll(1, 0)

    outcome = crowded(p, people, 2, lambda: p._replies.worker.perform(swap))
    print(outcome)  # noqa: T201 - a figure
    assert outcome.foreign > NUM_PEOPLE / 8
