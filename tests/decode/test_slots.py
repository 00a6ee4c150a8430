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

    def copy(self, source: int, target: int, newest: int | None = None) -> None:
        self.notes[target] = self.notes[source][-(newest or len(self.notes[source])) :]


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


def test_siblings_go_on_from_one_slot() -> None:
    """Rows, values and parts are copied, or the newest of them; what one changes then is its own."""
    slots, parts = Slots(NUM_SLOTS, torch.device("cpu")), Notes()
    numbers, owners = slots.rows(2), slots.values()
    slots.join(parts)
    numbers[1], owners[1], parts.notes[1] = 7.0, "ada", "abcdef"
    slots.copy(1, [0, 3])
    assert parts.notes == ["abcdef", "abcdef", "", "abcdef", ""]
    slots.copy(1, [4], newest=2)
    assert parts.notes[4] == "ef"
    assert numbers[:, 0].tolist() == [7, 7, 0, 7, 7]
    assert owners == dict.fromkeys([0, 1, 3, 4], "ada")
    numbers[1] = 8.0
    slots.release(3)
    assert numbers[:, 0].tolist() == [7, 8, 0, 0, 7]
    assert sorted(owners) == [0, 1, 4]
