"""Files that can't be used, and disks that fill up: a StoreError each time, and nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np
import pytest

from personalign.errors import StoreError
from personalign.store import Store, upkeep
from personalign.store.sqlite import engine
from personalign.store.sqlite.database import sqlite_driver
from tests.store.store_worker import is_known


def test_a_file_that_is_no_database_is_refused_and_left(path: Path, url: str) -> None:
    """Text under the store's name is a StoreError, byte for byte as before."""
    path.write_text("dear diary, " * 1000)
    before = path.read_bytes()
    for call in (Store.open, upkeep.upgrade, upkeep.report):
        with pytest.raises(StoreError, match="isn't a SQLite file"):
            call(url)
    assert path.read_bytes() == before


def test_another_programs_database_is_refused_and_left(path: Path, url: str) -> None:
    """A SQLite file that isn't ours is a StoreError, and not even its journal mode changes."""
    foreign = sqlite_driver().connect(str(path))
    foreign.execute("CREATE TABLE notes (text)")
    foreign.commit()
    foreign.close()
    before = path.read_bytes()
    for call in (Store.open, upkeep.upgrade, upkeep.report):
        with pytest.raises(StoreError, match="another program"):
            call(url)
    assert path.read_bytes() == before


def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path) -> None:
    """A folder, or a path under a file, is a StoreError."""
    (tmp_path / "file").touch()
    for where in (tmp_path, tmp_path / "file" / "profiles.db"):
        with pytest.raises(StoreError):
            Store.open(f"sqlite:///{where}")


OPEN = """
import os, sys
from personalign.errors import StoreError
from personalign.store import Store
Store.open(sys.argv[2]).close()  # loads what another user may not read
if os.getuid() == 0:
    os.setuid(65534)
try:
    Store.open(sys.argv[1])
except StoreError as error:
    print(error)
"""


@pytest.mark.parametrize("case", ["folder", "file", "neither"])
def test_a_store_that_cannot_be_written_is_refused(case: str, tmp_path: Path) -> None:
    """A read-only file or folder is a StoreError when the store is opened, not at the first write; a good one opens."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = f"sqlite:///{folder / 'profiles.db'}"
        Store.open(url).close()
        owner = 65534 if os.getuid() == 0 else os.getuid()
        for found in (folder, folder / "profiles.db"):
            os.chown(found, owner, -1)
        if case != "neither":
            (folder if case == "folder" else folder / "profiles.db").chmod(0o500 if case == "folder" else 0o400)
        command = [sys.executable, "-c", OPEN, url, f"sqlite:///{tmp_path / 'warm.db'}"]
        root = str(Path(__file__).parents[2])
        done = subprocess.run(command, env={"PYTHONPATH": root}, capture_output=True, text=True, check=True)
        folder.chmod(0o700)
    assert ("can't be written" in done.stdout) == (case != "neither")


def test_a_damaged_file_is_told(store: Store, url: str, path: Path, show, fit) -> None:
    """Pages overwritten with noise are a StoreError or a doctor's finding, never a wrong answer; sound ones aren't."""
    for number in range(30):
        store.commit_answer("ada", show(f"q{number}", a="x" * 500).id, "a", fit)
    assert upkeep.report(url)["problems"] == []
    store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = np.random.default_rng(0).bytes(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(StoreError), Store.open(url) as damaged:
        damaged.profile("ada", "basis")


def test_a_file_that_others_keep_locked_is_told(store: Store, url: str, monkeypatch) -> None:
    """A writer that waits too long gets a StoreError; once the lock is gone it goes through."""
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_MS", 100)
    monkeypatch.setitem(engine.COMMON, "busy_timeout", 100)
    with Store.open(url) as other:
        with store._connections.writer.begin(), pytest.raises(StoreError, match="try again"):
            other.add_user("bob")
        other.add_user("bob")


def test_errors_hold_no_ids(store: Store, sql) -> None:
    """Neither the message nor the traceback of a refused statement holds what was bound to it."""
    sql("DROP TABLE users")
    with pytest.raises(StoreError) as refused:
        is_known(store, "canary-user")
    printed = "".join(traceback.format_exception(refused.value.__cause__, limit=0, chain=True)) + str(refused.value)
    assert "no such table" in printed
    assert "canary" not in printed


@pytest.mark.parametrize("stdlib", [0, 1])
def test_a_full_disk_corrupts_nothing(worker, stdlib: int) -> None:
    """Where files can't grow, writes are refused with a StoreError; with room again the open store goes on."""
    assert worker("full_disk", stdlib=stdlib) == {"refused": 4, "recovered": 4, "wrong": 0, "problems": []}
