"""What is kept of a person, for them to read, to pause, to take along and to erase."""

from __future__ import annotations

import json

from fastapi import APIRouter, Request, Response

from personalign.serve.access import PersonId, Service
from personalign.serve.people import PEOPLE, noted
from personalign.serve.portrait import drift_view, event_view, profile_view
from personalign.serve.repeats import Once, Write
from personalign.views import DriftView, ForgottenView, HistoryView, ProfileView

ATTACHMENT = {"Content-Disposition": 'attachment; filename="personalign.json"'}
router = APIRouter(prefix=PEOPLE, tags=["people"])


@router.get("/profile")
def profile(user: PersonId, service: Service) -> ProfileView:
    """What is known of a person, with an explanation; the prior for someone who has answered nothing."""
    return profile_view(service.profile(user), service.basis)


@router.get("/history")
def history(user: PersonId, service: Service) -> HistoryView:
    """All that a person answered and stated, the newest first."""
    return HistoryView(tuple(event_view(event) for event in service.history(user)))


@router.get("/drift")
def drift(user: PersonId, service: Service) -> DriftView:
    """What a person's answers say about a change of taste."""
    return drift_view(service.drift(user))


@router.get("/export", response_class=Response, responses={200: {"content": {"application/json": {}}}})
def export(user: PersonId, service: Service) -> Response:
    """Everything that is stored of a person, as a file."""
    content = json.dumps(service.export(user), ensure_ascii=False, indent=1)
    return Response(content, media_type="application/json", headers=ATTACHMENT)


@router.post("/pause")
def pause(user: PersonId, write: Once) -> ProfileView:
    """Let a person have the model's own replies, and keep what is known of them."""
    return noted(write, user, lambda: write.service.pause(user))


@router.post("/resume")
def resume(user: PersonId, write: Once) -> ProfileView:
    """Let a person's profile act again."""
    return noted(write, user, lambda: write.service.resume(user))


@router.delete("")
def forget(user: PersonId, request: Request, write: Once) -> ForgottenView:
    """Erase everything about a person; their id may start anew."""
    service = write.service
    try:
        return ForgottenView(write.make(lambda: service.forget(user), lambda: _is_gone(write, user)))
    finally:
        request.app.state.completions.forget(user)


def _is_gone(write: Write, user: str) -> bool:
    """Whether the person is still gone; the erasure is finished where readers kept some of it the first time."""
    if write.service.is_known(user):
        return False
    write.service.forget(user)
    return True
