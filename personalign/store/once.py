"""Changes that count once, however often they are sent: each carries a row of its own, in the same transaction.

A block sets what the next change is to carry; the store's verbs stay as they are. A crash leaves both or neither, so
whoever sends the change again learns whether it was made. The row holds keyed hashes alone: no id, and no text.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, event, select
from sqlalchemy.orm import Session

from personalign.errors import InputError, PersonalignError, Repeated
from personalign.messages import shown
from personalign.store.records import now
from personalign.store.tables import WriteRow

KEPT = timedelta(hours=24)  # how long a change is known again
MAX_KEY = 255  # characters


@dataclass(frozen=True)
class Write:
    """The row of one change: whose it is and under which key, what was asked for, and how long this is known."""

    digest: str
    request: str
    expires_at: datetime


class _Block:
    """One block, and whether a change in it was committed."""

    def __init__(self, write: Write) -> None:
        self.write, self.is_done = write, False

    def finish(self, _: Session) -> None:
        """Take note of the commit."""
        self.is_done = True


# threads that a task starts see the task's own: asyncio copies the context
_BLOCK: ContextVar[_Block | None] = ContextVar("block", default=None)


def seal(secret: bytes, caller: str, key: str, request: str) -> Write:
    """Make the row of a change from the key that the caller gave it.

    Raises:
        InputError: the key can't be one.
    """
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY or not key.isprintable():
        raise InputError(f"the idempotency key is {shown(key)}, expected 1 to {MAX_KEY} printable characters")
    return Write(keyed(secret, caller, key), keyed(secret, "request", request), now() + KEPT)


def keyed(secret: bytes, *parts: str) -> str:
    """Hash texts with a secret, so that the hash alone tells nothing."""
    return hmac.new(secret, "\0".join(parts).encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def is_done(session: Session, write: Write) -> bool:
    """Tell whether this change was made before; InputError where another request had the key."""
    row = session.get(WriteRow, write.digest)
    if row is None or row.expires_at <= now():
        return False
    if row.request != write.request:
        raise InputError(
            "this idempotency key was sent before with another request; send a new key with each new request"
        )
    return True


@contextmanager
def block(write: Write, is_done: Callable[[], bool]) -> Iterator[bool]:
    """Let the first change that is committed inside carry the row; False where it was made before.

    Of two at once one makes the change; for the other the block ends as if the change had been made before.
    """
    if is_done():
        yield False
        return
    started = _Block(write)
    token = _BLOCK.set(started)
    try:
        yield True
    except PersonalignError:
        # besides Repeated: the other one may have changed what this one was about to change
        if started.is_done or not is_done():
            raise
    finally:
        _BLOCK.reset(token)


def note(session: Session) -> None:
    """Let the change that is about to be committed carry the row of the block that it is in.

    Raises:
        Repeated: it was made meanwhile.
    """
    started = _BLOCK.get()
    if started is None or started.is_done:
        return
    if not claim(session, started.write):
        raise Repeated("this change was made before, and counts once")
    event.listen(session, "after_commit", started.finish, once=True)


def claim(session: Session, write: Write) -> bool:
    """Write a row, and drop those that have expired; False where it is there already."""
    # what another transaction is dropping right now needn't be waited for
    expired = select(WriteRow.digest).where(WriteRow.expires_at <= now()).with_for_update(skip_locked=True)
    session.execute(delete(WriteRow).where(WriteRow.digest.in_(expired)))
    if session.get(WriteRow, write.digest) is not None:
        return False
    session.add(WriteRow(**vars(write)))
    return True
