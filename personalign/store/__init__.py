"""The store: people, answers and profiles in one SQLite file. Read ``store``, then ``tables``."""

from personalign.store.store import Store
from personalign.store.values import Answer, Comparison, Fit, Key, Person, Presentation, Shown, Statements, Trial

__all__ = ["Answer", "Comparison", "Fit", "Key", "Person", "Presentation", "Shown", "Statements", "Store", "Trial"]
