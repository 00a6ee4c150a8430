"""Keys of the server's callers, changes that count once, and who paused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('backend', 'operator')", name=op.f("ck_keys_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_keys_digest")),
    )
    op.create_table(
        "writes",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("request", sa.String(length=64), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_writes")),
    )
    op.create_index(op.f("ix_writes_expires_at"), "writes", ["expires_at"])
    op.add_column("users", sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Refuse where people paused: older code would serve them personally."""
    num_paused = op.get_bind().exec_driver_sql("SELECT count(*) FROM users WHERE paused_at IS NOT NULL").scalar()
    if num_paused:
        raise RuntimeError(f"found {num_paused} people who paused, whom an older version can't leave out; resume first")
    op.drop_column("users", "paused_at")
    op.drop_table("writes")
    op.drop_table("keys")
