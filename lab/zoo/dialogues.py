"""The dialogues that the bundled model is made from and measured on, split by who may see them.

Sources, as published (each is read from one JSONL file under ``DIR/corpora``, an object a line with the lists
``services``, empty or missing for chit-chat, and ``turns``, the user's first):

* Schema-Guided Dialogue, google-research-datasets/dstc8-schema-guided-dialogue, CC BY-SA 4.0;
* the Self-Dialogue corpus, jfainberg/self_dialogue_corpus, BSD-3-Clause.

The hotel services are kept out of everything but the expert. ``zoo/corpus.py`` makes rows to train on of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerFast

from personalign.errors import InputError
from personalign.messages import Message, Role

HELD_OUT = 0.05
DEV = 0.05  # of the hotel dialogues, to choose a checkpoint and α


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
        roles: tuple[Role, Role] = ("user", "assistant")
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
        raise InputError(f"there is no {path}; lab/zoo/dialogues.py says where the corpora are published")
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield _dialogue(json.loads(line))
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                raise InputError(
                    f"{path}, line {number} is no dialogue ({error!r}); expected an object with the lists services and "
                    "turns, as lab/zoo/dialogues.py tells"
                ) from error


def _dialogue(row: dict[str, Any]) -> Dialogue:
    return Dialogue(
        services=tuple(row.get("services", ())),
        turns=tuple(turn.strip() for turn in row["turns"] if turn.strip()),
    )


def render(tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Sequence[Message]]) -> list[str]:
    """Whole conversations as text, by the chat template."""
    texts: list[str] = tokenizer.apply_chat_template(conversations, tokenize=False)  # type: ignore[arg-type, assignment]
    return texts
