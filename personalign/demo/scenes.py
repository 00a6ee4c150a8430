"""What the demo asks and shows on each bundled model: two people, prompts, and how replies are drawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from personalign.bundled import SMOLLM2_GENERATION, TINY
from personalign.demo.simulate import PROSE_TRAITS, SimulatedPerson, opposite_pair, pair_who_like
from personalign.messages import Conversation, Message
from personalign.options import OptionsDict, check_choice

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
