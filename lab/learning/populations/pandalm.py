"""PandaLM's test set: three annotators, the same for all pairs, who agree on 91 % of them; nothing personal is there.

Three people are no population, so an annotator's votes are dealt into sittings of some forty, each fitted as a person
of its own. All sittings of one annotator are held out together.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lab.learning.populations.texts import features
from lab.learning.populations.votes import Votes, numbered, read

FOLDER = "pandalm_testset"
NUM_ANNOTATORS, SITTING = 3, 40
CHOICES = np.array(["tie", "a", "b"])


def load(data: Path) -> Votes:
    """Read every annotator's votes, in sittings drawn by chance.

    Raises:
        MissingData: the set isn't there.
    """
    pairs = json.loads(read(data / FOLDER / "testset-v1.json"))
    prompts = [f"{pair['instruction']}\n{pair['input']}".strip() for pair in pairs]
    phi = features(prompts * 2, [str(pair[side]) for side in ("response1", "response2") for pair in pairs])
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(len(pairs)) for _ in range(NUM_ANNOTATORS)])
    annotator = np.repeat(np.arange(NUM_ANNOTATORS), len(pairs))
    verdicts = np.array([[pair[f"annotator{k + 1}"] for k in range(NUM_ANNOTATORS)] for pair in pairs])
    num_sittings = -(-len(pairs) // SITTING)
    return Votes(
        annotator * num_sittings + np.tile(np.arange(len(pairs)) // SITTING, NUM_ANNOTATORS),
        annotator,
        numbered(prompts)[order],
        (phi[: len(pairs)] - phi[len(pairs) :])[order],
        CHOICES[verdicts[order, annotator]],
    )
