"""``personalign bench serve``: what HTTP costs over the engine, how soon users hear something, and how overload ends.

The server runs in a process of its own, as ``personalign serve`` starts it. The engine, in this process, writes the
same replies for the same people in turns with it.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np

from lab.bootstrap import quantile
from lab.harness import Bar, Group, Report, Row, choose, turns
from lab.speed.load import Ask, Line, Outcome, Server, client_of, running, together
from personalign.serve.access import Door
from personalign.service import Personalign

BARS: Mapping[str, Bar] = {
    **{f"tokens_over_engine.32.{model}": Bar("≥", 0.9) for model in ("tiny", "smollm2")},
    "ttft_p99_over_unloaded.8": Bar("≤", 2),
    "refusal_p99_ms": Bar("≤", 50),
    "refusal_other_statuses": Bar("≤", 0),
    "page.onboarding_s": Bar("≤", 5),
    "soak.errors": Bar("≤", 0),
    "soak.mb_per_min": Bar("≤", 1),
}
AXES = ("length", "reply_length")  # on which the people of the load differ
TOPICS = ("a hotel in Paris", "a rental car", "a table for two", "a film for tonight")
SETTLED_S = 15.0  # after a start, before memory is looked at
REFUSED = {429, 503}


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    num_users: int = 32
    num_tokens: int = 64
    num_rounds: int = 5
    num_listeners: int = 8  # whose first token is timed
    num_listened: int = 40  # replies of each of them
    in_flight: int = 8  # of the server that is overloaded
    overload: int = 10  # times as many users
    overload_s: float = 60.0
    soak_s: float = 600.0
    kill_every_s: float = 60.0


@dataclass(frozen=True)
class Subject:
    """What groups of figures are measured on."""

    plan: Plan
    folder: Path
    device: str

    def store(self, model: str) -> str:
        """The database of a model's people."""
        return f"sqlite:///{self.folder / f'{model}.db'}"

    def key(self, p: Personalign) -> str:
        """A key for the load's backend."""
        return p.keys.create("backend", "bench")[1]


def run_serve(plan: Plan, device: str, only: str = "", out: Path | None = None) -> dict[str, Any]:
    """Measure the figures whose names begin with ``only``; ``out`` is renewed with each row."""
    report = Report("personalign bench serve", device, bars=dict(BARS), out=out)
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(plan, Path(folder), device)
        for group in choose(GROUPS, only):
            report.extend(group.measure(subject))
    return report.to_json()


def asks_of(p: Personalign, plan: Plan, num: int) -> list[Ask]:
    """So many people of different tastes, each with a request."""
    prompts, ends = [f"I need {TOPICS[i % len(TOPICS)]}, number {i}" for i in range(num)], p.models.base.ends
    asks = [Ask(f"user {i}", prompt, plan.num_tokens, tuple(ends)) for i, prompt in enumerate(prompts)]
    axis = next(axis.name for axis in p.basis.axes if axis.name in AXES)
    for i, ask in enumerate(asks):
        p.set(ask.user, **{axis: 2 * i / max(1, num - 1) - 1})
    return asks


def _throughput(subject: Subject, model: str) -> Iterator[Row]:
    plan, store = subject.plan, subject.store(model)
    shares, rates = [], []
    with Personalign.open(store, model=model, device=subject.device) as p:
        asks, key = asks_of(p, plan, plan.num_users), subject.key(p)
        with running(Server(store, model)) as server:
            _write(p, asks)
            asyncio.run(together(server, key, asks))  # both are warm
            for _ in turns(plan.num_rounds, f"{plan.num_users} users of {model}"):
                engine = _write(p, asks)
                served = _serve(server, key, asks)
                shares.append(served / engine)
                rates.append(served)
    facts = {"tokens_per_s": float(np.median(rates)), "rounds": plan.num_rounds}
    yield Row.estimated(f"tokens_over_engine.{plan.num_users}.{model}", quantile(shares), facts)


def _write(p: Personalign, asks: Sequence[Ask]) -> float:
    """Tokens a second of the engine alone."""
    conversations = [[{"role": "user", "content": ask.prompt}] for ask in asks]
    started = time.perf_counter()
    bias = dict.fromkeys(asks[0].ends, -100.0)
    replies = p.chat_many([ask.user for ask in asks], conversations, max_tokens=asks[0].max_tokens, logit_bias=bias)  # type: ignore[arg-type]
    seconds = time.perf_counter() - started
    return sum(reply.usage.completion_tokens for reply in replies) / seconds


def _serve(server: Server, key: str, asks: Sequence[Ask]) -> float:
    """Tokens a second through the server."""
    started = time.perf_counter()
    outcomes = asyncio.run(together(server, key, asks))
    seconds = time.perf_counter() - started
    assert all(outcome.status == httpx.codes.OK for outcome in outcomes), Counter(o.status for o in outcomes)
    return sum(outcome.tokens for outcome in outcomes) / seconds


def _first_tokens(subject: Subject) -> Iterator[Row]:
    """The 99th percentile of the time to the first text: eight users at once over one."""
    plan, store = subject.plan, subject.store("tiny")
    with Personalign.open(store, device=subject.device) as p:
        asks, key = asks_of(p, plan, plan.num_listeners), subject.key(p)
    with running(Server(store, "tiny")) as server:
        asyncio.run(_listen(server, key, asks, 2))
        alone = asyncio.run(_listen(server, key, asks[:1], plan.num_listened * plan.num_listeners))
        crowd = asyncio.run(_listen(server, key, asks, plan.num_listened))
    unloaded, loaded = (float(np.quantile(seconds, 0.99)) for seconds in (alone, crowd))
    facts = {"unloaded_p99_ms": unloaded * 1e3, "loaded_p99_ms": loaded * 1e3}
    facts |= {"unloaded_p50_ms": float(np.median(alone)) * 1e3, "loaded_p50_ms": float(np.median(crowd)) * 1e3}
    yield Row(f"ttft_p99_over_unloaded.{plan.num_listeners}", loaded / unloaded, facts=facts)


async def _listen(server: Server, key: str, asks: Sequence[Ask], num: int) -> list[float]:
    """Every user asks again and again, after a pause for reading; seconds to each first text."""

    async def one(ask: Ask) -> list[float]:
        random, seconds, line = Random(ask.user), [], Line(server, key)
        for _ in range(num):
            await asyncio.sleep(random.uniform(0.0, 0.2))
            seconds.append((await line.stream(ask)).first_s)
        line.close()
        return seconds

    return [second for seconds in await asyncio.gather(*map(one, asks)) for second in seconds]


def _overload(subject: Subject) -> Iterator[Row]:
    """Ten times as many users as may be in flight, who ask again as soon as they are answered or refused."""
    plan, store = subject.plan, subject.store("tiny")
    num = plan.in_flight * plan.overload
    with Personalign.open(store, device=subject.device) as p:
        asks, key = asks_of(p, plan, num), subject.key(p)
    with running(Server(store, "tiny", ["--in-flight", str(plan.in_flight)])) as server:
        asyncio.run(_press(server, key, asks, min(SETTLED_S, plan.overload_s / 2)))
        before = server.megabytes
        outcomes = asyncio.run(_press(server, key, asks, plan.overload_s))
        grown = server.megabytes - before
    refused = [outcome.seconds * 1e3 for outcome in outcomes if outcome.status in REFUSED]
    statuses = Counter(outcome.status for outcome in outcomes)
    others = sum(num for status, num in statuses.items() if status not in {httpx.codes.OK, *REFUSED})
    assert refused, "ten times the load is refused some of the time"
    facts = {"refused": len(refused), "answered": statuses[httpx.codes.OK], "p50_ms": float(np.median(refused))}
    yield Row("refusal_p99_ms", float(np.quantile(refused, 0.99)), facts=facts)
    yield Row("refusal_other_statuses", others)
    yield Row("refusal_grown_mb", grown)


async def _press(server: Server, key: str, asks: Sequence[Ask], seconds: float) -> list[Outcome]:
    until = time.monotonic() + seconds

    async def one(ask: Ask) -> list[Outcome]:
        outcomes, line = [], Line(server, key)
        while time.monotonic() < until:
            outcomes.append(await line.stream(ask))
            if outcomes[-1].status in REFUSED:
                await asyncio.sleep(Random(f"{ask.user} {len(outcomes)}").uniform(0.0, 1.0))  # as Retry-After says
        line.close()
        return outcomes

    return [outcome for outcomes in await asyncio.gather(*map(one, asks)) for outcome in outcomes]


def _onboarding(subject: Subject) -> Iterator[Row]:
    """All questions of one person in a real browser, by a script that clicks at once; none without Chromium."""
    from lab.browser import CHROMIUM, answer_at_once, browsing

    if not CHROMIUM.exists():
        return
    store = subject.store("tiny")
    with Personalign.open(store, device=subject.device) as p, running(Server(store, "tiny")) as server:
        links = [Door(p).link(f"reader {i}", "onboard", 600) for i in range(subject.plan.num_rounds)]
        with browsing() as browser:
            rounds = [answer_at_once(browser.new_page(), f"{server.url}/onboard#{link}") for link in links]
    seconds = [seconds for _, seconds in rounds]
    yield Row.estimated("page.onboarding_s", quantile(seconds), {"questions": rounds[0][0]})


def _soak(subject: Subject) -> Iterator[Row]:
    """Users chat, answer, are erased and come back, on two servers of one store; one is killed at the end of each turn.

    Memory is the other's, from the end of the first turn on.
    """
    plan, store = subject.plan, subject.store("tiny")
    with Personalign.open(store, device=subject.device) as p:
        asks, key = asks_of(p, plan, plan.num_listeners), subject.key(p)
    successes: list[bool] = []
    megabytes: list[float] = []
    minutes = plan.kill_every_s / 60
    with running(Server(store, "tiny")) as steady:
        for number in turns(round(plan.soak_s / plan.kill_every_s), "soak, a kill a turn"):
            with running(Server(store, "tiny")) as mortal:
                successes += asyncio.run(_live([steady, mortal], key, asks, plan.kill_every_s, number))
            megabytes.append(steady.megabytes)
    yield Row("soak.errors", successes.count(False), facts={"requests": len(successes), "kills": len(megabytes)})
    slope = float(np.polyfit(minutes * np.arange(len(megabytes)), megabytes, 1)[0])
    yield Row("soak.mb_per_min", slope, facts={"megabytes": megabytes})


async def _live(servers: Sequence[Server], key: str, asks: Sequence[Ask], seconds: float, seed: int) -> list[bool]:
    """Each user keeps to one of the servers; which requests succeeded."""
    until = time.monotonic() + seconds

    async def one(number: int, ask: Ask) -> list[bool]:
        random, successes, server = Random(f"{ask.user} {seed}"), [], servers[number % len(servers)]
        line = Line(server, key)
        async with client_of(server, key) as client:
            while time.monotonic() < until:
                successes.append(await _act(client, line, ask, random))
        line.close()
        return successes

    lives = await asyncio.gather(*(one(number, ask) for number, ask in enumerate(asks)))
    return [success for life in lives for success in life]


async def _act(client: httpx.AsyncClient, line: Line, ask: Ask, random: Random) -> bool:
    """Chat, mostly; else answer a question, state a taste, or have everything erased. Whether it succeeded."""
    person, chance = f"/v1/people/{ask.user}", random.random()
    if chance < 0.7:
        return (await line.stream(ask)).status == httpx.codes.OK
    if chance < 0.85:
        question = (await client.get(f"{person}/question")).json()["question"]
        choice = {"question": question["id"], "choice": random.choice("ab")} if question else None
        response = await client.post(f"{person}/answers", json=choice) if choice else httpx.Response(httpx.codes.OK)
    elif chance < 0.97:
        response = await client.post(f"{person}/set", json={"positions": {AXES[0]: random.uniform(-1, 1)}})
    else:
        response = await client.delete(person)
    return response.status_code == httpx.codes.OK


GROUPS: Sequence[Group[Subject]] = (
    Group(("tokens_over_engine.32.tiny",), lambda subject: _throughput(subject, "tiny")),
    Group(("tokens_over_engine.32.smollm2",), lambda subject: _throughput(subject, "smollm2")),
    Group(("ttft_p99_over_unloaded.8",), _first_tokens),
    Group(("refusal_p99_ms", "refusal_other_statuses", "refusal_grown_mb"), _overload),
    Group(("page.onboarding_s",), _onboarding),
    Group(("soak.errors", "soak.mb_per_min"), _soak),
)
