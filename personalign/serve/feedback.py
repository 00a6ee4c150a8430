"""What people's use shows of their taste: thumbs, edits and regenerated replies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from personalign.messages import FeedbackKind
from personalign.options import OptionsDict
from personalign.serve.access import PersonId
from personalign.serve.completions import Completion, Completions
from personalign.serve.failures import Refusal
from personalign.serve.people import PEOPLE, changed
from personalign.serve.repeats import Once
from personalign.types import Profile
from personalign.views import ProfileView

if TYPE_CHECKING:
    from personalign.service import Personalign

router = APIRouter(prefix=PEOPLE, tags=["people"])


class GivenFeedback(BaseModel):
    """A thumb, an edit or a regenerated reply: of a completion by its id, or of any two replies to ``messages``.

    With a completion: for "thumbs" the ``thumb``; for "edit" the person's own ``text``; for "regenerate" the id of the
    second completion as ``chosen``. Without: ``messages``, and the texts ``chosen`` and ``rejected``.
    """

    kind: FeedbackKind
    completion: str | None = None
    thumb: Literal["up", "down"] | None = None
    text: str | None = None
    messages: Any = None
    chosen: str | None = None
    rejected: str | None = None


@router.post("/feedback")
def give(user: PersonId, given: GivenFeedback, request: Request, write: Once) -> ProfileView:
    """Store which of two replies a person preferred in use, as weak evidence."""
    completions: Completions = request.app.state.completions
    return changed(write, user, lambda: _store(write.service, user, given, completions))


def _store(service: Personalign, user: str, given: GivenFeedback, completions: Completions) -> Profile:
    if given.completion is None:
        chosen, rejected = _present("chosen", given.chosen), _present("rejected", given.rejected)
        return service.feedback(user, given.messages, chosen, rejected, given.kind)
    completion = _find(completions, user, "completion", given.completion)
    if given.kind == "edit":
        better, worse = _present("text", given.text), completion.text
    elif given.kind == "regenerate":
        second = _find(completions, user, "chosen", given.chosen)
        if second.messages != completion.messages:
            raise Refusal(400, "chosen answers another conversation than completion; name two replies to one", "chosen")
        better, worse = second.text, completion.text
    else:
        is_up = _present("thumb", given.thumb) == "up"
        plain = _plain(service, completion)
        if plain == completion.text:  # a thumb on what the model writes for everybody tells nothing of this person
            return service.profile(user)
        better, worse = (completion.text, plain) if is_up else (plain, completion.text)
    return service.feedback(user, completion.messages, better, worse, given.kind)


def _plain(service: Personalign, completion: Completion) -> str:
    """What the model writes by itself in the place of a completion."""
    without: OptionsDict = {**completion.options, "strength": 0.0}
    return service.chat(completion.user, completion.messages, **without).text


def _find(completions: Completions, user: str, place: str, completion_id: str | None) -> Completion:
    """A person's completion; another person's and an absent one are refused alike."""
    completion = completions.find(_present(place, completion_id), user)
    if completion is None:
        raise Refusal(404, "this person has no such completion, or no longer; send messages and both replies", place)
    return completion


def _present(place: str, value: str | None) -> str:
    if value is None:
        raise Refusal(400, f"{place} is missing, expected with this kind of feedback; add it", place)
    return value
