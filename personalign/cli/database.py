"""The database and what runs on it: doctor, db (upgrade, backup, restore, refit)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from personalign.cli.options import AsJson, BasisPath, Model, StoreUrl, open_service
from personalign.cli.output import err, out, print_row
from personalign.cli.show import show_report

BackupPath = Annotated[Path, typer.Argument(help="the backup's path")]

db = typer.Typer(help="Look after the database.", no_args_is_help=True)


def doctor(store: StoreUrl = None, model: Model = None, basis: BasisPath = None, as_json: AsJson = False) -> None:
    """Say what runs here: versions, database, model and basis, and whether they fit together."""
    from personalign.cli.doctor import examine
    from personalign.settings import Settings

    report = examine(store or Settings().store, model or Settings().model, basis)
    print_row(report, as_json, show_report, out, report)


@db.command("upgrade")
def db_upgrade(store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Bring the database's schema up to date."""
    from personalign.settings import Settings
    from personalign.store import schema

    revision = schema.upgrade(store or Settings().store)
    print_row({"revision": revision}, as_json, out.print, f"schema {revision}")


@db.command("backup")
def db_backup(path: BackupPath, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Copy the database to a new file while it is in use, with the key and tombstones that belong to it."""
    from personalign.settings import Settings
    from personalign.store import Store

    with Store.open(store or Settings().store, create=False) as opened:
        opened.backup(path)
    row = {"path": str(path.resolve()), "bytes": path.stat().st_size}
    print_row(row, as_json, out.print, f"{path}, {row['bytes']} bytes", soft_wrap=True)


@db.command("restore")
def db_restore(path: BackupPath, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Put a backup in the database's place; everybody erased since stays erased. Stop what uses the database first."""
    from personalign.settings import Settings
    from personalign.store import Store

    url = store or Settings().store
    Store.restore(url, path)
    print_row({"restored": str(path.resolve())}, as_json, out.print, f"restored {path}", soft_wrap=True)


@db.command("refit")
def db_refit(store: StoreUrl = None, model: Model = None, basis: BasisPath = None, as_json: AsJson = False) -> None:
    """Take everybody's answers over to a new basis; stopped half-way, run it again.

    Each person is one transaction: what they saw is measured anew and fitted, and what they have under the old basis
    stays. With --json: basis, people (refitted now) and answers (theirs, to questions).
    """
    with open_service(store, model, basis) as p:
        people = answers = 0
        for user in track(p.behind(), "refitting", console=err):
            refitted = p.refit(user)
            people += refitted is not None
            answers += refitted.answers if refitted else 0
        basis_id = p.basis.id
    row = {"basis": basis_id, "people": people, "answers": answers}
    print_row(row, as_json, out.print, f"{people} people with {answers} answers refitted on {basis_id[:12]}")
