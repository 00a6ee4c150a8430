"""Picks: the replies behind the first two, and the choices of the best and the worst."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

PAIRS = ("a", "b", "tie", "neither", "skip", "a+", "b+", "a++", "b++")
PICKS = ("c", "d", "a>b", "a>c", "a>d", "b>a", "b>c", "b>d", "c>a", "c>b", "c>d", "d>a", "d>b", "d>c")


def upgrade() -> None:
    _allow(*PAIRS, *PICKS)
    op.add_column("presentations", sa.Column("others", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Refuse where there are picks: without one the rest of a person's file looks damaged."""
    num_picks = op.get_bind().exec_driver_sql("SELECT count(*) FROM presentations WHERE others IS NOT NULL").scalar()
    if num_picks:
        raise RuntimeError(f"found {num_picks} picks, which an older version can't read; restore a backup without them")
    op.drop_column("presentations", "others")
    _allow(*PAIRS)


def _allow(*choices: str) -> None:
    quoted = ", ".join(f"'{choice}'" for choice in choices)
    with op.batch_alter_table("answers") as batch:
        batch.drop_constraint(op.f("ck_answers_choice"), type_="check")
        batch.create_check_constraint(op.f("ck_answers_choice"), f"choice IN ({quoted})")
