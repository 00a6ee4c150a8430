"""The text the bundled model is made from: dialogues as chat messages, split and packed into rows.

Sources, as published (each is read from one JSONL file under ``DIR/corpora``, an object a line with the lists
``services``, empty or missing for chit-chat, and ``turns``, the user's first):

* Schema-Guided Dialogue, google-research-datasets/dstc8-schema-guided-dialogue, CC BY-SA 4.0;
* the Self-Dialogue corpus, jfainberg/self_dialogue_corpus, BSD-3-Clause.

The hotel services are kept out of everything but the expert. Read ``train.py`` next.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from personalign.errors import InputError
from personalign.types import Message

HELD_OUT = 0.05
DEV = 0.05  # of the hotel dialogues, to choose a checkpoint and α
TOKENS_PER_STEP = 4096
ROW_LENGTH, LONG_ROW_LENGTH, LONG_SHARE = 256, 512, 0.25  # short rows cost less attention; the last quarter is long
CHAT_SHARE = 0.1  # of the rows of base and small
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
    def part(self) -> Literal["held_out", "dev", "train"]:
        """Where the dialogue belongs, by a hash of its text, so that no reordering moves it."""
        digest = hashlib.sha256("\n".join(self.turns).encode()).digest()
        share = int.from_bytes(digest[:4], "big") / 2**32
        return "held_out" if share < HELD_OUT else "dev" if share < HELD_OUT + DEV else "train"

    def messages(self, num_turns: int | None = None) -> list[Message]:
        """The first ``num_turns`` turns (all of them if None) as chat messages."""
        roles = ("user", "assistant")
        return [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(self.turns[:num_turns])]


@dataclass(frozen=True)
class Corpus:
    """The dialogues by use; the held-out ones were never trained on, nor hotels by any but the expert."""

    task: list[Dialogue]
    chat: list[Dialogue]
    hotel: list[Dialogue]
    hotel_dev: list[Dialogue]
    task_held_out: list[Dialogue]
    hotel_held_out: list[Dialogue]


def load_corpus(data: Path) -> Corpus:
    """Read and split the dialogues under ``data/corpora``; InputError where they are missing or malformed."""
    sgd = list(_read(data / "corpora" / "sgd_dialogues.jsonl"))
    chat = list(_read(data / "corpora" / "self_dialogue.jsonl"))
    task = [d for d in sgd if not d.is_hotel]
    hotel = [d for d in sgd if d.is_hotel]
    return Corpus(
        task=[d for d in task if d.part != "held_out"],
        chat=[d for d in chat if d.part != "held_out"],
        hotel=[d for d in hotel if d.part == "train"],
        hotel_dev=[d for d in hotel if d.part == "dev"],
        task_held_out=[d for d in task if d.part == "held_out"],
        hotel_held_out=[d for d in hotel if d.part == "held_out"],
    )


def _read(path: Path) -> Iterator[Dialogue]:
    if not path.is_file():
        raise InputError(f"there is no {path}; personalign/zoo/corpus.py says where the corpora are published")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield _dialogue(json.loads(line))
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                raise InputError(
                    f"{path}, line {number} is no dialogue ({error!r}); expected an object with the lists services and "
                    "turns, as personalign/zoo/corpus.py tells"
                ) from error


def _dialogue(row: dict[str, Any]) -> Dialogue:
    return Dialogue(
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
    texts = render(tokenizer, conversations)
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [np.asarray(row, dtype=np.int64) for row in rows]


def render(tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Sequence[Message]]) -> list[str]:
    """Whole conversations as text, by the chat template."""
    texts: list[str] = tokenizer.apply_chat_template(conversations, tokenize=False)  # type: ignore[arg-type, assignment]
    return texts


def rows_at(
    documents: Sequence[np.ndarray], others: Sequence[np.ndarray], share: float, num_steps: int, seed: int
) -> Callable[[int], Tensor]:
    """Give the token ids [B, T] of any step; each step has a seed of its own, so a resumed run sees the same rows.

    Args:
        documents: token ids of the dialogues to learn from.
        others: token ids of dialogues mixed in.
        share: of the rows that ``others`` give; they may be empty where it is 0.
        num_steps: of the whole training: its last quarter has long rows.
        seed: of the training.

    Raises:
        InputError: when a step is asked for that the dialogues are too few for.
    """

    def rows(step: int) -> Tensor:
        length = LONG_ROW_LENGTH if step >= num_steps * (1 - LONG_SHARE) else ROW_LENGTH
        step_seed = seed * 1_000_003 + step
        picks = np.random.default_rng(step_seed).random(TOKENS_PER_STEP // length) < share
        own, mixed_in = _pack(documents, length, step_seed), _pack(others, length, step_seed)
        try:
            packed = [next(mixed_in if is_other else own) for is_other in picks]
        except StopIteration:
            raise InputError(
                f"{len(documents)} dialogues and {len(others)} to mix in don't fill a step's {len(picks)} rows of "
                f"{length} tokens, expected enough for any step; pass a larger corpus"
            ) from None
        return torch.from_numpy(np.stack(packed))

    return rows


def _pack(documents: Sequence[np.ndarray], row_length: int, seed: int) -> Iterator[np.ndarray]:
    """Rows of whole documents in random order, the last of a row cut, until the documents run out."""
    row: list[np.ndarray] = []
    length = 0
    for i in np.random.default_rng(seed).permutation(len(documents)):
        row.append(documents[i])
        length += len(documents[i])
        if length >= row_length:
            yield np.concatenate(row)[:row_length]
            row, length = [], 0
