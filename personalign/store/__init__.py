"""The store: people, answers and profiles in one SQLite file. Read ``store``, then ``tables``."""

from personalign.store.store import Store
from personalign.store.values import Answer, Fit, Key, Person, Presentation, Shown, Statements

__all__ = ["Answer", "Fit", "Key", "Person", "Presentation", "Shown", "Statements", "Store"]
