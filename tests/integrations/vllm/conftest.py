"""A vLLM server on a store of its own, started as the command line does it, for all tests that talk to one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import httpx
import pytest

from personalign import Personalign
from personalign.types import Message

COMMAND = [sys.executable, "-m", "personalign.cli"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
SMALL = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--kv-cache-memory-bytes", "256M"]
START_S = 600.0
CHAT: list[Message] = [{"role": "user", "content": "Can you help me find a place to eat?"}]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip by name what needs vLLM where it isn't installed."""
    if find_spec("vllm") is None:
        for item in items:
            if item.get_closest_marker("vllm") is not None:
                item.add_marker(pytest.mark.skip(reason="vLLM isn't installed: make test-vllm"))


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('vllm') / 'p.db'}"


@pytest.fixture(scope="session")
def people(store: str) -> Iterator[Personalign]:
    """Our engine, with two people of opposite tastes."""
    with Personalign.open(store, "tiny") as people:
        people.set("ada", length=-1)
        people.set("ben", length=1)
        yield people


@pytest.fixture(scope="session")
def address(store: str, people: Personalign) -> Iterator[str]:
    """Where vLLM listens."""
    port = free_port()
    command = [*COMMAND, "vllm", "serve", "--model", "tiny", "--store", store, "--port", str(port), *SMALL]
    with started(command, f"http://127.0.0.1:{port}", "/health") as address:
        yield address


@contextmanager
def started(command: list[str], address: str, path: str) -> Iterator[str]:
    """A server in a process of its own, once it answers."""
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + START_S
        while not is_ready(address + path):
            assert process.poll() is None, "the server ended before it was ready"
            assert time.monotonic() < until, "the server isn't ready in time"
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
