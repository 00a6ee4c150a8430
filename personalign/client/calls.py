"""What each verb sends, and what comes back: the same for both clients, whichever way they wait.

Where a verb of the service has the same name, it means the same.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from personalign.client.failures import Unavailable, failure
from personalign.messages import FeedbackKind, Message
from personalign.views import (
    DriftView,
    ForgottenView,
    HistoryView,
    LinkView,
    NextView,
    PreviewView,
    ProfileView,
    QuestionView,
    TokenView,
    UnderstoodView,
)

Value = TypeVar("Value")
Fields = Mapping[str, object]


@dataclass(frozen=True)
class Call(Generic[Value]):
    """One request about a person, and the form of its answer."""

    method: str
    user: str
    place: str  # behind the person's id; "" for the person themselves
    form: type[Value]
    query: Mapping[str, str | int | bool] = field(default_factory=dict)
    body: Fields | None = None
    # the same for every try, so that what the server did before a connection broke counts once
    key: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def path(self) -> str:
        """The path, with the id as one piece of it, dots included: ".." alone would lead elsewhere."""
        user = quote(self.user, safe="").replace(".", "%2E")
        return f"/v1/people/{user}{self.place and '/'}{self.place}"

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of its own."""
        return {} if self.method == "GET" else {"Idempotency-Key": self.key}

    def read(self, status: int, content: bytes, headers: Mapping[str, str]) -> Value:
        """Read the answer.

        Raises:
            ClientError: the server refused the call, or what came isn't an answer.
        """
        try:
            if 200 <= status < 300:
                form: Any = self.form
                value: Value = _adapter(form).validate_json(content)
                return value
            refusal = json.loads(content)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            raise Unavailable(
                f"the answer can't be read ({first['msg']}); expected that of a personalign server of this version",
                status,
            ) from None
        except ValueError:
            refusal = None
        raise failure(status, refusal, headers)


@cache
def _adapter(form: Any) -> Any:  # noqa: ANN401 - the types of a form aren't hashable to mypy
    return TypeAdapter(form)


def ask(user: str, consent: str | None = None, *, graded: bool = False, replies: int = 2) -> Call[NextView]:
    """The question that waits for an answer, the next one, or why there is none."""
    query = {"graded": graded, "replies": replies} | ({} if consent is None else {"consent": consent})
    return Call("GET", user, "question", NextView, query)


def answer(user: str, question_id: str, choice: str) -> Call[ProfileView]:
    """Store an answer, such as "a", "tie" or "c>a"; ``changes`` says what it changed."""
    return Call("POST", user, "answers", ProfileView, body={"question": question_id, "choice": choice})


def undo(user: str) -> Call[ProfileView]:
    """Take the last answer back; its question is open again."""
    return Call("POST", user, "undo", ProfileView)


def state(user: str, /, **positions: float | None) -> Call[ProfileView]:
    """Place a person on axes from −1 to 1; None takes back what they stated."""
    return Call("POST", user, "set", ProfileView, body={"positions": positions})


def say(user: str, text: str) -> Call[UnderstoodView]:
    """Take a wish in words as weak evidence, and tell what was understood."""
    return Call("POST", user, "say", UnderstoodView, body={"text": text})


def agree(user: str, text: str) -> Call[ProfileView]:
    """Record what a person consents to."""
    return Call("PUT", user, "consent", ProfileView, body={"text": text})


def rate(
    user: str,
    completion_id: str,
    kind: FeedbackKind,
    *,
    thumb: Literal["up", "down"] | None = None,
    text: str | None = None,
    chosen: str | None = None,
) -> Call[ProfileView]:
    """Store what a person thought of a completion of the last hour.

    Of "thumbs" pass the ``thumb``, of "edit" their own ``text``, of "regenerate" the second completion, ``chosen``.
    """
    parts = {"thumb": thumb, "text": text, "chosen": chosen}
    body = {
        "completion": completion_id,
        "kind": kind,
        **{name: part for name, part in parts.items() if part is not None},
    }
    return Call("POST", user, "feedback", ProfileView, body=body)


def prefer(user: str, messages: Sequence[Message], chosen: str, rejected: str, kind: FeedbackKind) -> Call[ProfileView]:
    """Store which of two replies a person preferred in use, whoever wrote them."""
    body = {"messages": list(messages), "chosen": chosen, "rejected": rejected, "kind": kind}
    return Call("POST", user, "feedback", ProfileView, body=body)


def trial(user: str, messages: Sequence[Message], **options: float) -> Call[QuestionView]:
    """Let two arms of the running trial answer; ``answer`` takes the choice."""
    return Call("POST", user, "trial", QuestionView, body={"messages": list(messages), **options})


def preview(user: str, messages: Sequence[Message], max_tokens: int | None = None) -> Call[PreviewView]:
    """Answer a conversation twice: by the model alone, and under the person's reward."""
    limit = {} if max_tokens is None else {"max_tokens": max_tokens}
    return Call("POST", user, "preview", PreviewView, body={"messages": list(messages), **limit})


def profile(user: str) -> Call[ProfileView]:
    """What is known of a person, with an explanation."""
    return Call("GET", user, "profile", ProfileView)


def history(user: str) -> Call[HistoryView]:
    """All that a person answered and stated, the newest first."""
    return Call("GET", user, "history", HistoryView)


def drift(user: str) -> Call[DriftView]:
    """What a person's answers say about a change of taste."""
    return Call("GET", user, "drift", DriftView)


def export(user: str) -> Call[dict[str, Any]]:
    """Everything that is stored of a person."""
    return Call("GET", user, "export", dict[str, Any])


def pause(user: str) -> Call[ProfileView]:
    """Let a person have the model's own replies until they resume."""
    return Call("POST", user, "pause", ProfileView)


def resume(user: str) -> Call[ProfileView]:
    """Let a person's profile act again."""
    return Call("POST", user, "resume", ProfileView)


def forget(user: str) -> Call[ForgottenView]:
    """Erase everything about a person."""
    return Call("DELETE", user, "", ForgottenView)


def link(user: str, page: Literal["onboard", "me"], seconds: float | None = None) -> Call[LinkView]:
    """An address that opens a page for one person."""
    return Call("POST", user, "links", LinkView, body={"page": page, "seconds": seconds})


def token(user: str, seconds: float | None = None) -> Call[TokenView]:
    """A credential with which a person acts for themselves alone."""
    return Call("POST", user, "tokens", TokenView, body={"seconds": seconds})
