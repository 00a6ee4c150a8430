"""Write the dialogues under ``corpora/`` with the bundled model: ``python tests/data/make_dialogues.py``.

Openings are our own, and say which service a dialogue is of; everything after them is sampled from ``tiny/base``,
the user's turns too. Dialogues are taken until every part of the split that tests look at has some.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lab.zoo.dialogues import Dialogue, render
from personalign.bundled import TINY

OPENINGS = {
    "RentalCars_1": "I need a car in {} next Friday.",
    "Restaurants_1": "Can you find me somewhere to eat in {}?",
    "Events_1": "Is there a concert in {} this weekend?",
    "Buses_1": "I'd like to take the bus to {}.",
    "Movies_1": "What is on at the cinemas in {}?",
    "Weather_1": "Will it rain in {} tomorrow?",
    "Hotels_1": "I want a hotel in {} for two nights.",
    "Hotels_4": "Please book me a room in {}.",
    "": "Have you ever been to {}?",
}
CITIES = (
    "San Jose",
    "Chicago",
    "London",
    "Paris",
    "Seattle",
    "New York",
    "Portland",
    "Berkeley",
    "Fresno",
    "Vancouver",
)
NUM_TURNS = 4
WANTED = {
    ("task", "train"): 12, ("task", "held_out"): 6, ("hotel", "train"): 3, ("hotel", "dev"): 2,
    ("hotel", "held_out"): 2, ("chat", "train"): 4, ("chat", "held_out"): 2,
}  # fmt: skip


def main() -> None:
    """Sample in rounds of ninety until nothing is wanting."""
    taken: list[tuple[str, Dialogue]] = []
    for seed in range(40):
        for dialogue in sample(seed):
            use = "hotel" if dialogue.is_hotel else "task" if dialogue.services else "chat"
            counts = Counter((use, d.part) for use, d in taken)
            if all(dialogue.turns) and counts[use, dialogue.part] < WANTED.get((use, dialogue.part), 0):
                taken.append((use, dialogue))
    assert Counter((use, d.part) for use, d in taken) == WANTED, "more rounds are needed"
    folder = Path(__file__).parent / "corpora"
    folder.mkdir(exist_ok=True)
    write(folder / "sgd_dialogues.jsonl", [d for use, d in taken if use != "chat"])
    write(folder / "self_dialogue.jsonl", [d for use, d in taken if use == "chat"])


def sample(seed: int) -> list[Dialogue]:
    """A dialogue from every opening in every city."""
    torch.manual_seed(seed)
    services = [service for service in OPENINGS for _ in CITIES]
    talks = [[opening.format(city)] for opening in OPENINGS.values() for city in CITIES]
    for turn in range(1, NUM_TURNS):
        for talk, reply in zip(talks, next_turns(talks, ("<|user|>", "<|assistant|>")[turn % 2]), strict=True):
            talk.append(reply)
    return [Dialogue((s,) if s else (), tuple(talk)) for s, talk in zip(services, talks, strict=True)]


def next_turns(talks: list[list[str]], role: str) -> list[str]:
    """What the model says next in that role."""
    tokenizer = AutoTokenizer.from_pretrained(TINY / "base")
    model = AutoModelForCausalLM.from_pretrained(TINY / "base", dtype=torch.float32)
    texts = [text + role for text in render(tokenizer, [Dialogue((), tuple(talk)).messages() for talk in talks])]
    prompt = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    written = model.generate(
        input_ids=prompt["input_ids"], attention_mask=prompt["attention_mask"],
        do_sample=True, temperature=0.8, top_k=0, max_new_tokens=48,
    )  # fmt: skip
    return [
        text.strip()
        for text in tokenizer.batch_decode(written[:, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    ]


def write(path: Path, dialogues: list[Dialogue]) -> None:
    """One JSON object a line, as the real corpora are."""
    rows = [{"services": list(d.services), "turns": list(d.turns)} for d in dialogues]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
