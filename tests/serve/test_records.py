"""What is kept of a person: to read, to pause, to take along and to erase."""

from __future__ import annotations

from pathlib import Path

import httpx

from personalign.bundled import TINY
from personalign.service import Personalign
from tests.onboarded import HELLO, onboard
from tests.serve.running import serving
from tests.serve.test_people import answer, error, path


def completion_of(client: httpx.Client, user: str, text: str = HELLO[0]["content"]) -> dict:
    """A reply that the server wrote for a person, and keeps for a while."""
    messages = [{"role": "user", "content": text}]
    ask = {"messages": messages, "max_tokens": 24, "personalign": {"user": user}}
    return client.post("/v1/chat/completions", json=ask).json()


def test_the_history_has_what_was_said_and_taken_back(client: httpx.Client) -> None:
    """Answers and statements come newest first, with their texts, and what was undone says so."""
    answer(client, "hanna", "b")
    client.post(path("hanna", "undo"))
    client.post(path("hanna", "set"), json={"positions": {"length": -1}})
    client.post(path("hanna", "set"), json={"positions": {"length": None}})
    events = client.get(path("hanna", "history")).json()["events"]
    assert [event["event"] for event in events[-2:]] == ["statement", "answer"]
    assert [event["time"] for event in events] == sorted((event["time"] for event in events), reverse=True)
    assert (events[-1]["choice"], events[-1]["undone_at"] is None) == ("b", False)
    assert len(events[-1]["replies"]) == 2
    assert events[-1]["prompt"][-1]["role"] == "user"
    assert (events[-2]["axis"], events[-2]["position"], events[-2]["holds"]) == ("length", -1.0, False)


def test_nobody_has_no_history(client: httpx.Client, service: Personalign) -> None:
    """Looking at someone who is unknown shows the prior and makes nobody known."""
    assert client.get(path("unknown", "history")).json() == {"events": []}
    assert client.get(path("unknown", "drift")).json()["changed_at"] is None
    assert client.get(path("unknown", "profile")).json()["revision"] == 0
    assert client.get(path("unknown", "export")).json()["tables"]["users"] == []
    assert not service.is_known("unknown")


def test_drift_is_the_services_own(client: httpx.Client, service: Personalign) -> None:
    """The route says of a change of taste what the service says."""
    onboard(service, "dora", 3)
    own, seen = service.drift("dora"), client.get(path("dora", "drift")).json()
    assert (seen["chance"], seen["alarms"], seen["explanation"]) == (own.chance, own.alarms, own.explain())


def test_a_paused_person_gets_the_models_own_replies(client: httpx.Client, service: Personalign) -> None:
    """Until they resume, replies are plain and say why, and the profile stays."""
    onboard(service, "paula", 3)
    profile = client.post(path("paula", "pause")).json()
    assert profile["paused"]
    assert profile["explanation"][0].startswith("Personalisation is paused")
    reply = completion_of(client, "paula")["personalign"]
    assert (reply["guided"], reply["reason"]) == (False, "paused")
    assert not client.post(path("paula", "resume")).json()["paused"]
    assert completion_of(client, "paula")["personalign"]["guided"]


def test_an_export_is_a_file(client: httpx.Client, service: Personalign) -> None:
    """Everything that is stored comes as JSON that browsers save, under a name without the id."""
    onboard(service, "extra/ 😀", 2)
    response = client.get(path("extra/ 😀", "export"))
    assert response.json() == service.export("extra/ 😀")
    assert response.headers["content-disposition"] == 'attachment; filename="personalign.json"'


def test_an_erased_person_is_gone_everywhere(client: httpx.Client, service: Personalign) -> None:
    """After an erasure no row, no completion and no taste is left, and a second one says that nobody was there."""
    onboard(service, "gone", 3)
    completion = completion_of(client, "gone")["id"]
    feedback = {"completion": completion, "kind": "edit", "text": "My own words."}
    assert client.post(path("gone", "feedback"), json=feedback).status_code == 200
    assert client.delete(path("gone")).json() == {"forgotten": True}
    assert not service.is_known("gone")
    assert error(client.post(path("gone", "feedback"), json=feedback))[0] == 404
    assert not service.is_known("gone")
    assert not completion_of(client, "gone")["personalign"]["guided"]
    assert client.delete(path("gone")).json() == {"forgotten": False}


def test_without_a_basis_rights_are_left(tmp_path: Path) -> None:
    """A model without a basis asks nobody anything and says so; what is stored can be read, taken along and erased."""
    url = f"sqlite:///{tmp_path / 'p.db'}"
    with Personalign.open(url, model=TINY / "base") as plain, serving(plain) as server:
        headers = {"Authorization": f"Bearer {plain.keys.create('backend', 'tests')[1]}"}
        with httpx.Client(base_url=server, headers=headers, timeout=60) as client:
            refusals = [client.get(path("ada", verb)) for verb in ("question", "profile", "drift")]
            refusals += [client.post(path("ada", verb)) for verb in ("undo", "pause", "resume")]
            assert [error(response)[0] for response in refusals] == [409] * 6
            assert client.get(path("ada", "history")).json() == {"events": []}
            assert client.get(path("ada", "export")).json()["user"] == "ada"
            assert client.delete(path("ada")).json() == {"forgotten": False}
