"""One server of the bundled model for all tests of this folder, with a key of each kind.

Tests share its store, so each names people of its own. What changes the server or its engine starts one for itself by
``running.serving``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from personalign.serve.access import Door
from personalign.serve.policy import Policy
from personalign.service import Personalign
from tests.onboarded import HELLO
from tests.serve.running import serving


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Personalign]:
    with Personalign.open(f"sqlite:///{tmp_path_factory.mktemp('serve') / 'p.db'}", model="tiny") as service:
        yield service


@pytest.fixture(scope="session")
def server(service: Personalign) -> Iterator[str]:
    """The server's address. The model is loaded before, as ``serve`` does, which no client's patience is for."""
    service.chat("nobody", HELLO, max_tokens=1)
    with serving(service, Policy(rate="100000/minute")) as address:
        yield address


@pytest.fixture(scope="session")
def backend_key(service: Personalign) -> str:
    return service.keys.create("backend", "tests")[1]


@pytest.fixture(scope="session")
def operator_key(service: Personalign) -> str:
    return service.keys.create("operator", "tests")[1]


@pytest.fixture(scope="session")
def token_for(service: Personalign) -> Callable[[str], str]:
    """Make a token with which a person acts for themselves."""
    door = Door(service)
    return lambda user: door.token(user, 3600.0)


@pytest.fixture(scope="session")
def client(server: str, backend_key: str) -> Iterator[httpx.Client]:
    """A backend that talks to the server."""
    headers = {"Authorization": f"Bearer {backend_key}"}
    with httpx.Client(base_url=server, headers=headers, timeout=60) as client:
        yield client
