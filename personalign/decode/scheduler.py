"""Who waits, who runs, and in which slot. There are no tensors here.

People take turns: of everyone who waits, the one served longest ago comes next, and each in their own order. Slots
are filled from the lowest, and replies are moved down when others end, so that a step is over few rows.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence

from personalign.decode.seq import Seq
from personalign.errors import Overloaded

DEFAULT_BUCKETS = (1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 48, 64, 96, 128)


class Scheduler:
    """Waiting and running replies.

    A step is over the first b slots, b one of ``buckets``, so that there are few shapes.
    """

    def __init__(self, num_slots: int, max_waiting: int, buckets: Sequence[int] = DEFAULT_BUCKETS) -> None:
        self._num_slots, self._max_waiting = num_slots, max_waiting
        self._buckets = [*sorted(b for b in buckets if b < num_slots), num_slots]
        self._waiting: OrderedDict[str, deque[Seq]] = OrderedDict()  # the owner served longest ago first
        self.running: dict[int, Seq] = {}  # by slot
        self._reading: list[int] = []  # slots whose prompts aren't read to the end, in order of admission

    @property
    def num_waiting(self) -> int:
        """How many replies have no slot yet."""
        return sum(map(len, self._waiting.values()))

    @property
    def waiting(self) -> list[Seq]:
        """Replies that have no slot yet."""
        return [seq for seqs in self._waiting.values() for seq in seqs]

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.running and not self._waiting

    @property
    def reading(self) -> list[int]:
        """Slots whose prompts aren't read to the end, in order of admission."""
        return list(self._reading)

    @property
    def writing(self) -> list[int]:
        """Slots whose replies get a token with the next step."""
        return [slot for slot in self.running if slot not in self._reading]

    @property
    def ended(self) -> list[int]:
        """Slots whose replies have had their last token."""
        return [slot for slot, seq in self.running.items() if seq.finish_reason is not None]

    @property
    def num_rows(self) -> int:
        """B: the rows of the next step."""
        return self._bucket(max(self.running) + 1)

    def check(self, also_waiting: int = 0) -> None:
        """Refuse another reply where too many wait; ``also_waiting`` are on their way here.

        Raises:
            Overloaded: too many wait already.
        """
        if (num_waiting := self.num_waiting + also_waiting) >= self._max_waiting:
            raise Overloaded(
                f"{num_waiting} requests wait for {self._num_slots} slots, and no more may; send it again later, or "
                "open the engine with more slots or a longer queue"
            )

    def submit(self, seq: Seq) -> None:
        """Let a reply wait for its turn."""
        self._waiting.setdefault(seq.owner, deque()).append(seq)

    def drain(self) -> list[Seq]:
        """Take everything out of the queue."""
        seqs = self.waiting
        self._waiting.clear()
        return seqs

    def admit(self) -> Iterator[tuple[int, Seq]]:
        """Give free slots, the lowest first, to the replies whose turn it is."""
        while self._waiting and len(self.running) < self._num_slots:
            owner, seqs = next(iter(self._waiting.items()))
            seq = seqs.popleft()
            if seqs:
                self._waiting.move_to_end(owner)
            else:
                del self._waiting[owner]
            slot = self._lowest_free()
            self.running[slot] = seq
            self._reading.append(slot)
            yield slot, seq

    def begin(self, slot: int) -> None:
        """Note that the slot's prompt is read and its reply may be written."""
        self._reading.remove(slot)

    def withdraw(self) -> list[int]:
        """Drop the cancelled replies that wait; name the slots of those that run."""
        for owner, seqs in list(self._waiting.items()):
            rest = deque(seq for seq in seqs if not seq.is_cancelled)
            if rest:
                self._waiting[owner] = rest
            else:
                del self._waiting[owner]
        return [slot for slot, seq in self.running.items() if seq.is_cancelled]

    def release(self, slot: int) -> None:
        """Free a slot."""
        del self.running[slot]
        if slot in self._reading:
            self._reading.remove(slot)

    def moves(self) -> Iterator[tuple[int, int]]:
        """Move the reply in the highest slot to the lowest free one while that makes the step smaller."""
        while self.running and self._bucket(len(self.running)) < self.num_rows:
            source, target = max(self.running), self._lowest_free()
            self.running[target] = self.running.pop(source)
            self._reading = [target if slot == source else slot for slot in self._reading]
            yield source, target

    def _lowest_free(self) -> int:
        return next(slot for slot in range(self._num_slots) if slot not in self.running)

    def _bucket(self, count: int) -> int:
        return next(bucket for bucket in self._buckets if bucket >= count)
