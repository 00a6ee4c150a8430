"""The application: which routers stand where, and what an error becomes.

``create_app(service)`` makes a whole server. In an application of one's own it is one line,
``app.mount("/personalign", create_app(service))``, and limits and errors stay on its side.
"""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from itertools import chain
from operator import attrgetter
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from personalign.errors import PersonalignError
from personalign.serve import (
    chat,
    failures,
    feedback,
    health,
    links,
    models,
    pages,
    people,
    records,
    responses,
    summary,
)
from personalign.serve.access import Door
from personalign.serve.completions import Completions
from personalign.serve.guard import Guard, Traffic
from personalign.serve.metrics import Meters
from personalign.serve.policy import Policy
from personalign.serve.rates import Rates
from personalign.service import Personalign

TITLE = "personalign"
SHARED = "#/components/responses/"
UNUSED = ("HTTPValidationError", "ValidationError")  # of that 422
REFUSING = (
    chat.router,
    responses.router,
    models.router,
    people.router,
    records.router,
    feedback.router,
    links.router,
    summary.router,
)


def create_app(service: Personalign, policy: Policy | None = None) -> FastAPI:
    """A server of one open service; whoever opened that closes it."""
    policy = policy or Policy()
    app = FastAPI(
        title=TITLE,
        version=version(TITLE),
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=attrgetter("name"),
    )
    app.openapi = partial(_description, app)  # type: ignore[method-assign] # as FastAPI's manual extends it
    app.state.service, app.state.policy = service, policy
    app.state.door, app.state.rates, app.state.meters = Door(service), Rates(policy.rate), Meters(service)
    app.state.completions = Completions(policy.kept_s, service.erased)
    app.state.traffic = Traffic(policy)
    app.add_middleware(Guard, policy=policy, traffic=app.state.traffic, meters=app.state.meters)
    app.add_exception_handler(PersonalignError, failures.on_error)
    app.add_exception_handler(HTTPException, failures.on_refusal)
    app.add_exception_handler(RequestValidationError, failures.on_invalid)
    for router in REFUSING:
        app.include_router(router, responses=failures.responses())
    app.include_router(health.router)
    app.include_router(pages.router)
    return app


def _description(app: FastAPI) -> dict[str, Any]:
    """FastAPI's own, with refusals written once, and without the 422 that it adds: what can't be read is a 400."""
    whole = FastAPI.openapi(app)
    for operation in chain.from_iterable(operations.values() for operations in whole["paths"].values()):
        answers = operation["responses"]
        answers.pop("422", None)
        for status, text in failures.REFUSALS.items():
            if answers.get(str(status), {}).get("description") == text:
                shared = whole["components"].setdefault("responses", {})
                shared[str(status)], answers[str(status)] = answers[str(status)], {"$ref": f"{SHARED}{status}"}
    for name in UNUSED:
        whole["components"]["schemas"].pop(name, None)
    return whole
