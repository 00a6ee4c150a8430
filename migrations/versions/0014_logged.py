"""What a log told of a person before they answered here."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("profiles", sa.Column("logged", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """Refuse where a profile rests on a log: older code would fit it to the answers here alone."""
    num_logged = op.get_bind().exec_driver_sql("SELECT count(*) FROM profiles WHERE logged IS NOT NULL").scalar()
    if num_logged:
        raise RuntimeError(f"found {num_logged} profiles that rest on a log too, which an older version would drop")
    op.drop_column("profiles", "logged")
