"""Who is steered in which slot of a batch that others fill, empty and reorder."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
import torch
from torch import Tensor

from personalign.decode.slots import Slots
from personalign.decode.tilt import SuccessorTilt
from personalign.errors import InputError
from personalign.integrations.vllm.batch import Batch, Written
from personalign.types import Guidance
from tests.decode.tiny_models import STEERING, D, H, V, bits, random_head

CPU = torch.device("cpu")
END = 1
NUM_SLOTS = 4
PENALTIES = (1.3, 0.5, 0.2)


def make(slots: Slots, num_rows: int) -> SuccessorTilt:
    head = random_head(0)
    generator = torch.Generator().manual_seed(1)
    return SuccessorTilt(head, head.table(torch.randn(V, H, generator=generator)), STEERING, (END,), slots, num_rows)


def batch(num_slots: int = NUM_SLOTS, num_rows: int = 8) -> Batch:
    return Batch(num_slots, CPU, make, num_rows)


def guidance(user: str, strength: float = 1.0) -> Guidance:
    weights = np.random.default_rng(sum(user.encode())).normal(size=D)
    return Guidance(weights, strength, revision=1, user=user)


def rows(num: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(num, V, generator=generator), torch.randn(num, H, generator=generator)


def alone(user: str, logits: Tensor, hidden: Tensor, count: int = 3) -> Tensor:
    """What a person's row becomes with nobody beside it."""
    one = batch(1)
    one.admit(0, guidance(user))
    return one.steer(logits[None].clone(), hidden[None], [0], [count])[0]


def test_each_row_is_steered_by_its_own_person_and_others_keep_their_bits() -> None:
    """Two people and two strangers in one batch, rows in another order than the slots."""
    shared, slots = batch(), [2, 0, 3, 1]
    for slot, user in ((0, "ada"), (3, "ben")):
        assert shared.admit(slot, guidance(user))
    assert not shared.admit(1, None)
    logits, hidden = rows(4)
    before = logits.clone()
    steered = shared.steer(logits, hidden, slots, [3] * 4)
    for row, user in ((1, "ada"), (2, "ben")):
        assert torch.allclose(steered[row], alone(user, before[row], hidden[row]), atol=1e-5)
        assert not torch.equal(steered[row], before[row])
    assert all(torch.equal(bits(steered[row]), bits(before[row])) for row in (0, 3))


def test_without_people_nothing_is_computed() -> None:
    """The logits are given back as they came, and strength 0 is nobody."""
    shared = batch()
    assert shared.is_plain
    assert not shared.admit(0, guidance("ada", strength=0.0))
    assert shared.is_plain
    logits, hidden = rows(1)
    assert shared.steer(logits, hidden, [0], [3]) is logits


def test_the_first_token_is_no_end_where_the_model_has_another() -> None:
    """As in our own engine: a steered reply isn't empty; later the end may come (the control)."""
    logits, hidden = rows(1)
    logits[0, END] = logits.max() - 0.01
    logits[0, (logits[0].argmax() + 0) % V] += 0.02
    first, later = (alone("ada", logits[0], hidden[0], count) for count in (0, 3))
    assert first[END] == -math.inf
    assert later[END] > -math.inf


@pytest.mark.parametrize("seed", range(20))
def test_whoever_comes_goes_and_moves_each_place_has_its_own_person(seed: int) -> None:
    """Against a plain list of who is where, over a hundred changes drawn at random."""
    random, shared, places = Random(seed), batch(), dict.fromkeys(range(NUM_SLOTS), None)
    for step in range(100):
        change, slot, other = random.choice("acms"), random.randrange(NUM_SLOTS), random.randrange(NUM_SLOTS)
        if change == "a":
            user = random.choice([None, f"user {step}"])
            shared.admit(slot, None if user is None else guidance(user))
            places[slot] = user
        elif change == "c":
            shared.release(slot)
            places[slot] = None
        elif slot != other and change == "m":
            shared.move(slot, other)
            places |= {other: places[slot], slot: None}
        elif slot != other:
            shared.swap(slot, other)
            places |= {slot: places[other], other: places[slot]}
    logits, hidden = rows(NUM_SLOTS)
    steered = shared.steer(logits.clone(), hidden, range(NUM_SLOTS), [3] * NUM_SLOTS)
    for slot, user in places.items():
        expected = logits[slot] if user is None else alone(user, logits[slot], hidden[slot])
        assert torch.allclose(steered[slot], expected, atol=1e-5)


def test_many_people_pass_through_few_rows_and_none_is_left_to_another() -> None:
    """Five hundred people in four slots and six rows; the last one's logits are their own."""
    shared = batch(num_rows=6)
    for number in range(500):
        shared.admit(number % NUM_SLOTS, guidance(f"user {number}"))
    assert shared.num_people <= 6
    logits, hidden = rows(NUM_SLOTS)
    steered = shared.steer(logits.clone(), hidden, range(NUM_SLOTS), [3] * NUM_SLOTS)
    for slot in range(NUM_SLOTS):
        assert torch.allclose(steered[slot], alone(f"user {496 + slot}", logits[slot], hidden[slot]), atol=1e-5)


def test_fewer_rows_than_requests_are_refused() -> None:
    """A request must never find all rows taken in the midst of a step."""
    with pytest.raises(InputError, match="3 rows of weights for 4 requests"):
        batch(num_rows=3)


def test_the_buffers_stay_where_they_are() -> None:
    """Captured graphs know them by their address."""
    shared = batch()
    shared.admit(0, guidance("ada"))
    tilt = shared._tilt
    assert tilt is not None
    before = [tilt._merged.data_ptr(), tilt.rows._bank.weights.data_ptr()]
    for number in range(50):
        shared.admit(number % NUM_SLOTS, guidance(f"user {number}"))
    assert [tilt._merged.data_ptr(), tilt.rows._bank.weights.data_ptr()] == before


def test_an_erasure_empties_rows_at_once() -> None:
    """A reply under way goes on plain, its neighbour as before, and no number of the person stays."""
    shared = batch()
    shared.admit(0, guidance("ada"))
    shared.admit(1, guidance("ben"))
    shared.forget("ada")
    logits, hidden = rows(2)
    steered = shared.steer(logits.clone(), hidden, [0, 1], [3, 3])
    assert torch.equal(bits(steered[0]), bits(logits[0]))
    assert not torch.equal(steered[1], logits[1])
    tilt = shared._tilt
    assert tilt is not None
    assert not tilt._merged[0].any()
    assert tilt.rows._bank.weights.any(-1).sum() == 1


def penalised(logits: Tensor, prompt: list[int], output: list[int]) -> Tensor:
    """What vLLM does after its processors, written down once more."""
    repetition, presence, frequency = PENALTIES
    logits = logits.clone()
    for token in set(prompt) | set(output):
        logits[token] = logits[token] / repetition if logits[token] > 0 else logits[token] * repetition
    for token in set(output):
        logits[token] -= presence + frequency * output.count(token)
    return logits


def test_penalties_that_come_later_act_as_if_they_had_come_first() -> None:
    """Steering and then penalising gives what the method's order gives; without making up for it, it doesn't."""
    logits, hidden = rows(1)
    prompt, output = [3, 4, 4, 5], [7, 7, int(logits.argmax())]
    expected = alone("ada", penalised(logits[0], prompt, output), hidden[0])
    outcomes = {}
    for name, penalties in (("ours", PENALTIES), ("control", (1.0, 0.0, 0.0))):
        one = batch(1)
        one.admit(0, guidance("ada"), Written(prompt, output, penalties))
        outcomes[name] = penalised(one.steer(logits.clone(), hidden, [0], [3])[0], prompt, output)
    assert torch.allclose(outcomes["ours"], expected, atol=1e-5)
    assert not torch.allclose(outcomes["control"], expected, atol=1e-2)


def test_counts_follow_the_lists_that_vllm_adds_to() -> None:
    """A move takes the list along."""
    shared, output = batch(), []
    shared.admit(0, guidance("ada"), Written((), output))
    shared.move(0, 2)
    output += [5, 6]
    assert shared.counts() == {2: 2}
