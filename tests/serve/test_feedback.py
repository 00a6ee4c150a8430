"""Feedback on a completion by its id, and on any two replies."""

from __future__ import annotations

import httpx
import pytest

from personalign.service import Personalign
from tests.onboarded import HELLO, onboard
from tests.serve.test_people import error, path
from tests.serve.test_records import completion_of


def text_of(completion: dict) -> str:
    return completion["choices"][0]["message"]["content"]


def stored(service: Personalign, user: str) -> list[tuple[str, str, str]]:
    """Kind, better and worse reply of a person's feedback, oldest first."""
    events = [event for event in service.history(user) if event.kind in {"thumbs", "edit", "regenerate"}]
    pairs = [(event.kind, *event.replies) for event in events if event.choice == "a"]
    pairs += [(event.kind, *event.replies[::-1]) for event in events if event.choice == "b"]
    return pairs


@pytest.mark.parametrize(("user", "thumb"), [("tom", "up"), ("tim", "down")])
def test_a_thumb_is_against_the_models_own_reply(
    client: httpx.Client, service: Personalign, user: str, thumb: str
) -> None:
    """A thumb up prefers the reply to what the model writes by itself, and a thumb down the other way round."""
    onboard(service, user, 3)
    completion = completion_of(client, user)
    plain = service.chat(user, HELLO, max_tokens=24, strength=0).text
    assert plain != text_of(completion), "the control: guidance is seen in this reply"
    given = {"completion": completion["id"], "kind": "thumbs", "thumb": thumb}
    assert client.post(path(user, "feedback"), json=given).status_code == 200
    pair = (text_of(completion), plain) if thumb == "up" else (plain, text_of(completion))
    assert stored(service, user) == [("thumbs", *pair)]


def test_a_thumb_on_a_plain_reply_tells_nothing(client: httpx.Client, service: Personalign) -> None:
    """What the model writes for everybody says nothing of one person, so nothing is stored."""
    completion = completion_of(client, "new here")
    given = {"completion": completion["id"], "kind": "thumbs", "thumb": "up"}
    response = client.post(path("new here", "feedback"), json=given)
    assert (response.status_code, response.json()["revision"]) == (200, 0)
    assert not service.is_known("new here")


def test_an_edit_prefers_their_own_words(client: httpx.Client, service: Personalign) -> None:
    """What a person made of a reply is better than the reply."""
    completion = completion_of(client, "eddi")
    given = {"completion": completion["id"], "kind": "edit", "text": "Which car, and when?"}
    client.post(path("eddi", "feedback"), json=given)
    assert stored(service, "eddi") == [("edit", "Which car, and when?", text_of(completion))]


def test_a_regenerated_reply_is_better_than_the_first(client: httpx.Client, service: Personalign) -> None:
    """The second completion is chosen over the first by their ids."""
    onboard(service, "regina", 3)
    first = completion_of(client, "regina")
    client.post(path("regina", "pause"))
    second = completion_of(client, "regina")
    given = {"completion": first["id"], "kind": "regenerate", "chosen": second["id"]}
    assert client.post(path("regina", "feedback"), json=given).status_code == 200
    assert stored(service, "regina") == [("regenerate", text_of(second), text_of(first))]


def test_a_reply_to_another_conversation_is_no_regenerated_one(client: httpx.Client, service: Personalign) -> None:
    """Two completions are compared only if they answer the same messages."""
    first = completion_of(client, "remi")
    other = completion_of(client, "remi", "I need a car in Rome")
    given = {"completion": first["id"], "kind": "regenerate", "chosen": other["id"]}
    status, message = error(client.post(path("remi", "feedback"), json=given))
    assert (status, "another conversation" in message) == (400, True)
    assert not service.is_known("remi")


def test_two_replies_of_any_model_can_be_named(client: httpx.Client, service: Personalign) -> None:
    """Without a completion the pair itself is sent; the same pair again takes the place of the first."""
    given = {"messages": HELLO, "chosen": "Sure.", "rejected": "No, never, not at all.", "kind": "thumbs"}
    profile = client.post(path("anna", "feedback"), json=given).json()
    assert client.post(path("anna", "feedback"), json=given).json()["revision"] == profile["revision"]
    assert stored(service, "anna") == [("thumbs", "Sure.", "No, never, not at all.")]


def test_a_foreign_completion_is_like_an_absent_one(client: httpx.Client, service: Personalign) -> None:
    """Somebody else's completion, as first or as second, gets the answer of one that doesn't exist."""
    theirs, mine = completion_of(client, "owner")["id"], completion_of(client, "thief")["id"]
    refusals = [
        client.post(path("thief", "feedback"), json={"kind": "edit", "text": "Mine.", "completion": completion})
        for completion in (theirs, "chatcmpl-unknown")
    ]
    refusals += [
        client.post(path("thief", "feedback"), json={"kind": "regenerate", "completion": mine, "chosen": completion})
        for completion in (theirs, "chatcmpl-unknown")
    ]
    assert [error(refusal)[0] for refusal in refusals] == [404] * 4
    assert refusals[0].json() == refusals[1].json()
    assert refusals[2].json() == refusals[3].json()
    assert not service.is_known("thief")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"kind": "stars"},
        {"kind": "thumbs"},
        {"kind": "edit", "completion": "{mine}"},
        {"kind": "edit", "completion": "{mine}", "text": " "},
        {"kind": "thumbs", "completion": "{mine}"},
        {"kind": "thumbs", "completion": "{mine}", "thumb": "sideways"},
        {"kind": "regenerate", "completion": "{mine}"},
        {"kind": "regenerate", "completion": "{mine}", "chosen": "{mine}"},
        {"kind": "thumbs", "chosen": "a", "rejected": "b"},
        {"kind": "thumbs", "chosen": "a", "rejected": "b", "messages": "Hello"},
        {"kind": "thumbs", "chosen": "a", "rejected": "a", "messages": HELLO},
    ],
)
def test_feedback_that_says_nothing_is_refused(client: httpx.Client, service: Personalign, given: dict) -> None:
    """A missing part, an unknown kind and two equal replies are refused, and nothing is stored."""
    mine = completion_of(client, "vague")["id"]
    given = {name: mine if part == "{mine}" else part for name, part in given.items()}
    status, message = error(client.post(path("vague", "feedback"), json=given))
    assert status == 400
    assert message
    assert not service.is_known("vague")
