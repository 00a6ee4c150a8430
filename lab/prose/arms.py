"""The ways to write for a person that are compared: what steers, by which rule, and how many drafts are chosen from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from personalign.basis import Basis
from personalign.errors import InputError
from personalign.types import Array, Guidance, Profile

Asked = Literal[
    "pairs", "picks"
]  # which questions people answered: two replies, or the best and the worst of up to four
Weights = Literal["none", "own", "mean", "stranger", "length", "oracle"]


@dataclass(frozen=True)
class Arm:
    """One way to write. Drafts are chosen from by ⟨w, φ⟩ under the same weights, or by the person's hidden taste."""

    name: str
    weights: Weights = "own"
    rule: dict[str, Any] | None = None  # options of the request; None: the model's own draws
    in_words: bool = False  # whether the profile is also put into the system message
    drafts: int = 1
    chooser: Literal["weights", "taste"] = "weights"
    passes: float = 1.0  # of the model, for each token of the reply
    asked: Asked = "pairs"


def blocks(k: int, m: int) -> dict[str, Any]:
    """The options of blocks of ``m`` tokens, the best of ``k``."""
    return {"rule": "blocks", "num_siblings": k, "block_tokens": m}


TILT: dict[str, Any] = {"rule": "successor"}
LENGTHS = ("length", "reply_length")
STREAMING = {
    "tilt": "",
    "blocks.4.16": ".blocks.4.16",
    "tilt.picks": ".picks",
    "blocks.4.16.picks": ".blocks.4.16.picks",
}  # arms that can be streamed, and how others by their rule end
ARMS: tuple[Arm, ...] = (
    Arm("tilt", rule=TILT),
    Arm("length", "length", TILT),
    Arm("stranger", "stranger", TILT),
    Arm("words", "none", {}, in_words=True),
    Arm("blocks.4.16", rule=blocks(4, 16), passes=4),
    Arm("tilt.picks", rule=TILT, asked="picks"),
    Arm("length.picks", "length", TILT, asked="picks"),
    Arm("stranger.picks", "stranger", TILT, asked="picks"),
    Arm("blocks.4.16.picks", rule=blocks(4, 16), passes=4, asked="picks"),
    Arm("oracle_tilt", "oracle", TILT),
    Arm("best_of.4", drafts=4, passes=4),
    Arm("best_of.8", drafts=8, passes=8),
    Arm("oracle_best_of.8", "oracle", drafts=8, passes=8),
    Arm("oracle_chooser.8", drafts=8, chooser="taste", passes=8),
    Arm("mean", "mean", TILT),
    Arm("words_and_tilt", rule=TILT, in_words=True),
    Arm("words.picks", "none", {}, in_words=True, asked="picks"),
    Arm("words_and_tilt.picks", rule=TILT, in_words=True, asked="picks"),
    Arm("length.blocks.4.16", "length", blocks(4, 16), passes=4),
    Arm("stranger.blocks.4.16", "stranger", blocks(4, 16), passes=4),
    Arm("length.blocks.4.16.picks", "length", blocks(4, 16), passes=4, asked="picks"),
    Arm("stranger.blocks.4.16.picks", "stranger", blocks(4, 16), passes=4, asked="picks"),
    Arm("best_of.4.picks", drafts=4, passes=4, asked="picks"),
    Arm("tilt.half", rule=TILT | {"strength": 0.5}),
    Arm("tilt.double", rule=TILT | {"strength": 2.0}),
    Arm("oracle_blocks.4.16", "oracle", blocks(4, 16), passes=4),
    Arm("tilt_best_of.4", rule=TILT, drafts=4, passes=4),
    Arm("blocks.4.8", rule=blocks(4, 8), passes=4),
    Arm("blocks.4.32", rule=blocks(4, 32), passes=4),
    Arm("blocks.2.16", rule=blocks(2, 16), passes=2),
    Arm("blocks.8.16", rule=blocks(8, 16), passes=8),
)


def choose_arms(arms: Sequence[Arm], only: str) -> list[Arm]:
    """The arms named in ``only``, between commas; what is no name stands for all that begin so.

    Raises:
        InputError: no arm's name begins so.
    """
    names, parts = {arm.name for arm in arms}, only.split(",")
    beginnings = tuple(part for part in parts if part not in names)
    chosen = [arm for arm in arms if arm.name in parts or arm.name.startswith(beginnings)]
    if not chosen:
        raise InputError(f"no arm begins with {only!r}; expected one of {', '.join(arm.name for arm in arms)}")
    return chosen


@dataclass(frozen=True, eq=False)
class Served:
    """What a service knows of every person, and the weights that each arm steers them by."""

    basis: Basis
    profiles: Sequence[Profile]
    guidances: Sequence[Guidance]  # as ``chat`` makes them
    oracles: Sequence[Float[Array, "d"]]  # what the axes can say of each hidden taste

    def guidance(self, person: int, weights: Weights) -> Guidance | None:
        """What a request carries; other weights than a person's own are as large as theirs."""
        if weights == "none":
            return None
        own = self.guidances[person]
        if weights == "own":
            return own
        return replace(own, weights=self._other(person, weights), user="")  # no row of the bank is this person's

    def _other(self, person: int, weights: Weights) -> Float[Array, "d"]:
        own, others = self.guidances[person].weights, [g.weights for i, g in enumerate(self.guidances) if i != person]
        if weights == "stranger":
            return others[(7 * person + 3) % len(others)]
        if weights == "oracle":
            return self.oracles[person]
        is_length = np.array([axis.name in LENGTHS for axis in self.basis.axes])
        vector = np.mean(others, axis=0) if weights == "mean" else np.where(is_length, own, 0.0)
        return np.asarray(vector * np.linalg.norm(own) / max(np.linalg.norm(vector), 1e-9))
