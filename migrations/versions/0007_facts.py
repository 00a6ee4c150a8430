"""Facts about the file itself; tombstones are numbered by their place beside the database from here on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "facts",
        sa.Column("name", sa.String(16), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_facts")),
    )
    # places begin at 1; opening the store gives those that are beside it their places
    op.execute("UPDATE tombstones SET number = -number WHERE number > 0")


def downgrade() -> None:
    op.drop_table("facts")
