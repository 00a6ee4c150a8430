"""The database and what runs on it: doctor, db (upgrade, backup, restore, refit)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from personalign.cli.options import AsJson, BasisPath, Model, StoreUrl, open_service, open_store, read_settings
from personalign.cli.output import err, out, print_row
from personalign.cli.show import show_report

BackupPath = Annotated[Path, typer.Argument(help="file of the backup")]
PACKAGES = ("personalign", "torch", "transformers", "peft", "sqlalchemy", "alembic", "numpy")

db = typer.Typer(help="Look after the database.", no_args_is_help=True)


def doctor(store: StoreUrl = None, model: Model = None, basis: BasisPath = None, as_json: AsJson = False) -> None:
    """Say what runs here: versions, database, model and basis, and whether they fit together."""
    settings = read_settings()
    report = _examine(store or settings.store, model or settings.model, basis)
    print_row(report, as_json, show_report, out, report)


def _examine(store: str, model: str, basis: Path | None) -> dict[str, Any]:
    import platform
    from importlib.metadata import version

    from personalign.basis import Basis
    from personalign.bundled import locate
    from personalign.store import doctor

    source = locate(model, basis)
    loaded = None if source.basis is None else Basis.load(source.basis)
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "store": doctor.report(store),
        "basis": None
        if loaded is None
        else {"id": loaded.id, "axes": loaded.num_axes, "questions": len(loaded.bank), "model": loaded.model},
        "model": {"name": source.model, "is_local": Path(source.model).exists(), "experts": ", ".join(source.experts)},
    }


@db.command("upgrade")
def db_upgrade(store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Bring the database's schema up to date."""
    from personalign.store import schema

    revision = schema.upgrade(store or read_settings().store)
    print_row({"revision": revision}, as_json, out.print, f"schema {revision}")


@db.command("backup")
def db_backup(path: BackupPath, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Copy the database to a new file while it is in use, with the key and tombstones that belong to it."""
    with open_store(store) as opened:
        opened.backup(path)
    row = {"path": str(path.resolve()), "bytes": path.stat().st_size}
    print_row(row, as_json, out.print, f"{path}, {row['bytes']} bytes", soft_wrap=True)


@db.command("restore")
def db_restore(path: BackupPath, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Put a backup in the database's place; people who were erased since stay erased.

    Stop everything that uses the database first. A key that was revoked since is good again; revoke it anew.
    """
    from personalign.store import backup

    backup.restore(store or read_settings().store, path)
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
