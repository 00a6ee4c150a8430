"""What a server refused, or that it didn't answer.

    ClientError           a PersonalignError
    ├── NotAllowed        401, 403: the key or token isn't good for this
    ├── NotFound          404: the person has no such question or completion
    ├── Refused           another 4xx: what was sent can't be used
    └── Unavailable       429, 5xx, or no answer that can be read: it may pass

Each has what the server said of it, with the id under which the server's log has the request.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from personalign.errors import PersonalignError


class ClientError(PersonalignError):
    """A call that didn't come to its end; ``status`` is None where no answer came."""

    def __init__(
        self,
        message: str,
        status: int | None = None,
        *,
        code: str | None = None,
        param: str | None = None,
        request_id: str | None = None,
        retry_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.request_id, self.retry_s = request_id, retry_s


class NotAllowed(ClientError):  # noqa: N818 - reads as what happened
    """The key or the token isn't good for this."""


class NotFound(ClientError):  # noqa: N818 - likewise
    """The person has no such question or completion."""


class Refused(ClientError):  # noqa: N818 - likewise
    """What was sent can't be used."""


class Unavailable(ClientError):  # noqa: N818 - likewise
    """The server can't answer now, or something between it and the caller broke."""


def failure(status: int, content: Any, headers: Mapping[str, str]) -> ClientError:  # noqa: ANN401 - whatever it sent
    """Make the error of an answer that isn't 2xx."""
    error = content.get("error") if isinstance(content, dict) else None
    error = error if isinstance(error, dict) else {}
    return _kind(status)(
        str(error.get("message") or f"the server answered {status}; look into its log"),
        status,
        code=error.get("code"),
        param=error.get("param"),
        request_id=headers.get("x-request-id"),
        retry_s=_seconds(headers.get("retry-after", "")),
    )


def _kind(status: int) -> type[ClientError]:
    if status in {401, 403}:
        return NotAllowed
    if status == 404:
        return NotFound
    return Refused if status < 500 and status != 429 else Unavailable


def _seconds(text: str) -> float | None:
    return float(text) if text.isdecimal() else None
