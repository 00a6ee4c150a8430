"""A change that is sent again counts once: whoever sends it, whenever a process dies, however many come at once."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event

from personalign.errors import InputError, QuestionError, StoreError
from personalign.store import Answer, Presentation, Shown, Store, once
from personalign.types import Gaussian, Statement
from tests.forked import PATIENCE_S
from tests.store.store_worker import is_known

ON_BOTH = True  # databases

Fit = Callable[[tuple[Answer, ...]], Gaussian]
Sql = Callable[..., list[tuple[Any, ...]]]
NUM_ANSWERS = 10
PAIR = Shown("edit:pair", (), "left", "right", swapped=False, v=np.ones(3), kind="edit")
CHANGES: dict[str, Callable[[Store, Presentation, Fit], object]] = {
    "answer": lambda store, shown, fit: store.commit_answer("ada", shown.id, "a", fit),
    "feedback": lambda store, _, fit: store.commit_feedback("ada", "basis", PAIR, "a", fit),
    "state": lambda store, _, fit: store.commit_statements(
        "ada", "basis", {("length", "set"): Statement("length", -1.0)}, fit
    ),
    "undo": lambda store, _, fit: store.undo_answer("ada", "basis", fit),
    "consent": lambda store, *_: store.add_user("ada", "yes"),
    "pause": lambda store, *_: store.pause("ada", is_paused=True),
    "forget": lambda store, *_: store.forget("ada"),
}


@pytest.fixture
def answered(store: Store, show: Callable[..., Presentation], fit: Fit) -> Store:
    """Somebody who gave some answers."""
    for number in range(NUM_ANSWERS):
        store.commit_answer("ada", show(f"q{number}").id, "a", fit)
    return store


def undo(store: Store, fit: Fit) -> int:
    """Take an answer back, and count the others."""
    store.undo_answer("ada", "basis", fit)
    return len(store.answers("ada", "basis"))


def send(store: Store, fit: Fit, key: str = "key", caller: str = "shop", request: str = "undo") -> int:
    """The same as a caller sends it."""
    with store.write_once(caller, key, request) as is_first:
        if is_first:
            undo(store, fit)
    return len(store.answers("ada", "basis"))


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_is_known_again(answered: Store, url: str, show, fit: Fit, sql: Sql, change: str) -> None:
    """In another process too: one row a change, with nothing in it that names a person or their texts."""
    shown = show("open")
    with answered.write_once("user:ada", "key", "ada does it") as is_first:
        assert is_first
        CHANGES[change](answered, shown, fit)
    with Store.open(url) as other, other.write_once("user:ada", "key", "ada does it") as is_first:
        assert not is_first
    rows = sql("SELECT digest, request FROM writes")
    assert len(rows) == 1
    assert all(re.fullmatch("[0-9a-f]{64}", text) for text in rows[0])


def test_what_is_sent_twice_counts_once(answered: Store, fit: Fit) -> None:
    """Another key and another caller count for themselves; without a key two are taken back (the control)."""
    assert [send(answered, fit) for _ in range(3)] == [9, 9, 9]
    assert send(answered, fit, key="another") == 8
    assert send(answered, fit, caller="another") == 7
    assert [undo(answered, fit) for _ in range(2)] == [6, 5]


def test_an_erasure_that_is_sent_again_spares_who_came_back(answered: Store) -> None:
    """The id started anew in between; under another key they are erased (the control)."""
    for key, is_spared in (("key", True), ("key", True), ("another", False)):
        with answered.write_once("shop", key, "forget") as is_first:
            if is_first:
                answered.forget("ada")
        if key == "key":
            answered.add_user("ada")
        assert is_known(answered, "ada") == is_spared


def test_another_request_under_the_same_key_is_refused(answered: Store, fit: Fit) -> None:
    """And changes nothing."""
    send(answered, fit)
    with pytest.raises(InputError, match="another request"):
        send(answered, fit, request="undo it all")
    assert len(answered.answers("ada", "basis")) == 9


@pytest.mark.parametrize("key", ["", "k" * 256, "two\nlines"], ids=["none", "long", "two lines"])
def test_a_key_that_can_be_none_is_refused(answered: Store, fit: Fit, key: str) -> None:
    """Before anything is changed; the longest one is taken (the control)."""
    with pytest.raises(InputError, match="1 to 255"):
        send(answered, fit, key=key)
    assert send(answered, fit, key="k" * 255) == 9


def test_a_change_that_fails_before_its_commit_may_be_sent_again(answered: Store, fit: Fit) -> None:
    """Nothing of it is there, neither change nor row; the next change in the same block carries the row."""

    def fail(_: object) -> None:
        raise StoreError("the disk is full")

    with answered.write_once("shop", "key", "undo"):
        event.listen(answered._connections.writer, "commit", fail)
        with pytest.raises(StoreError):
            undo(answered, fit)
        event.remove(answered._connections.writer, "commit", fail)
        assert len(answered.answers("ada", "basis")) == 10
        assert undo(answered, fit) == 9
    assert send(answered, fit) == 9


def test_a_change_that_fails_after_its_commit_counts(answered: Store, fit: Fit) -> None:
    """The error comes out, and sent again it isn't made again."""

    def send_and_fail() -> None:
        with answered.write_once("shop", "key", "undo"):
            undo(answered, fit)
            raise StoreError("later")

    with pytest.raises(StoreError, match="later"):
        send_and_fail()
    assert send(answered, fit) == 9


def test_what_changes_nothing_leaves_no_row(answered: Store, fit: Fit, sql: Sql) -> None:
    """The same answer again, the same consent, a pause of who paused, and an erasure of nobody."""
    shown = answered.answers("ada", "basis")[-1].presentation_id
    answered.add_user("ada", "yes")
    answered.pause("ada", is_paused=True)
    with answered.write_once("shop", "key", "all of it"):
        answered.commit_answer("ada", shown, "a", fit)
        answered.add_user("ada", "yes")
        answered.pause("ada", is_paused=True)
        answered.forget("nobody")
    assert sql("SELECT * FROM writes") == []
    send(answered, fit)
    assert len(sql("SELECT * FROM writes")) == 1  # the control


def test_a_block_carries_one_row(answered: Store, fit: Fit, sql: Sql) -> None:
    """With its first change; what comes later in it, and after it, is free."""
    with answered.write_once("shop", "key", "undo twice"):
        assert [undo(answered, fit) for _ in range(2)] == [9, 8]
    assert undo(answered, fit) == 7
    assert len(sql("SELECT * FROM writes")) == 1


@pytest.mark.parametrize(("is_keyed", "left"), [(True, 9), (False, 2)], ids=["a key", "control"])
def test_of_many_at_once_one_counts(answered: Store, fit: Fit, left: int, *, is_keyed: bool) -> None:
    """Eight threads are in the block before any of them makes the change; without a key each takes one back."""
    everyone = threading.Barrier(8, timeout=PATIENCE_S)

    def send_together(number: int) -> bool:
        with answered.write_once("shop", "key" if is_keyed else str(number), "undo") as is_first:
            everyone.wait()
            undo(answered, fit)
        return is_first

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(send_together, range(8)))
    assert len(answered.answers("ada", "basis")) == left


def test_the_slower_of_two_ends_quietly(answered: Store, fit: Fit) -> None:
    """Also where the faster one left it nothing to change, which alone would be an error (the control)."""
    with answered.write_once("shop", "key", "undo"):
        with answered.write_once("shop", "key", "undo"):
            undo(answered, fit)
        raise QuestionError("there is nothing to take back")
    assert len(answered.answers("ada", "basis")) == 9
    with pytest.raises(QuestionError), answered.write_once("shop", "alone", "undo"):
        raise QuestionError("there is nothing to take back")


def test_a_task_s_threads_carry_the_row(answered: Store, fit: Fit) -> None:
    """A block on an event loop holds for the threads that it waits for, and for no other task."""

    async def send_from_a_task(key: str) -> None:
        with answered.write_once("shop", key, "undo") as is_first:
            await asyncio.sleep(0)
            if is_first:
                await asyncio.to_thread(undo, answered, fit)

    async def send_both() -> None:
        await asyncio.gather(send_from_a_task("key"), send_from_a_task("another"))

    for _ in range(2):
        asyncio.run(send_both())
    assert len(answered.answers("ada", "basis")) == 8


def test_a_day_later_the_key_is_free(answered: Store, fit: Fit, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then it holds; after it the row goes when the next is written, so that they don't pile up."""
    start = datetime.now(UTC)
    send(answered, fit)
    for hours, left in ((23, 9), (25, 8)):
        monkeypatch.setattr(once, "now", lambda hours=hours: start + timedelta(hours=hours))
        assert send(answered, fit) == left
    assert len(sql("SELECT * FROM writes")) == 1


def test_a_kill_at_any_statement_counts_once(worker) -> None:
    """Kill -9 before every fourth statement and commit of an undo: sent again, one answer is taken back."""
    result = worker("kill_sent", stride=4)
    assert result["killed"] > 5
    assert result["wrong"] == 0


@pytest.mark.slow
def test_a_kill_at_each_statement_counts_once(worker) -> None:
    """Kill -9 before each of them."""
    result = worker("kill_sent")
    assert result["killed"] > 45  # beyond those of opening, which are 35
    assert result["wrong"] == 0


@pytest.mark.parametrize("trap", ["keyless", "broken"])
def test_a_kill_that_counts_twice_would_be_seen(worker, trap: str) -> None:
    """The control: without a key, and with the row in a transaction of its own, some kill lets two be taken back."""
    assert worker("kill_sent", first=35, stride=2, **{trap: 1})["wrong"] > 0
