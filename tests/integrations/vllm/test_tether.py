"""What is started beside this process ends with it, however that is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from personalign.integrations.vllm.server import tethered
from tests.forked import PATIENCE_S

SLEEP = "import sys, time, pathlib, os; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
PARENT = """
import os, sys, time
from personalign.integrations.vllm.server import tethered
with tethered([sys.executable, "-c", sys.argv[1], sys.argv[2]], os.environ):
    time.sleep(600)
"""


def number(path: Path) -> int:
    """The child's, once it runs."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if path.exists() and (text := path.read_text("utf-8")):
            return int(text)
        time.sleep(0.02)
    raise AssertionError("no child began")


def is_gone(child: int) -> bool:
    """Whether it has ended, soon. One that ends between two looks is gone too, and so is one that nobody has reaped."""
    until = time.monotonic() + PATIENCE_S
    with contextlib.suppress(psutil.NoSuchProcess):
        while psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
    return True


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "ended"])
def test_a_child_ends_with_its_parent(tmp_path: Path, blow: signal.Signals) -> None:
    """No signal reaches a process whose parent is killed; a pipe's end does."""
    file = tmp_path / "child"
    with subprocess.Popen([sys.executable, "-c", PARENT, SLEEP, str(file)]) as parent:
        child = number(file)
        assert psutil.pid_exists(child)
        parent.send_signal(blow)
    assert is_gone(child)


def test_a_child_that_takes_no_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some seconds, with all that it started."""
    monkeypatch.setattr("personalign.integrations.vllm.server.LAST_S", 0.5)
    file = tmp_path / "child"
    with tethered([sys.executable, "-c", STUBBORN, str(file)], os.environ):
        child = number(file)
    assert is_gone(child)


def test_a_childs_own_end_is_seen() -> None:
    """Its status is the command's, and it gets the variables alone."""
    command = [sys.executable, "-c", "import os, sys; sys.exit(int(os.environ['STATUS']))"]
    with tethered(command, os.environ | {"STATUS": "7"}) as process:
        assert process.wait(PATIENCE_S) == 7
