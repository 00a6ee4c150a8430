"""Which replies wait, which run, and in which slot. There are no tensors here.

Owners take turns: of those who wait, the one served longest ago is next, with their oldest request. Each owner's
share of the queue and of the slots depends on what is free, so that the next owner finds room. Slots
are filled from the lowest, and replies are moved down when others end, so that a step is over few rows.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock

from personalign.decode.seq import Seq, State
from personalign.errors import Overloaded

DEFAULT_BUCKETS = (1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 48, 64, 96, 128)
QUEUE_SHARE, SLOT_SHARE = 1, 3  # an owner takes another place while they hold fewer than so many times the free ones


class Queue:
    """Replies that wait for a slot. Any thread may use it.

    The share of an owner is a dynamic threshold (Choudhury and Hahne 1998): alone they take half of all places, the
    next owner half of the rest.
    """

    def __init__(self, num_places: int, num_slots: int) -> None:
        self._num_places, self._num_slots = num_places, num_slots
        self._lock = Lock()
        self._owners: OrderedDict[str | int, deque[Seq]] = OrderedDict()  # the one served longest ago first

    def __len__(self) -> int:
        """How many replies wait."""
        with self._lock:
            return sum(map(len, self._owners.values()))

    def __iter__(self) -> Iterator[Seq]:
        """The replies that wait now."""
        with self._lock:
            return iter([seq for seqs in self._owners.values() for seq in seqs])

    def add(self, seqs: Sequence[Seq]) -> None:
        """Let all of these replies wait for their turns, or none."""
        with self._lock:
            num_waiting = Counter({owner: len(waiting) for owner, waiting in self._owners.items()})
            for seq in seqs:
                self._check(num_waiting.total(), num_waiting[seq.owner])
                num_waiting[seq.owner] += 1
            for seq in seqs:
                self._owners.setdefault(seq.owner, deque()).append(seq)

    def _check(self, num_waiting: int, num_own: int) -> None:
        free = self._num_places - num_waiting
        if free > 0 and num_own < QUEUE_SHARE * free:
            return
        share = f" ({num_own} of them this person's, and the rest of the queue is for others)" if free > 0 else ""
        raise Overloaded(
            f"{num_waiting} requests wait for {self._num_slots} slots{share}, and no more may; send it again later, or "
            "open personalign with larger slots= or waiting="
        )

    def pop(self, num_running: Mapping[str | int, int], num_free: int) -> Seq | None:
        """Take the reply whose turn it is; None if no waiting owner may take another slot."""
        with self._lock:
            for owner, seqs in self._owners.items():
                if num_running.get(owner, 0) < SLOT_SHARE * num_free:
                    if seqs[0].num_slots > num_free:
                        return None  # others wait, too, so that it gets its slots
                    seq = seqs.popleft()
                    if seqs:
                        self._owners.move_to_end(owner)
                    else:
                        del self._owners[owner]
                    return seq
        return None

    def withdraw(self) -> None:
        """Drop the replies that were cancelled."""
        with self._lock:
            for owner, seqs in list(self._owners.items()):
                for seq in [seq for seq in seqs if seq.is_cancelled]:
                    seqs.remove(seq)
                    seq.enter("cancel")
                if not seqs:
                    del self._owners[owner]

    def clear(self) -> list[Seq]:
        """Take all replies out."""
        with self._lock:
            seqs = [seq for waiting in self._owners.values() for seq in waiting]
            self._owners.clear()
            return seqs


class Scheduler:
    """Waiting and running replies. A step is over the first b slots, b one of ``buckets``: there are few shapes."""

    def __init__(self, num_slots: int, max_waiting: int, buckets: Sequence[int] = DEFAULT_BUCKETS) -> None:
        self._num_slots = num_slots
        self._buckets = [*sorted(b for b in buckets if b < num_slots), num_slots]
        self.queue = Queue(max_waiting, num_slots)
        self.running: dict[int, Seq] = {}  # by slot, in order of admission

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.running and not len(self.queue)

    def slots(self, state: State) -> list[int]:
        """Slots whose replies are in this state, in order of admission."""
        return [slot for slot, seq in self.running.items() if seq.state == state]

    @property
    def num_rows(self) -> int:
        """B: the rows of the next step."""
        return self._bucket(max(self.running) + 1)

    def admit(self) -> Iterator[tuple[int, Seq]]:
        """Give free slots, the lowest first, to the replies whose turn it is; siblings wait there for its prompt."""
        while (num_free := self._num_slots - len(self.running)) > 0:
            num_running = Counter(seq.owner for seq in self.running.values())
            if (seq := self.queue.pop(num_running, num_free)) is None:
                return
            slot = self._lowest_free()
            for sibling in seq.spread():
                self.running[self._lowest_free()] = sibling
                sibling.enter("seat")
                if sibling is not seq:
                    sibling.enter("pause")
            yield slot, seq

    def withdraw(self) -> list[int]:
        """Drop the cancelled replies that wait; name the slots of those that run."""
        self.queue.withdraw()
        cancelled = {seq for seq in self.running.values() if seq.leader is seq and seq.is_cancelled}
        return [slot for slot, seq in self.running.items() if seq.leader in cancelled]

    def places(self, leader: Seq) -> list[int]:
        """The slots of a reply, those of its siblings in their order."""
        slots = {seq: slot for slot, seq in self.running.items()}
        return [slots[sibling] for sibling in leader.siblings if sibling in slots]

    def blocks(self) -> list[Seq]:
        """The leaders of siblings who all wait for each other."""
        leaders = [seq for seq in self.running.values() if seq.leader is seq and seq.state == "paused"]
        return [seq for seq in leaders if all(sibling.state == "paused" for sibling in seq.siblings)]

    def swap(self, seq: Seq, other: Seq) -> None:
        """Let two replies change places."""
        turned = {seq: other, other: seq}
        self.running = {slot: turned.get(running, running) for slot, running in self.running.items()}

    def release(self, slot: int) -> None:
        """Free a slot."""
        del self.running[slot]

    def moves(self) -> Iterator[tuple[int, int]]:
        """Move the reply in the highest slot to the lowest free one while that makes the step smaller."""
        while self.running and self._bucket(len(self.running)) < self.num_rows:
            source, target = max(self.running), self._lowest_free()
            self.running = {target if slot == source else slot: seq for slot, seq in self.running.items()}
            yield source, target

    def _lowest_free(self) -> int:
        return next(slot for slot in range(self._num_slots) if slot not in self.running)

    def _bucket(self, count: int) -> int:
        return next(bucket for bucket in self._buckets if bucket >= count)
