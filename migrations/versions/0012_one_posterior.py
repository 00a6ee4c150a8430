"""No figures of how well answers were predicted: a profile is one posterior, which weighs them by itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

FIGURES = {"answers": ("loss", "gain"), "profiles": ("gain",)}
UNSEALED = {"id", "checksum"}
TIMES = {"answered_at", "undone_at", "created_at"}
BATCH = 1000


def upgrade() -> None:
    for table, figures in FIGURES.items():
        for number, row in _rows(table):
            _reseal(table, number, row, {name: value for name, value in row.items() if name not in figures})
    op.drop_index("ix_profiles_unjudged", table_name="profiles")
    for table, figures in FIGURES.items():
        for name in figures:
            op.drop_column(table, name)


def downgrade() -> None:
    """Leave the figures empty, as they are where nothing was judged yet."""
    for table, figures in FIGURES.items():
        for number, row in _rows(table):
            _reseal(table, number, row, row | dict.fromkeys(figures))
        for name in figures:
            op.add_column(table, sa.Column(name, sa.Float(), nullable=True))
    op.create_index("ix_profiles_unjudged", "profiles", ["basis_id", "user_id"], sqlite_where=sa.text("gain IS NULL"))


def _rows(table: str) -> Iterator[tuple[int, dict[str, Any]]]:
    last, batch = -1, f"SELECT rowid AS row_number, * FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT {BATCH}"
    while rows := op.get_bind().exec_driver_sql(batch, (last,)).mappings().all():
        for row in map(dict, rows):
            last = row.pop("row_number")
            yield last, row


def _reseal(table: str, number: int, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Write the other checksum; a row that its own doesn't fit stays damaged."""
    checksum = _checksum(after) if before["checksum"] == _checksum(before) else ""
    op.get_bind().exec_driver_sql(f"UPDATE {table} SET checksum = ? WHERE rowid = ?", (checksum, number))


# What the code's own checksum was when this revision was written.


def _checksum(row: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    try:
        for name in sorted(row.keys() - UNSEALED):
            if name != "stated" or row[name]:
                content = _content(name, row[name])
                digest.update(f"{name} {len(content)} ".encode() + content)
    except (TypeError, ValueError):
        return ""
    return digest.hexdigest()


def _content(name: str, value: Any) -> bytes:  # noqa: ANN401 - whatever a damaged column holds
    if name in TIMES and value is not None:
        return b"t" + datetime.fromisoformat(value).replace(tzinfo=UTC).isoformat().encode()
    if isinstance(value, bytes):
        return b"b" + value
    if isinstance(value, str):
        return b"s" + value.encode("utf-8", "surrogateescape")
    if isinstance(value, float):
        return b"f" + repr(value + 0.0).encode()
    return b"j" + json.dumps(value).encode()
