"""The files a store makes: private ones, in private folders; whatever stood there before is left as it was."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from personalign.errors import StoreError


@contextmanager
def disk_errors(path: Path, problem: str, advice: str) -> Iterator[None]:
    """Turn what the disk refuses into a StoreError."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path} can't be {problem} ({error.strerror}); {advice}") from error


def require_folder(path: Path) -> None:
    """Refuse a path in a folder that isn't there: it may be misspelt."""
    if not path.parent.is_dir():
        raise StoreError(
            f"there is no folder {path.parent} for the store; check the path, or make both with: personalign db upgrade"
        )


def make_file(path: Path) -> None:
    """Make an empty file only its owner can read, with missing folders; one that is there is left as it is."""
    with disk_errors(path, "made", "pass a path in a folder you can write"), suppress(FileExistsError):
        _make_folder(path.parent)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def require_file(path: Path) -> None:
    """Refuse a path that isn't a file we can read and write, in a folder we can write."""
    if not path.is_file():
        raise StoreError(f"there is no store at {path}; check the path, or run: personalign db upgrade")
    if not (os.access(path, os.R_OK | os.W_OK) and os.access(path.parent, os.W_OK)):
        raise StoreError(f"{path} or its folder can't be written; check their permissions")
    if (names := path.stat().st_nlink) > 1:
        # SQLite keeps its log beside the name it was given: two names, two logs, one broken file
        raise StoreError(f"{path} has {names} names (hard links), expected one; remove the others, or pass a copy")


def make_whole(path: Path, content: bytes) -> None:
    """Make a file with its content at once; of several processes the first wins."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    make_file(draft)
    try:
        with disk_errors(path, "written", "free some space and try again"):
            with opened(draft, os.O_RDWR) as file:
                write_durably(file, content)
            with suppress(FileExistsError):
                os.link(draft, path)
            sync_folder(path.parent)
    finally:
        draft.unlink()


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """Open what is there."""
    file = os.open(path, flags)
    try:
        yield file
    finally:
        os.close(file)


def write_durably(file: int, content: bytes) -> None:
    """Write in one call, and return when it is on the disk."""
    if os.write(file, content) != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(file)


def read_bytes(path: Path, start: int = 0, length: int = -1) -> bytes:
    """Read a file kept beside the database, or a part of it; one that isn't there has no bytes."""
    refused = disk_errors(path, "read", "check the disk and its permissions")
    with refused, suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(start)
        return file.read(length)
    return b""


def sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk."""
    with opened(folder, os.O_RDONLY) as file:
        os.fsync(file)


def _make_folder(folder: Path) -> None:
    # not mkdir(parents=True), which would leave the folders in between open to all
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
