"""Runs an object's clean-up around a fork."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def nothing(_: object) -> None:
    """Do nothing."""


def at_fork(owner: T, before: Callable[[T], None], after_in_child: Callable[[T], None] = nothing) -> None:
    """Run these before every fork and after it in the child, as long as the owner lives."""
    found = weakref.ref(owner)

    def run(action: Callable[[T], None]) -> None:
        if (alive := found()) is not None:
            action(alive)

    os.register_at_fork(before=lambda: run(before), after_in_child=lambda: run(after_in_child))
