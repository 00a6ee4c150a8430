"""What people state about axes, and up to which statement a profile knows them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "statements",
        sa.Column("user_id", sa.String(128), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("axis", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("position", sa.Float(), nullable=True),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("stated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("checksum", sa.String(64), nullable=False),
        sa.CheckConstraint("kind IN ('set', 'said')", name=op.f("ck_statements_kind")),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_statements_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "number", name=op.f("pk_statements")),
    )
    op.add_column("profiles", sa.Column("stated", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.execute("DELETE FROM profiles WHERE stated IS NOT NULL AND standing = 0")  # they came from statements alone
    for row in op.get_bind().exec_driver_sql("SELECT * FROM profiles WHERE stated IS NOT NULL").mappings().all():
        values = {name: value for name, value in row.items() if name != "checksum"}
        is_sound = row["checksum"] == _checksum(values)
        sealed = _checksum({name: value for name, value in values.items() if name != "stated"}) if is_sound else ""
        statement = sa.text("UPDATE profiles SET checksum = :sealed WHERE user_id = :user AND basis_id = :basis")
        op.get_bind().execute(statement, {"sealed": sealed, "user": row["user_id"], "basis": row["basis_id"]})
    op.drop_column("profiles", "stated")
    op.drop_table("statements")


# What the code's own checksum was when this revision was written.


def _checksum(values: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name in sorted(values):
        content = _content(name, values[name])
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()


def _content(name: str, value: Any) -> bytes:  # noqa: ANN401 - whatever a column holds
    if name == "created_at":
        return b"t" + datetime.fromisoformat(str(value)).replace(tzinfo=UTC).isoformat().encode()
    if isinstance(value, bytes):
        return b"b" + value
    if isinstance(value, str):
        return b"s" + value.encode("utf-8", "surrogateescape")
    return b"f" + repr(value + 0.0).encode() if isinstance(value, float) else b"j" + json.dumps(value).encode()
