"""Calls in a child that the test's process forks."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable

from personalign.errors import EngineError
from tests.decode.gate import PATIENCE_S


def in_child(call: Callable[[], object]) -> int:
    """Call in a forked child: 0 if it returns, 1 if it says that it was forked; an alarm ends it where it hangs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if child == 0:
        signal.alarm(int(PATIENCE_S))
        code = 2
        try:
            call()
            code = 0
        except EngineError as error:
            code = 1 if "forked" in str(error) else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
