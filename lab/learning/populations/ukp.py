"""UKPConvArg1: which of two arguments convinces more, by paid strangers; a shared judgement rather than a taste."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lab.learning.populations.texts import features
from lab.learning.populations.votes import Votes, numbered, read_lines

FOLDER = "ukpconvarg1"


def load(data: Path) -> Votes:
    """Read the votes; a topic is a prompt, because its arguments meet each other only.

    Raises:
        MissingData: the set isn't there.
    """
    arguments = read_lines(data / FOLDER / "arguments.jsonl")
    votes = sorted(read_lines(data / FOLDER / "votes.jsonl"), key=lambda vote: str(vote["time"]))
    place = {argument["id"]: i for i, argument in enumerate(arguments)}
    phi = features([""] * len(arguments), [argument["text"] for argument in arguments])
    left, right = ([place[vote[side]] for vote in votes] for side in ("a", "b"))
    user = numbered([vote["user"] for vote in votes])
    return Votes(
        user,
        user,
        numbered([vote["topic"] for vote in votes]),
        phi[left] - phi[right],
        np.array([vote["choice"] for vote in votes]),
    )
