"""The database and what runs on it: doctor, db."""

from __future__ import annotations

import typer

from personalign.cli.options import AsJson, BasisPath, Model, StoreUrl
from personalign.cli.output import out, print_json
from personalign.settings import Settings
from personalign.show import show_report

db = typer.Typer(help="Look after the database.", no_args_is_help=True)


def doctor(store: StoreUrl = None, model: Model = None, basis: BasisPath = None, as_json: AsJson = False) -> None:
    """Say what runs here: versions, database, model and basis, and whether they fit together."""
    from personalign.bench.doctor import examine

    report = examine(store or Settings().store, model or Settings().model, basis)
    print_json(report) if as_json else show_report(out, report)


@db.command("upgrade")
def db_upgrade(store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Bring the database's schema up to date."""
    from personalign.store import schema

    url = store or Settings().store
    schema.upgrade(url)
    revision = schema.current(url)
    print_json({"revision": revision}) if as_json else out.print(f"schema {revision}")
