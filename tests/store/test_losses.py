"""How well an answer was predicted is kept with it, as it was told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from personalign.store import Answer, Shown, Store
from personalign.types import Profile


def judge(_: Profile | None, answers: tuple[Answer, ...]) -> tuple[Answer, ...]:
    """Give each answer that has no loss yet how many there were before it, in quarters."""
    return tuple(
        replace(answer, loss=number / 4) if answer.loss is None else answer for number, answer in enumerate(answers)
    )


def losses(store: Store) -> list[float | None]:
    return [answer.loss for answer in store.answers("ada", "basis")]


def test_a_loss_is_kept_with_its_answer(store: Store, show, fit) -> None:
    """With a question's answer and with feedback; None where nobody judged, and gone with an undone answer."""
    shown = Shown("edit:pair", (), "left", "right", swapped=False, v=np.ones(3), kind="edit")
    store.commit_answer("ada", show("q1").id, "a", fit)
    assert losses(store) == [None]
    store.commit_feedback("ada", "basis", shown, "a", fit, judge)
    store.commit_answer("ada", show("q2").id, "a", fit, judge)
    assert losses(store) == [0.0, 0.25, 0.5]
    store.undo_answer("ada", "basis", fit)
    assert losses(store) == [0.0, 0.25]
    assert [row["loss"] for row in store.export("ada")["tables"]["answers"]] == [0.0, 0.25, 0.5]
