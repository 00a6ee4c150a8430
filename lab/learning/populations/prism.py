"""PRISM, in part: first turns answered by several models, and which replies each person rated higher."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lab.learning.populations.texts import features
from lab.learning.populations.votes import Votes, numbered, read_lines

FOLDER = "prism_partial"


def load(data: Path) -> Votes:
    """Read the preferred pairs, either side first by a coin; near ties are left out.

    Raises:
        MissingData: the set isn't there.
    """
    turns = read_lines(data / FOLDER / "interactions.jsonl")
    replies = [(i, text) for i, turn in enumerate(turns) for text in turn["responses"]]
    phi = features([turns[i]["prompt"] for i, _ in replies], [text for _, text in replies])
    starts = np.cumsum([0] + [len(turn["responses"]) for turn in turns])
    pairs = [
        (i, starts[i] + won, starts[i] + lost) for i, turn in enumerate(turns) for won, lost in turn["preferred_pairs"]
    ]
    turn, winner, loser = np.array(pairs).T
    won_left = np.random.default_rng(0).random(len(pairs)) < 0.5
    user = numbered([turn["user"] for turn in turns])[turn]
    return Votes(
        user,
        user,
        numbered([turn["prompt"] for turn in turns])[turn],
        (phi[winner] - phi[loser]) * np.where(won_left, 1, -1)[:, None],
        np.where(won_left, "a", "b"),
    )
