"""People's routes: questions and answers, what a person states, and a look at the difference it makes.

``records.py`` has what is kept of a person, ``feedback.py`` what their use shows, and ``links.py`` how they get in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Strict

from personalign.messages import MAX_REPLIES, Pick
from personalign.options import OptionsDict
from personalign.serve.access import PersonId, Service
from personalign.serve.connection import gather, while_connected
from personalign.serve.models import drawn_as_usual
from personalign.serve.policy import Policy
from personalign.serve.portrait import profile_view, question_view, statements_view
from personalign.serve.repeats import Once, Write
from personalign.serve.wire import ChatAsk
from personalign.types import Choice, Profile
from personalign.views import NextView, PreviewView, ProfileView, QuestionView, UnderstoodView

PEOPLE = "/v1/people/{user:path}"
router = APIRouter(prefix=PEOPLE, tags=["people"])


class GivenAnswer(BaseModel):
    """What a person chose."""

    question: str
    choice: Choice | Pick


class Positions(BaseModel):
    """Where a person wants axes, from −1 to 1; null takes back what they stated."""

    positions: dict[str, Annotated[float, Strict()] | None]


class Wish(BaseModel):
    """A wish in everyday English."""

    text: str


class Consent(BaseModel):
    """The words, or the version of the words, that a person agreed to."""

    text: str


@router.get("/question")
def ask(
    user: PersonId,
    service: Service,
    graded: bool = False,
    replies: Annotated[int, Query(ge=2, le=MAX_REPLIES)] = 2,
    consent: str | None = None,
) -> NextView:
    """The question that waits for an answer, the next one, or why there is none."""
    question, profile = service.ask(user, consent, graded=graded, replies=replies), service.profile(user)
    return NextView(
        question=None if question is None else question_view(question, graded=graded),
        stopped=None if question else service.why_stopped(user),
        answered=profile.answers - profile.logged,
        most=service.stop_rule.max_questions,
    )


@router.post("/answers")
def answer(user: PersonId, given: GivenAnswer, write: Once) -> ProfileView:
    """Store an answer."""
    return changed(write, user, lambda: write.service.answer(user, given.question, given.choice))


@router.post("/undo")
def undo(user: PersonId, write: Once) -> ProfileView:
    """Take the last answer back; its question is open again."""
    return changed(write, user, lambda: write.service.undo(user))


@router.post("/set")
def state(user: PersonId, wanted: Positions, write: Once) -> ProfileView:
    """Place a person on axes, as their own strong evidence."""
    return changed(write, user, lambda: write.service.set(user, **wanted.positions))


@router.post("/say")
def say(user: PersonId, wish: Wish, write: Once) -> UnderstoodView:
    """Take a wish in words as weak evidence, and tell what was understood."""
    service, basis = write.service, write.service.basis
    before = service.profile(user)
    understood = write.make(lambda: service.say(user, wish.text), lambda: service.read_wishes(wish.text, basis.named))
    profile = profile_view(service.profile(user), basis, before)
    return UnderstoodView(statements_view(understood.wishes, basis.axes), understood.remainder, profile)


@router.put("/consent")
def agree(user: PersonId, consent: Consent, write: Once) -> ProfileView:
    """Record what a person agreed to."""
    return noted(write, user, lambda: write.service.consent(user, consent.text))


@router.post("/trial")
def trial(user: PersonId, service: Service, request: Request, asked: ChatAsk) -> QuestionView:
    """Let two arms of the running trial answer; a pair that waits for a choice on the same messages is shown again."""
    policy: Policy = request.app.state.policy
    return question_view(service.trial(user, asked.read(policy), **asked.chosen(policy)), graded=False)


@router.post("/preview")
async def preview(user: PersonId, service: Service, request: Request, asked: ChatAsk) -> PreviewView:
    """Answer a conversation twice, by the model alone and under the person's reward; nothing is stored."""
    policy: Policy = request.app.state.policy
    messages, options = asked.read(policy), drawn_as_usual(service, asked.chosen(policy))
    without: OptionsDict = {**options, "strength": 0.0}
    both = gather(service.achat(user, messages, **without), service.achat(user, messages, **options))
    plain, personal = await while_connected(request, both)
    return PreviewView(plain.text, personal.text)


def changed(write: Write, user: str, change: Callable[[], Profile]) -> ProfileView:
    """Make a change of a person's profile once, and say in words what it changed."""
    service = write.service
    before = service.profile(user)
    profile = write.make(change, lambda: service.profile(user))
    return profile_view(profile, service.basis, before)


def noted(write: Write, user: str, change: Callable[[], None]) -> ProfileView:
    """Make a change beside a person's profile once, and show the profile; without a basis nothing is changed."""
    service, basis = write.service, write.service.basis
    write.make(change, lambda: None)
    return profile_view(service.profile(user), basis)
