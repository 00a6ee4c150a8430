"""Texts that come from outside: conversations, what a person preferred in one, people's ids, and places.

Whatever takes a conversation takes it through ``read_messages``: requests, feedback, logs and prompts alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Literal, TypedDict, get_args
from unicodedata import category

from personalign.errors import InputError, MessageError, QuestionError

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)
FeedbackKind = Literal["edit", "thumbs", "regenerate"]
FEEDBACK: tuple[FeedbackKind, ...] = get_args(FeedbackKind)  # the kinds of answers that come without a question
# of more than two replies the best is picked, and the worst behind it if it is named
Pick = Literal["c", "d", "a>b", "a>c", "a>d", "b>a", "b>c", "b>d", "c>a", "c>b", "c>d", "d>a", "d>b", "d>c"]
PICKS: tuple[Pick, ...] = get_args(Pick)
LETTERS = "abcd"  # of replies to one prompt, as they are shown
MAX_REPLIES = len(LETTERS)
MAX_TEXT = 100_000  # characters of a text that is kept
EXAMPLE = '[{"role": "user", "content": "Hello"}]'
MAX_CONVERSATION = 10 * MAX_TEXT  # characters of all messages: far more than a model reads, too few to keep it busy
MAX_CANDIDATES = 256  # replies to choose from
MAX_USER = 128  # characters of a person's id
MAX_PLACE, MAX_NAME = 1000, 255  # bytes of a path, and of a folder or file in it
UNWRITTEN = {"Cc", "Cs", "Zl", "Zp"}  # controls, half characters, line and paragraph separators


class Message(TypedDict):
    """One chat message."""

    role: Role
    content: str


Conversation = tuple[Message, ...]


def read_messages(messages: object, *, is_answered: bool = False) -> Conversation:
    """Take a conversation as OpenAI's clients write it: role and content of every message, and nothing else.

    Content in parts becomes one text, a line for each. ``is_answered`` allows the last message to be the assistant's.

    Raises:
        MessageError: it isn't a list of messages, or a message has another role, no text, more than 100,000
            characters, or half a surrogate pair; or the last one isn't the user's.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise MessageError(f"found {shown(messages)} as messages, expected a list; pass {EXAMPLE}")
    if not messages:
        raise MessageError(f"found no messages, expected one at least; pass {EXAMPLE}")
    conversation = tuple(_message(f"message {number}", message) for number, message in enumerate(messages))
    if (size := sum(len(message["content"]) for message in conversation)) > MAX_CONVERSATION:
        raise MessageError(
            f"the messages have {size:,} characters, expected at most {MAX_CONVERSATION:,}; leave out the oldest"
        )
    if (role := conversation[-1]["role"]) != "user" and not is_answered:
        raise MessageError(
            f"the last message is the {role}'s, expected the user's, to be answered; append it, or leave out the last"
        )
    return conversation


def instructed(conversation: Conversation, instruction: str) -> list[Message]:
    """Put an instruction below the system message's text, or before a conversation without one; "" changes nothing."""
    if not instruction:
        return list(conversation)
    if conversation[0]["role"] != "system":
        return [{"role": "system", "content": instruction}, *conversation]
    system, *others = conversation
    return [{"role": "system", "content": f"{system['content']}\n\n{instruction}"}, *others]


def read_candidates(candidates: object) -> tuple[str, ...]:
    """Take replies to choose from.

    Raises:
        InputError: it isn't a list, or holds none or more than 256.
        MessageError: one is blank, too long or no text.
    """
    if not isinstance(candidates, list | tuple):
        raise InputError(f"candidates is {shown(candidates)}, expected a list; put it into brackets")
    if not 1 <= len(candidates) <= MAX_CANDIDATES:
        raise InputError(
            f"found {len(candidates)} candidates, expected 1 to {MAX_CANDIDATES}; pass the replies to rank"
        )
    return tuple(check_text(f"candidate {number}", text) for number, text in enumerate(candidates))


def _message(place: str, message: object) -> Message:
    if not isinstance(message, Mapping):
        raise MessageError(f"{place} is {shown(message)}, expected a mapping{_advice(message)}")
    if missing := [key for key in ("role", "content") if key not in message]:
        names = ", ".join(map(shown, [*message][:5])) or "nothing"
        advice = "; rename 'from' to 'role' and 'value' to 'content'" if {"from", "value"} <= message.keys() else ""
        raise MessageError(
            f"{place} has {names}, but not {' and '.join(map(repr, missing))}; expected both, as in {EXAMPLE}{advice}"
        )
    role = message["role"]
    if not isinstance(role, str) or role not in ROLES:
        raise MessageError(
            f"{place} has the role {shown(role)}, expected one of {', '.join(ROLES)}; rename the role, or leave the "
            "message out"
        )
    role = next(known for known in ROLES if known == role)  # a plain text, whatever kind of text was passed
    return {"role": role, "content": check_text(f"{place} ({role})", _content(place, message["content"]))}


def _advice(message: object) -> str:
    if hasattr(message, "model_dump"):
        return "; pass message.model_dump()"
    if is_dataclass(message):
        return "; pass dataclasses.asdict(message)"
    return f" with role and content; pass {EXAMPLE}"


def _content(place: str, content: object) -> object:
    """One text: the content itself, or its parts."""
    if not isinstance(content, list | tuple):
        return content
    return "\n".join(_part(f"part {number} of {place}", part) for number, part in enumerate(content))


def _part(place: str, part: object) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(text := part.get("text"), str):
        return text
    kind = part.get("type", part) if isinstance(part, Mapping) else part
    raise MessageError(
        f'{place} is {shown(kind)}, expected {{"type": "text", "text": "Hello"}}; the model reads text alone, so leave '
        "out the others"
    )


def check_text(name: str, text: object) -> str:
    """Refuse what isn't text, is blank or too long, or holds half a surrogate pair."""
    if not isinstance(text, str):
        raise MessageError(f"{name} is {shown(text)}, expected text; pass a string, or leave it out")
    if not text.strip():
        raise MessageError(f"{name} is blank, expected words; leave it out")
    if len(text) > MAX_TEXT:
        raise MessageError(f"{name} has {len(text):,} characters, expected at most {MAX_TEXT:,}; shorten it")
    check_unicode(name, text)
    return text


def check_unicode(name: str, text: str) -> None:
    """Refuse half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MessageError(
            f"{name} holds half a surrogate pair at character {error.start + 1}, which is no character; send proper "
            "Unicode"
        ) from None


def check_user(user: object) -> str:
    """Refuse ids that can't be stored and read again as they are."""
    if not isinstance(user, str) or not user.strip() or len(user) > MAX_USER or UNWRITTEN & set(map(category, user)):
        raise InputError(
            f"found {shown(user)} as a person's id, expected 1 to {MAX_USER} printable characters, such as 'ada'; pass "
            "the id as text"
        )
    return user


def check_place(name: str, value: object) -> str:
    """Refuse what can't name a file, a folder, a model or a device."""
    text = str(value) if isinstance(value, str | Path) else ""
    if not 1 <= len(text) <= MAX_PLACE or not text.isprintable():
        raise InputError(f"{name} is {shown(_open(value))}, expected a name or a path as text; pass one")
    if len(text.encode()) > MAX_PLACE or any(len(part.encode()) > MAX_NAME for part in text.split("/")):
        raise InputError(f"{name} is {shown(_open(value))}, expected names of at most {MAX_NAME} bytes; shorten them")
    return text


def _open(value: object) -> object:
    """The value without the password that a URL may have."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", value, flags=re.DOTALL) if isinstance(value, str) else value


def shown(value: object) -> str:
    """A value as an error shows it: short, and whatever its ``repr`` does."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - whatever it is, the value is refused anyway
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True)
class Feedback:
    """A preference that showed in use: of two replies to one prompt, a person has ``chosen`` one over the other.

    "edit": their own text over the reply they edited; "regenerate": the second reply over the first; "thumbs": the
    reply with its thumb up over the other, or the other over the one with its thumb down. The other is what stood
    beside it, or the model's own: ``chat(…, strength=0)``.
    """

    kind: FeedbackKind
    prompt: Conversation
    chosen: str
    rejected: str

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in FEEDBACK:
            raise InputError(f"found feedback of the kind {shown(self.kind)}, expected one of {', '.join(FEEDBACK)}")
        object.__setattr__(self, "prompt", read_messages(self.prompt))
        check_text("the chosen reply", self.chosen)
        check_text("the rejected reply", self.rejected)
        if self.chosen == self.rejected:
            raise InputError("the chosen and the rejected reply are the same; expected two texts that differ")


def read_pick(choice: str, num_replies: int) -> tuple[int, int | None]:
    """The places of the best of so many replies, and of the worst if it is named.

    Raises:
        QuestionError: what is no pick of them.
    """
    letters = LETTERS[:num_replies]
    best, _, worst = choice.partition(">")
    if choice not in {*letters, *PICKS} or not {best, worst} <= {*letters, ""}:
        raise QuestionError(
            f"the choice is {choice!r}, expected the best of {', '.join(letters)}, and behind it the worst if there is "
            'one, such as "b" or "b>c"; or neither, skip'
        )
    return letters.index(best), letters.index(worst) if worst else None
