"""The files a store makes: private ones, in private folders; whatever stood there before is left as it was."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from personalign.errors import StoreError


def make_file(path: Path) -> None:
    """Make an empty file only its owner can read, with missing folders; one that is there is left as it is."""
    try:
        _make_folder(path.parent)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise StoreError(f"{path} can't be made ({error.strerror}); pass a path in a folder you can write") from error


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
        with open_to_write(draft) as file:
            write_durably(file, content)
        with suppress(FileExistsError):
            os.link(draft, path)
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f"{path} can't be written ({error.strerror}); free some space and try again") from error
    finally:
        draft.unlink()


@contextmanager
def open_to_write(path: Path) -> Iterator[int]:
    """Open a file that is there; a StoreError for whatever goes wrong with it."""
    try:
        with _opened(path, os.O_RDWR | os.O_CLOEXEC) as file:
            yield file
    except OSError as error:
        raise StoreError(f"{path} can't be written ({error.strerror}); nothing was erased, try again") from error


def write_durably(file: int, content: bytes) -> None:
    """Write in one call, and return when it is on the disk."""
    if os.write(file, content) != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(file)


def read_bytes(path: Path, start: int = 0, length: int = -1) -> bytes:
    """Read a file kept beside the database, or a part of it; one that isn't there has no bytes."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(length)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StoreError(f"{path} can't be read ({error.strerror}); check the disk and its permissions") from error


def sync_folder(folder: Path) -> None:
    """Put a folder's names on the disk."""
    with _opened(folder, os.O_RDONLY) as file:
        os.fsync(file)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags)
    try:
        yield file
    finally:
        os.close(file)


def _make_folder(folder: Path) -> None:
    # not mkdir(parents=True), which would leave the folders in between open to all
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
