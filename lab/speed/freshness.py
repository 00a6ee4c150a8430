"""How soon an answer steers: from its commit to the next reply, in this process and in another; and what a head costs.

The verbs of ``Personalign`` are timed from outside, with the bundled model and a database of their own.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from lab.harness import turns
from lab.speed.batch import people
from lab.speed.interleave import Seconds
from personalign.decode.weights import NEUTRAL, WeightBank
from personalign.service import Personalign
from personalign.types import Message

HELLO: tuple[Message, ...] = ({"role": "user", "content": "I need a hotel in Paris"},)
TIMEOUT_S = 300.0  # after which the other process counts as dead


def first_tokens(device: str, num: int) -> Seconds:
    """Seconds to a reply's first token: fresh, right after an answer's commit, and known, when nothing has changed."""
    seconds: Seconds = {"fresh": [], "known": []}
    with _store() as store, Personalign.open(store, device=device) as p:
        p.chat("nobody", HELLO, max_tokens=1)
        for i in turns(num, "commit to steer"):
            _answer(p, f"{i}")
            for turn in seconds.values():
                started = time.perf_counter()
                reply = p.chat(f"{i}", HELLO, max_tokens=1)
                turn.append(time.perf_counter() - started)
                assert reply.guided, f"the first reply after an answer isn't guided: {reply.reason}"
    return seconds


def steered_from_elsewhere_ms(device: str, num: int) -> list[float]:
    """Milliseconds from an answer's commit in another process to the first token here that it steers."""
    with (
        _store() as store,
        Personalign.open(store, device=device) as p,
        elsewhere(_answer_when_told, store, num) as other,
    ):
        p.chat("nobody", HELLO, max_tokens=1)
        return [_until_steered(p, f"{i}", other) for i in turns(num, "commit to steer, from another process")]


@contextmanager
def _store() -> Iterator[str]:
    """The URL of a database that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite:///{Path(folder) / 'bench.db'}"


def _answer(p: Personalign, user: str) -> None:
    question = p.ask(user)
    assert question is not None, "a new person has a question"
    p.answer(user, question.id, "a")


@contextmanager
def elsewhere(work: Callable[..., None], *args: object) -> Iterator[Connection]:
    """Another process that works with the other end of a connection."""
    context = multiprocessing.get_context("spawn")
    near_end, far_end = context.Pipe()
    process = context.Process(target=work, args=(*args, far_end), daemon=True)
    process.start()
    try:
        yield near_end
    finally:
        process.terminate()
        process.join()


def _answer_when_told(store: str, num: int, signal: Connection) -> None:
    """Let people answer in turn, and tell when each was committed, on the clock that processes of a machine share."""
    with Personalign.open(store) as p:
        for i in range(num):
            signal.recv()
            _answer(p, f"{i}")
            signal.send(time.monotonic())


def _until_steered(p: Personalign, user: str, other: Connection) -> float:
    """Ask for replies until one is guided, as somebody does who answers elsewhere while they chat."""
    other.send(user)
    given_up = time.monotonic() + TIMEOUT_S
    while not p.chat(user, HELLO, max_tokens=1).guided:
        assert time.monotonic() < given_up, "the other process answers"
    steered = time.monotonic()
    return (steered - float(other.recv())) * 1e3


def head_write_us(num_axes: int, device: torch.device, num: int) -> list[float]:
    """Microseconds to write each of so many people's heads to its row."""
    bank = WeightBank(num_axes, device, num)
    taken = []
    for row, guidance in enumerate(people(num, num_axes), start=NEUTRAL + 1):
        started = time.perf_counter()
        bank.write(row, guidance)
        taken.append((time.perf_counter() - started) * 1e6)
    return taken


def bytes_of_heads(num_axes: int, device: torch.device, num: int) -> int:
    """Bytes of so many resident heads: the rows on the device, and what finds them on the host."""
    everyone = people(num, num_axes)
    tracemalloc.start()
    try:
        bank = WeightBank(num_axes, device, num)
        for guidance in everyone:
            bank.release(bank.acquire(guidance))
        assert len(bank) == num, "all heads are resident"
        return bank.num_bytes + tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
