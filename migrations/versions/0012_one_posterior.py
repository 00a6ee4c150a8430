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
KEYS = {"answers": ("id",), "profiles": ("user_id", "basis_id")}
UNSEALED = {"id", "checksum"}
TIMES = {"answered_at", "undone_at", "created_at"}
BATCH = 1000


def upgrade() -> None:
    for table, figures in FIGURES.items():
        for key, row in _rows(table):
            _reseal(table, key, row, {name: value for name, value in row.items() if name not in figures})
    op.drop_index("ix_profiles_unjudged", table_name="profiles")
    for table, figures in FIGURES.items():
        for name in figures:
            op.drop_column(table, name)


def downgrade() -> None:
    """Leave the figures empty, as they are where nothing was judged yet."""
    for table, figures in FIGURES.items():
        for key, row in _rows(table):
            _reseal(table, key, row, row | dict.fromkeys(figures))
        for name in figures:
            op.add_column(table, sa.Column(name, sa.Float(), nullable=True))
    where = sa.text("gain IS NULL")
    op.create_index(
        "ix_profiles_unjudged", "profiles", ["basis_id", "user_id"], sqlite_where=where, postgresql_where=where
    )


def _rows(table: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Read rows in the order of their keys, with their keys."""
    names = KEYS[table]
    after = f"WHERE ({', '.join(names)}) > ({', '.join(f':{name}' for name in names)})"
    key: dict[str, Any] = {}
    while True:
        batch = sa.text(f"SELECT * FROM {table} {after if key else ''} ORDER BY {', '.join(names)} LIMIT {BATCH}")
        rows = [dict(row) for row in op.get_bind().execute(batch, key).mappings()]
        if not rows:
            return
        for row in rows:
            key = {name: row[name] for name in names}
            yield key, row


def _reseal(table: str, key: dict[str, Any], before: dict[str, Any], after: dict[str, Any]) -> None:
    """Write the other checksum; a row that its own doesn't fit stays damaged."""
    checksum = _checksum(after) if before["checksum"] == _checksum(before) else ""
    where = " AND ".join(f"{name} = :{name}" for name in key)
    statement = sa.text(f"UPDATE {table} SET checksum = :checksum WHERE {where}")
    op.get_bind().execute(statement, key | {"checksum": checksum})


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
        return b"t" + datetime.fromisoformat(str(value)).replace(tzinfo=UTC).isoformat().encode()
    if isinstance(value, bytes):
        return b"b" + value
    if isinstance(value, str):
        return b"s" + value.encode("utf-8", "surrogateescape")
    if isinstance(value, float):
        return b"f" + repr(value + 0.0).encode()
    return b"j" + json.dumps(value).encode()
