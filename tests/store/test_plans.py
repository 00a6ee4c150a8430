"""What a verb reads doesn't grow with the number of people: no statement walks a table that does."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event

from personalign.store import Shown, Statements, Store
from personalign.store.tables import Table
from personalign.types import Statement

GROWING = {
    "users",
    "presentations",
    "answers",
    "profiles",
    "statements",
    "tombstones",
    "comparisons",
    "writes",
}  # with people; bases and questions don't
WALK = re.compile(rf"SCAN ({'|'.join(GROWING)})\b")
PAIR = Shown("edit:pair", (), "left", "right", swapped=False, v=np.ones(3), kind="edit")
STATED: Statements = {("length", "set"): Statement("length", -1.0), ("warmth", "said"): None}


def ask(store: Store, user: str) -> str:
    return store.present(
        user, "basis", Shown("q9", (), "a", "b", swapped=False, v=np.ones(3)), person=store.person(user)
    ).id


def compare(store: Store, user: str) -> str:
    shown = Shown("trial:1", (), "a", "b", swapped=False, v=np.ones(3), kind="trial")
    trial = store.start_trial("basis", ("plain", "personal"))
    return store.present_comparison(store.person(user), "basis", trial.id, ("plain", "personal"), shown).id


def undo_once(store: Store, fit: Any) -> None:
    with store.write_once("shop", "key", "undo") as is_first:
        assert is_first
        store.undo_answer("ada", "basis", fit)


VERBS: dict[str, Callable[[Store, Any], object]] = {
    "know": lambda store, _: store.add_user("ada", "consent"),
    "choose": lambda store, _: (store.exposures("basis"), store.asked("ada", "basis"), store.state("ada", "basis")),
    "ask": lambda store, _: (ask(store, "ada"), store.open_presentation("ada", "basis")),
    "answer": lambda store, fit: store.commit_answer("ada", ask(store, "ada"), "a", fit),
    "feedback": lambda store, fit: store.commit_feedback("ada", "basis", PAIR, "a", fit, person=store.person("ada")),
    "state": lambda store, fit: store.commit_statements("ada", "basis", STATED, fit, person=store.person("ada")),
    "undo": lambda store, fit: store.undo_answer("ada", "basis", fit),
    "undo once": undo_once,
    "pause": lambda store, _: store.pause("ada", is_paused=True),
    "history": lambda store, _: store.history("ada"),
    "profile": lambda store, _: store.profile("ada", "basis"),
    "behind": lambda store, _: store.behind("second"),
    "refit": lambda store, fit: store.adopt("ada", "second", lambda shown: shown.v, fit),
    "compare": lambda store, _: (compare(store, "ada"), store.open_comparison("ada", "basis", "trial:1")),
    "choose an arm": lambda store, fit: store.commit_answer("ada", compare(store, "ada"), "a", fit),
    "report": lambda store, _: (
        compare(store, "ada"),
        store.comparisons(store.start_trial("basis", ["plain", "personal"]).id),
    ),
    "forget": lambda store, _: store.forget("ada"),
    "erased": lambda store, _: store.erased(["ada"], 0),
    "export": lambda store, _: store.export("ada"),
}


def walks(store: Store, run: Callable[[], object]) -> list[str]:
    """The steps of all statements of a verb that walk a whole table which grows."""
    statements: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        statements.append((statement, parameters))

    for engine in (store._connections.reader, store._connections.writer):
        event.listen(engine, "before_cursor_execute", note)
    run()
    for engine in (store._connections.reader, store._connections.writer):
        event.remove(engine, "before_cursor_execute", note)
    assert len(statements) > 1
    with store._connections.reader.connect() as connection:
        steps = [
            (statement, row[3])
            for statement, parameters in statements
            if statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT"))
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]
    return [
        f"{step}: {statement}" for statement, step in steps if step.split()[0] == "SCAN" and step.split()[1] in GROWING
    ]


@pytest.fixture
def lived(store: Store, show, fit) -> Store:
    """A store where everybody did something, and somebody was erased."""
    store.save_basis("second", "tiny", {})
    for user in ("ada", "ben", "eve"):
        store.add_user(user)
        store.commit_answer(user, show("q1", user=user).id, "a", fit)
    store.forget("eve")
    return store


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_walks_over_people(lived: Store, fit, verb: str) -> None:
    """Each step of each statement is a search by an index."""
    assert walks(lived, lambda: VERBS[verb](lived, fit)) == []


def test_a_walk_would_be_seen(lived: Store, fit, sql) -> None:
    """The control: without an index the same statements walk."""
    sql("DROP INDEX ix_answers_user_id_number")
    assert walks(lived, lambda: VERBS["answer"](lived, fit)) != []


def test_every_reference_is_indexed(lived: Store, sql) -> None:
    """The tables that refer to a row that goes are searched for it by an index over all of their rows."""
    for table in Table.metadata.sorted_tables:
        leading = {
            sql(f"PRAGMA index_info({name})")[0][2]
            for _, name, _, _, is_partial in sql(f"PRAGMA index_list({table.name})")
            if not is_partial
        }
        for key in table.foreign_keys:
            if key.column.table.name in GROWING:  # bases are never deleted
                assert key.parent.name in leading, f"{table.name}.{key.parent.name}"
