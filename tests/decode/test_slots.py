"""The slots: whatever is kept for a reply goes with it, and nothing of it stays."""

from __future__ import annotations

import random

import torch

from personalign.decode.slots import Slots

NUM_SLOTS = 5


class Notes:
    """A part that keeps a note for each slot."""

    def __init__(self) -> None:
        self.notes = [""] * NUM_SLOTS

    def release(self, slot: int) -> None:
        self.notes[slot] = ""

    def move(self, source: int, target: int) -> None:
        self.notes[target] = self.notes[source]


def test_what_is_kept_for_a_reply_goes_where_it_goes() -> None:
    """Rows, values and parts, also those that joined late: released, they are neutral; moved, they are elsewhere."""
    rng, slots, dropped, parts = random.Random(0), Slots(NUM_SLOTS, torch.device("cpu")), [], Notes()
    numbers, owners = slots.rows(2, neutral=-1), slots.values(dropped.append)
    slots.join(parts)
    late = None
    true: dict[int, int] = {}  # the reply in each slot
    for reply in range(1, 300):
        if reply == 100:  # a buffer that comes with its first user
            late = slots.rows(dtype=torch.bool, neutral=True)
        free = sorted(set(range(NUM_SLOTS)) - true.keys())
        kind = rng.choice(["admit", "release", "move"])
        if kind == "admit" and free:
            slot = rng.choice(free)
            true[slot] = reply
            numbers[slot], owners[slot], parts.notes[slot] = float(reply), f"reply {reply}", f"note {reply}"
            if late is not None:
                late[slot] = False
        elif kind == "release" and true:
            slot = rng.choice(sorted(true))
            ended = true.pop(slot)
            slots.release(slot)
            assert dropped.pop() == f"reply {ended}"
        elif kind == "move" and true and free:
            source, target = rng.choice(sorted(true)), rng.choice(free)
            true[target] = true.pop(source)
            slots.move(source, target)
        assert dropped == []  # what is moved isn't dropped
        assert owners == {slot: f"reply {number}" for slot, number in true.items()}
        assert parts.notes == [f"note {true[slot]}" if slot in true else "" for slot in range(NUM_SLOTS)]
        assert numbers.tolist() == [[float(true.get(slot, -1))] * 2 for slot in range(NUM_SLOTS)]
        if reply > 150 and late is not None:
            assert all(late[slot] for slot in range(NUM_SLOTS) if slot not in true)
