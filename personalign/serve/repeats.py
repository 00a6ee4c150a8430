"""Writes that count once: a request with the same ``Idempotency-Key`` again is answered with the present state.

The store writes the key in the transaction of the change itself, so this also holds after a crash in between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeVar

from fastapi import Depends, Header, Request, Response

from personalign.serve.access import AnyCaller

if TYPE_CHECKING:
    from personalign.service import Personalign

REPEATED = "x-personalign-repeated"
Value = TypeVar("Value")


@dataclass(frozen=True)
class Write:
    """One write of a caller; without a key it counts each time that it is sent."""

    service: Personalign
    caller: str
    key: str | None
    digest: str  # of what is asked for
    response: Response

    def make(self, change: Callable[[], Value], look: Callable[[], Value]) -> Value:
        """Make a change, or look at what it came to where it was made before.

        Raises:
            InputError: the key came before with another request.
        """
        if self.key is None:
            return change()
        with self.service.write_once(self.caller, self.key, self.digest) as is_first:
            if is_first:
                return change()
        self.response.headers[REPEATED] = "true"
        return look()


async def write_of(
    request: Request,
    response: Response,
    caller: AnyCaller,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Write:
    """What a route needs to make its change once."""
    digest = hashlib.sha256(f"{request.method}\0{request.url.path}\0".encode())
    digest.update(await request.body())
    return Write(request.app.state.service, caller.name, idempotency_key, digest.hexdigest(), response)


Once = Annotated[Write, Depends(write_of)]
