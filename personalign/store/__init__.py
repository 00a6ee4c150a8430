"""The store: people, answers and profiles in one SQLite file. Read ``store``, then ``tables``."""

from personalign.store.store import Store
from personalign.store.values import Answer, Fit, Person, Presentation, Shown

__all__ = ["Answer", "Fit", "Person", "Presentation", "Shown", "Store"]
