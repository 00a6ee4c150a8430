"""How much the server takes, and for how long things hold: one frozen value, which the command line and tests set."""

from __future__ import annotations

import re
from dataclasses import dataclass

from personalign.errors import InputError
from personalign.messages import shown
from personalign.options import LARGEST, check_list, check_number, check_whole

MIB = 1 << 20
ORIGIN = re.compile(r"https?://[\w.*-]+(:\d+)?", re.ASCII)
COUNTS = {"max_body": 1, "in_flight": 1, "max_tokens": 1, "max_replies": 1, "max_logprobs": 0}  # and the least
SECONDS = ("receive_s", "drain_s", "kept_s", "token_s", "link_s")


@dataclass(frozen=True)
class Policy:
    """Limits of a server; what goes beyond one is refused with the limit's name.

    Args:
        max_body: bytes of a request's body; more is answered 413.
        receive_s: how long a body may take to arrive; slower ones are answered 408.
        in_flight: requests that are worked on at once; further ones are answered 429 with Retry-After.
        max_tokens: largest ``max_tokens`` that a request may name; without one the room of a slot bounds the reply.
        max_replies: largest ``n``.
        max_logprobs: largest ``top_logprobs``.
        rate: what a key or token may ask for, in the notation of the package limits.
        drain_s: how long replies under way may go on when the server stops.
        kept_s: how long a completion can be given feedback on, by its id.
        token_s: how long a user token holds.
        link_s: how long a link to a page holds.
        frame_ancestors: origins that may show the pages in a frame, such as "https://shop.example".

    Raises:
        InputError: a number out of its range, or an origin that isn't one.
    """

    max_body: int = MIB
    receive_s: float = 10.0
    in_flight: int = 64
    max_tokens: int = 2048
    max_replies: int = 4
    max_logprobs: int = 5
    rate: str = "600/minute"
    drain_s: float = 30.0
    kept_s: float = 3600.0
    token_s: float = 3600.0
    link_s: float = 7 * 24 * 3600.0
    frame_ancestors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in COUNTS.items():
            check_whole(name, getattr(self, name), least, LARGEST)
        for name in SECONDS:
            check_number(name, getattr(self, name), 0, LARGEST)
        for origin in check_list("frame_ancestors", self.frame_ancestors):
            if not isinstance(origin, str) or not ORIGIN.fullmatch(origin):
                raise InputError(
                    f"frame_ancestors has {shown(origin)}, expected an origin such as https://shop.example"
                )
