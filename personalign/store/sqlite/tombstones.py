"""The tombstones beside a database: a file of records that only grows, and the key that its digests are made with.

Both files name each other: the first line of ``.tombstones`` has the key's digest and how many records there are at
least, so that a wrong key and a file that was cut short are noticed. Records are of one length, and each has a sum of
its own; a kill in the middle of one leaves a piece that the next one overwrites.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session

from personalign.errors import StoreError
from personalign.store.connections import KEY_BYTES, Tombstone, Tombstones
from personalign.store.facts import (
    KEY,
    count_erasures,
    note_fact,
    note_key,
    num_applied,
    read_fact,
    read_tombstones,
)
from personalign.store.sqlite.database import Database
from personalign.store.sqlite.files import disk_errors, make_whole, opened, read_bytes, write_durably

HEADER = re.compile(rb"personalign tombstones 1 ([0-9a-f]{64}) (\d{12}) ([0-9a-f]{8})\n")
RECORD = re.compile(rb"([0-9a-f]{64}) (\d{20}) ([0-9a-f]{8})\n")
HEADER_BYTES, RECORD_BYTES = 112, 95
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RESTORE = "restore the file from a backup, or run: personalign db restore"


class FileTombstones(Tombstones):
    """The two files beside one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._path = database.neighbour(".tombstones")
        self._key_path = database.neighbour(".key")

    def check(self, session: Session) -> None:
        """Refuse a key or tombstones of another database."""
        self.check_files(read_fact(session, KEY), max(count_erasures(session), num_applied(session)))

    def check_files(self, key_digest: str | None, least: int) -> None:
        """Refuse files of another database: this one knows its key's digest, and of so many erasures at least."""
        header = self._header()
        if header is None and least:
            name = self._database.path.name
            raise StoreError(f"{self._path} is lost, and {name} knows of {least} erasures; {RESTORE}")
        key_digests = {key_digest} - {None}
        if header is not None:
            key_digests.add(header[0])
            if (count := self._count()) < (expected := max(header[1], least)):
                raise StoreError(
                    f"{self._path} was cut short: it has {count} records, expected at least {expected}; {RESTORE}"
                )
        if key_digests and key_digests != {hashlib.sha256(self.key()).hexdigest()}:
            raise StoreError(f"{self._key_path} isn't the key of this database's tombstones; restore the right one")

    def key_digest(self) -> str:
        """Return the digest of the key, which is made where there is none yet."""
        if not self._key_path.exists() and not self._path.exists():
            make_whole(self._key_path, secrets.token_bytes(KEY_BYTES))
        return hashlib.sha256(self.key()).hexdigest()

    def require_key(self, session: Session) -> None:
        """Make the key where there is none yet; the database notes its digest."""
        note_fact(session, KEY, self.key_digest())

    def adopt(self, session: Session, key: bytes) -> None:
        """Make the files of a store whose rows were copied; StoreError where others are there."""
        make_whole(self._key_path, key)
        if records := {tombstone.number: tombstone for tombstone in read_tombstones(session)}:
            self.write_all(records)
        self.check_files(hashlib.sha256(key).hexdigest(), count_erasures(session))
        note_key(session, key)

    def append(self, session: Session, digest: str, erased_at: datetime) -> int:  # noqa: ARG002 - the file has all
        """Write a record and return its number when it is on the disk; one writer at a time."""
        key_digest = self.key_digest()
        if not self._path.exists():
            make_whole(self._path, _first_line(key_digest, 0))
        number = self._count() + 1
        refused = disk_errors(self._path, "written", "nothing was erased, try again")
        with refused, opened(self._path, os.O_RDWR) as file:
            os.ftruncate(file, HEADER_BYTES + (number - 1) * RECORD_BYTES)  # a piece of one may be left
            os.lseek(file, 0, os.SEEK_END)
            write_durably(file, _line(Tombstone(digest, erased_at, number)))
            # a count that is behind does no harm
            os.pwrite(file, _first_line(key_digest, number), 0)
        return number

    def after(self, number: int) -> list[Tombstone]:
        """Read the records after the one with this number, or all of them after 0."""
        lines = _split(read_bytes(self._path, HEADER_BYTES + number * RECORD_BYTES))
        return [self._record(line, place) for place, line in enumerate(lines, number + 1)]

    def readable(self, other: Database) -> dict[int, Tombstone]:
        """Read the sound records by number; StoreError where they weren't made with this other database's key."""
        content = read_bytes(self._path)
        if match := HEADER.match(content):
            FileTombstones(other).check_files(match[1].decode(), 0)
        records = {}
        for number, line in enumerate(_split(content[HEADER_BYTES:]), 1):
            with suppress(StoreError):
                records[number] = self._record(line, number)
        return records

    def write_all(self, records: Mapping[int, Tombstone]) -> None:
        """Make the file of these records, each in its place; a lost one leaves a place that stands for no person."""
        count = max(records)
        lines = [_line(records.get(number, Tombstone("0" * 64, EPOCH, number))) for number in range(1, count + 1)]
        make_whole(self._path, b"".join([_first_line(self.key_digest(), count), *lines]))

    def _record(self, line: bytes, number: int) -> Tombstone:
        match = RECORD.fullmatch(line)
        if match is None or line != _with_sum(f"{match[1].decode()} {match[2].decode()}"):
            raise StoreError(f"{self._path} is damaged at record {number}; {RESTORE}")
        return Tombstone(match[1].decode(), EPOCH + timedelta(microseconds=int(match[2])), number)

    def _header(self) -> tuple[str, int] | None:
        if not self._path.exists():
            return None
        line = read_bytes(self._path, 0, HEADER_BYTES)
        match = HEADER.fullmatch(line)
        if match is None or line != _first_line(match[1].decode(), int(match[2])):
            raise StoreError(f"{self._path} doesn't begin as a file of tombstones; {RESTORE}")
        return match[1].decode(), int(match[2])

    def _count(self) -> int:
        return max(0, self._path.stat().st_size - HEADER_BYTES) // RECORD_BYTES

    def key(self, session: Session | None = None) -> bytes:  # noqa: ARG002 - likewise
        """Read the key; StoreError where it is lost, or isn't one."""
        if not self._key_path.exists():
            raise StoreError(f"{self._key_path} is lost, and no tombstone can be read without it; restore the key")
        key = read_bytes(self._key_path)
        if len(key) != KEY_BYTES:
            raise StoreError(f"{self._key_path} has {len(key)} bytes, expected {KEY_BYTES}; restore the key")
        return key


def _split(content: bytes) -> Iterator[bytes]:
    """Cut whole records; a piece of one at the end is left out."""
    for start in range(0, len(content) - RECORD_BYTES + 1, RECORD_BYTES):
        yield content[start : start + RECORD_BYTES]


def _first_line(key_digest: str, count: int) -> bytes:
    return _with_sum(f"personalign tombstones 1 {key_digest} {count:012d}")


def _line(record: Tombstone) -> bytes:
    return _with_sum(f"{record.digest} {(record.erased_at - EPOCH) // timedelta(microseconds=1):020d}")


def _with_sum(line: str) -> bytes:
    return f"{line} {zlib.crc32(line.encode()):08x}\n".encode()
