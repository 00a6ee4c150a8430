"""What was answered lately, by id, so that a person's feedback can name it: in memory, bounded, and theirs alone."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from weakref import WeakSet

from personalign.messages import Conversation
from personalign.options import OptionsDict

MOST_CHARACTERS = 1 << 26  # of all that is kept


@dataclass(eq=False)
class Turn:
    """What a person is being answered; void once they are erased."""

    user: str
    messages: Conversation
    options: OptionsDict
    is_void: bool = False


@dataclass(frozen=True)
class Completion:
    """A reply as its client got it, and what it answers."""

    user: str
    messages: Conversation
    text: str
    options: OptionsDict
    kept_at: float

    @property
    def size(self) -> int:
        """How many characters it takes."""
        return len(self.text) + sum(len(message["content"]) for message in self.messages)


class Completions:
    """Keeps each for a while, and fewer where they are large; any thread may ask."""

    def __init__(self, kept_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept_s, self._clock, self._lock = kept_s, clock, Lock()
        self._completions: OrderedDict[str, Completion] = OrderedDict()  # by id, the oldest first
        self._turns: WeakSet[Turn] = WeakSet()  # that are being answered
        self._size = 0

    def begin(self, user: str, messages: Conversation, options: OptionsDict) -> Turn:
        """Note what is being answered, so that an erasure reaches it."""
        turn = Turn(user, messages, options)
        with self._lock:
            self._turns.add(turn)
        return turn

    def keep(self, completion_id: str, turn: Turn, text: str) -> None:
        """Keep a reply, unless its person was erased while it was written."""
        with self._lock:
            if not turn.is_void:
                completion = Completion(turn.user, turn.messages, text, turn.options, self._clock())
                self._completions[completion_id] = completion
                self._size += completion.size
            self._expire()

    def find(self, completion_id: str, user: str) -> Completion | None:
        """The reply of this id, if it was this person's."""
        with self._lock:
            self._expire()
            completion = self._completions.get(completion_id)
        return completion if completion is not None and completion.user == user else None

    def forget(self, user: str) -> None:
        """Erase a person's replies; those that are being written aren't kept."""
        with self._lock:
            for turn in self._turns:
                turn.is_void |= turn.user == user
            for completion_id in [key for key, completion in self._completions.items() if completion.user == user]:
                self._drop(completion_id)

    def _expire(self) -> None:
        while self._completions:
            oldest = next(iter(self._completions))
            if self._completions[oldest].kept_at >= self._clock() - self._kept_s and self._size <= MOST_CHARACTERS:
                break
            self._drop(oldest)

    def _drop(self, completion_id: str) -> None:
        self._size -= self._completions.pop(completion_id).size
