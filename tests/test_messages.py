"""Conversations and ids from outside are taken as OpenAI's clients write them, or refused with advice."""

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

import pytest
from pydantic import BaseModel

from personalign.errors import InputError, MessageError
from personalign.messages import (
    MAX_CANDIDATES,
    MAX_CONVERSATION,
    MAX_TEXT,
    Feedback,
    check_user,
    read_candidates,
    read_messages,
)

HELLO = {"role": "user", "content": "Hello"}
HI = {"role": "assistant", "content": "Hi!"}


@dataclass
class Plain:
    role: str
    content: str


class Model(BaseModel):
    role: str
    content: str


class Speaker(str, Enum):  # noqa: UP042 - StrEnum has the str that is meant
    """As SDKs before ``StrEnum`` name roles: its ``str`` is "Speaker.USER"."""

    USER = "user"


def _parts(*parts: object) -> list[object]:
    return [{"role": "user", "content": list(parts)}]


TAKEN = {
    "a list": ([HELLO], [HELLO]),
    "a tuple": ((HELLO,), [HELLO]),
    "a system message": ([{"role": "system", "content": "Be brief."}, HELLO], None),
    "several turns": ([HELLO, HI, HELLO], None),
    "two users in a row": ([HELLO, HELLO], None),
    "an enum's role": ([{"role": Speaker.USER, "content": "Hello"}], [HELLO]),
    "other keys": ([{**HELLO, "name": "bob", "tool_calls": None, "refusal": None}], [HELLO]),
    "other mappings": ([MappingProxyType(HELLO), OrderedDict(HELLO)], [HELLO, HELLO]),
    "a dumped object": ([Model(role="user", content="Hello").model_dump()], [HELLO]),
    "parts": (_parts({"type": "text", "text": "Hello"}), [HELLO]),
    "several parts": (
        _parts({"type": "text", "text": "Hello"}, {"type": "text", "text": "you", "cache_control": None}),
        [{"role": "user", "content": "Hello\nyou"}],
    ),
    "parts in a tuple": ([{"role": "user", "content": ({"type": "text", "text": "Hello"},)}], [HELLO]),
    "other scripts": ([{"role": "user", "content": "こんにちは 🙂 \x00"}], None),
    "the longest text": ([{"role": "user", "content": "x" * MAX_TEXT}], None),
}


@pytest.mark.parametrize("case", TAKEN)
def test_conversations_are_taken_as_clients_write_them(case: str) -> None:
    """Role and content are kept, parts become one text, and the rest is left out; to take it twice changes nothing."""
    messages, expected = TAKEN[case]
    conversation = read_messages(messages)
    assert list(conversation) == (messages if expected is None else expected)
    assert read_messages(conversation) == conversation
    assert {type(message["role"]) for message in conversation} == {str}


REFUSED = {
    "a text": ("Hello", r"found 'Hello' as messages, expected a list; pass \[\{"),
    "bytes": (b"Hello", "expected a list"),
    "one message": (HELLO, "expected a list"),
    "nothing": (None, "found None as messages"),
    "a number": (3, "found 3 as messages"),
    "a generator": ((message for message in [HELLO]), "expected a list"),
    "a set": ({"Hello"}, "expected a list"),
    "no messages": ([], "found no messages, expected one at least"),
    "texts": (["Hello"], "message 0 is 'Hello', expected a mapping with role and content"),
    "pairs": ([("user", "Hello")], "message 0 is .*expected a mapping"),
    "a dataclass": ([HELLO, Plain("user", "Hello")], r"message 1 is .*pass dataclasses.asdict\(message\)"),
    "a pydantic object": ([Model(role="user", content="Hello")], r"message 0 is .*pass message.model_dump\(\)"),
    "no content": ([{"role": "user"}], "message 0 has 'role', but not 'content'"),
    "no content but tool calls": (
        [HELLO, {"role": "assistant", "tool_calls": []}, HELLO],
        "message 1 has 'role', 'tool_calls', but not 'content'",
    ),
    "no role": ([{"content": "x", "name": "bob"}], "message 0 has 'content', 'name', but not 'role'"),
    "an empty mapping": ([{}], "message 0 has nothing, but not 'role' and 'content'"),
    "a mapping of many keys": ([dict.fromkeys(map(str, range(10_000)))], "expected both"),
    "ShareGPT's": ([{"from": "human", "value": "Hello"}], "rename 'from' to 'role' and 'value' to 'content'"),
    "a developer": ([{"role": "developer", "content": "x"}, HELLO], "message 0 has the role 'developer'"),
    "a tool": ([{"role": "tool", "content": "x"}, HELLO], "expected one of system, user, assistant"),
    "a role in capitals": ([{"role": "User", "content": "x"}], "role 'User'"),
    "a role that is a list": ([{"role": ["user"], "content": "x"}], r"role \['user'\]"),
    "content that is null": ([{"role": "user", "content": None}], r"message 0 \(user\) is None, expected text"),
    "content that is a number": ([{"role": "user", "content": 3}], r"message 0 \(user\) is 3"),
    "content that is bytes": ([{"role": "user", "content": b"x"}], r"message 0 \(user\) is b'x'"),
    "content that is a mapping": ([{"role": "user", "content": {"text": "x"}}], "expected text"),
    "blank": ([{"role": "user", "content": " \n"}], r"message 0 \(user\) is blank"),
    "no parts": (_parts(), "is blank"),
    "an image": (_parts({"type": "image_url", "image_url": {"url": "x"}}), "part 0 of message 0 is 'image_url'"),
    "a part that is a text": (_parts("Hello"), "part 0 of message 0 is 'Hello'"),
    "a part without text": (_parts({"type": "text"}), "part 0 of message 0 is 'text', expected"),
    "a part that is null": (_parts({"type": "text", "text": None}), "part 0 of message 0"),
    "half a pair": ([{"role": "user", "content": "ab\ud83d"}], "half a surrogate pair at character 3"),
    "half a pair in a part": (_parts({"type": "text", "text": "\udc00"}), "half a surrogate pair"),
    "a novel": (
        [{"role": "user", "content": "x" * (MAX_TEXT + 1)}],
        "has 100,001 characters, expected at most 100,000",
    ),
    "a library": ([{"role": "user", "content": "x" * MAX_TEXT}] * 11, f"at most {MAX_CONVERSATION:,}; leave out"),
    "an answered conversation": ([HELLO, HI], "the last message is the assistant's, expected the user's"),
    "a system message alone": ([{"role": "system", "content": "Be brief."}], "the last message is the system's"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_conversation_is_refused_with_advice(case: str) -> None:
    """Each is a MessageError that tells what was found, what was expected and what to do, in a line that prints."""
    messages, complaint = REFUSED[case]
    with pytest.raises(MessageError, match=complaint) as refusal:
        read_messages(messages)
    str(refusal.value).encode()
    assert ";" in str(refusal.value)
    assert len(str(refusal.value)) < 1000


def test_an_answered_conversation_is_taken_where_it_is_meant() -> None:
    """What trains and what measures reads conversations that end with a reply."""
    assert read_messages([HELLO, HI], is_answered=True) == (HELLO, HI)


@pytest.mark.parametrize(
    ("feedback", "complaint"),
    [
        (("thumbs", "Hello", "a", "b"), "expected a list"),
        (("thumbs", [HELLO, HI], "a", "b"), "the last message"),
        (("thumbs", [{"role": "user", "content": "\ud800"}], "a", "b"), "half a surrogate pair"),
        (("thumbs", [HELLO], "\ud800", "b"), "the chosen reply holds half a surrogate pair"),
        (("thumbs", [HELLO], "a", None), "the rejected reply is None"),
        (("thumbs", [HELLO], " ", "b"), "the chosen reply is blank"),
        (("thumbs", [HELLO], "a", "a"), "expected two texts that differ"),
        (("star", [HELLO], "a", "b"), "found feedback of the kind 'star', expected one of edit, thumbs, regenerate"),
        ((["edit"], [HELLO], "a", "b"), "found feedback of the kind"),
    ],
)
def test_feedback_that_says_nothing_is_refused(feedback: tuple, complaint: str) -> None:
    """Its conversation goes through the same door as a request's, and its replies are words."""
    with pytest.raises(InputError, match=complaint):
        Feedback(*feedback)


def test_feedback_keeps_a_conversation_of_its_own() -> None:
    """Parts and other keys are gone, and what is kept can be stored."""
    assert Feedback("edit", [{**HELLO, "name": "bob"}], "a", "b").prompt == (HELLO,)


@pytest.mark.parametrize(
    "user", ["ada", "ada lovelace", "ada@example.org", "日本", "🙂", "a" * 128, "0", "O'Brien; --"]
)
def test_ids_are_kept_as_they_are(user: str) -> None:
    """Any printable text is an id."""
    assert check_user(user) == user


@pytest.mark.parametrize(
    "user", ["", " ", "a" * 129, "a\n", "\x1b[2J", "a\x00b", "\ud800", "a\x9b", None, 3, b"ada", ["ada"], True]
)
def test_ids_that_cannot_be_kept_are_refused(user: object) -> None:
    """Blank, long or unprintable ids, and what isn't text."""
    with pytest.raises(InputError, match="as a person's id, expected 1 to 128 printable characters"):
        check_user(user)


@pytest.mark.parametrize(
    ("candidates", "error", "complaint"),
    [
        ([], InputError, "found 0 candidates, expected 1 to 256"),
        (["a"] * (MAX_CANDIDATES + 1), InputError, "found 257 candidates"),
        ("one text", InputError, "candidates is 'one text', expected a list"),
        (["fine", "  "], MessageError, "candidate 1 is blank"),
        (["x" * 1_000_000], MessageError, "candidate 0 has 1,000,000 characters, expected at most 100,000"),
        ([b"bytes"], MessageError, "candidate 0 is b'bytes', expected text"),
        (["\ud800"], MessageError, "half a surrogate pair"),
        (None, InputError, "candidates is None"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(candidates: object, error: type[Exception], complaint: str) -> None:
    """Each refusal says what was found, what was expected and what to do."""
    with pytest.raises(error, match=complaint):
        read_candidates(candidates)
    assert read_candidates(["a", "a"]) == ("a", "a")
