"""Checksums over whole rows, an order that no clock can turn, one profile a person, and counts instead of scans.

What was copied from another basis had the loss of that basis: it is cleared, and measured anew with the next fit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TEXTS = ("prompt", "a", "b")
LEFT_OUT = {
    "presentations": {"checksum", *TEXTS},
    "answers": {"checksum", "id"},
    "profiles": {"checksum"},
}
KEYS = {"presentations": ("id",), "answers": ("id",), "profiles": ("user_id", "basis_id")}
TIMES = {"shown_at", "answered_at", "undone_at", "created_at"}
BATCH = 1000
MOST_FEEDBACK = 100  # pieces of a person's that are fitted


def upgrade() -> None:
    _add_columns()
    op.execute(
        "UPDATE answers SET loss = NULL, gain = NULL "
        "WHERE presentation_id IN (SELECT id FROM presentations WHERE origin IS NOT NULL)"
    )
    op.execute(
        "UPDATE answers SET number = (SELECT count(*) FROM answers AS other WHERE other.user_id = answers.user_id "
        "AND (other.answered_at, other.id) <= (answers.answered_at, answers.id))"
    )
    op.execute(
        "UPDATE tombstones SET number = (SELECT count(*) FROM tombstones AS other "
        "WHERE (other.at, other.digest) <= (tombstones.at, tombstones.digest))"
    )
    op.execute(
        "INSERT INTO exposures (basis_id, question_id, shown) SELECT basis_id, question_id, count(*) "
        "FROM presentations WHERE kind = 'question' GROUP BY basis_id, question_id"
    )
    _keep_the_newest_profiles()
    op.execute(
        "UPDATE users SET home = (SELECT CASE count(*) WHEN 0 THEN NULL WHEN 1 THEN max(basis_id) ELSE '' END "
        "FROM profiles WHERE profiles.user_id = users.id)"
    )
    _seal()
    op.drop_index(op.f("ix_events_user_id"), table_name="events")
    op.drop_table("events")
    op.drop_index(op.f("ix_presentations_basis_id_question_id"), table_name="presentations")
    op.drop_index(op.f("ix_presentations_user_id_basis_id"), table_name="presentations")
    op.create_index(
        op.f("ix_presentations_user_id_basis_id_question_id"), "presentations", ["user_id", "basis_id", "question_id"]
    )
    op.drop_index(op.f("ix_answers_user_id"), table_name="answers")
    op.create_index(op.f("ix_answers_user_id_number"), "answers", ["user_id", "number"])
    op.create_index(op.f("ix_answers_presentation_id"), "answers", ["presentation_id"])
    op.create_index(op.f("ix_users_home"), "users", ["home"])
    op.create_index(op.f("ix_tombstones_number"), "tombstones", ["number"])


def downgrade() -> None:
    op.drop_index(op.f("ix_tombstones_number"), table_name="tombstones")
    op.drop_index(op.f("ix_users_home"), table_name="users")
    op.drop_index(op.f("ix_answers_presentation_id"), table_name="answers")
    op.drop_index(op.f("ix_answers_user_id_number"), table_name="answers")
    op.create_index(op.f("ix_answers_user_id"), "answers", ["user_id"])
    op.drop_index(op.f("ix_presentations_user_id_basis_id_question_id"), table_name="presentations")
    op.create_index(op.f("ix_presentations_user_id_basis_id"), "presentations", ["user_id", "basis_id"])
    op.create_index(op.f("ix_presentations_basis_id_question_id"), "presentations", ["basis_id", "question_id"])
    op.create_table(
        "events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("basis_id", sa.String(length=64), nullable=True),
        sa.Column("revision", sa.Integer(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["basis_id"], ["bases.id"], name=op.f("fk_events_basis_id_bases")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_events_user_id_users"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_events_user_id"), "events", ["user_id"])
    _unseal()
    _number_the_profiles()
    op.drop_table("exposures")
    op.drop_column("tombstones", "number")
    op.drop_column("answers", "checksum")
    op.drop_column("answers", "number")
    op.drop_column("presentations", "digest")
    op.drop_column("users", "home")


def _add_columns() -> None:
    op.add_column("users", sa.Column("home", sa.String(length=64), nullable=True))
    op.add_column("presentations", sa.Column("digest", sa.String(length=64), nullable=False, server_default=""))
    op.add_column("answers", sa.Column("number", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("answers", sa.Column("checksum", sa.String(length=64), nullable=False, server_default=""))
    op.add_column("tombstones", sa.Column("number", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "exposures",
        sa.Column("basis_id", sa.String(length=64), nullable=False),
        sa.Column("question_id", sa.Text(), nullable=False),
        sa.Column("shown", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["basis_id"], ["bases.id"], name=op.f("fk_exposures_basis_id_bases")),
        sa.PrimaryKeyConstraint("basis_id", "question_id", name=op.f("pk_exposures")),
    )


def _set_aside(table: str, name: str) -> None:
    """Keep the rows under another name; a renamed table would keep the names of its constraints."""
    op.execute(f"CREATE TABLE {name} AS SELECT * FROM {table}")
    op.drop_table(table)


def _keep_the_newest_profiles() -> None:
    _set_aside("profiles", "revisions")
    op.create_table(
        "profiles",
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("basis_id", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("standing", sa.Integer(), nullable=False),
        sa.Column("answers", sa.Integer(), nullable=False),
        sa.Column("informative", sa.Integer(), nullable=False),
        sa.Column("gain", sa.Float(), nullable=True),
        sa.Column("num_axes", sa.Integer(), nullable=False),
        sa.Column("mean", sa.LargeBinary(), nullable=False),
        sa.Column("covariance", sa.LargeBinary(), nullable=False),
        sa.Column("checksum", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["basis_id"], ["bases.id"], name=op.f("fk_profiles_basis_id_bases")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_profiles_user_id_users"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "basis_id", name=op.f("pk_profiles")),
    )
    standing = (
        "SELECT count(*) FROM answers JOIN presentations ON presentations.id = answers.presentation_id "
        "WHERE answers.user_id = newest.user_id AND presentations.basis_id = newest.basis_id "
        "AND answers.undone_at IS NULL"
    )
    feedback = "presentations.kind IN ('edit', 'thumbs', 'regenerate')"
    unjudged = "answers.choice IN ('a', 'b', 'tie') AND presentations.kind <> 'check' AND answers.gain IS NULL"
    op.execute(
        "INSERT INTO profiles SELECT user_id, basis_id, revision, "
        f"({standing} AND NOT {feedback}) + CASE WHEN ({standing} AND {feedback}) < {MOST_FEEDBACK} "
        f"THEN ({standing} AND {feedback}) ELSE {MOST_FEEDBACK} END, "
        f"answers, informative, CASE WHEN ({standing} AND {unjudged}) > 0 THEN NULL ELSE gain END, "
        "num_axes, mean, covariance, checksum, created_at FROM revisions AS newest WHERE revision = "
        "(SELECT max(revision) FROM revisions WHERE user_id = newest.user_id AND basis_id = newest.basis_id)"
    )
    op.drop_table("revisions")
    op.create_index(
        "ix_profiles_unjudged",
        "profiles",
        ["basis_id", "user_id"],
        sqlite_where=sa.text("gain IS NULL"),
        postgresql_where=sa.text("gain IS NULL"),
    )


def _number_the_profiles() -> None:
    op.drop_index("ix_profiles_unjudged", table_name="profiles")
    _set_aside("profiles", "newest")
    op.create_table(
        "profiles",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.String(length=128), nullable=False),
        sa.Column("basis_id", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("answers", sa.Integer(), nullable=False),
        sa.Column("informative", sa.Integer(), nullable=False),
        sa.Column("num_axes", sa.Integer(), nullable=False),
        sa.Column("mean", sa.LargeBinary(), nullable=False),
        sa.Column("covariance", sa.LargeBinary(), nullable=False),
        sa.Column("checksum", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("gain", sa.Float(), nullable=False, server_default="0"),
        sa.ForeignKeyConstraint(["basis_id"], ["bases.id"], name=op.f("fk_profiles_basis_id_bases")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_profiles_user_id_users"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_profiles")),
        sa.UniqueConstraint("user_id", "basis_id", "revision", name=op.f("uq_profiles_user_id_basis_id_revision")),
    )
    columns = "user_id, basis_id, revision, answers, informative, num_axes, mean, covariance, checksum, created_at"
    op.execute(f"INSERT INTO profiles ({columns}, gain) SELECT {columns}, coalesce(gain, 0) FROM newest")
    op.drop_table("newest")


def _seal() -> None:
    """Write the new checksums; a row that its old one doesn't fit stays damaged."""
    for key, row in _rows("presentations"):
        digest = _checksum({name: row[name] for name in TEXTS})
        row["digest"] = digest
        is_sound = row["checksum"] == _array_checksum(((row["num_axes"],), row["v"]))
        _set("presentations", key, digest=digest, checksum=_row_checksum("presentations", row) if is_sound else "")
    for key, row in _rows("answers"):
        _set("answers", key, checksum=_row_checksum("answers", row))
    for key, row in _rows("profiles"):
        d = row["num_axes"]
        is_sound = row["checksum"] == _array_checksum(((d,), row["mean"]), ((d, d), row["covariance"]))
        _set("profiles", key, checksum=_row_checksum("profiles", row) if is_sound else "")


def _unseal() -> None:
    """Write the old checksums; a row that its new one doesn't fit stays damaged."""
    for key, row in _rows("presentations"):
        is_sound = row["checksum"] == _row_checksum("presentations", row)
        _set("presentations", key, checksum=_array_checksum(((row["num_axes"],), row["v"])) if is_sound else "")
    for key, row in _rows("profiles"):
        d, is_sound = row["num_axes"], row["checksum"] == _row_checksum("profiles", row)
        arrays = ((d,), row["mean"]), ((d, d), row["covariance"])
        _set("profiles", key, checksum=_array_checksum(*arrays) if is_sound else "")


def _rows(table: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Read rows in the order of their keys, with their keys."""
    names = KEYS[table]
    after = f"WHERE ({', '.join(names)}) > ({', '.join(f':{name}' for name in names)})"
    key: dict[str, Any] = {}
    while True:
        batch = sa.text(f"SELECT * FROM {table} {after if key else ''} ORDER BY {', '.join(names)} LIMIT {BATCH}")
        rows = [dict(row) for row in op.get_bind().execute(batch, key).mappings()]
        if not rows:
            return
        for row in rows:
            key = {name: row[name] for name in names}
            yield key, row


def _set(table: str, key: dict[str, Any], **values: str) -> None:
    names = ", ".join(f"{name} = :{name}" for name in values)
    where = " AND ".join(f"{name} = :{name}" for name in key)
    op.get_bind().execute(sa.text(f"UPDATE {table} SET {names} WHERE {where}"), values | key)


def _row_checksum(table: str, row: dict[str, Any]) -> str:
    return _checksum({name: value for name, value in row.items() if name not in LEFT_OUT[table]})


# What the code's own checksum was when this revision was written.


def _checksum(values: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    try:
        for name in sorted(values):
            content = _content(name, values[name])
            digest.update(f"{name} {len(content)} ".encode() + content)
    except (TypeError, ValueError):
        return ""
    return digest.hexdigest()


def _content(name: str, value: Any) -> bytes:  # noqa: ANN401 - whatever a damaged column holds
    if name in TIMES and value is not None:
        return b"t" + datetime.fromisoformat(str(value)).replace(tzinfo=UTC).isoformat().encode()
    if isinstance(value, bytes):
        return b"b" + value
    if isinstance(value, str) and name != "prompt":
        return b"s" + value.encode("utf-8", "surrogateescape")
    if isinstance(value, float):
        return b"f" + repr(value + 0.0).encode()
    plain = json.loads(value) if name == "prompt" and isinstance(value, str) else value
    plain = bool(plain) if name == "swapped" else plain
    return b"j" + json.dumps(plain, sort_keys=True).encode()


def _array_checksum(*arrays: tuple[tuple[int, ...], bytes]) -> str:
    digest = hashlib.sha256()
    for shape, content in arrays:
        digest.update(f"{shape}".encode() + content)
    return digest.hexdigest()
