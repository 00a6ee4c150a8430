"""How well an answer was foreseen is kept with it, as it was told."""

from __future__ import annotations

import numpy as np

from personalign.store import Shown, Store


def test_a_loss_is_kept_with_its_answer(store: Store, show, fit) -> None:
    """With a question's answer and with feedback; None where there was none, and gone with an undone answer."""
    store.commit_answer("ada", show("q1").id, "a", fit)
    shown = Shown("edit:pair", (), "left", "right", swapped=False, v=np.ones(3), kind="edit")
    store.commit_feedback("ada", "basis", shown, "a", fit, loss=0.25)
    store.commit_answer("ada", show("q2").id, "a", fit, loss=1.5)
    assert [answer.loss for answer in store.answers("ada", "basis")] == [None, 0.25, 1.5]
    store.undo_answer("ada", "basis", fit)
    assert [answer.loss for answer in store.answers("ada", "basis")] == [None, 0.25]
    assert [row["loss"] for row in store.export("ada")["tables"]["answers"]] == [None, 0.25, 1.5]
