"""The database and what runs on it: doctor, db (upgrade, copy, backup, restore, refit)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress, track

from personalign.cli.options import AsJson, BasisPath, Device, Model, StoreUrl, open_service, open_store, read_settings
from personalign.cli.output import err, out, print_row
from personalign.cli.show import show_report
from personalign.errors import InputError

if TYPE_CHECKING:
    from personalign.basis import Basis
    from personalign.messages import Message

BackupPath = Annotated[Path, typer.Argument(help="file of the backup")]
PACKAGES = ("personalign", "torch", "transformers", "peft", "sqlalchemy", "alembic", "numpy")
TEST_TOKENS = 16
VISIT_S = 5.0

db = typer.Typer(help="Look after the database.", no_args_is_help=True)


def doctor(
    url: Annotated[str | None, typer.Option(help="address of a server, to see whether it answers")] = None,
    store: StoreUrl = None,
    model: Model = None,
    basis: BasisPath = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Say what runs here: versions, database, model, basis and device, and whether they fit together.

    A bundled model writes a few words plainly and steered, which have to differ: the one that is named, or else tiny.
    """
    if url is not None and not url.startswith(("http://", "https://")):
        raise InputError(f"--url is {url!r}, expected an address such as http://127.0.0.1:8000")
    settings = read_settings()
    place, name = device or settings.device, model or settings.model
    report = _examine(store or settings.store, name, basis)
    report |= {"self_test": _test(name, place), "server": None if url is None else _visit(url)}
    print_row(report, as_json, show_report, out, report)


def _examine(store: str, model: str, basis: Path | None) -> dict[str, Any]:
    import platform
    from importlib.metadata import version

    from personalign.basis import Basis
    from personalign.bundled import locate
    from personalign.store import upkeep

    source = locate(model, basis)
    loaded = None if source.basis is None else Basis.load(source.basis)
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "store": upkeep.report(store),
        "basis": None if loaded is None else _describe(loaded),
        "model": {"name": source.model, "is_local": Path(source.model).exists(), "experts": ", ".join(source.experts)},
    }


def _describe(basis: Basis) -> dict[str, Any]:
    """A basis, with the fingerprints of the model that it was made for."""
    prints = {f"fingerprint of the {part}": print_ for part, print_ in asdict(basis.fingerprints).items()}
    return {"id": basis.id, "axes": basis.num_axes, "questions": len(basis.bank), "model": basis.model} | prints


def _test(model: str, device: str) -> dict[str, Any]:
    """Write a few words for nobody, and for somebody who wants more of everything; what fails is told."""
    from personalign.bundled import BUNDLED
    from personalign.service import Personalign

    name = model if model in BUNDLED else "tiny"
    prompt: list[Message] = [{"role": "user", "content": "Hello! Can you help me find a place to eat?"}]
    try:
        with TemporaryDirectory() as folder, Personalign.open(f"sqlite:///{folder}/p.db", name, device=device) as p:
            p.set("somebody", **dict.fromkeys((axis.name for axis in p.basis.axes), 1.0))
            where, began = str(p.models.base.device), perf_counter()
            plain, steered = (p.chat(user, prompt, max_tokens=TEST_TOKENS) for user in ("nobody", "somebody"))
            seconds = round(perf_counter() - began, 2)
    except Exception as error:  # noqa: BLE001 - whatever is wrong here is what was asked for
        return {"model": name, "problem": f"{type(error).__name__}: {error}"}
    return {"model": name, "device": where, "differs": plain.ids != steered.ids, "seconds": seconds}


def _visit(url: str) -> dict[str, Any]:
    """Ask a server whether it is there and ready."""
    try:
        with _readiness(url) as answer:
            readiness: dict[str, Any] = json.load(answer)
            return {"url": url, "answers": True, "status": readiness["status"], "reasons": readiness["reasons"]}
    except OSError as error:
        return {"url": url, "answers": False, "problem": str(error)}
    except (ValueError, TypeError, KeyError):
        return {"url": url, "answers": True, "problem": "another server than personalign's answers there"}


def _readiness(url: str) -> IO[bytes]:
    """A server's own word, also where it is that it isn't ready."""
    from urllib.error import HTTPError
    from urllib.request import urlopen

    try:
        answer: IO[bytes] = urlopen(f"{url.rstrip('/')}/readyz", timeout=VISIT_S)  # noqa: S310 - it is http
    except HTTPError as error:
        return error
    return answer


@db.command("upgrade")
def db_upgrade(store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Bring the database's schema up to date."""
    from personalign.store import upkeep

    revision = upkeep.upgrade(store or read_settings().store)
    print_row({"revision": revision}, as_json, out.print, f"schema {revision}")


@db.command("copy")
def db_copy(
    source: Annotated[str, typer.Argument(help="URL of the database to copy")],
    target: Annotated[str, typer.Argument(help="URL of an empty one")],
    as_json: AsJson = False,
) -> None:
    """Copy a whole database into an empty one, such as from SQLite to Postgres, in one transaction.

    Whoever was erased stays erased, and links and keys stay good. What is written to the source meanwhile isn't copied.
    """
    from personalign.store import upkeep

    num_people = upkeep.copy(source, target, _watch)
    print_row({"people": num_people}, as_json, out.print, f"copied {num_people} people")


def _watch(steps: Iterator[int], total: int) -> Iterator[int]:
    """Show how many of the rows are copied."""
    with Progress(console=err) as progress:
        task = progress.add_task("copying rows", total=total)
        for num_rows in steps:
            progress.advance(task, num_rows)
            yield num_rows


@db.command("backup")
def db_backup(path: BackupPath, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Copy the database to a new SQLite file while it is in use, with the key and tombstones that belong to it."""
    with open_store(store) as opened:
        opened.backup(path)
    row = {"path": str(path.resolve()), "bytes": path.stat().st_size}
    print_row(row, as_json, out.print, f"{path}, {row['bytes']} bytes", soft_wrap=True)


@db.command("restore")
def db_restore(path: BackupPath, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Put a backup in the database's place; people who were erased since stay erased.

    Stop everything that uses the database first. A key that was revoked since is good again; revoke it anew.
    """
    from personalign.store import upkeep

    upkeep.restore(store or read_settings().store, path)
    print_row({"restored": str(path.resolve())}, as_json, out.print, f"restored {path}", soft_wrap=True)


@db.command("refit")
def db_refit(store: StoreUrl = None, model: Model = None, basis: BasisPath = None, as_json: AsJson = False) -> None:
    """Take all answers over to a new basis; if it is interrupted, run it again.

    Each person is one transaction. The texts they saw are measured anew and their answers fitted. What they have under
    the old basis stays.

    With --json: basis, people (refitted now), answers (their answers to questions), and behind (people with answers
    about texts that a basis of known items can't measure).
    """
    with open_service(store, model, basis) as p:
        refitted = [p.refit(user) for user in track(p.behind(), "refitting", console=err)]
        basis_id, behind = p.basis.id, len(p.behind())
    answers = [profile.answers for profile in refitted if profile is not None]
    row = {"basis": basis_id, "people": len(answers), "answers": sum(answers), "behind": behind}
    text = f"{len(answers)} people with {sum(answers)} answers refitted on {basis_id[:12]}"
    text += f"; {behind} have answered about other texts than its items" if behind else ""
    print_row(row, as_json, out.print, text)
