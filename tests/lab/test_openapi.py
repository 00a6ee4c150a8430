"""The committed description of the server is the one that it gives."""

from __future__ import annotations

import json

from lab import openapi
from personalign.serve.failures import REFUSALS

OPEN = {"/livez", "/readyz", "/metrics", "/v1/sessions"}


def test_the_description_is_up_to_date() -> None:
    """docs/openapi.json is what a server says of itself; a changed word is caught (the control)."""
    committed = openapi.PATH.read_text("utf-8")
    made = openapi.description()
    assert made == committed, "run: python -m lab.openapi"
    assert made != committed.replace("Take the last answer back", "Take all answers back")


def test_every_route_says_what_it_refuses_and_to_whom() -> None:
    """Each route but the open ones needs a key and names each refusal, in OpenAI's shape; none says 422."""
    whole = json.loads(openapi.PATH.read_text("utf-8"))
    for path, operations in whole["paths"].items():
        for operation in operations.values():
            assert (path in OPEN) != ("security" in operation), path
            assert "422" not in operation["responses"]
            if path not in OPEN:
                assert {str(status) for status in REFUSALS} < operation["responses"].keys()
    shapes = [answer["content"]["application/json"] for answer in whole["components"]["responses"].values()]
    assert all(shape == {"schema": {"$ref": "#/components/schemas/Failure"}} for shape in shapes)
