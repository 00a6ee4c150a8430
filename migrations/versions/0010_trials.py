"""Trials of several ways to write, and which of them wrote what a person was shown."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _index_open("state = 'open' AND kind <> 'trial'")
    op.create_table(
        "trials",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("basis_id", sa.String(length=64), nullable=False),
        sa.Column("arms", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("stopped_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("num_erased", sa.Integer(), nullable=False),
        sa.Column("checksum", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["basis_id"], ["bases.id"], name=op.f("fk_trials_basis_id_bases")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trials")),
    )
    op.create_index(
        "uq_trials_running",
        "trials",
        ["basis_id"],
        unique=True,
        sqlite_where=sa.text("stopped_at IS NULL"),
        postgresql_where=sa.text("stopped_at IS NULL"),
    )
    op.create_table(
        "comparisons",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("trial_id", sa.String(length=32), nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("presentation_id", sa.String(length=32), nullable=True),
        sa.Column("arm_a", sa.String(length=16), nullable=False),
        sa.Column("arm_b", sa.String(length=16), nullable=False),
        sa.Column("failed", sa.String(length=16), nullable=False),
        sa.Column("checksum", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_comparisons_trial_id_trials")),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_comparisons_user_id_users"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["presentation_id"],
            ["presentations.id"],
            name=op.f("fk_comparisons_presentation_id_presentations"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_comparisons")),
    )
    op.create_index(op.f("ix_comparisons_trial_id_user_id"), "comparisons", ["trial_id", "user_id"])
    op.create_index(op.f("ix_comparisons_user_id"), "comparisons", ["user_id"])
    op.create_index(op.f("ix_comparisons_presentation_id"), "comparisons", ["presentation_id"])


def downgrade() -> None:
    op.drop_table("comparisons")
    op.drop_table("trials")
    # the older code takes one open question a person, and none of this kind
    op.execute("DELETE FROM presentations WHERE kind = 'trial' AND state = 'open'")
    _index_open("state = 'open'")


def _index_open(condition: str) -> None:
    op.drop_index("uq_presentations_open", table_name="presentations")
    op.create_index(
        "uq_presentations_open",
        "presentations",
        ["user_id", "basis_id"],
        unique=True,
        sqlite_where=sa.text(condition),
        postgresql_where=sa.text(condition),
    )
