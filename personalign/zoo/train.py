"""Make everything the bundled model consists of: ``python -m personalign.zoo.train --data DIR``.

One stage per artefact; a stage whose artefact exists is passed over, a killed one continues from its
checkpoint. ``DIR`` holds the corpora named in ``corpus.py``, which also says where each is published.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from personalign.zoo.models import make_base, make_hotels, make_small, make_tokenizer
from personalign.zoo.preferences import make_basis
from personalign.zoo.workshop import Workshop

STAGES: dict[str, Callable[[Workshop], None]] = {
    "tokenizer": make_tokenizer,
    "base": make_base,
    "small": make_small,
    "hotels": make_hotels,
    "basis": make_basis,
}


def main(
    data: Annotated[Path, typer.Option(help="folder that holds corpora/")],
    stage: Annotated[list[str] | None, typer.Option(help="only these stages: " + ", ".join(STAGES))] = None,
    work: Annotated[Path, typer.Option(help="checkpoints and roll-outs")] = Path(".zoo"),
    compile_step: Annotated[
        bool, typer.Option("--compile", help="torch.compile the training step; needs a C++ compiler")
    ] = False,
) -> None:
    """Run the stages in order."""
    workshop = Workshop(data, work, compile_step)
    for name in stage or STAGES:
        STAGES[name](workshop)


if __name__ == "__main__":
    typer.run(main)
