"""What whoever runs it looks at: whether replies can be written and the store be read, and how much is going on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from personalign.store import Store

if TYPE_CHECKING:
    from personalign.replies import Replies


@dataclass(frozen=True)
class Vitals:
    """A look at an open service, which loads nothing."""

    store: Store
    replies: Replies | None  # None until the model is loaded

    @property
    def is_loaded(self) -> bool:
        """Whether the model is loaded."""
        return self.replies is not None

    @property
    def is_stale(self) -> bool:
        """Whether known people were served by the profiles at hand, because the store couldn't be read."""
        return self.replies is not None and self.replies.is_stale

    @property
    def num_running(self) -> int:
        """How many replies are being written."""
        return 0 if self.replies is None else self.replies.load[0]

    @property
    def num_waiting(self) -> int:
        """How many replies wait for a slot."""
        return 0 if self.replies is None else self.replies.load[1]

    @property
    def num_people(self) -> int:
        """How many people something is stored about."""
        return self.store.num_people()

    def check_store(self) -> None:
        """Read the store's schema: SchemaError where it isn't this code's, StoreError where it can't be read."""
        self.store.check()
