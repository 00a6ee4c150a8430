"""Every error personalign raises on purpose.

    PersonalignError
    ├── InputError            bad input: exit code 2
    │   ├── ModelError        a model that can't be loaded or used
    │   ├── BasisError        a basis that is missing, broken or made for another model
    │   ├── ProfileError      a profile or weights that can't be used (NaN, another basis, wrong shape)
    │   ├── QuestionError     an unknown question or choice
    │   │   └── AlreadyAnswered
    │   ├── MessageError      messages that are empty, too long or malformed
    │   └── ConstraintError   a schema or regex that can't be used, or can't be followed to its end
    ├── StoreError            the database can't be opened, read or written: exit code 2
    │   ├── SchemaError       its schema is behind or ahead of this code: exit code 3
    │   ├── Conflict          another process changed the same profile again and again
    │   │   └── Repeated      the same change was made before under the same key
    │   └── ErasurePending    erased rows may still be in the write-ahead log
    ├── EngineError           a reply failed while it was written
    │   └── Overloaded        too many requests at once; later there may be room
    └── MissingExtra          a package of an optional extra isn't installed

A message says what was found, what was expected, and what to do next.
"""

from __future__ import annotations

import os


class PersonalignError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 2


class InputError(PersonalignError, ValueError):
    """What the caller passed can't be used."""


class ModelError(InputError):
    """The model can't be loaded, or lacks what steering needs."""


class BasisError(InputError):
    """The basis is missing, broken, or belongs to another model."""


class ProfileError(InputError):
    """The profile or weights can't be used with this basis."""


class QuestionError(InputError):
    """The question or the choice is unknown."""


class AlreadyAnswered(QuestionError):  # noqa: N818 - the name is part of the contract
    """The question has another answer already."""


class MessageError(InputError):
    """The messages are empty, too long or malformed."""


class ConstraintError(InputError):
    """The schema or regex can't be used, or a reply came to a point where it allows nothing."""


class StoreError(PersonalignError):
    """The database can't be opened, read or written."""


class SchemaError(StoreError):
    """The database's schema is older or newer than this code."""

    exit_code = 3


class Conflict(StoreError):  # noqa: N818 - reads as what happened
    """Another writer changed the same profile, more often than we retry."""


class Repeated(Conflict):
    """The change was made already, under the same idempotency key."""


class ErasurePending(StoreError):  # noqa: N818 - likewise
    """The rows are deleted, but readers kept the write-ahead log from being truncated."""


class EngineError(PersonalignError):
    """A reply failed while it was written."""


def check_process(pid: int) -> None:
    """Refuse to go on in a forked child, which lacks the threads of the engine and of the arithmetic."""
    if os.getpid() != pid:
        raise EngineError(
            "this process was forked from the one that loaded the model, and a model doesn't survive a fork; open "
            'personalign in the child, fork before the first reply, or start processes by "spawn"'
        )


class Overloaded(EngineError):  # noqa: N818 - reads as what happened
    """More requests came than may run and wait at once."""


class MissingExtra(PersonalignError):  # noqa: N818 - likewise
    """A package of an optional extra isn't installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} isn't installed; it comes with: pip install 'personalign[{extra}]'")
