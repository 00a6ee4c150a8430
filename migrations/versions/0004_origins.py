"""What a presentation was copied from, so that answers can follow to another basis once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("presentations", sa.Column("origin", sa.String(length=32), nullable=True))


def downgrade() -> None:
    op.drop_column("presentations", "origin")
