"""How people get in: signed links to pages, and tokens with which they act for themselves alone."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, Strict

from personalign.options import check_number
from personalign.serve.access import Backend, Door, Page, PersonId
from personalign.serve.people import PEOPLE
from personalign.serve.policy import Policy
from personalign.views import LinkView, SessionView, TokenView

SHORTEST_S = 1.0
Seconds = Annotated[float, Strict()] | None
MAX_ATTEMPT = 255  # characters of an idempotency key
router = APIRouter(tags=["people"])


class WantedLink(BaseModel):
    """Which page to open, and for how long; the server's own time if not said."""

    page: Page
    seconds: Seconds = None


class WantedToken(BaseModel):
    """For how long; the server's own time if not said."""

    seconds: Seconds = None


class ShownLink(BaseModel):
    """A link, as it stands behind the # of its address."""

    link: str


@router.post(f"{PEOPLE}/links")
def link(request: Request, user: PersonId, _: Backend, wanted: WantedLink) -> LinkView:
    """An address that opens a page for one person; one for onboarding works once."""
    seconds = _lifetime(wanted.seconds, _policy(request).link_s)
    path = f"{request.scope.get('root_path', '')}/{wanted.page}"  # base_url knows nothing of where this is mounted
    return LinkView(str(request.base_url.replace(path=path, fragment=_door(request).link(user, wanted.page, seconds))))


@router.post(f"{PEOPLE}/tokens")
def token(request: Request, user: PersonId, _: Backend, wanted: WantedToken | None = None) -> TokenView:
    """A token with which a person acts for themselves alone."""
    seconds = _lifetime(None if wanted is None else wanted.seconds, _policy(request).token_s)
    return TokenView(_door(request).token(user, seconds), seconds)


@router.post("/v1/sessions")
def session(
    request: Request, shown: ShownLink, idempotency_key: Annotated[str, Header(max_length=MAX_ATTEMPT)] = ""
) -> SessionView:
    """Change a link into a token for whom it was made; this route needs no key.

    A link for onboarding works once. Sent again with the same idempotency key, it still does: an answer may get lost.
    """
    user, page = _door(request).redeem(shown.link, idempotency_key)
    seconds = _policy(request).token_s
    return SessionView(_door(request).token(user, seconds), seconds, user, page)


def _lifetime(wanted: float | None, most: float) -> float:
    if wanted is None:
        return most
    check_number("seconds", wanted, SHORTEST_S, most)
    return wanted


def _door(request: Request) -> Door:
    door: Door = request.app.state.door
    return door


def _policy(request: Request) -> Policy:
    policy: Policy = request.app.state.policy
    return policy
