"""What is stored of a person, in their own hands: to read, to pause, to take with them, to erase. No basis is needed.

An application's own rights stand beside them: its keys, and changes that count once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from personalign.messages import check_text, check_user
from personalign.store import Event, Keys, Store


class Rights:
    """The verbs of ``Personalign`` that a store alone can do; ``release`` lets go of what is in memory of a person."""

    def __init__(self, store: Store, release: Callable[[str], None]) -> None:
        self._store, self._release = store, release

    def is_known(self, user: str) -> bool:
        """Whether anything is stored about a person."""
        return self._store.person(check_user(user)).created_at is not None

    def forget(self, user: str) -> bool:
        """Erase everything about a person, and say whether they were known; the id may start anew."""
        user = check_user(user)
        try:
            return self._store.forget(user)
        finally:
            self._release(user)

    def erased(self, users: Sequence[str], number: int) -> tuple[list[str], int]:
        """Who of these people was erased after the erasure of this number, by any process, and the newest's number."""
        return self._store.erased(users, number)

    def export(self, user: str) -> dict[str, Any]:
        """Everything stored about a person, ready for JSON."""
        return self._store.export(check_user(user))

    def history(self, user: str) -> list[Event]:
        """What a person answered and stated, the newest first; what was undone is marked."""
        return self._store.history(check_user(user))

    def consent(self, user: str, text: str) -> None:
        """Record what a person consents to, in place of what they consented to before; who isn't known is added."""
        self._store.add_user(check_user(user), check_text("the consent", text))

    def pause(self, user: str) -> None:
        """Let a person have plain replies until they resume; asking and answering go on, and nothing is lost."""
        self._store.pause(check_user(user), is_paused=True)

    def resume(self, user: str) -> None:
        """Let a person's profile act again."""
        self._store.pause(check_user(user), is_paused=False)

    @property
    def keys(self) -> Keys:
        """The keys of backends and operators, and secrets that all processes on one database share."""
        return self._store.keys

    def write_once(self, caller: str, key: str, request: str) -> AbstractContextManager[bool]:
        """Make one change once, however often it is sent: ``with p.write_once(caller, key, request) as is_first``.

        It gives True the first time. The first change inside then carries a note of it, in its own transaction: a crash
        leaves both or neither. Sent again within a day it gives False, and there is nothing to do but to read the
        present state. Of two at once, the block of the slower one ends quietly, its change not made.

        Args:
            caller: whose key it is; each has their own.
            key: what the caller sends again with the same change.
            request: what is asked for, in any words that tell it from another.

        Raises:
            InputError: another request came with this key.
        """
        for name, text in (("the caller", caller), ("the idempotency key", key), ("the request", request)):
            check_text(name, text)
        return self._store.write_once(caller, key, request)
