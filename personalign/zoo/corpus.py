"""The text the bundled model is made from: dialogues as chat messages, split and packed into rows.

Sources, as published (each is read from one JSONL file under ``DIR/corpora``):

* Schema-Guided Dialogue, google-research-datasets/dstc8-schema-guided-dialogue, CC BY-SA 4.0;
* the Self-Dialogue corpus, jfainberg/self_dialogue_corpus, BSD-3-Clause.

The hotel services are kept out of everything but the expert. Read ``train.py`` next.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from personalign.types import Message

HELD_OUT = 0.05
SYSTEM_SHARE = 0.05
SYSTEM_TEXTS = (
    "You are a helpful assistant.",
    "You help people find and book things.",
    "Answer the user in a friendly way.",
    "You are a booking assistant. Be brief.",
)


@dataclass(frozen=True)
class Dialogue:
    """One conversation: its services (empty for chit-chat) and its alternating turns, user first."""

    services: tuple[str, ...]
    turns: tuple[str, ...]

    @property
    def is_hotel(self) -> bool:
        """Whether any hotel service takes part; base and small never see such a dialogue."""
        return any(service.startswith("Hotels") for service in self.services)

    @property
    def is_held_out(self) -> bool:
        """Whether the dialogue belongs to the held-out 5 %, by a hash of its text (stable under reordering)."""
        digest = hashlib.sha256("\n".join(self.turns).encode()).digest()
        return int.from_bytes(digest[:4], "big") < HELD_OUT * 2**32

    def messages(self, num_turns: int | None = None) -> list[Message]:
        """The first ``num_turns`` turns (all of them if None) as chat messages."""
        roles = ("user", "assistant")
        return [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(self.turns[:num_turns])]


@dataclass(frozen=True)
class Corpus:
    """The dialogues by use; the held-out ones were never trained on."""

    task: list[Dialogue]
    chat: list[Dialogue]
    hotel: list[Dialogue]
    task_held_out: list[Dialogue]
    hotel_held_out: list[Dialogue]


def load_corpus(data: Path) -> Corpus:
    """Read and split the dialogues under ``data/corpora``."""
    sgd = list(_read(data / "corpora" / "sgd_dialogues.jsonl"))
    chat = list(_read(data / "corpora" / "self_dialogue.jsonl"))
    task = [d for d in sgd if not d.is_hotel]
    hotel = [d for d in sgd if d.is_hotel]
    return Corpus(
        task=[d for d in task if not d.is_held_out],
        chat=[d for d in chat if not d.is_held_out],
        hotel=[d for d in hotel if not d.is_held_out],
        task_held_out=[d for d in task if d.is_held_out],
        hotel_held_out=[d for d in hotel if d.is_held_out],
    )


def _read(path: Path) -> Iterator[Dialogue]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield Dialogue(
                services=tuple(row.get("services", ())),
                turns=tuple(turn.strip() for turn in row["turns"] if turn.strip()),
            )


def encode(tokenizer: PreTrainedTokenizerFast, dialogues: Iterable[Dialogue], seed: int) -> list[np.ndarray]:
    """Token ids of whole dialogues through the chat template; a few carry a system message."""
    rng = random.Random(seed)
    conversations = []
    for dialogue in dialogues:
        messages = dialogue.messages()
        if rng.random() < SYSTEM_SHARE:
            messages.insert(0, {"role": "system", "content": rng.choice(SYSTEM_TEXTS)})
        conversations.append(messages)
    texts = tokenizer.apply_chat_template(conversations, tokenize=False)
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [np.asarray(row, dtype=np.int64) for row in rows]


def pack(documents: Sequence[np.ndarray], row_length: int, seed: int) -> Iterator[np.ndarray]:
    """Rows of ``row_length`` tokens, without end: each starts with a whole document, the last is cut.

    Every pass over the documents is a new shuffle, so what is cut in one pass is whole in another.
    """
    rng = np.random.default_rng(seed)
    row: list[np.ndarray] = []
    length = 0
    while True:
        for i in rng.permutation(len(documents)):
            row.append(documents[i])
            length += len(documents[i])
            if length >= row_length:
                yield np.concatenate(row)[:row_length]
                row, length = [], 0
