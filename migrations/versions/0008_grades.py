"""Answers "much better" and "a little better", and whether they were offered where a question was shown."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

PLAIN = ("a", "b", "tie", "neither", "skip")
GRADES = ("a+", "b+", "a++", "b++")
TIMES = {"answered_at", "undone_at", "shown_at"}
SWITCHES = {"swapped", "graded"}
UNSEALED = {"answers": {"id", "checksum"}, "presentations": {"checksum", "prompt", "a", "b"}}


def upgrade() -> None:
    _allow(*PLAIN, *GRADES)
    # rows that are there aren't graded, and a checksum leaves out what isn't
    op.add_column("presentations", sa.Column("graded", sa.Boolean(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Leave the grades out; a row that its checksum doesn't fit stays damaged."""
    for row in _select("answers", f"choice IN ({_quoted(*GRADES)})"):
        _reseal("answers", row, row | {"choice": row["choice"][0]})
    for row in _select("presentations", "graded"):
        _reseal("presentations", row, {name: value for name, value in row.items() if name != "graded"})
    op.drop_column("presentations", "graded")
    _allow(*PLAIN)


def _select(table: str, condition: str) -> list[dict[str, Any]]:
    return [dict(row) for row in op.get_bind().exec_driver_sql(f"SELECT * FROM {table} WHERE {condition}").mappings()]


def _reseal(table: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    is_sound = before["checksum"] == _checksum(table, before)
    values = {name: after[name] for name in ("choice",) if name in after}
    values["checksum"] = _checksum(table, after) if is_sound else ""
    names = ", ".join(f"{name} = :{name}" for name in values)
    op.get_bind().execute(sa.text(f"UPDATE {table} SET {names} WHERE id = :id"), values | {"id": before["id"]})


def _allow(*choices: str) -> None:
    with op.batch_alter_table("answers") as batch:
        batch.drop_constraint(op.f("ck_answers_choice"), type_="check")
        batch.create_check_constraint(op.f("ck_answers_choice"), f"choice IN ({_quoted(*choices)})")


def _quoted(*choices: str) -> str:
    return ", ".join(f"'{choice}'" for choice in choices)


# What the code's own checksum was when this revision was written.


def _checksum(table: str, row: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    try:
        for name in sorted(row.keys() - UNSEALED[table]):
            content = _content(name, row[name])
            digest.update(f"{name} {len(content)} ".encode() + content)
    except (TypeError, ValueError):
        return ""
    return digest.hexdigest()


def _content(name: str, value: Any) -> bytes:  # noqa: ANN401 - whatever a damaged column holds
    if name in TIMES and value is not None:
        return b"t" + datetime.fromisoformat(str(value)).replace(tzinfo=UTC).isoformat().encode()
    if isinstance(value, bytes):
        return b"b" + value
    if isinstance(value, str):
        return b"s" + value.encode("utf-8", "surrogateescape")
    if isinstance(value, float):
        return b"f" + repr(value + 0.0).encode()
    return b"j" + json.dumps(bool(value) if name in SWITCHES else value).encode()
