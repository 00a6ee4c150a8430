"""Who comes next and where: turns, slots, limits. No model runs here."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personalign.decode.request import Request
from personalign.decode.scheduler import DEFAULT_BUCKETS, Queue, Scheduler
from personalign.decode.seq import LIFE, Event, Seq, State
from personalign.errors import Overloaded
from tests.decode.tiny_models import make_kit, talk

Ask = Callable[[str, int], Seq]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """A person's request, with a number to know it by."""
    models, hello, outbox = make_kit("llama", tmp_path_factory.mktemp("llama")).models(), talk("hello")[0], []
    return lambda owner, number: Seq(models, Request(hello, user=owner), number, outbox.append)


def admitted(scheduler: Scheduler) -> list[Seq]:
    """Seat whoever may be seated, with nothing to read."""
    seated = list(scheduler.admit())
    for _, seq in seated:
        seq.enter("begin")
    return [r for _, r in seated]


def in_turn(ask: Ask, num_users: int, each: int) -> list[str]:
    """The order in which one slot serves people who all asked at the start."""
    scheduler = Scheduler(1, 10_000)
    for i in range(num_users):
        for k in range(each):
            scheduler.queue.add([ask(f"user{i}", k)])
    order = []
    while not scheduler.is_idle:
        order += [r.owner for r in admitted(scheduler)]
        scheduler.release(0)
    return order


def test_people_take_turns(ask: Ask) -> None:
    """Whoever asks for much waits behind whoever asks for little."""
    assert in_turn(ask, 3, 2) == ["user0", "user1", "user2"] * 2


def test_somebody_with_many_requests_delays_a_newcomer_by_one(ask: Ask) -> None:
    """A hundred requests of one person's are no queue for another."""
    scheduler = Scheduler(1, 1000)
    for k in range(100):
        scheduler.queue.add([ask("eager", k)])
    assert [r.number for r in admitted(scheduler)] == [0]
    scheduler.queue.add([ask("newcomer", 0)])
    scheduler.release(0)
    assert [r.owner for r in admitted(scheduler)] == ["eager"]  # who waited already
    scheduler.release(0)
    assert [r.owner for r in admitted(scheduler)] == ["newcomer"]


def _num_out_of_turn(ask: Ask, num_events: int) -> int:
    """How many of the seated weren't whose turn it was, by a plain model of turns."""
    scheduler, rng, out_of_turn = Scheduler(3, 100), random.Random(0), 0
    waiting: list[Seq] = []  # in order of arrival
    since: dict[str, int] = {}  # when somebody came to the end of the queue: was served, or began to wait
    for now in range(num_events):
        event = rng.choice(["submit", "submit", "submit", "cancel", "end", "step"])
        if event == "submit" and len(waiting) < 20:
            new = ask(rng.choice("aaabcde"), now)
            if not any(_user(r) == _user(new) for r in waiting):
                since[_user(new)] = now
            scheduler.queue.add([new])
            waiting.append(new)
        elif event == "cancel" and waiting:
            rng.choice(waiting).is_cancelled = True
        elif event == "end" and scheduler.running:
            scheduler.release(rng.choice(sorted(scheduler.running)))
        elif event == "step":
            assert scheduler.withdraw() == []
            waiting = [r for r in waiting if not r.is_cancelled]
            for k, seated in enumerate(admitted(scheduler)):
                user = min(map(_user, waiting), key=since.__getitem__)
                out_of_turn += seated is not next(r for r in waiting if _user(r) == user)
                waiting.remove(seated)
                since[_user(seated)] = now + k / 10
            assert not waiting or len(scheduler.running) == 3
            assert len(scheduler.queue) == len(waiting)
    return out_of_turn


def _user(reply: Seq) -> str:
    return reply.request.user


def test_the_one_served_longest_ago_is_next(ask: Ask) -> None:
    """Whoever asks, cancels and ends, of all who wait that one is next, and each person's requests in their order."""
    assert _num_out_of_turn(ask, 5000) == 0


def test_first_come_first_served_would_be_noticed(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: if everybody were the same person, turns would not be taken."""
    monkeypatch.setattr(Seq, "owner", "")
    assert _num_out_of_turn(ask, 500) > 10


def test_no_more_may_wait_than_there_is_room_for(ask: Ask) -> None:
    """What comes too much is refused at once, with what to do; there is room once somebody is served or leaves."""
    scheduler = Scheduler(2, 3)
    waiting = [ask(f"user{k}", k) for k in range(3)]
    for one in waiting:
        scheduler.queue.add([one])
    told = r"3 requests wait for 2 slots, and no more may; send it again later, or open personalign with larger slots="
    with pytest.raises(Overloaded, match=told):
        scheduler.queue.add([ask("bea", 0)])
    waiting[0].is_cancelled = True
    assert scheduler.withdraw() == []
    with pytest.raises(Overloaded, match="3 requests wait"):
        scheduler.queue.add([ask("bea", 0), ask("cleo", 0)])
    scheduler.queue.add([ask("bea", 0)])
    assert [r.owner for r in admitted(scheduler)] == ["user1", "user2"]
    assert len(scheduler.queue) == 1


def _refused(ask: Ask, others: list[str]) -> tuple[int, int]:
    """Of one person's 330 requests and then ten of each of the others, how many of whom are refused."""
    queue, refused = Queue(256, 32), Counter[bool]()
    for k, owner in enumerate(["eager"] * 330 + others * 10):
        try:
            queue.add([ask(owner, k)])
        except Overloaded:
            refused[owner == "eager"] += 1
    return refused[True], refused[False]


def test_one_person_leaves_room_in_the_queue(ask: Ask) -> None:
    """They alone are refused; under one name (the control) it is the others, too."""
    assert _refused(ask, [f"user{i}" for i in range(6)]) == (330 - 128, 0)
    assert _refused(ask, ["eager"] * 6)[0] == 330 - 128 + 60


def test_there_is_room_beside_several_who_take_all_they_can(ask: Ask) -> None:
    """After five who each ask until they are refused, there are places for eight newcomers."""
    queue = Queue(256, 32)
    for owner in "abcde":
        replies = iter([ask(owner, k) for k in range(300)])
        with pytest.raises(Overloaded, match="the rest of the queue is for others"):
            all(queue.add([reply]) is None for reply in replies)
    queue.add([ask(f"new{i}", 0) for i in range(8)])


def test_one_person_leaves_slots_free(ask: Ask) -> None:
    """With a hundred requests of one person's, a newcomer still gets a slot at once; alone in need of two, both."""
    scheduler = Scheduler(8, 1000)
    scheduler.queue.add([ask("eager", k) for k in range(100)])
    assert len(admitted(scheduler)) == 6
    scheduler.queue.add([ask("newcomer", 0)])
    assert [reply.owner for reply in admitted(scheduler)] == ["newcomer"]
    scheduler = Scheduler(2, 10)
    scheduler.queue.add([ask("ada", 0), ask("ada", 1)])
    assert len(admitted(scheduler)) == 2


def _served(ask: Ask, names: list[str], num_rounds: int = 1000) -> Counter[int]:
    """How often each of some callers is served, each of whom asks again when a reply of ten steps has ended."""
    scheduler, left, served = Scheduler(8, 1000), {}, Counter[int]()
    scheduler.queue.add([ask(name, i) for i, name in enumerate(names)])
    for _ in range(num_rounds):
        for slot, reply in scheduler.admit():
            reply.enter("begin")
            left[slot] = 10
            served[reply.number] += 1
        for slot in list(left):
            left[slot] -= 1
            if not left[slot]:
                again = scheduler.running[slot].number
                scheduler.release(slot)
                del left[slot]
                scheduler.queue.add([ask(names[again], again)])
    return served


def test_strangers_take_turns_of_their_own(ask: Ask) -> None:
    """Forty known people and forty who name nobody are served alike; strangers under one name aren't (the control)."""
    known = [f"user{i}" for i in range(40)]
    served = _served(ask, known + [""] * 40)
    assert max(served.values()) - min(served[i] for i in range(80)) <= 1
    served = _served(ask, known + ["stranger"] * 40)
    assert sum(served[i] for i in range(40, 80)) < sum(served[i] for i in range(40)) / 10


def test_any_thread_may_queue(ask: Ask) -> None:
    """Threads that add beside one that takes out lose nothing, and never exceed the places."""
    queue, taken, names = Queue(50, 4), [], [f"user{i}" for i in range(30)]
    asked = [[ask(name, k) for k in range(10)] for name in names]

    def add(replies: list[Seq]) -> None:
        for reply in replies:
            while True:
                try:
                    queue.add([reply])
                except Overloaded:
                    continue
                break

    with ThreadPoolExecutor(8) as pool:
        adding = [pool.submit(add, replies) for replies in asked]
        while not all(one.done() for one in adding) or len(queue):
            assert len(queue) <= 50
            if (reply := queue.pop({}, 4)) is not None:
                taken.append(reply)
    assert len(taken) == len(set(map(id, taken))) == 300


def test_the_cancelled_leave_wherever_they_are(ask: Ask) -> None:
    """Those who wait are gone with the next look; of those who run the slots are named."""
    scheduler = Scheduler(2, 10)
    replies = [ask("ada", k) for k in range(4)]
    for one in replies:
        scheduler.queue.add([one])
    admitted(scheduler)
    for one in (replies[1], replies[2]):
        one.is_cancelled = True
    assert scheduler.withdraw() == [1]
    scheduler.release(1)
    assert [r.number for r in admitted(scheduler)] == [3]
    assert len(scheduler.queue) == 0


def test_a_prompt_that_is_being_read_is_no_row_yet(ask: Ask) -> None:
    """A slot is read first and written when its prompt is read; both know it after a move."""
    scheduler = Scheduler(4, 10, buckets=(1, 2, 4))
    for k in range(3):
        scheduler.queue.add([ask("ada", k)])
    assert [slot for slot, _ in scheduler.admit()] == [0, 1, 2]
    assert (scheduler.slots("reading"), scheduler.slots("writing")) == ([0, 1, 2], [])
    scheduler.running[0].enter("begin")
    assert (scheduler.slots("reading"), scheduler.slots("writing")) == ([1, 2], [0])
    scheduler.release(1)
    assert list(scheduler.moves()) == [(2, 1)]
    assert (scheduler.slots("reading"), scheduler.slots("writing")) == ([1], [0])
    scheduler.release(1)
    assert (scheduler.slots("reading"), scheduler.num_rows) == ([], 1)


@pytest.mark.slow
@settings(max_examples=200)
@given(st.integers(1, 40), st.data())
def test_gaps_are_closed_only_where_that_pays(ask: Ask, num_slots: int, data: st.DataObject) -> None:
    """A step is over the smallest bucket that holds all, nobody is lost or doubled, and no move is idle."""
    scheduler = Scheduler(num_slots, num_slots)
    for k in range(num_slots):
        scheduler.queue.add([ask(f"user{k}", k)])
    everyone = {r.number for r in admitted(scheduler)}
    gone = data.draw(st.sets(st.integers(0, num_slots - 1), max_size=num_slots - 1))
    for slot in gone:
        scheduler.release(slot)
    before, rows = dict(scheduler.running), scheduler.num_rows
    moves = list(scheduler.moves())
    count = num_slots - len(gone)
    assert scheduler.num_rows == min([b for b in DEFAULT_BUCKETS if count <= b < num_slots], default=num_slots)
    assert {r.number for r in scheduler.running.values()} == everyone - gone
    assert not moves or scheduler.num_rows < rows
    assert {slot: r for slot, r in before.items() if slot not in dict(moves)}.items() <= scheduler.running.items()


def test_the_lowest_slots_are_filled_first(ask: Ask) -> None:
    """A step over the first few rows leaves nobody out."""
    scheduler, rng = Scheduler(8, 100), random.Random(0)
    for k in range(60):
        scheduler.queue.add([ask(f"user{k}", k)])
        list(scheduler.admit())
        if rng.random() < 0.6:
            scheduler.release(rng.choice(sorted(scheduler.running)))
        free = set(range(8)) - scheduler.running.keys()
        scheduler.queue.add([ask(f"user{k}", k)])
        assert [slot for slot, _ in scheduler.admit()][:1] == sorted(free)[:1]


@pytest.mark.parametrize("state", get_args(State))
def test_a_reply_moves_by_the_table_alone(ask: Ask, state: State) -> None:
    """An event that the table has leads where it says; any other one is refused, and changes nothing (the control)."""
    for event in get_args(Event):
        seq = ask("ada", 0)
        seq.state = state
        if event in LIFE[state]:
            seq.enter(event)
        else:
            with pytest.raises(AssertionError, match=f"no {event}"):
                seq.enter(event)
        assert seq.state == LIFE[state].get(event, state)
