"""For whom a reply is: one order of the places where clients name a user, whoever wrote the client."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from personalign.messages import check_user
from personalign.serve.access import Caller
from personalign.serve.failures import Refusal

HEADERS = ("x-openwebui-user-id", "x-litellm-end-user-id")


@dataclass(frozen=True)
class Subject:
    """The person a reply is for; a caller who names nobody gets an id that is nobody's."""

    user: str
    is_named: bool


def subject_of(caller: Caller, body: Mapping[str, Any], headers: Mapping[str, str]) -> Subject:
    """For whom a request asks.

    A user token decides by itself, and a request that names somebody else is refused. For a key the first of these
    holds: ``personalign.user``, ``metadata.personalign_user``, the headers of Open WebUI and LiteLLM,
    ``safety_identifier``, ``user``.

    Raises:
        Refusal: 403 where a token's request names somebody else.
        InputError: the name can't be an id.
    """
    names = list(_names(body, headers))
    if caller.user is not None:
        for place, name in names:
            if name != caller.user:
                raise Refusal(403, f"{place} names somebody else than the token; leave it out", place)
        return Subject(caller.user, is_named=True)
    if not names:
        return Subject(f"nobody-{secrets.token_hex(8)}", is_named=False)
    return Subject(check_user(names[0][1]), is_named=True)


def _names(body: Mapping[str, Any], headers: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """Each place that names a user, with what it says, in the order in which they hold."""
    places: list[tuple[str, Any]] = [
        ("personalign.user", _inside(body, "personalign", "user")),
        ("metadata.personalign_user", _inside(body, "metadata", "personalign_user")),
        *((header, _text(headers.get(header))) for header in HEADERS),
        ("safety_identifier", body.get("safety_identifier")),
        ("user", body.get("user")),
    ]
    for place, name in places:
        if name is not None and name != "":
            yield place, name


def _text(header: str | None) -> str | None:
    """A header as its client wrote it: mostly UTF-8, which is read as Latin-1."""
    try:
        return None if header is None else header.encode("latin-1").decode()
    except UnicodeError:
        return header


def _inside(body: Mapping[str, Any], field: str, name: str) -> object:
    inner = body.get(field)
    return inner.get(name) if isinstance(inner, Mapping) else None
