"""The tables as typed models; every constraint has a name, so that a migration can speak of it.

``user_id`` is what makes a row personal: export and erasure walk over every table that has this column.
A change here needs a revision in ``migrations/versions``; a test compares the two.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    CheckConstraint,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from personalign.types import CHOICES

MAX_USER = 128
USER_KEY = "user_id"

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC; SQLite keeps no time zone, so it is taken off going in and put on coming out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times: they would be read as UTC, whatever they were."""
        if value is None:
            return None
        assert value.tzinfo is not None, "a stored time must carry its time zone"
        return value.astimezone(UTC).replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Give back an aware time."""
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class Table(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime,
        dict[str, Any]: JSON,
        list[dict[str, str]]: JSON,
    }


def _user_key() -> Mapped[str]:
    return mapped_column(String(MAX_USER), ForeignKey("users.id", ondelete="CASCADE"))


class UserRow(Table):
    """A person, and what they consented to."""

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(String(MAX_USER), primary_key=True)
    created_at: Mapped[datetime]
    consent: Mapped[str | None] = mapped_column(Text)
    consent_at: Mapped[datetime | None]


class BasisRow(Table):
    """A basis that profiles here were fitted on."""

    __tablename__ = "bases"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str] = mapped_column(Text)
    config: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class PresentationRow(Table):
    """Two replies as one person saw them, texts included, so that answers outlive their bank.

    ``kind`` is "question" for what was asked, "check" where it was asked again, or the kind of feedback that chose.
    """

    __tablename__ = "presentations"
    __table_args__ = (
        CheckConstraint("state IN ('open', 'answered', 'withdrawn')", name="state"),
        # at most one open question per person and basis, whoever races
        Index(
            "uq_presentations_open",
            "user_id",
            "basis_id",
            unique=True,
            sqlite_where=text("state = 'open'"),
            postgresql_where=text("state = 'open'"),
        ),
        Index(None, "basis_id", "question_id"),
        Index(None, "user_id", "basis_id"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user_id: Mapped[str] = _user_key()
    basis_id: Mapped[str] = mapped_column(String(64), ForeignKey("bases.id"))
    question_id: Mapped[str] = mapped_column(Text)
    prompt: Mapped[list[dict[str, str]]]
    a: Mapped[str] = mapped_column(Text)
    b: Mapped[str] = mapped_column(Text)
    swapped: Mapped[bool]
    num_axes: Mapped[int]
    v: Mapped[bytes] = mapped_column(LargeBinary)
    checksum: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    shown_at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(16), server_default="question")
    origin: Mapped[str | None] = mapped_column(String(32))  # the first of its kind, of a copy for another basis


class AnswerRow(Table):
    """One answer; an undone one is kept and marked.

    ``loss`` is its log-loss under the profile before it, ``gain`` how much better that foresaw it than everybody's.
    """

    __tablename__ = "answers"
    __table_args__ = (
        CheckConstraint(f"choice IN ({', '.join(repr(choice) for choice in CHOICES)})", name="choice"),
        Index(
            "uq_answers_live",
            "presentation_id",
            unique=True,
            sqlite_where=text("undone_at IS NULL"),
            postgresql_where=text("undone_at IS NULL"),
        ),
        Index(None, "user_id"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    user_id: Mapped[str] = _user_key()
    presentation_id: Mapped[str] = mapped_column(String(32), ForeignKey("presentations.id", ondelete="CASCADE"))
    choice: Mapped[str] = mapped_column(String(16))
    seconds: Mapped[float] = mapped_column(Float)
    answered_at: Mapped[datetime]
    undone_at: Mapped[datetime | None]
    loss: Mapped[float | None] = mapped_column(Float)
    gain: Mapped[float | None] = mapped_column(Float)  # nats; of a copy for another basis, none


class ProfileRow(Table):
    """One revision of a profile; revisions are only ever appended, so the newest is the truth."""

    __tablename__ = "profiles"
    __table_args__ = (UniqueConstraint("user_id", "basis_id", "revision"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    user_id: Mapped[str] = _user_key()
    basis_id: Mapped[str] = mapped_column(String(64), ForeignKey("bases.id"))
    revision: Mapped[int]
    answers: Mapped[int]
    informative: Mapped[int]
    gain: Mapped[float] = mapped_column(Float, server_default="0")  # of the answers that stood
    num_axes: Mapped[int]
    mean: Mapped[bytes] = mapped_column(LargeBinary)
    covariance: Mapped[bytes] = mapped_column(LargeBinary)
    checksum: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]


class EventRow(Table):
    """What happened, in order; ids are never used twice, so that a reader can go on from the last one it saw."""

    __tablename__ = "events"
    __table_args__ = (Index(None, "user_id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    user_id: Mapped[str] = _user_key()
    kind: Mapped[str] = mapped_column(String(16))
    basis_id: Mapped[str | None] = mapped_column(String(64), ForeignKey("bases.id"))
    revision: Mapped[int | None]
    at: Mapped[datetime]


class TombstoneRow(Table):
    """A keyed hash of an erased id, and when it was erased last."""

    __tablename__ = "tombstones"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    at: Mapped[datetime]
