"""Everybody's profile at once: ``fit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from personalign.cli.options import AsJson, BasisPath, Device, Model, StoreUrl, read_settings
from personalign.cli.output import out, print_row
from personalign.cli.show import show_report
from personalign.errors import BasisError, InputError

if TYPE_CHECKING:
    from personalign.scale.fit import Sink, Source


def fit(
    answers: Annotated[
        str,
        typer.Argument(
            help="log in Parquet, JSONL or CSV: user, prompt, a, b and choice; or in Parquet user, choice, and the "
            "features left minus right as v, or as v_0, v_1, …; or the URL of a store whose people answered"
        ),
    ],
    file: Annotated[Path | None, typer.Option("--out", help="new Parquet file of the profiles")] = None,
    store: StoreUrl = None,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="who works: this machine's cores, or Ray")] = "local",
    work: Annotated[
        Path | None,
        typer.Option(
            help="folder of what an interrupted run has fitted",
            show_default="beside the result, or personalign-fit.work",
        ),
    ] = None,
    bad_rows: Annotated[float, typer.Option(min=0, max=1, help="share of the rows that may be left out")] = 0.1,
    model: Model = None,
    basis: BasisPath = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Fit the profiles of all people in a log, or of a store, as if each had been asked, into a file or another store.

    It takes as much memory for a thousand people as for millions. If it is interrupted, run it again: it goes on where
    it was. Rows that can't be used are left out and counted by reason.

    With --json: people, answers, rows, refused (rows by reason), parts, resumed (parts of an earlier run), seconds,
    people_per_s, engine, out, and stored (written, answered_here: people left as they are because they answered or
    stated something in the store, erased: people left out because the store erased them).
    """
    from personalign.bundled import locate, no_basis
    from personalign.scale.fit import Ways, fit_people

    settings = read_settings()
    name = model or settings.model
    source = locate(name, basis, embedder=settings.embedder, device=device or settings.device)
    if source.basis is None:
        raise BasisError(no_basis(name))
    origin, (sink, folder) = _source(answers, store, settings.half_life_days), _sink(file, store)
    ways = Ways(source.basis, source.model, source.embedder, source.device)
    report = fit_people(origin, ways, sink, work or folder, engine, bad_rows)
    print_row(report.row(), as_json, show_report, out, report.row())


def _source(answers: str, sink: str | None, half_life_days: float | None) -> Source:
    from personalign.scale.files import LogFile
    from personalign.scale.stores import StoreSource, check_apart

    if "://" not in answers:
        return LogFile(Path(answers))
    check_apart(answers, sink or "")
    return StoreSource(answers, half_life_days)


def _sink(file: Path | None, store: str | None) -> tuple[Sink, Path]:
    """Where the profiles go, and the folder of work in progress."""
    from personalign.scale.files import ProfileFile
    from personalign.scale.stores import StoreSink

    if (file is None) == (store is None):
        raise InputError("expected --out FILE.parquet or --store URL, and one of them; say where the profiles go")
    if file is not None:
        return ProfileFile(file), file.with_name(f"{file.name}.work")
    assert store is not None, "one of them is given"
    return StoreSink(store), Path("personalign-fit.work")
