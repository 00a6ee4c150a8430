"""The application: which routers stand where, what an error becomes, and what opens and ends with the server.

``create_app(service)`` makes a whole server; ``mount(app, service)`` puts the same routes into an application of
one's own.
"""

from __future__ import annotations

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


def create_app(service: Personalign, policy: Policy | None = None) -> FastAPI:
    """A server of one open service; whoever opened that closes it."""
    app = FastAPI(title=TITLE, docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    mount(app, service, policy or Policy())
    return app


def mount(app: FastAPI, service: Personalign, policy: Policy) -> None:
    """Put every route, error and limit into an application."""
    app.state.service, app.state.policy = service, policy
    app.state.door, app.state.rates, app.state.meters = Door(service), Rates(policy.rate), Meters(service)
    app.state.completions = Completions(policy.kept_s)
    app.state.traffic = Traffic(policy)
    app.add_middleware(Guard, policy=policy, traffic=app.state.traffic, meters=app.state.meters)
    app.add_exception_handler(PersonalignError, failures.on_error)
    app.add_exception_handler(HTTPException, failures.on_refusal)
    app.add_exception_handler(RequestValidationError, failures.on_invalid)
    for router in (
        chat.router,
        responses.router,
        models.router,
        people.router,
        records.router,
        feedback.router,
        links.router,
        health.router,
        summary.router,
        pages.router,
    ):
        app.include_router(router)
