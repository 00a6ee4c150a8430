"""The main job from end to end: two opposite people are onboarded, and the same prompts answered for each.

The service runs over a fresh SQLite file, so nothing is left from an earlier run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from personalign.demo.people import (
    NAMES,
    NUM_PROMPTS,
    Met,
    PersonResult,
    fresh_service,
    judge,
    load_prompts,
    meet_pair,
)
from personalign.service import Personalign
from personalign.types import Message, Reply

SEED = 0
EXPERT = "hotels"
PROMPTS = (
    "I need a hotel in Paris for two nights.",
    "Can you find me a place to eat tonight?",
    "I'd like to rent a car please.",
    "What's the weather going to be like tomorrow?",
    "I want to listen to some music.",
    "Can you book a hotel room in London for my trip?",
)


@dataclass(frozen=True)
class Demo:
    """The people, their replies, and what was measured."""

    people: list[PersonResult]
    pair: list[Met]
    replies: list[dict[str, str]]  # "prompt", "base", a column per person, and one with the expert under it
    kl: dict[str, float]  # mean nats per token of each column
    tokens_per_s: float
    ms_to_first_steered_token: float
    seconds: float  # since the process started

    def to_json(self) -> dict[str, Any]:
        """The contract of ``personalign demo --json``."""
        return {
            "users": [asdict(person) for person in self.people],
            "replies": self.replies,
            "tokens_per_s": round(self.tokens_per_s, 1),
            "ms_to_first_steered_token": round(self.ms_to_first_steered_token, 2),
            "seconds": round(self.seconds, 2),
        }


def run_demo(device: str = "auto", progress: Callable[[str], None] = lambda _: None) -> Demo:
    """Run the main job in a folder that is removed afterwards; each step's name goes to ``progress``."""
    with fresh_service(device) as p:
        progress("loading the model")
        p.chat("nobody", _conversation("Hello."), max_tokens=4, expert=EXPERT)
        progress("asking two people")
        pair = meet_pair(p, SEED)
        started = time.perf_counter()
        next(iter(p.stream(pair[-1].name, _conversation(PROMPTS[0]))))
        first_token_s = pair[-1].last_answer_s + time.perf_counter() - started
        progress("answering")
        started = time.perf_counter()
        columns = _columns(p)
        seconds = time.perf_counter() - started
        num_tokens = sum(reply.usage.completion_tokens for replies in columns.values() for reply in replies)
        progress("asking their hidden tastes")
        people = judge(p, pair, load_prompts()[:NUM_PROMPTS])
        return Demo(
            people=people,
            pair=pair,
            replies=[
                {"prompt": prompt} | {name: replies[i].text for name, replies in columns.items()}
                for i, prompt in enumerate(PROMPTS)
            ],
            kl={name: sum(r.kl for r in replies) / len(replies) for name, replies in columns.items()},
            tokens_per_s=num_tokens / seconds,
            ms_to_first_steered_token=first_token_s * 1e3,
            seconds=time.time() - psutil.Process().create_time(),
        )


def _columns(p: Personalign) -> dict[str, list[Reply]]:
    """The replies of every column, in one batch for those without the expert and one for those with it."""
    conversations = [_conversation(prompt) for prompt in PROMPTS]
    users, n = {"base": "nobody", **dict(zip(NAMES, NAMES, strict=True))}, len(PROMPTS)
    plain = p.chat_many([user for user in users.values() for _ in PROMPTS], conversations * len(users))
    expert = p.chat_many([NAMES[0]] * n, conversations, expert=EXPERT)
    columns = {name: plain[i * n : (i + 1) * n] for i, name in enumerate(users)}
    return columns | {f"{NAMES[0]}+{EXPERT}": expert}


def _conversation(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]
