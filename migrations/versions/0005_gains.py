"""How much better a person's profile predicted each answer than everybody's did, and each profile's sum."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("answers", sa.Column("gain", sa.Float(), nullable=True))
    op.add_column("profiles", sa.Column("gain", sa.Float(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("profiles", "gain")
    op.drop_column("answers", "gain")
