"""Where dialogues are: the real ones outside the project, and their small twin beside the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lab.zoo.dialogues import Corpus, load_corpus

TWIN = Path(__file__).parents[2] / "data"
REAL = Path(os.environ.get("PERSONALIGN_DATA") or Path(__file__).parents[4] / "shared" / "data")
needs_real_data = pytest.mark.skipif(
    not (REAL / "corpora" / "sgd_dialogues.jsonl").exists(), reason=f"no corpora/sgd_dialogues.jsonl under {REAL}"
)


@pytest.fixture(
    scope="session", params=[pytest.param(REAL, id="real", marks=needs_real_data), pytest.param(TWIN, id="twin")]
)
def data(request: pytest.FixtureRequest) -> Path:
    """The folder of the real corpora, where there is one, and that of the twin."""
    return request.param


@pytest.fixture(scope="session")
def corpus(data: Path) -> Corpus:
    return load_corpus(data)


@pytest.fixture(scope="session")
def twin() -> Corpus:
    return load_corpus(TWIN)
