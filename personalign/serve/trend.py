"""The last 24 hours in buckets of five minutes, in this process's memory: replies, tokens, gain and KL."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from threading import Lock
from typing import Any

from personalign.types import Reply

BUCKET_S = 300
NUM_BUCKETS = 24 * 3600 // BUCKET_S


@dataclass
class Bucket:
    """Sums over the replies that ended in one span of time."""

    replies: int = 0
    guided: int = 0
    tokens: int = 0
    kl: float = 0.0  # of the guided ones, as is gained
    gained: float = 0.0

    def add(self, reply: Reply) -> None:
        """Count a reply."""
        self.replies += 1
        self.tokens += reply.usage.completion_tokens
        if reply.guided:
            self.guided += 1
            self.kl += reply.kl
            self.gained += reply.gained


class Trend:
    """The newest buckets; any thread may add to them."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._lock = clock, Lock()
        self._buckets: OrderedDict[int, Bucket] = OrderedDict()  # by when they begin, the oldest first

    def note(self, reply: Reply) -> None:
        """Count a reply that has ended now."""
        with self._lock:
            self._buckets.setdefault(self._start(), Bucket()).add(reply)
            while len(self._buckets) > NUM_BUCKETS:
                self._buckets.popitem(last=False)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each bucket of the last 24 hours in which a reply ended, oldest first; gain and KL are means."""
        first = self._start() - NUM_BUCKETS * BUCKET_S
        with self._lock:
            buckets = [(start, asdict(bucket)) for start, bucket in self._buckets.items() if start > first]
        return [_row(start, sums) for start, sums in buckets]

    def _start(self) -> int:
        return int(self._clock()) // BUCKET_S * BUCKET_S


def _row(start: int, sums: dict[str, Any]) -> dict[str, Any]:
    """A bucket's sums, with means over its guided replies."""
    guided = sums["guided"]
    means = {name: sums[name] / guided if guided else None for name in ("kl", "gained")}
    return {"start": start, **sums, **means, "tokens_per_s": sums["tokens"] / BUCKET_S}
