"""The head bank: whose row is whose, for how long, and what stays of a person who is erased."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from personalign.decode.request import Request
from personalign.decode.steer import Steer, Step
from personalign.decode.weights import NEUTRAL, WeightBank, WeightKey
from personalign.errors import Overloaded
from personalign.options import Options
from personalign.types import Guidance
from tests.decode.serving import Caller, Desk, leftovers
from tests.decode.tiny_models import Kit, talk

CPU = torch.device("cpu")
HELLO, CAT = talk("hello", "the cat")


def head(user: str, revision: int = 0, generation: int = 0, d: int = 3) -> Guidance:
    """Weights that tell whose they are."""
    weights = np.array([float(ord(user[-1])), revision, generation, *[0.0] * (d - 3)])
    return Guidance(weights, 0.5, revision, user, generation)


def key(guidance: Guidance) -> WeightKey:
    return WeightKey(guidance.user, guidance.generation, guidance.revision)


def holds(bank: WeightBank, row: int, guidance: Guidance) -> bool:
    found = [*bank.weights[row].tolist(), float(bank.is_live[row])]
    return found == [*guidance.weights.tolist(), float(guidance.is_personal)]


def test_a_head_is_written_once_and_found_again() -> None:
    """Requests of one person share a row, which outlasts them; the neutral row is nobody's."""
    bank = WeightBank(3, CPU, 4)
    first, again, other = bank.acquire(head("a")), bank.acquire(head("a")), bank.acquire(head("b"))
    assert first == again != other
    assert NEUTRAL not in (first, other)
    assert holds(bank, first, head("a"))
    assert holds(bank, other, head("b"))
    for row in (first, again, other):
        bank.release(row)
    assert bank.acquire(head("a")) == first
    assert (len(bank), bank.weights[NEUTRAL].tolist(), float(bank.is_live[NEUTRAL])) == (2, [0.0] * 3, 0.0)


def weights_of(bank: WeightBank, key: WeightKey) -> Tensor | None:
    """The weights resident under a key."""
    return bank.weights[bank._rows[key]] if key in bank._rows else None


def test_a_refit_is_another_row() -> None:
    """A reply that is being written keeps the head it began with; so does one of a person erased and come back."""
    bank = WeightBank(3, CPU, 4)
    rows = [bank.acquire(h) for h in (head("a", 1), head("a", 2), head("a", 2, generation=7))]
    assert len(set(rows)) == 3
    assert [holds(bank, row, h) for row, h in zip(rows, (head("a", 1), head("a", 2), head("a", 2, 7)), strict=True)]
    assert weights_of(bank, key(head("a", 1))).tolist() == head("a", 1).weights.tolist()
    assert weights_of(bank, key(head("a", 3))) is None


def test_the_row_used_longest_ago_is_given_away() -> None:
    """Where there is no empty row; rows in use are not."""
    bank = WeightBank(3, CPU, 3)
    rows = {user: bank.acquire(head(user)) for user in "abc"}
    for user in "bca":
        bank.release(rows[user])
    bank.release(bank.acquire(head("b")))  # used again
    pinned = bank.acquire(head("c"))
    assert bank.acquire(head("d")) == rows["a"]
    assert bank.acquire(head("e")) == rows["b"]
    assert pinned == rows["c"]
    assert weights_of(bank, key(head("a"))) is None
    assert weights_of(bank, key(head("b"))) is None
    assert weights_of(bank, key(head("c"))) is not None


def test_when_all_rows_are_in_use_there_is_no_more_room() -> None:
    """Rather an error than another person's head; one release is enough to go on."""
    bank = WeightBank(3, CPU, 2)
    rows = [bank.acquire(head(user)) for user in "ab"]
    with pytest.raises(Overloaded, match="all 2 rows of the weight bank are in use; send the request again later"):
        bank.acquire(head("c"))
    assert bank.acquire(head("a")) == rows[0]  # who is resident isn't refused
    bank.release(rows[1])
    assert bank.acquire(head("c")) == rows[1]


def test_weights_without_a_name_are_nobody_elses() -> None:
    """They can't be found again, so each request has a row of its own, empty when it is released."""
    bank = WeightBank(3, CPU, 4)
    nameless = Guidance(np.ones(3), 0.5)
    one, other = bank.acquire(nameless), bank.acquire(nameless)
    assert one != other
    assert len(bank) == 0
    bank.release(one)
    assert bank.weights[one].tolist() == [0.0] * 3
    assert holds(bank, other, nameless)


def test_a_person_is_erased_at_once() -> None:
    """All revisions and generations, in use or not, and nobody else's; no number of theirs is left."""
    bank = WeightBank(3, CPU, 5)
    in_use, idle, other = bank.acquire(head("a", 1)), bank.acquire(head("a", 2, 9)), bank.acquire(head("b"))
    bank.release(idle)
    bank.forget("a")
    assert torch.count_nonzero(bank.weights[[in_use, idle]]) == torch.count_nonzero(bank.is_live[[in_use, idle]]) == 0
    assert holds(bank, other, head("b"))
    assert weights_of(bank, key(head("a", 1))) is None
    anew = bank.acquire(head("a", 1))  # another person under the same id
    assert anew != in_use
    assert not bank.weights[in_use].any()
    bank.release(in_use)
    assert {bank.acquire(head(user)) for user in "xyz"} >= {in_use}  # empty again
    bank.forget("nobody")


def test_many_people_fit() -> None:
    """10,000 resident heads of 32 axes take 10 MB at most, and none of them is another's."""
    bank = WeightBank(32, CPU, 10_000)
    rng = np.random.default_rng(0)
    heads = [Guidance(rng.normal(size=32), 0.5, user=f"user{i}") for i in range(10_000)]
    for one in heads:
        bank.release(bank.acquire(one))
    assert len(bank) == 10_000
    assert bank.num_bytes <= 10e6
    for one in heads:
        assert torch.equal(weights_of(bank, key(one)), torch.tensor(one.weights, dtype=torch.float32))


def _num_wrong_rows(bank: WeightBank, num_events: int) -> int:
    """How often a pinned row holds something else than the head it was acquired for."""
    rng, wrong = random.Random(0), 0
    held: list[tuple[int, Guidance]] = []
    for _ in range(num_events):
        event, user = rng.choice(["acquire", "acquire", "release", "forget"]), rng.choice("abcdefgh")
        if event == "acquire" and len({row for row, _ in held}) < 5:
            one = head(user, rng.randrange(3)) if rng.random() < 0.9 else replace(head("?"), user="")
            held.append((bank.acquire(one), one))
        elif event == "release" and held:
            bank.release(held.pop(rng.randrange(len(held)))[0])
        elif event == "forget" and rng.random() < 0.2:
            bank.forget(user)
            held = [(row, _erased(one) if one.user == user else one) for row, one in held]
        wrong += sum(not holds(bank, row, one) for row, one in held)
    for row, _ in held:
        bank.release(row)
    assert bank._pins == {}
    assert len(bank) + len(bank._empty) == 6
    return wrong


def _erased(guidance: Guidance) -> Guidance:
    return replace(guidance, weights=np.zeros(3), is_personal=False)


def test_nobody_ever_gets_another_persons_row() -> None:
    """Whatever is acquired, released and erased in whatever order: rows hold whose they are, and none is lost."""
    assert _num_wrong_rows(WeightBank(3, CPU, 6), 5000) == 0


def test_a_row_given_away_while_it_is_used_would_be_noticed() -> None:
    """Control: a bank that forgets its pins hands rows to others."""

    class Careless(dict[int, int]):
        def __contains__(self, key: object) -> bool:
            return False

    bank = WeightBank(3, CPU, 6)
    bank._pins = Careless()
    with pytest.raises((KeyError, AssertionError)):
        assert _num_wrong_rows(bank, 5000) == 0


# ---------------------------------------------------------------- in the engine


def _endless(kit: Kit) -> Steer:
    return lambda logits, _: logits.index_fill(-1, torch.tensor(kit.base.ends), -1e9)


def _after(
    desk: Desk, request: Request, num_tokens: int, event: Callable[[], object] = lambda: None
) -> tuple[tuple[int, ...], str | None]:
    """The reply's tokens and why it isn't guided, when something happens after so many of its tokens."""
    caller = desk.submit(request, is_streamed=True)
    while sum(len(piece.ids) for piece in caller.pieces) < num_tokens:
        desk.engine.step()
    event()
    desk.drain()
    return caller.generated.ids, caller.generated.reason


def test_a_refit_changes_no_reply_that_is_being_written(kit: Kit) -> None:
    """The next request has the new head, at once."""
    old = Guidance(np.array([4.0, -4.0, 2.0]), 3.0, 1, "ada")
    new = replace(old, weights=-old.weights, revision=2)
    desk = Desk(kit.models(), 2, steers=[_endless(kit)])
    requests = [Request(HELLO, Options(8), guidance) for guidance in (old, new)]
    alone = [_after(Desk(kit.models(), 2, steers=[_endless(kit)]), request, 0)[0] for request in requests]
    newer: list[Caller] = []
    ids, _ = _after(desk, requests[0], 3, lambda: newer.append(desk.submit(requests[1])))
    assert [ids, newer[0].generated.ids] == alone
    assert alone[0] != alone[1]  # control: it would show
    assert leftovers(desk.engine) == []


@pytest.mark.parametrize("num_tokens", [0, 1, 4])
def test_an_erased_persons_reply_goes_on_plain(kit: Kit, num_tokens: int) -> None:
    """From the next token on it is written without a head, and says why; nothing is left of the person."""
    guided = Request(HELLO, Options(8), Guidance(np.array([4.0, -4.0, 2.0]), 3.0, 1, "ada"))
    desk = Desk(kit.models(), 2, steers=[_endless(kit)])
    whole, why = _after(desk, guided, num_tokens)
    assert why is None

    def erase() -> None:
        desk.engine.forget("ada")
        assert not desk.engine._chain.tilt.rows._bank.weights.any()
        assert not desk.engine._chain.tilt._merged.any()

    ids, why = _after(desk, guided, num_tokens, erase)
    plain_desk = Desk(kit.models(), 2, steers=[_forced(whole[:num_tokens]), _endless(kit)])
    plain, _ = _after(plain_desk, replace(guided, guidance=None), 0)
    assert (ids, why) == (plain, "forgotten")
    assert ids != whole  # control: she would have been felt
    assert leftovers(desk.engine) == []


def _forced(ids: Sequence[int]) -> Steer:
    """A steer that writes these tokens first."""

    def force(logits: Tensor, step: Step) -> Tensor:
        for row, index in enumerate(step.index.tolist()):
            if index < len(ids):
                logits = logits.index_put((torch.tensor(row), torch.tensor(ids[index])), torch.tensor(1e4))
        return logits

    return force


def test_an_erased_persons_waiting_request_never_uses_their_head(kit: Kit) -> None:
    """Who is erased while their request waits is answered plainly, and their weights don't come back."""
    guided = Request(HELLO, Options(6), Guidance(np.array([4.0, -4.0, 2.0]), 3.0, 1, "ada"))
    desk = Desk(kit.models(), 1)
    first, waits = desk.submit(Request(CAT, Options(4))), desk.submit(guided)
    another = desk.submit(replace(guided, guidance=replace(guided.guidance, user="bea")))
    desk.engine.step()
    desk.engine.forget("ada")
    desk.drain()
    (plain,) = Desk(kit.models(), 1).serve([replace(guided, guidance=None)])
    assert (waits.generated.ids, waits.generated.reason) == (plain.ids, "forgotten")
    assert first.generated.reason == "no_answers"
    assert another.generated.guided
    assert another.generated.ids != plain.ids  # control
    assert weights_of(desk.engine._chain.tilt.rows._bank, WeightKey("ada", 0, 1)) is None
