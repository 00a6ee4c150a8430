"""The last 24 hours in buckets of five minutes, in this process's memory: replies, tokens, gain and KL."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Any

from personalign.types import Reply

BUCKET_S = 300
NUM_BUCKETS = 24 * 3600 // BUCKET_S


@dataclass(frozen=True)
class Sums:
    """Sums over replies."""

    replies: int = 0
    guided: int = 0
    tokens: int = 0
    kl: float = 0.0  # of the guided ones, as is gained
    gained: float = 0.0
    measured: int = 0  # of the guided ones those of which both are known: vLLM doesn't tell them

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(old + new for old, new in zip(vars(self).values(), vars(other).values(), strict=True)))

    def row(self, seconds: float) -> dict[str, Any]:
        """The sums as JSON values; gain and KL are means over the guided replies, None where they aren't known."""
        means = {name: getattr(self, name) / self.measured if self.measured else None for name in ("kl", "gained")}
        counts = {name: getattr(self, name) for name in ("replies", "guided", "tokens")}
        return counts | means | {"tokens_per_s": self.tokens / seconds}


class Trend:
    """The newest buckets; any thread may add to them."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._lock = clock, Lock()
        self._buckets: dict[int, Sums] = {}  # by when they begin, the oldest first

    def note(self, reply: Reply) -> None:
        """Count a reply that has ended now."""
        tokens = reply.usage.completion_tokens
        sums = Sums(1, reply.guided, tokens)
        if reply.guided and not math.isnan(reply.kl):
            sums += Sums(kl=reply.kl, gained=reply.gained, measured=1)
        with self._lock:
            start = self._start()
            self._buckets[start] = self._buckets.get(start, Sums()) + sums
            oldest = start - NUM_BUCKETS * BUCKET_S
            self._buckets = {begin: bucket for begin, bucket in self._buckets.items() if begin > oldest}

    def rows(self) -> list[dict[str, Any]]:
        """A row for each bucket of the last 24 hours in which a reply ended, oldest first."""
        now = self._clock()
        return [{"start": start} | sums.row(_span(now - start)) for start, sums in self._newest(NUM_BUCKETS)]

    def totals(self) -> dict[str, Any]:
        """A row over the last 24 hours, but for its tokens a second: those are of this bucket and the one before."""
        seconds = BUCKET_S + _span(self._clock() - self._start())
        speed = _total(self._newest(2)).tokens / seconds
        return _total(self._newest(NUM_BUCKETS)).row(1.0) | {"tokens_per_s": speed}

    def _newest(self, count: int) -> list[tuple[int, Sums]]:
        first = self._start() - count * BUCKET_S
        with self._lock:
            return [(start, sums) for start, sums in self._buckets.items() if start > first]

    def _start(self) -> int:
        return int(self._clock()) // BUCKET_S * BUCKET_S


def _span(seconds: float) -> float:
    """How much of a bucket has passed, a second at least: its tokens may have come in no time."""
    return min(float(BUCKET_S), max(seconds, 1.0))


def _total(buckets: Iterable[tuple[int, Sums]]) -> Sums:
    return sum((sums for _, sums in buckets), Sums())
