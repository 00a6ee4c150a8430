"""Embeddings of many replies: each different one is read once, and kept in a folder, so that a killed run goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from personalign.learn.axes import Embed
from personalign.train.kept import identity, keep
from personalign.train.progress import track
from personalign.types import Message


@dataclass(frozen=True)
class KeptEmbedder:
    """Embeds by ``embed`` and keeps the embeddings in files; ``name`` says which model and embedder they are of."""

    embed: Embed
    folder: Path
    name: str
    rows: int = 512  # of a file

    def __call__(
        self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]
    ) -> Float[NDArray[np.float64], "n F"]:
        """Embed replies to their prompts, one row each."""
        keys = [json.dumps([list(prompt), reply]) for prompt, reply in zip(prompts, replies, strict=True)]
        first = {key: i for i, key in reversed([*enumerate(keys)])}
        distinct = sorted(first)
        blocks = [distinct[i : i + self.rows] for i in range(0, len(distinct), self.rows)]
        embedded = []
        for block in track(blocks, "embeddings"):
            rows = [first[key] for key in block]
            path = self.folder / f"{identity(self.name, block)}.safetensors"
            embedded.append(keep(path, lambda: self._embedded(rows, prompts, replies))["embedded"])  # noqa: B023
        row = {key: i for i, key in enumerate(distinct)}
        return np.vstack(embedded)[[row[key] for key in keys]]

    def _embedded(
        self, rows: Sequence[int], prompts: Sequence[Sequence[Message]], replies: Sequence[str]
    ) -> dict[str, NDArray[np.float64]]:
        embedded = self.embed([prompts[i] for i in rows], [replies[i] for i in rows])
        return {"embedded": np.asarray(embedded, dtype=np.float64)}
