"""Calls in a child that this process forks. No child runs on as its parent, and an alarm ends one that hangs."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable

from personalign.errors import EngineError

PATIENCE_S = 240  # of a test that has failed; others never wait so long
RAISED = 100


def forked(call: Callable[[], int | None], patience_s: int = PATIENCE_S) -> int:
    """Call in a child, which exits with the result, at most 99, or with 100 where the call raises: its number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if child:
        return child
    code = RAISED
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(patience_s)
        code = min(call() or 0, RAISED - 1)
    except BaseException as error:  # noqa: BLE001 - whatever it is
        print(repr(error), file=sys.stderr, flush=True)  # noqa: T201 - seen when the test fails
    finally:
        os._exit(code)


def exit_code(child: int) -> int:
    """Wait for a child: its exit code, or its signal below 0."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_child(call: Callable[[], object]) -> int:
    """Call in a child: 0 if it returns, 1 if it says that it was forked."""

    def tried() -> int:
        try:
            call()
        except EngineError as error:
            return 1 if "forked" in str(error) else 2
        return 0

    return exit_code(forked(tried))
