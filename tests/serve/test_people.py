"""People's routes: questions, answers and statements over HTTP, and who is who in the path."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import quote

import httpx
import pytest

from personalign.service import Personalign
from tests.onboarded import HELLO, onboard


def path(user: str, verb: str = "") -> str:
    return f"/v1/people/{quote(user, safe='').replace('.', '%2E')}{verb and '/'}{verb}"


def answer(client: httpx.Client, user: str, choice: str = "a") -> dict:
    question = client.get(path(user, "question")).json()["question"]
    return client.post(path(user, "answers"), json={"question": question["id"], "choice": choice}).json()


def error(response: httpx.Response) -> tuple[int, str]:
    """The status of a refusal, and what it says."""
    body = response.json()["error"]
    assert set(body) == {"message", "type", "param", "code"}
    return response.status_code, body["message"]


def test_a_person_is_onboarded_over_http(client: httpx.Client, service: Personalign) -> None:
    """Questions come until enough is known, the answers make the service's own profile, and the end says why."""
    while (shown := client.get(path("pia", "question")).json())["question"]:
        longer = max("ab", key=lambda side: len(shown["question"]["replies"]["ab".index(side)]))
        given = {"question": shown["question"]["id"], "choice": longer}
        profile = client.post(path("pia", "answers"), json=given).json()
    assert shown["stopped"] == service.why_stopped("pia")
    assert 1 <= shown["answered"] == profile["answers"] <= shown["most"]
    own = service.profile("pia")
    assert profile["revision"] == own.revision
    assert profile["explanation"] == own.explain().splitlines()
    assert [axis["mean"] for axis in profile["axes"]] == own.mean.tolist()


def test_an_answer_says_what_it_changed(client: httpx.Client) -> None:
    """The profile that comes back has a line for each change, and the same answer again changes nothing."""
    first = client.get(path("cleo", "question")).json()["question"]
    given = {"question": first["id"], "choice": "a"}
    profile = client.post(path("cleo", "answers"), json=given).json()
    assert all(line.startswith("towards ") for line in profile["changes"])
    again = client.post(path("cleo", "answers"), json=given).json()
    assert again["changes"] == ["Nothing changed that could be seen."]
    assert again["revision"] == profile["revision"]


def test_the_same_question_waits(client: httpx.Client) -> None:
    """Asking twice shows one question, with grades where they are asked for, and undo opens it again."""
    first = client.get(path("wim", "question"), params={"graded": True}).json()["question"]
    assert first["graded"]
    assert client.get(path("wim", "question")).json()["question"] == first | {"graded": False}
    profile = answer(client, "wim")
    undone = client.post(path("wim", "undo")).json()
    assert (profile["answers"], undone["answers"]) == (1, 0)
    assert client.get(path("wim", "question")).json()["question"]["id"] == first["id"]


def test_a_question_records_consent(client: httpx.Client, service: Personalign) -> None:
    """What a person agreed to is stored with the first question, and by a route of its own."""
    client.get(path("coco", "question"), params={"consent": "version 1"})
    assert service.export("coco")["tables"]["users"][0]["consent"] == "version 1"
    assert client.put(path("coco", "consent"), json={"text": "version 2"}).status_code == 200
    assert service.export("coco")["tables"]["users"][0]["consent"] == "version 2"


def test_a_position_is_set_and_taken_back(client: httpx.Client) -> None:
    """A slider's axis shows where it was set, and null takes it back."""
    profile = client.post(path("sven", "set"), json={"positions": {"length": -1}}).json()
    axes = {axis["name"]: axis for axis in profile["axes"]}
    assert (axes["length"]["position"], axes["warmth"]["position"]) == (-1.0, None)
    assert axes["length"]["mean"] < 0
    assert [(s["axis"], s["position"], s["kind"]) for s in profile["stated"]] == [("length", -1.0, "set")]
    assert "set to -1" in profile["stated"][0]["explanation"]
    profile = client.post(path("sven", "set"), json={"positions": {"length": None}}).json()
    assert not profile["stated"]


@pytest.mark.parametrize(
    ("positions", "fault"),
    [
        ({"lenght": 1}, "did you mean length?"),
        ({"length": 2}, "from -1 to 1"),
        ({"length": "NaN"}, "valid number"),
        ({"length": True}, "valid number"),
        ({}, "one at least"),
    ],
)
def test_a_position_that_is_none_is_refused(client: httpx.Client, positions: dict, fault: str) -> None:
    """An unknown axis, a position off the axis, a text and no position at all are refused in words."""
    status, message = error(client.post(path("sven", "set"), json={"positions": positions}))
    assert status == 400
    assert fault in message


def test_a_wish_in_words_is_understood_or_not(client: httpx.Client) -> None:
    """What was understood comes back as statements, the rest as it was said, and the profile has them."""
    heard = client.post(path("willa", "say"), json={"text": "Shorter please, and stop the rain."}).json()
    assert [(s["axis"], s["kind"]) for s in heard["understood"]] == [("length", "said")]
    assert heard["remainder"] == ["and stop the rain"]
    assert [s["axis"] for s in heard["profile"]["stated"]] == ["length"]


@pytest.mark.parametrize("text", ["x" * 200_000, " ", "\ud800"])
def test_a_wish_that_is_none_is_refused(client: httpx.Client, text: str) -> None:
    """A text beyond the limit, a blank one and half a character are refused, and nothing is stored of them."""
    body = f'{{"text": {json.dumps(text)}}}'
    response = client.post(path("bigmouth", "say"), content=body, headers={"Content-Type": "application/json"})
    assert error(response)[0] == 400
    assert client.get(path("bigmouth", "profile")).json()["revision"] == 0


def test_each_axis_has_an_example(client: httpx.Client, service: Personalign) -> None:
    """Two replies to one prompt show what an axis is about, the one with less of it first."""
    axes = client.get(path("nobody", "profile")).json()["axes"]
    for place, (axis, question) in enumerate(zip(axes, service.basis.examples, strict=True)):
        assert question is not None
        low, high = (question.replies.index(axis["example"][end]) for end in ("low", "high"))
        assert question.features[low, place] < question.features[high, place]
        assert axis["example"]["prompt"] == list(question.prompt)


def test_preview_shows_the_difference(client: httpx.Client, service: Personalign) -> None:
    """One prompt is answered by the model alone and under the profile, as the service answers it."""
    onboard(service, "prue")
    seen = client.post(path("prue", "preview"), json={"messages": HELLO, "max_tokens": 24}).json()
    assert seen["plain"] == service.chat("prue", HELLO, strength=0, max_tokens=24).text
    assert seen["personal"] == service.chat("prue", HELLO, max_tokens=24).text


def test_a_trial_shows_two_replies(client: httpx.Client, service: Personalign) -> None:
    """Two arms answer, the same pair waits until it is chosen from, and without a trial there is none."""
    assert error(client.post(path("tria", "trial"), json={"messages": HELLO}))[0] == 400
    service.trials.start(["plain", "personal"])
    try:
        wanted = {"messages": HELLO, "max_tokens": 16, "some_field": 1}
        question = client.post(path("tria", "trial"), json=wanted).json()
        assert client.post(path("tria", "trial"), json=wanted).json() == question
        given = {"question": question["id"], "choice": "b"}
        assert client.post(path("tria", "answers"), json=given).json()["answers"] == 1
    finally:
        service.trials.stop()


ODD = [
    "a/b",
    "me",
    "a/question",
    "question",
    "🦊 fox",
    "x" * 128,
    "..",
    "../../x",
    "a//b",
    "/a",
    "a/",
    "50%2F",
    "?q#f",
    "é\u0301",
]


@pytest.mark.parametrize("user", ODD)
def test_an_odd_id_is_one_person(client: httpx.Client, service: Personalign, user: str) -> None:
    """Slashes, dots, emoji, 128 characters and the routes' own words in an id lead to this person and no other."""
    assert client.get(path(user, "question")).json()["question"]
    assert answer(client, user)["user"] == user
    assert client.get(path(user, "profile")).json()["answers"] == service.profile(user).answers == 1
    assert client.get(path(user, "export")).json()["user"] == user
    assert client.delete(path(user)).json() == {"forgotten": True}
    assert not service.is_known(user)


@pytest.mark.parametrize("user", ["x" * 129, " ", "a\tb", "\u2028"])
def test_an_id_that_is_none_is_refused(client: httpx.Client, user: str) -> None:
    """A blank id, one of 129 characters and one with a control are refused by every kind of route."""
    answers = [client.get(path(user, "profile")), client.post(path(user, "undo")), client.delete(path(user))]
    assert [error(response)[0] for response in answers] == [400] * 3


@pytest.mark.parametrize("raw", ["%FF", "%ED%A0%80", "ada%FE"])
def test_an_id_that_is_no_text_is_nobodys(client: httpx.Client, raw: str) -> None:
    """Bytes that aren't UTF-8 are refused, since several such paths would be one person."""
    assert error(client.get(f"/v1/people/{raw}/profile"))[0] == 400


def test_me_is_whom_a_token_is_for(server: str, token_for: Callable[[str], str]) -> None:
    """With a user token "me" is the token's own person, and somebody else's path is refused, known or not."""
    with httpx.Client(base_url=server, headers={"Authorization": f"Bearer {token_for('mia/2')}"}) as mia:
        assert answer(mia, "me")["user"] == "mia/2"
        assert mia.get(path("mia/2", "profile")).json()["answers"] == 1
        refusals = [mia.get(path(user, "profile")) for user in ("cleo", "absent")]
        assert [response.status_code for response in refusals] == [403, 403]
        assert refusals[0].json() == refusals[1].json()


def test_a_foreign_question_is_like_an_absent_one(client: httpx.Client) -> None:
    """Answering somebody else's question gets the same answer as one that doesn't exist."""
    hers = client.get(path("gwen", "question")).json()["question"]["id"]
    client.get(path("hugo", "question"))
    refusals = [
        client.post(path(user, "answers"), json={"question": question, "choice": "a"})
        for user in ("hugo", "unheard-of")
        for question in (hers, "0" * 32, "no\nid", "x" * 10_000)
    ]
    assert {response.status_code for response in refusals} == {404}
    assert refusals[0].json() == refusals[1].json()
    assert client.get(path("gwen", "question")).json()["question"]["id"] == hers


def test_an_answered_question_keeps_its_answer(client: httpx.Client) -> None:
    """Another answer to the same question is refused, and says to undo the first."""
    question = client.get(path("otto", "question")).json()["question"]["id"]
    client.post(path("otto", "answers"), json={"question": question, "choice": "a"})
    status, message = error(client.post(path("otto", "answers"), json={"question": question, "choice": "b"}))
    assert status == 409
    assert "undo" in message
    assert error(client.post(path("otto", "answers"), json={"question": question, "choice": "z"}))[0] == 400
