"""Print the held-out user turns that quality is measured on: ``python -m lab.zoo.prompts --data DIR``.

They begin dialogues that no model was trained on and that the basis was neither tested nor calibrated on; the
hotels stand apart, for the expert. Redirect them to ``lab/quality/prompts.jsonl``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lab.zoo.dialogues import Dialogue, load_corpus
from lab.zoo.preferences import basis_prompts, user_turns
from personalign.types import Message

NUM_OTHERS, NUM_HOTELS = 100, 40


def held_out_prompts(data: Path) -> dict[str, list[tuple[Message, ...]]]:
    """User turns by domain, none of which the basis has met."""
    corpus, basis = load_corpus(data), basis_prompts(data)
    met = {prompt[0]["content"] for prompt in (*basis.held_out, *basis.dev)}

    def unmet(dialogues: list[Dialogue]) -> list[Dialogue]:
        return [dialogue for dialogue in dialogues if dialogue.turns[0] not in met]

    return {
        "others": user_turns(unmet(corpus.task_held_out), NUM_OTHERS),
        "hotels": user_turns(unmet(corpus.hotel_held_out), NUM_HOTELS),
    }


def main(data: Annotated[Path, typer.Option(help="folder that holds corpora/")]) -> None:
    """Print an object a line, the domain and the messages."""
    for domain, prompts in held_out_prompts(data).items():
        for prompt in prompts:
            typer.echo(json.dumps({"domain": domain, "messages": prompt}, ensure_ascii=False))


if __name__ == "__main__":
    typer.run(main)
