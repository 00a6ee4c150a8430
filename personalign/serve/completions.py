"""What was answered lately, by id, so that a person's feedback can name it: in memory, bounded, and theirs alone.

Other processes erase people, too, so who was erased meanwhile is looked up before anything is given out.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from weakref import WeakSet

from personalign.messages import Conversation
from personalign.options import OptionsDict

MOST_CHARACTERS = 1 << 26  # of all that is kept
OVERHEAD = 1_000  # characters' worth of memory that the shortest takes
# who of some people was erased after the erasure of a number, and the newest's number, as the service tells
Erased = Callable[[Sequence[str], int], tuple[list[str], int]]


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
    size: int  # characters that it takes


class Completions:
    """Keeps each for a while, and fewer where they are large; any thread may ask."""

    def __init__(self, kept_s: float, erased: Erased, clock: Callable[[], float] = time.monotonic) -> None:
        self._kept_s, self._erased, self._clock, self._lock = kept_s, erased, clock, Lock()
        _, self._num_erasures = erased([], 0)  # up to which they were looked for
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
        size = _size(turn, text)
        with self._lock:
            if not turn.is_void:
                self._completions[completion_id] = Completion(
                    turn.user, turn.messages, text, turn.options, self._clock(), size
                )
                self._size += size
            self._expire()

    def find(self, completion_id: str, user: str) -> Completion | None:
        """The reply of this id, if it was this person's."""
        self._forget_erased()
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

    def _forget_erased(self) -> None:
        with self._lock:
            known: list[Turn | Completion] = [*self._turns, *self._completions.values()]
        erased, self._num_erasures = self._erased(list({each.user for each in known}), self._num_erasures)
        for user in erased:
            self.forget(user)

    def _expire(self) -> None:
        while self._completions:
            oldest = next(iter(self._completions))
            if self._completions[oldest].kept_at >= self._clock() - self._kept_s and self._size <= MOST_CHARACTERS:
                break
            self._drop(oldest)

    def _drop(self, completion_id: str) -> None:
        self._size -= self._completions.pop(completion_id).size


def _size(turn: Turn, text: str) -> int:
    """How many characters a reply takes with what it answers; a schema may be longer than the conversation."""
    asked = sum(len(message["content"]) for message in turn.messages)
    return OVERHEAD + len(text) + asked + len(str(turn.options))
