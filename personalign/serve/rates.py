"""How much each key and each token may ask for."""

from __future__ import annotations

from math import ceil
from time import time

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from personalign.errors import InputError
from personalign.messages import shown
from personalign.serve.failures import Refusal


class Rates:
    """A moving window for each caller, in this process's memory.

    Two counters make it. With each request's moment instead, the package never lets go of a caller, and looks at all
    that ever came a hundred times a second.
    """

    def __init__(self, rate: str) -> None:
        self._rate, self._limiter = _parse(rate), SlidingWindowCounterRateLimiter(MemoryStorage())

    def spend(self, name: str) -> None:
        """Count a request; one beyond the rate is refused with when to try again."""
        if self._limiter.hit(self._rate, name):
            return
        resets_at = self._limiter.get_window_stats(self._rate, name).reset_time
        refusal = Refusal(429, f"this key or token asked for more than {self._rate}; wait, or ask for a higher rate")
        refusal.headers = {"Retry-After": str(max(1, ceil(resets_at - time())))}
        raise refusal


def _parse(rate: str) -> RateLimitItem:
    try:
        return parse(rate)
    except ValueError as error:
        raise InputError(f"the rate is {shown(rate)}, expected requests and a time, such as 600/minute") from error
