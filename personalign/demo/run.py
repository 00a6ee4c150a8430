"""The main job from end to end: two opposite people are onboarded, and the same prompts answered for each.

The service runs over a fresh SQLite file, so nothing is left from an earlier run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from personalign.demo.people import NAMES, Met, PersonResult, bank_texts, fresh_service, judge, onboard_pair
from personalign.demo.scenes import SEED, Scene, scene_for
from personalign.options import OptionsDict
from personalign.service import Personalign
from personalign.types import Reply


@dataclass(frozen=True)
class Demo:
    """The people, their replies, and what was measured."""

    people: list[PersonResult]
    model: str
    pair: list[Met]
    replies: list[dict[str, str]]  # "prompt", "base", a column per person, and one with an expert if there is one
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


def run_demo(model: str = "tiny", device: str = "auto", progress: Callable[[str], None] = lambda _: None) -> Demo:
    """Run the main job in a folder that is removed afterwards; each step's name goes to ``progress``.

    Raises:
        InputError: the model is neither "tiny" nor "smollm2"; ModelError or BasisError where the latter isn't there.
    """
    scene = scene_for(model)
    with fresh_service(device, model) as p:
        progress(f"loading {model}")
        p.chat("nobody", scene.shown[0], max_tokens=4, expert=scene.expert)
        progress("asking two people")
        pair = onboard_pair(p, scene.make_pair(*bank_texts(p)), SEED)
        tilted: OptionsDict = {**scene.options, "rule": "successor"}  # the best of several comes as a whole
        started = time.perf_counter()
        next(iter(p.stream(pair[-1].name, scene.shown[0], **tilted)))
        first_token_s = pair[-1].last_answer_s + time.perf_counter() - started
        progress("answering the same prompts for each")
        started = time.perf_counter()
        columns = dict(_columns(p, scene))
        seconds = time.perf_counter() - started
        num_tokens = sum(reply.usage.completion_tokens for replies in columns.values() for reply in replies)
        progress("asking their hidden tastes")
        people = judge(p, pair, scene.judged, **scene.options)
        return Demo(
            people=people,
            model=model,
            pair=pair,
            replies=[
                {"prompt": prompt[-1]["content"]} | {name: _shown(replies[i]) for name, replies in columns.items()}
                for i, prompt in enumerate(scene.shown)
            ],
            kl={name: sum(r.kl for r in replies) / len(replies) for name, replies in columns.items()},
            tokens_per_s=num_tokens / seconds,
            ms_to_first_steered_token=first_token_s * 1e3,
            seconds=time.time() - psutil.Process().create_time(),
        )


def _columns(p: Personalign, scene: Scene) -> Iterator[tuple[str, list[Reply]]]:
    """The replies of every column, in one batch for those without the expert and one for those with it."""
    users, n = {"base": "nobody", **dict(zip(NAMES, NAMES, strict=True))}, len(scene.shown)
    everyone = [user for user in users.values() for _ in scene.shown]
    replies = p.chat_many(everyone, [*scene.shown] * len(users), **scene.options)
    for i, name in enumerate(users):
        yield name, replies[i * n : (i + 1) * n]
    if scene.expert is not None:
        options: OptionsDict = {**scene.options, "expert": scene.expert}
        yield f"{NAMES[0]}+{scene.expert}", p.chat_many([NAMES[0]] * n, [*scene.shown], **options)


def _shown(reply: Reply) -> str:
    """The text, with dots where the largest number of tokens cut it off."""
    return f"{reply.text} …" if reply.finish_reason == "length" else reply.text
