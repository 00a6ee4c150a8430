"""The main job from end to end: two opposite people are onboarded, and the same prompts answered for each.

The service runs over a fresh SQLite file, so nothing is left from an earlier run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import psutil

from personalign.bundled import SMOLLM2_GENERATION, TINY
from personalign.demo.people import NAMES, Met, PersonResult, bank_texts, fresh_service, judge, onboard_pair
from personalign.demo.simulate import PROSE_TRAITS, SimulatedPerson, opposite_pair, pair_who_like
from personalign.messages import Conversation, Message
from personalign.options import OptionsDict, check_choice
from personalign.service import Personalign
from personalign.types import Reply

SEED = 0
NUM_PROMPTS = 20  # of those that are shipped with the toy
BRIEF = {"brevity": 1.0, "warmth": -0.4}  # the taste of the first person on SmolLM2


@dataclass(frozen=True, eq=False)
class Scene:
    """A demo on one model; its people are made with the prompts and replies of the questions."""

    model: str
    make_pair: Callable[[Sequence[Conversation], Sequence[str]], tuple[SimulatedPerson, SimulatedPerson]]
    shown: tuple[Conversation, ...]
    judged: tuple[Conversation, ...]
    options: OptionsDict
    expert: str | None  # a column of its own has it under the first person's reward


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


def scene_for(model: str) -> Scene:
    """The scene on "tiny" or "smollm2"; ``InputError`` for another model."""
    return {"tiny": _tiny, "smollm2": _smollm2}[check_choice("the demo's model", model, ("tiny", "smollm2"))]()


def load_prompts() -> list[tuple[Message, ...]]:
    """The held-out user turns that are shipped with the bundled model."""
    lines = (TINY / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return [tuple(json.loads(line)) for line in lines]


def _tiny() -> Scene:
    """Any two opposite people; the prompts to judge by are shipped with the model."""
    shown = (
        "I need a hotel in Paris for two nights.",
        "Can you find me a place to eat tonight?",
        "I'd like to rent a car please.",
        "What's the weather going to be like tomorrow?",
        "I want to listen to some music.",
        "Can you book a hotel room in London for my trip?",
    )
    judged = tuple(load_prompts()[:NUM_PROMPTS])
    return Scene("tiny", partial(opposite_pair, SEED), _conversations(shown), judged, {}, "hotels")


def _smollm2() -> Scene:
    """Somebody who likes brief and sober replies, and somebody who likes long and warm ones."""
    shown = (
        "How do I get better at remembering names?",
        "What should I cook tonight with eggs and potatoes?",
        "I have a job interview tomorrow and I'm nervous.",
        "Why is the sky blue?",
        "Give me an idea for my sister's birthday.",
        "How can I fall asleep faster?",
    )
    judged = (
        "What is a good way to start running?",
        "My houseplant has yellow leaves. What can I do?",
        "Tell me something interesting about octopuses.",
        "How do I say no to a friend without hurting them?",
        "What should I pack for a weekend by the sea?",
        "I moved to a new town and know nobody here.",
        "How does a refrigerator keep food cold?",
        "What's a simple way to save a little money each month?",
    )
    drawn = SMOLLM2_GENERATION
    system: Message = {"role": "system", "content": drawn.system}
    options: OptionsDict = {
        "rule": "best_of",  # tilted by its head, so small a model repeats itself
        "temperature": drawn.temperature,
        "top_p": drawn.top_p,
        "max_tokens": 80,
        "seed": SEED,
    }
    return Scene(
        "smollm2",
        lambda _, replies: pair_who_like(BRIEF, PROSE_TRAITS, replies),
        _conversations(shown, system),
        _conversations(judged, system),
        options,
        None,
    )


def _conversations(texts: tuple[str, ...], *before: Message) -> tuple[Conversation, ...]:
    return tuple((*before, {"role": "user", "content": text}) for text in texts)
