"""Each different reply is embedded once, ever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from personalign.train.basis.embedded import KeptEmbedder
from tests.train.crowd import embed

PROMPTS = [({"role": "user", "content": text},) for text in ("one", "two", "one", "one")]
REPLIES = ["a", "a", "b", "a"]


class Counting:
    """An embedder that counts what it reads, and may be stopped."""

    def __init__(self, most: int = 100) -> None:
        self.read, self.most = 0, most

    def __call__(self, prompts, replies) -> np.ndarray:
        if self.read + len(replies) > self.most:
            raise KeyboardInterrupt
        self.read += len(replies)
        return embed(prompts, replies)


def test_a_reply_is_embedded_once(tmp_path: Path) -> None:
    """To one prompt; the second call reads nothing, and both give what the embedder alone gives."""
    counting = Counting()
    kept = KeptEmbedder(counting, tmp_path, "model")
    first, second = (kept(PROMPTS, REPLIES) for _ in range(2))
    assert counting.read == 3
    assert np.array_equal(first, embed(PROMPTS, REPLIES))
    assert np.array_equal(second, first)


def test_another_model_reads_anew(tmp_path: Path) -> None:
    """What is kept is kept for one model and embedder."""
    for model, read in (("model", 3), ("other", 3), ("model", 0)):
        counting = Counting()
        KeptEmbedder(counting, tmp_path, model)(PROMPTS, REPLIES)
        assert counting.read == read


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """With the block that it hadn't finished."""
    with pytest.raises(KeyboardInterrupt):
        KeptEmbedder(Counting(most=2), tmp_path, "model", rows=2)(PROMPTS, REPLIES)
    counting = Counting()
    assert np.array_equal(KeptEmbedder(counting, tmp_path, "model", rows=2)(PROMPTS, REPLIES), embed(PROMPTS, REPLIES))
    assert counting.read == 1
