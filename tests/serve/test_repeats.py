"""An idempotency key: a write that is sent twice counts once, and without a key it counts twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from personalign.service import Personalign
from tests.onboarded import onboard
from tests.serve.test_people import answer, error, path

AGAIN = "x-personalign-repeated"


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def test_an_undo_sent_twice_takes_one_answer_back(client: httpx.Client, service: Personalign) -> None:
    """The second gets the present state, and says that it was a repetition."""
    onboard(service, "una", 3)
    first, second = (client.post(path("una", "undo"), headers=keyed("undo-1")) for _ in range(2))
    assert (first.json()["answers"], second.json()["answers"]) == (2, 2)
    assert AGAIN not in first.headers
    assert second.headers[AGAIN] == "true"


def test_an_undo_without_a_key_counts_each_time(client: httpx.Client, service: Personalign) -> None:
    """The control: without a key two answers are taken back."""
    onboard(service, "udo", 3)
    answers = [client.post(path("udo", "undo")) for _ in range(2)]
    assert [response.json()["answers"] for response in answers] == [2, 1]
    assert all(AGAIN not in response.headers for response in answers)


def test_another_request_under_the_same_key_is_refused(client: httpx.Client) -> None:
    """Another body, another person or another verb under a known key changes nothing."""
    assert client.post(path("kai", "set"), json={"positions": {"length": 1}}, headers=keyed("k")).status_code == 200
    refusals = [
        client.post(path("kai", "set"), json={"positions": {"length": -1}}, headers=keyed("k")),
        client.post(path("kim", "set"), json={"positions": {"length": 1}}, headers=keyed("k")),
        client.post(path("kai", "pause"), headers=keyed("k")),
    ]
    assert [error(response)[0] for response in refusals] == [400] * 3
    assert client.get(path("kai", "profile")).json()["stated"][0]["position"] == 1.0
    assert not client.get(path("kai", "profile")).json()["paused"]
    assert client.get(path("kim", "profile")).json()["revision"] == 0


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_that_is_none_is_refused(client: httpx.Client, key: str) -> None:
    """An empty key and one of 256 characters are refused, and nothing is stored."""
    response = client.post(path("kurt", "set"), json={"positions": {"length": 1}}, headers=keyed(key))
    assert error(response)[0] == 400
    assert client.get(path("kurt", "profile")).json()["revision"] == 0


def test_every_write_counts_once(client: httpx.Client, service: Personalign) -> None:
    """An older write that comes again under its key leaves what came after it as it is."""
    earlier = {
        "set": ("post", {"positions": {"length": 1}}),
        "say": ("post", {"text": "Be warmer please."}),
        "consent": ("put", {"text": "version 1"}),
        "pause": ("post", None),
    }
    later = {
        "set": ("post", {"positions": {"length": -1, "warmth": None}}),
        "consent": ("put", {"text": "version 2"}),
        "resume": ("post", None),
    }
    for number, (verb, (method, body)) in enumerate([*earlier.items(), *later.items()]):
        response = client.request(method, path("ed", verb), json=body, headers=keyed(f"ed-{number}"))
        assert response.status_code == 200, response.text
    before = client.get(path("ed", "profile")).json()
    for number, (verb, (method, body)) in enumerate(earlier.items()):
        response = client.request(method, path("ed", verb), json=body, headers=keyed(f"ed-{number}"))
        assert response.headers[AGAIN] == "true", verb
        if verb == "say":
            assert [s["axis"] for s in response.json()["understood"]] == ["warmth"]
    assert client.get(path("ed", "profile")).json() == before
    assert service.export("ed")["tables"]["users"][0]["consent"] == "version 2"


def test_an_erasure_sent_twice_leaves_who_came_after_it(client: httpx.Client, service: Personalign) -> None:
    """The second says whether the person is gone, and erases nobody who started anew under the id."""
    onboard(service, "eve", 1)
    answers = [client.delete(path("eve"), headers=keyed("gone")) for _ in range(2)]
    assert [response.json() for response in answers] == [{"forgotten": True}] * 2
    onboard(service, "eve", 1)
    assert client.delete(path("eve"), headers=keyed("gone")).json() == {"forgotten": False}
    assert service.is_known("eve")
    assert client.delete(path("eve")).json() == {"forgotten": True}


def test_keys_are_a_callers_own(client: httpx.Client, server: str, service: Personalign) -> None:
    """The same key of another caller is another write."""
    onboard(service, "olga", 3)
    text = service.keys.create("backend", "another")[1]
    with httpx.Client(base_url=server, headers={"Authorization": f"Bearer {text}"}) as another:
        answers = [each.post(path("olga", "undo"), headers=keyed("mine")) for each in (client, another)]
    assert [response.json()["answers"] for response in answers] == [2, 1]


def test_of_two_at_once_one_counts(client: httpx.Client, service: Personalign) -> None:
    """Eight senders of one undo under one key take one answer back, and all are answered."""
    onboard(service, "otis", 5)
    answered = service.profile("otis").answers
    with ThreadPoolExecutor(8) as senders:
        posts = [senders.submit(client.post, path("otis", "undo"), headers=keyed("at once")) for _ in range(8)]
        answers = [post.result() for post in posts]
    assert {response.status_code for response in answers} == {200}
    assert service.profile("otis").answers == answered - 1
    assert sum(AGAIN not in response.headers for response in answers) == 1


def test_an_error_uses_no_key_up(client: httpx.Client) -> None:
    """What was refused may be sent again under its key once it can be done."""
    assert error(client.post(path("erik", "undo"), headers=keyed("early")))[0] == 404
    answer(client, "erik")
    response = client.post(path("erik", "undo"), headers=keyed("early"))
    assert (response.json()["answers"], AGAIN in response.headers) == (0, False)
