"""What every stage of the training gets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workshop:
    """What every stage gets: the data, the place for checkpoints, and whether to compile."""

    data: Path
    work: Path
    compile_step: bool
