"""Whatever fits the server's own description, or doesn't, gets an answer that is described there, and never a 500.

Requests are made up from ``/openapi.json`` by schemathesis and sent to a running server, as a backend and as a person.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, BaseSchema, Case, GenerationMode
from schemathesis.checks import positive_data_acceptance
from schemathesis.core.failures import FailureGroup

from personalign.serve.access import Door
from personalign.serve.policy import Policy
from personalign.service import Personalign
from tests.onboarded import HELLO
from tests.serve.running import serving

PERSON = "ada"
POLICY = Policy(rate="1000000/second", max_tokens=4)
# what replies are asked for where a case is to be carried out, and what would keep them from being written
ASKED = {
    "messages": HELLO,
    "input": "Hello",
    "n": 2,
    "max_tokens": 4,
    "max_completion_tokens": 4,
    "max_output_tokens": 4,
}
BESIDES = {"tools", "functions", "modalities", "response_format", "text", "previous_response_id", "conversation"}
BESIDES |= {"background", "top_logprobs", "model", "personalign", "metadata", "user", "safety_identifier", "completion"}
PAIR = {"messages": HELLO, "chosen": "Yes.", "rejected": "No, never."}
Aim = Callable[[Case], None]


@dataclass(frozen=True)
class Server:
    """A running server, what it says of itself, and who talks to it: keys and tokens by the id that paths hold."""

    service: Personalign
    schema: BaseSchema
    credentials: dict[str, str]

    def aim(self, case: Case, user: str) -> None:
        """Turn a case to a person who is there, and to what can be answered."""
        for name, value in (("user", user), ("model", "tiny")):
            if name in case.path_parameters:
                case.path_parameters[name] = value
        if isinstance(case.body, dict):
            case.body = self._answerable(case.body)

    def _answerable(self, body: dict[str, Any]) -> dict[str, Any]:
        if "positions" in body:
            return {"positions": {"length": 0.5}}
        if "question" in body:
            question = self.service.ask(PERSON)
            return body | {"question": question.id if question else "none"}
        if "kind" in body:
            return {"kind": body["kind"], **PAIR}
        if body.keys() & {"messages", "input"}:
            return {name: ASKED.get(name, value) for name, value in body.items() if name not in BESIDES}
        return body


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Replies are short, no rate is met, and a trial runs."""
    store = f"sqlite:///{tmp_path_factory.mktemp('schemathesis') / 'p.db'}"
    with Personalign.open(store, model="tiny") as service, serving(service, POLICY) as address:
        service.chat("nobody", HELLO, max_tokens=1)  # the model is loaded before a client waits
        service.trials.start(["plain", "personal"])
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        # parameters that nobody knows are accepted, as OpenAI's server accepts them
        schema.config.generation.update(allow_extra_parameters=False, with_security_parameters=False)
        key, token = service.keys.create("backend", "tests")[1], Door(service).token(PERSON, 3600.0)
        yield Server(service, schema, {PERSON: key, "me": token})


def explore(operation: APIOperation, number: int, credential: str, aim: Aim) -> Counter[int]:
    """Send an operation so many requests, half of them against its description, and count the answers' statuses.

    Raises:
        FailureGroup: an answer isn't as described, or not one for such a request.
    """
    header, statuses = {"Authorization": f"Bearer {credential}"}, Counter[int]()
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)

    @settings(max_examples=number, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None)
    @given(st.one_of([operation.as_strategy(generation_mode=mode) for mode in modes]), st.booleans())
    def send(case: Case, is_aimed: bool) -> None:
        if is_aimed and case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE:
            aim(case)
        # what fits may still say nothing: a conversation without words, or a model that isn't there
        response = case.call_and_validate(headers=header, excluded_checks=[positive_data_acceptance])
        statuses[response.status_code] += 1

    send()
    return statuses


def explore_all(server: Server, number: int, labels: set[str] | None = None) -> dict[str, Counter[int]]:
    """Send so many requests of everybody to routes; the answers' statuses by route."""
    statuses: dict[str, Counter[int]] = {}
    for operation in operations(server.schema):
        if labels is None or operation.label in labels:
            counted = statuses.setdefault(operation.label, Counter())
            for user, credential in server.credentials.items():
                counted += explore(operation, number, credential, lambda case, user=user: server.aim(case, user))
    return statuses


def operations(schema: BaseSchema) -> list[APIOperation]:
    return [result.ok() for result in schema.get_all_operations()]


def test_a_few_made_up_requests_get_described_answers(server: Server) -> None:
    """A backend's and a person's requests to some routes; each carries some out, and refuses some."""
    labels = {"POST /v1/people/{user}/say", "GET /v1/people/{user}/profile", "POST /v1/people/{user}/tokens"}
    statuses = explore_all(server, 16, labels)
    assert sum(counted.total() for counted in statuses.values()) >= 90
    assert all({200, 403} <= counted.keys() <= {200, 400, 403, 404} for counted in statuses.values()), statuses


@pytest.mark.slow
def test_thousands_of_made_up_requests_get_described_answers(server: Server) -> None:
    """Five thousand requests to all routes; each carries some out but operators' own, and the one that takes links."""
    statuses = explore_all(server, 120)
    assert sum(counted.total() for counted in statuses.values()) >= 5000
    idle = {label for label, counted in statuses.items() if not counted[200]}
    assert idle == {"GET /v1/operator/summary", "POST /v1/sessions"}


@pytest.mark.parametrize(
    ("content", "status"), [({"number": "one"}, 200), ({"number": 1}, 418), ({"number": 1}, 500)], ids=str
)
def test_an_answer_that_is_not_described_is_caught(content: dict[str, Any], status: int) -> None:
    """The control: a field of another type, a status that nobody named, and a failure are told."""
    app = FastAPI()

    @app.get("/number")
    def number() -> dict[str, int]:
        return JSONResponse(content, status)  # type: ignore[return-value]

    (operation,) = operations(schemathesis.openapi.from_asgi("/openapi.json", app))
    with pytest.raises(FailureGroup):
        explore(operation, 2, "none", lambda _: None)
