"""Who is calling, and what they may do: keys of backends and operators, tokens of users, links to pages.

Only hashes of keys are stored. Tokens and links are signed with a secret that stands beside the database, so every
process on the same file accepts them.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import jwt
from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from itsdangerous import BadSignature, URLSafeSerializer

from personalign.errors import InputError
from personalign.messages import check_user
from personalign.serve.failures import Refusal

if TYPE_CHECKING:
    from personalign.service import Personalign

Role = Literal["user", "backend", "operator"]
Page = Literal["onboard", "me"]
ALGORITHM, CLAIMS = "HS256", ["sub", "exp", "jti", "scope"]
PREFIX = "pa_"
UNREADABLE = "\ufffd"  # stands for bytes of a path that are no text
MAX_CREDENTIAL = 4096  # characters: a token with the longest id has fewer
UNKNOWN = "the key or token is missing, unknown, expired or revoked; expected 'Authorization: Bearer pa_…', or a token"


@dataclass(frozen=True)
class Caller:
    """Who sent a request: ``name`` is what limits and idempotency go by, ``user`` whom a token is for."""

    role: Role
    name: str
    user: str | None = None

    def may_act_for(self, user: str) -> bool:
        """Whether this caller may read and change what belongs to a person."""
        return self.role != "user" or self.user == user


class Door:
    """Tells callers by their credentials, and makes tokens and links."""

    def __init__(self, service: Personalign) -> None:
        self._keys = service.keys
        self._token_secret = self._keys.secret("user tokens")
        self._links = URLSafeSerializer(self._keys.secret("links to pages"), salt="page")

    def caller(self, header: str) -> Caller:
        """Who shows this ``Authorization`` header.

        Raises:
            Refusal: 401, the same for all that isn't accepted.
        """
        scheme, _, credential = header.partition(" ")
        credential = credential.strip()
        if scheme.lower() != "bearer" or not 0 < len(credential) <= MAX_CREDENTIAL or not credential.isascii():
            raise _unknown()
        return self._by_key(credential) if credential.startswith(PREFIX) else self._by_token(credential)

    def _by_key(self, credential: str) -> Caller:
        key = self._keys.find(credential)
        if key is None:
            raise _unknown()
        return Caller(key.kind, f"key:{key.id}")

    def _by_token(self, credential: str) -> Caller:
        try:
            # when it was made says nothing, and a clock that was put back would refuse it
            claims = jwt.decode(
                credential, self._token_secret, [ALGORITHM], options={"require": CLAIMS, "verify_iat": False}
            )
            user = check_user(claims["sub"])
        except (jwt.InvalidTokenError, InputError):
            raise _unknown() from None
        if claims["scope"] != "user":
            raise _unknown()
        return Caller("user", f"user:{user}", user)

    def token(self, user: str, seconds: float) -> str:
        """A token with which a person acts for themselves alone."""
        now = time.time()
        claims = {"sub": check_user(user), "iat": now, "exp": now + seconds, "jti": secrets.token_hex(8)}
        return jwt.encode(claims | {"scope": "user"}, self._token_secret, ALGORITHM)

    def link(self, user: str, page: Page, seconds: float) -> str:
        """A signed text that opens a page for one person until it expires."""
        ticket = {"user": check_user(user), "page": page, "until": time.time() + seconds}
        return str(self._links.dumps(ticket | {"nonce": secrets.token_hex(16)}))

    def redeem(self, link: str, attempt: str = "") -> tuple[str, Page]:
        """Whom a link is for, and which page; one for onboarding works once, sent again by the same attempt.

        Raises:
            Refusal: 401 where it was changed, has expired or was used.
        """
        try:
            ticket = self._links.loads(link)
        except (BadSignature, UnicodeError):  # the latter of half a character
            raise Refusal(401, "this link isn't one of ours, or was changed; ask for a new one") from None
        if time.time() > ticket["until"]:
            raise Refusal(401, "this link has expired; ask for a new one")
        until = datetime.fromtimestamp(ticket["until"], UTC)
        if ticket["page"] == "onboard" and not self._keys.spend(ticket["nonce"], until, attempt):
            raise Refusal(401, "this link was used already; ask for a new one")
        return ticket["user"], ticket["page"]


def _unknown() -> Refusal:
    refusal = Refusal(401, UNKNOWN, code="invalid_api_key")
    refusal.headers = {"WWW-Authenticate": "Bearer"}
    return refusal


# for the description alone: the header is read by ``Door``, which refuses in our own words
Credential = Annotated[
    HTTPAuthorizationCredentials | None,
    Security(HTTPBearer(auto_error=False, bearerFormat="a key 'pa_…', or a user token", scheme_name="key")),
]


async def caller_of(request: Request, _: Credential = None) -> Caller:
    """The caller of a request; every route but the open ones depends on it."""
    door: Door = request.app.state.door
    caller = await asyncio.to_thread(door.caller, request.headers.get("authorization", ""))
    request.app.state.rates.spend(caller.name)
    request.state.caller = caller
    return caller


AnyCaller = Annotated[Caller, Depends(caller_of)]


async def backend_of(caller: AnyCaller) -> Caller:
    """A caller who may act for people."""
    if caller.role == "user":
        raise Refusal(403, "a user token can't do this; expected the key of a backend", code="key_required")
    return caller


async def operator_of(caller: AnyCaller) -> Caller:
    """A caller with an operator's key."""
    if caller.role != "operator":
        raise Refusal(403, "this key can't do this; expected the key of an operator", code="operator_required")
    return caller


async def person_of(user: str, caller: AnyCaller) -> str:
    """The person that a route is about, whom the caller may act for."""
    name = caller.user if caller.role == "user" and user == "me" else user
    if name is None or not caller.may_act_for(name):
        raise Refusal(403, "a user token is good for its own person alone; expected that one's id, or 'me'")
    if UNREADABLE in name:  # several paths are read as the same text
        raise InputError("the person's id in the path isn't UTF-8; send it percent-encoded")
    return check_user(name)


async def service_of(request: Request) -> Personalign:
    """The service that this server opens to its callers."""
    service: Personalign = request.app.state.service
    return service


Backend = Annotated[Caller, Depends(backend_of)]
Operator = Annotated[Caller, Depends(operator_of)]
PersonId = Annotated[str, Depends(person_of)]
Service = Annotated["Personalign", Depends(service_of)]
