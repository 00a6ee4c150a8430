"""The store: people, answers and profiles in one SQLite file. Read ``store``, then ``tables``."""

from personalign.store.history import AnswerEvent, Event, StatementEvent
from personalign.store.keys import ApiKey, KeyKind, Keys
from personalign.store.store import Store
from personalign.store.values import Answer, Comparison, Fit, Key, Person, Presentation, Shown, Statements, Trial

__all__ = [
    "Answer",
    "AnswerEvent",
    "ApiKey",
    "Comparison",
    "Event",
    "Fit",
    "Key",
    "KeyKind",
    "Keys",
    "Person",
    "Presentation",
    "Shown",
    "StatementEvent",
    "Statements",
    "Store",
    "Trial",
]
