"""Everything that is stored of one person, table by table, as plain JSON values."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Boolean, Column, select, type_coerce
from sqlalchemy.orm import Session
from sqlalchemy.types import NullType

from personalign.errors import StoreError
from personalign.store.records import decode
from personalign.store.tables import USER_KEY, Json, Table, UserRow, UtcDateTime


def export_person(session: Session, user: str) -> dict[str, Any]:
    """Read every row with this user's key; a table that is added later is exported without a change here.

    What can't be read is exported as it is stored.
    """
    tables: dict[str, list[dict[str, Any]]] = {}
    for table in Table.metadata.sorted_tables:
        key = table.columns.get(USER_KEY) if table.name != UserRow.__tablename__ else table.columns["id"]
        if key is not None:
            stored = [type_coerce(column, NullType()).label(column.name) for column in table.columns]
            rows = session.execute(select(*stored).where(key == user).order_by(*table.primary_key)).mappings()
            tables[table.name] = [{name: _plain(table.columns[name], row[name]) for name in row} for row in rows]
    return {"user": user, "tables": tables}


def _plain(column: Column[Any], value: Any) -> object:  # noqa: ANN401 - whatever a damaged column holds
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    try:
        return _read(column, value)
    except (StoreError, TypeError, ValueError, RecursionError):
        return value.hex() if isinstance(value, bytes) else value


def _read(column: Column[Any], value: Any) -> object:  # noqa: ANN401 - likewise
    if isinstance(value, bytes):
        return decode(value, (len(value) // 8,)).tolist()
    if isinstance(column.type, UtcDateTime) and value is not None:
        return datetime.fromisoformat(value).replace(tzinfo=UTC).isoformat()
    if isinstance(column.type, Json):
        plain = json.loads(value)
        json.dumps(plain, ensure_ascii=False).encode()  # refuses half a surrogate pair, which isn't text
        return plain
    return bool(value) if isinstance(column.type, Boolean) and value in {0, 1} else value
