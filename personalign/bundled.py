"""The folder of the bundled model, and what a model's name stands for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from personalign.errors import BasisError

TINY = Path(__file__).parent / "zoo" / "tiny"


@dataclass(frozen=True)
class Source:
    """What a model's name stands for: what to load, its basis, and the experts that come with it."""

    model: str  # a path or a hub id
    basis: Path
    small: str | None = None  # the anti-expert, which the experts are adapters of
    experts: dict[str, Path] = field(default_factory=dict)


def locate(model: str, basis: str | Path | None = None) -> Source:
    """Resolve "tiny", a path or a hub id.

    Raises:
        BasisError: the model isn't the bundled one and no basis was named.
    """
    if model == "tiny":
        experts = {folder.name: folder for folder in sorted((TINY / "experts").glob("*")) if folder.is_dir()}
        return Source(str(TINY / "base"), Path(basis or TINY / "basis"), str(TINY / "small"), experts)
    if basis is None:
        raise BasisError(
            f"no basis was named for the model {model!r}, and only 'tiny' has a bundled one; pass basis=PATH, or make "
            f"one with: personalign basis bootstrap --model {model} --prompts FILE"
        )
    return Source(model, Path(basis))
