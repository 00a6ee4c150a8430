"""How well each answer was predicted, from now on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("answers", sa.Column("loss", sa.Float(), nullable=True))


def downgrade() -> None:
    op.drop_column("answers", "loss")
