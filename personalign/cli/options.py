"""The options that several verbs share, and what is opened by them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from personalign.service import Personalign
from personalign.settings import Settings

User = Annotated[str, typer.Argument(help="the person's id")]
StoreUrl = Annotated[str | None, typer.Option("--store", help="database URL", show_default="sqlite:///profiles.db")]
Model = Annotated[str | None, typer.Option("--model", help='"tiny", a path or a hub id', show_default="tiny")]
BasisPath = Annotated[Path | None, typer.Option("--basis", help="basis folder", show_default="the bundled one")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda …", show_default="auto")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object on stdout, all else on stderr")]


def open_service(
    store: str | None,
    model: str | None,
    basis: Path | None,
    device: str | None = None,
    reward: str | None = None,
    *,
    create: bool = True,
) -> Personalign:
    """Open what the options name, or else the environment."""
    settings = Settings()
    return Personalign.open(
        store=store or settings.store,
        model=model or settings.model,
        basis=basis,
        reward=reward or settings.reward,
        device=device or settings.device,
        pinned=settings.pinned,
        shadow=settings.shadow,
        half_life_days=settings.half_life_days,
        create=create,
    )
