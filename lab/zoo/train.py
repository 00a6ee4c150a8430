"""Make everything the bundled model consists of: ``python -m lab.zoo.train --data DIR``.

One stage per artefact; a stage whose artefact exists is passed over, a killed one continues from its
checkpoint. ``DIR`` holds the corpora named in ``train/dialogues.py``, which also says where each is published.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lab.zoo.models import make_base, make_hotels, make_small, make_tokenizer
from lab.zoo.people import write_people
from lab.zoo.preferences import make_basis
from lab.zoo.workshop import Workshop
from personalign.errors import PersonalignError


class Stage(StrEnum):
    """What is made, each after those it builds on."""

    TOKENIZER = "tokenizer"
    BASE = "base"
    SMALL = "small"
    HOTELS = "hotels"
    BASIS = "basis"
    PEOPLE = "people"


MAKE: dict[Stage, Callable[[Workshop], None]] = {
    Stage.TOKENIZER: make_tokenizer,
    Stage.BASE: make_base,
    Stage.SMALL: make_small,
    Stage.HOTELS: make_hotels,
    Stage.BASIS: make_basis,
    Stage.PEOPLE: write_people,
}


def main(
    data: Annotated[Path, typer.Option(help="folder that holds corpora/")],
    stage: Annotated[list[Stage] | None, typer.Option(help="only these stages")] = None,
    work: Annotated[Path, typer.Option(help="checkpoints and roll-outs")] = Path(".zoo"),
    compile_step: Annotated[
        bool, typer.Option("--compile", help="torch.compile the training step; needs a C++ compiler")
    ] = False,
) -> None:
    """Run the stages in order."""
    workshop = Workshop(data, work, compile_step)
    try:
        for name in Stage:
            if not stage or name in stage:
                MAKE[name](workshop)
    except PersonalignError as error:
        typer.echo(f"personalign: {error}", err=True)
        raise typer.Exit(error.exit_code) from error


if __name__ == "__main__":
    typer.run(main)
