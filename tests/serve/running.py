"""A real server on this machine, for as long as a test needs it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from personalign.serve.app import create_app
from personalign.serve.policy import Policy
from personalign.serve.run import Server
from personalign.service import Personalign
from tests.decode.gate import until


@contextmanager
def serving(service: Personalign, policy: Policy | None = None) -> Iterator[str]:
    """Serve on a free port, and give the server's address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        policy = policy or Policy()
        server = Server(create_app(service, policy), policy, lambda: None)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="server")
        thread.start()
        try:
            until(lambda: server.started or not thread.is_alive())
            assert thread.is_alive(), "the server ended before it began"
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
