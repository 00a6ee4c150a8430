"""What a choice between two replies came from: a question, or feedback."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "presentations", sa.Column("kind", sa.String(length=16), nullable=False, server_default=sa.text("'question'"))
    )


def downgrade() -> None:
    # without it feedback looks like questions, and would be counted fully
    op.execute("DELETE FROM answers WHERE presentation_id IN (SELECT id FROM presentations WHERE kind <> 'question')")
    op.execute("DELETE FROM presentations WHERE kind <> 'question'")
    op.drop_column("presentations", "kind")
