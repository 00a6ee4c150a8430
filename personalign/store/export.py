"""Everything that is kept of one person, table by table, as plain JSON values."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from personalign.store import blobs
from personalign.store.tables import USER_KEY, Table, UserRow


def export_person(session: Session, user: str) -> dict[str, Any]:
    """Read every row with this user's key; a table that is added later is exported without a change here."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for table in Table.metadata.sorted_tables:
        key = table.columns.get(USER_KEY) if table.name != UserRow.__tablename__ else table.columns["id"]
        if key is not None:
            rows = session.execute(select(table).where(key == user).order_by(*table.primary_key)).mappings()
            tables[table.name] = [{name: _plain(value) for name, value in row.items()} for row in rows]
    return {"user": user, "tables": tables}


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return blobs.decode(value, (len(value) // 8,)).tolist()
    return value.isoformat() if isinstance(value, datetime) else value
