"""The tables as typed models; every constraint has a name, so that a migration can speak of it.

``user_id`` is what makes a row personal: export and erasure walk over every table that has this column.
A change here needs a revision in ``migrations/versions``; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from sqlalchemy import (
    JSON,
    CheckConstraint,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from personalign.messages import MAX_USER
from personalign.types import ANSWERS, SPREADS

USER_KEY = "user_id"
SCATTERED = ""
DAMAGED = b"damaged"
TRIAL = "trial"  # the kind of presentations whose sides arms of a trial wrote
TEXTS = ("prompt", "a", "b", "others")  # of a presentation; a fit does without them
Read = Callable[[Any], Any]
Text16 = Annotated[str, 16]
Text32 = Annotated[str, 32]
Text64 = Annotated[str, 64]
UserKey = Annotated[str, mapped_column(String(MAX_USER), ForeignKey("users.id", ondelete="CASCADE"))]
BasisKey = Annotated[str, mapped_column(String(64), ForeignKey("bases.id"))]
NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC; SQLite keeps no time zone, so it is taken off going in and put on coming out.

    Postgres reads it in the connection's time zone, which is UTC.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Refuse naive times: they would be read as UTC, whatever they were."""
        assert value is None or value.tzinfo is not None, "a stored time must carry its time zone"
        return value and value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Give back an aware time."""
        return value and value.replace(tzinfo=UTC)

    def result_processor(self, dialect: Dialect, coltype: object) -> Read | None:
        """Read a damaged time as the first there is."""
        return _readable(super().result_processor(dialect, coltype), datetime.min.replace(tzinfo=UTC))


class Json(TypeDecorator[Any]):
    """JSON; damaged content reads as None."""

    impl = JSON
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Read | None:
        """Read damaged content as None."""
        return _readable(super().result_processor(dialect, coltype), None)


class Bytes(TypeDecorator[bytes]):
    """Bytes; whatever else a damaged column of SQLite holds reads as some that fit no checksum."""

    impl = LargeBinary
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Read | None:  # noqa: ARG002
        """Make no bytes of a number: there may be as many as it says."""
        return lambda value: value if value is None or isinstance(value, bytes) else DAMAGED


def _readable(read: Read | None, otherwise: object) -> Read | None:
    """Never raise: a row's checksum says that it is damaged, and by its number; the database would quote its text."""
    if read is None:  # Postgres has checked it
        return None

    def read_or_not(value: Any) -> Any:  # noqa: ANN401 - whatever a damaged column holds
        try:
            return read(value)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return otherwise

    return read_or_not


class Table(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        Text16: String(16),
        Text32: String(32),
        Text64: String(64),
        float: Float,
        datetime: UtcDateTime,
        bytes: Bytes,
        dict[str, Any]: Json,
        list[dict[str, str]]: Json,
    }


def _unique_where(name: str, condition: str, *columns: str) -> Index:
    where = text(condition)
    return Index(name, *columns, unique=True, sqlite_where=where, postgresql_where=where)


class UserRow(Table):
    """A person, what they consented to, and where their answers are."""

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(String(MAX_USER), primary_key=True)
    created_at: Mapped[datetime]
    consent: Mapped[str | None]
    consent_at: Mapped[datetime | None]
    paused_at: Mapped[datetime | None]  # since when they get plain replies
    # the basis that has all of their answers, SCATTERED where none has; NULL before the first answer
    home: Mapped[Text64 | None] = mapped_column(index=True)


class BasisRow(Table):
    """A basis that profiles here were fitted on."""

    __tablename__ = "bases"

    id: Mapped[Text64] = mapped_column(primary_key=True)
    model: Mapped[str]
    config: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class PresentationRow(Table):
    """Replies as one person saw them, texts included, so that answers outlive their bank.

    ``kind`` is "question" for what was asked, "check" where it was asked again, "trial" for what arms of a trial wrote,
    or the kind of feedback that chose.
    ``digest`` is over the texts, ``checksum`` over all else and the digest.
    """

    __tablename__ = "presentations"
    __table_args__ = (
        CheckConstraint("state IN ('open', 'answered', 'withdrawn')", name="state"),
        # at most one open question per person and basis, even in a race; of a trial's there may be several
        _unique_where("uq_presentations_open", f"state = 'open' AND kind <> '{TRIAL}'", "user_id", "basis_id"),
        Index(None, "user_id", "basis_id", "question_id"),
    )

    id: Mapped[Text32] = mapped_column(primary_key=True)
    user_id: Mapped[UserKey]
    basis_id: Mapped[BasisKey]
    question_id: Mapped[str]
    prompt: Mapped[list[dict[str, str]]]
    a: Mapped[str]
    b: Mapped[str]
    others: Mapped[list[str] | None] = mapped_column(Json(none_as_null=True))  # behind them, where the best is picked
    swapped: Mapped[bool]
    num_axes: Mapped[int]
    v: Mapped[bytes]  # left minus right; of a pick each reply's features
    digest: Mapped[Text64]
    checksum: Mapped[Text64]
    state: Mapped[Text16]
    shown_at: Mapped[datetime]
    kind: Mapped[Text16] = mapped_column(server_default="question")
    origin: Mapped[Text32 | None]  # the first of its kind, of a copy for another basis
    graded: Mapped[bool] = mapped_column(server_default="0")  # whether "much better" was offered


class AnswerRow(Table):
    """One answer; an undone one stays, marked.

    ``number`` grows with each answer of a person, and a copy for another basis keeps it: clocks may go back.
    """

    __tablename__ = "answers"
    __table_args__ = (
        CheckConstraint(f"choice IN ({', '.join(repr(choice) for choice in ANSWERS)})", name="choice"),
        _unique_where("uq_answers_live", "undone_at IS NULL", "presentation_id"),
        Index(None, "user_id", "number"),
        Index(None, "presentation_id"),  # the partial one can't serve the foreign key
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]
    user_id: Mapped[UserKey]
    presentation_id: Mapped[str] = mapped_column(String(32), ForeignKey("presentations.id", ondelete="CASCADE"))
    choice: Mapped[Text16]
    seconds: Mapped[float]
    answered_at: Mapped[datetime]
    undone_at: Mapped[datetime | None]
    checksum: Mapped[Text64]


class ProfileRow(Table):
    """A person's profile on one basis, as the last change left it."""

    __tablename__ = "profiles"

    user_id: Mapped[UserKey] = mapped_column(primary_key=True)
    basis_id: Mapped[BasisKey] = mapped_column(primary_key=True)
    revision: Mapped[int]  # grows by one with each change
    standing: Mapped[int]  # rows that it was fitted from: none may be missing
    answers: Mapped[int]
    informative: Mapped[int]
    num_axes: Mapped[int]
    mean: Mapped[bytes]
    covariance: Mapped[bytes]
    checksum: Mapped[Text64]
    created_at: Mapped[datetime]
    stated: Mapped[int | None]  # number of the newest statement that it was fitted with
    # what a log told before they answered here: numbers of answers and of informative ones, the mean, variances
    logged: Mapped[bytes | None]


class StatementRow(Table):
    """What a person stated about an axis, or took back; of each axis and kind the newest holds."""

    __tablename__ = "statements"
    __table_args__ = (CheckConstraint(f"kind IN ({', '.join(repr(kind) for kind in SPREADS)})", name="kind"),)

    user_id: Mapped[UserKey] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)  # grows with what a person states
    axis: Mapped[str]
    kind: Mapped[Text16]
    position: Mapped[float | None]  # none: taken back
    words: Mapped[str]
    stated_at: Mapped[datetime]
    checksum: Mapped[Text64]


class ExposureRow(Table):
    """How often a question was shown, over all people."""

    __tablename__ = "exposures"

    basis_id: Mapped[BasisKey] = mapped_column(primary_key=True)
    question_id: Mapped[str] = mapped_column(primary_key=True)
    shown: Mapped[int]


class TrialRow(Table):
    """A trial of several ways to write; its arms never change."""

    __tablename__ = "trials"
    __table_args__ = (_unique_where("uq_trials_running", "stopped_at IS NULL", "basis_id"),)  # one at a time

    id: Mapped[Text32] = mapped_column(primary_key=True)
    basis_id: Mapped[BasisKey]
    arms: Mapped[str]  # their names, between commas
    started_at: Mapped[datetime]
    stopped_at: Mapped[datetime | None]
    num_erased: Mapped[int]  # people who were in it and are gone; no part of the checksum, as erasures don't read it
    checksum: Mapped[Text64]


class ComparisonRow(Table):
    """Which arms of a trial wrote the two sides of what a person was shown, or failed to."""

    __tablename__ = "comparisons"
    __table_args__ = (Index(None, "trial_id", "user_id"), Index(None, "user_id"), Index(None, "presentation_id"))

    id: Mapped[Text32] = mapped_column(primary_key=True)
    trial_id: Mapped[str] = mapped_column(String(32), ForeignKey("trials.id"))
    user_id: Mapped[UserKey]
    presentation_id: Mapped[str | None] = mapped_column(
        String(32), ForeignKey("presentations.id", ondelete="CASCADE")
    )  # none where an arm failed
    arm_a: Mapped[Text16]  # of the left side
    arm_b: Mapped[Text16]
    failed: Mapped[Text16]  # the sides whose arm failed: "", "a", "b" or "ab"
    checksum: Mapped[Text64]


class KeyRow(Table):
    """A key of one of the server's callers, as a digest."""

    __tablename__ = "keys"
    __table_args__ = (CheckConstraint("kind IN ('backend', 'operator')", name="kind"),)

    id: Mapped[Text16] = mapped_column(primary_key=True)
    kind: Mapped[Text16]
    name: Mapped[str]
    digest: Mapped[Text64] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class WriteRow(Table):
    """A change that counts once: keyed hashes of its key and of what was asked for, for as long as it is known."""

    __tablename__ = "writes"

    digest: Mapped[Text64] = mapped_column(primary_key=True)
    request: Mapped[Text64]
    expires_at: Mapped[datetime] = mapped_column(index=True)


class TombstoneRow(Table):
    """A keyed hash of an erased id, when it was erased last, and which erasure of all that was, counted from 1."""

    __tablename__ = "tombstones"

    digest: Mapped[Text64] = mapped_column(primary_key=True)
    erased_at: Mapped[datetime] = mapped_column("at")
    number: Mapped[int] = mapped_column(index=True)  # what is newest goes by it: clocks may go back


class FactRow(Table):
    """What is known of the file itself: which key its tombstones have, and how many of them it applied."""

    __tablename__ = "facts"

    name: Mapped[Text16] = mapped_column(primary_key=True)
    value: Mapped[str]
