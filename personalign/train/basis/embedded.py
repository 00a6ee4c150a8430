"""Embeddings of many replies: each different one is read once, and kept in a folder, so that a killed run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from personalign.learn.features import Embed
from personalign.train.progress import track
from personalign.types import Message

ROWS = 512  # of a file


@dataclass(frozen=True)
class KeptEmbedder:
    """What embeds, with the files of what it has embedded; ``of`` names model and embedder."""

    embed: Embed
    folder: Path
    of: str

    def __call__(
        self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]
    ) -> Float[NDArray[np.float64], "n F"]:
        """Embed replies to their prompts, one row each."""
        keys = [json.dumps([list(prompt), reply]) for prompt, reply in zip(prompts, replies, strict=True)]
        first = {key: i for i, key in reversed([*enumerate(keys)])}
        distinct = sorted(first)
        blocks = [distinct[i : i + ROWS] for i in range(0, len(distinct), ROWS)]
        self.folder.mkdir(parents=True, exist_ok=True)
        found = np.vstack([self._block(block, first, prompts, replies) for block in track(blocks, "embeddings")])
        row = {key: i for i, key in enumerate(distinct)}
        return found[[row[key] for key in keys]]

    def _block(
        self,
        keys: Sequence[str],
        first: dict[str, int],
        prompts: Sequence[Sequence[Message]],
        replies: Sequence[str],
    ) -> NDArray[np.float64]:
        name = hashlib.sha256("\n".join([self.of, *keys]).encode()).hexdigest()[:16]
        path = self.folder / f"{name}.npy"
        if not path.exists():
            embedded = self.embed([prompts[first[key]] for key in keys], [replies[first[key]] for key in keys])
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                np.save(file, embedded, allow_pickle=False)
            partial.replace(path)
        return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
