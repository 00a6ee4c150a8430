"""Revisions: up and down with rows, refused when they aren't this code's, and found wherever the package lies."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from lab.schema import migrated
from personalign.errors import SchemaError, StoreError
from personalign.store import Shown, Store, schema, upkeep
from personalign.store.places import find
from personalign.store.sqlite import connections, engine
from personalign.store.sqlite.database import locate
from personalign.store.tables import Table
from personalign.types import Statement

ROOT = Path(__file__).parents[2]

ON_BOTH = True  # databases
HEAD = schema.HEAD
SECOND = """
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "next", "{head}", None, None


def upgrade() -> None:
    with op.batch_alter_table("users", recreate="{recreate}") as batch:
        batch.add_column(sa.Column("nickname", sa.Text(), nullable=True))
{extra}


def downgrade() -> None:
    with op.batch_alter_table("users", recreate="{recreate}") as batch:
        batch.drop_column("nickname")
"""


@pytest.fixture
def second(tmp_path: Path, monkeypatch, database: str):
    """Add a revision that rebuilds the table every other table refers to."""

    def add(extra: str = "") -> None:
        folder, recreate = tmp_path / "migrations", "always" if database == "sqlite" else "auto"
        shutil.copytree(ROOT / "migrations", folder, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "versions" / "next.py").write_text(SECOND.format(extra=extra, head=HEAD, recreate=recreate))
        monkeypatch.setattr(schema, "migrations_folder", lambda: folder)
        monkeypatch.setattr(schema, "HEAD", "next")

    return add


@pytest.fixture
def filled(store: Store, show, fit) -> None:
    """A row in every table."""
    store.add_user("bob")
    store.forget("bob")
    store.commit_answer("ada", show("q1").id, "a", fit)
    store.commit_statements("ada", "basis", {("length", "set"): Statement("length", -1.0)}, fit)
    store.note_failure(store.person("ada"), store.start_trial("basis", ("plain", "words")).id, ("words", "plain"), "a")
    store.keys.create("backend", "shop")
    with store.write_once("shop", "key", "consent"):
        store.add_user("ada", "yes")
    store.close()


def _counts(sql) -> dict[str, int]:
    return {table.name: sql(f"SELECT count(*) FROM {table.name}")[0][0] for table in Table.metadata.sorted_tables}


def _lines(statement: str) -> list[str]:
    return sorted(line.strip(", \t") for line in statement.splitlines())


def _differences(url: str) -> list[object]:
    with find(url).migrating() as connection:
        return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), Table.metadata)


def test_the_revision_stated_in_code_is_the_newest() -> None:
    """Opening a store trusts a constant; it is the head of the migrations."""
    assert schema.known_revisions()[-1] == schema.HEAD


def test_models_and_schema_agree(url: str, sql) -> None:
    """Nothing differs between the models and a migrated file; an added column would (the control)."""
    upkeep.upgrade(url)
    assert _differences(url) == []
    sql("ALTER TABLE users ADD COLUMN extra TEXT")
    assert len(_differences(url)) == 1


@pytest.mark.sqlite
def test_a_new_file_has_the_schema_that_all_revisions_make(url: str, tmp_path: Path) -> None:
    """Line by line; after a new revision, ``python -m lab.schema`` writes the snapshot anew.

    alembic puts a table's constraints into another order each time.
    """
    upkeep.upgrade(url)
    reader = engine.reader_engine(locate(url))
    with reader.connect() as connection:
        made = connections.statements(connection)
    reader.dispose()
    assert [_lines(each) for each in made] == [_lines(each) for each in migrated(tmp_path)]
    assert len(made) > len(Table.metadata.sorted_tables)


def test_up_down_up_with_a_row_in_every_table(filled, url: str, sql) -> None:
    """Every revision goes down and up again with rows in all tables, and ends in the models' schema."""
    assert all(_counts(sql).values())
    known = schema.known_revisions()
    for target in (*reversed(("base", *known[:-1])), *known):
        schema.migrate(find(url), target)
    assert upkeep.report(url)["schema"] == schema.HEAD
    assert _differences(url) == []


@pytest.mark.sqlite
def test_grades_are_left_out_on_the_way_down(store: Store, url: str, fit, sql) -> None:
    """Below their revision a graded answer is its side, sound and undamaged; a damaged one isn't sealed anew."""
    prompt = ({"role": "user", "content": "a taxi, please"},)
    for question, choice in (("q1", "a"), ("q2", "b++"), ("q3", "a")):
        shown = Shown(question, prompt, "left", "right", swapped=False, v=np.ones(3), graded=question != "q3")
        store.commit_answer("ada", store.present("ada", "basis", shown).id, choice, fit)
    assert sql("SELECT choice FROM answers ORDER BY id") == [("a+",), ("b++",), ("a",)]
    sql("UPDATE presentations SET kind = 'odd' WHERE question_id = 'q2'")
    store.close()
    for target in ("0007", schema.HEAD):
        schema.migrate(find(url), target)
    assert sql("SELECT choice FROM answers ORDER BY id") == [("a",), ("b",), ("a",)]
    with Store.open(url) as opened:
        tables = opened.export("ada")["tables"]
    assert [row.get("damaged", False) for row in tables["answers"]] == [False, False, False]
    assert {row["question_id"]: row.get("damaged", False) for row in tables["presentations"]} == {
        "q1": False,
        "q2": True,
        "q3": False,
    }


def test_who_paused_stays_paused_on_the_way_down(store: Store, url: str, sql) -> None:
    """Older code would serve them personally, so it isn't gone back to before they resume."""
    store.pause("ada", is_paused=True)
    store.close()
    with pytest.raises(RuntimeError, match="1 people who paused"):
        schema.migrate(find(url), "0012")
    assert sql("SELECT count(*) FROM users WHERE paused_at IS NOT NULL") == [(1,)]
    with Store.open(url) as opened:
        opened.pause("ada", is_paused=False)
    schema.migrate(find(url), "0012")


def test_a_batch_migration_keeps_every_row(filled, second, url: str, sql) -> None:
    """Rebuilding the parent of all tables, up and down, leaves each row count as it was."""
    second()
    before = _counts(sql)
    assert all(before.values())
    upkeep.upgrade(url)
    assert _counts(sql) == before
    assert sql("SELECT nickname FROM users") == [(None,)]
    schema.migrate(find(url), HEAD)
    assert _counts(sql) == before


@pytest.mark.sqlite
def test_foreign_keys_in_a_batch_migration_would_be_seen(filled, second, url: str, sql, monkeypatch) -> None:
    """The control: on an engine with foreign keys the same migration empties the children, without any error."""
    second()
    monkeypatch.setattr(connections, "migration_engine", engine.writer_engine)
    upkeep.upgrade(url)
    assert _counts(sql)["answers"] == 0


@pytest.mark.sqlite
def test_a_migration_that_orphans_rows_changes_nothing(filled, second, url: str, sql) -> None:
    """A revision that loses parents is refused as a whole."""
    second(extra='    op.execute("DELETE FROM users")')
    before = _counts(sql)
    with pytest.raises(StoreError, match="orphan"):
        upkeep.upgrade(url)
    assert _counts(sql) == before
    assert upkeep.report(url)["schema"] == HEAD


@pytest.mark.sqlite
def test_a_migration_without_a_page_to_spare_changes_nothing(filled, second, url: str, sql, monkeypatch) -> None:
    """In a full database an upgrade is refused as a whole, and the rows are still there; with pages it goes through."""
    second()
    before = _counts(sql)
    with closing(locate(url).connect("mode=rw")) as connection:
        connection.execute("VACUUM")  # revisions leave free pages
    pages = sql("PRAGMA page_count")[0][0]
    with monkeypatch.context() as full:
        full.setitem(engine.COMMON, "max_page_count", pages)
        with pytest.raises(StoreError, match="free some space"):
            upkeep.upgrade(url)
    assert (upkeep.report(url)["schema"], _counts(sql)) == (HEAD, before)
    assert sql("PRAGMA integrity_check") == [("ok",)]
    upkeep.upgrade(url)
    assert (upkeep.report(url)["schema"], _counts(sql)) == ("next", before)


def test_a_schema_that_is_behind_is_refused_with_the_command(filled, second, url: str, path: Path) -> None:
    """An older schema opens nowhere, changes nothing, and after the command it opens."""
    second()
    before = path.read_bytes()
    for call in (Store.open, lambda url: Store.open(url, create=False)):
        with pytest.raises(SchemaError, match="personalign db upgrade") as refused:
            call(url)
        assert refused.value.exit_code == 3
    assert path.read_bytes() == before
    upkeep.upgrade(url)
    Store.open(url).close()


def test_a_schema_that_is_ahead_is_refused_and_nothing_is_written(filled, url: str, path: Path, sql) -> None:
    """A schema of a newer release opens nowhere, not even to upgrade."""
    sql("UPDATE alembic_version SET version_num = '9999'")
    before = path.read_bytes()
    for call in (Store.open, upkeep.upgrade):
        with pytest.raises(SchemaError, match="install the release") as refused:
            call(url)
        assert refused.value.exit_code == 3
    assert path.read_bytes() == before


def test_a_store_that_is_missing_is_made_only_when_asked(url: str, path: Path) -> None:
    """Without ``create`` a missing file is an error, an empty one a missing schema, and neither is made."""
    for call in (lambda: Store.open(url, create=False), lambda: upkeep.report(url)):
        with pytest.raises(StoreError, match="there is no store"):
            call()
    assert not path.exists()
    path.touch()
    with pytest.raises(SchemaError, match="missing"):
        Store.open(url, create=False)
    assert upkeep.report(url)["schema"] is None
    Store.open(url).close()
    Store.open(url, create=False).close()


def test_an_upgrade_of_a_current_store_is_nothing(filled, url: str, sql) -> None:
    """Upgrading twice keeps every row."""
    before = _counts(sql)
    assert upkeep.upgrade(url) == schema.HEAD
    assert _counts(sql) == before


def test_migrations_run_through_one_door() -> None:
    """Alembic started by hand is sent to our command, which takes the lock."""
    from alembic import command

    with pytest.raises(StoreError, match="personalign db upgrade"):
        command.upgrade(schema._config(), "head")


def test_the_migrations_are_found_in_a_wheel(tmp_path: Path) -> None:
    """Laid out as the wheel does, inside the package, a store is made; without them the error says so."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "personalign", site / "personalign", ignore=shutil.ignore_patterns("zoo", "__pycache__"))
    opening = "import sys; from personalign.store import Store; Store.open(sys.argv[1]).close()"

    def open_there() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", opening, f"sqlite:///{tmp_path / 'wheel.db'}"]
        return subprocess.run(
            command, cwd=tmp_path, env={"PYTHONPATH": str(site)}, capture_output=True, text=True, check=False
        )

    assert "migrations were found neither" in open_there().stderr
    shutil.copytree(ROOT / "migrations", site / "personalign" / "store" / "migrations")
    done = open_there()
    assert done.returncode == 0, done.stderr


def test_the_wheel_carries_the_migrations() -> None:
    """The build puts them where the package looks for them."""
    assert '"migrations" = "personalign/store/migrations"' in (ROOT / "pyproject.toml").read_text()
