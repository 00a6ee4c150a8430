"""Errors as OpenAI's clients read them: the one table from our errors to HTTP statuses."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from personalign.errors import (
    AlreadyAnswered,
    BasisError,
    Conflict,
    EngineError,
    ErasurePending,
    InputError,
    MissingExtra,
    Overloaded,
    PersonalignError,
    QuestionError,
    StoreError,
)
from personalign.serve import logs

log = logging.getLogger(__name__)

FAILED = "the reply failed while it was written; send the request again, or tell the server's operator its x-request-id"
UNREACHED = "the store can't be used at the moment; send the request again later"
RETRY_S = 1  # when to try again, where there is no better guess
# the first that fits decides, so what is special stands above what is general
STATUSES: Mapping[type[PersonalignError], int] = MappingProxyType(
    {
        AlreadyAnswered: 409,
        QuestionError: 404,
        BasisError: 409,
        InputError: 400,
        Overloaded: 429,
        Conflict: 409,
        ErasurePending: 503,
        StoreError: 503,
        MissingExtra: 501,
        EngineError: 500,
    }
)
TYPES: Mapping[int, str] = MappingProxyType(
    {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
)
# what a route that needs a key may refuse, for those who read the description of the server
REFUSALS: Mapping[int, str] = MappingProxyType(
    {
        400: "The request can't be used; the message names the field and what was expected.",
        401: "The key, token or link is missing, unknown, expired or revoked.",
        403: "The key or token isn't good for this.",
        404: "There is no such model, question or completion.",
        408: "The body took too long to arrive.",
        409: "It doesn't go with what is stored: the question was answered already, or there is no basis.",
        413: "The body is too large.",
        429: "Too many requests, of this caller or at all; Retry-After says when to try again.",
        500: "The server failed; its log has the request's id.",
        501: "A package isn't installed on the server.",
        503: "The store can't be used, or the server is stopping; Retry-After says when to try again.",
    }
)


class Fault(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Failure(BaseModel):
    """Any error, in OpenAI's shape."""

    error: Fault


class Refusal(HTTPException):
    """A request that isn't carried out: its status, why, and which field of the body is at fault."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(status, message, {"Retry-After": str(RETRY_S)} if status in {429, 503} else None)
        self.param, self.code = param, code


def stopping() -> Refusal:
    """What is told to whom a server that stops doesn't answer."""
    return Refusal(503, "the server is stopping; send the request again, to another one", code="stopping")


def responses() -> dict[int | str, dict[str, Any]]:
    """Every refusal of a route, as FastAPI describes it."""
    return {status: {"model": Failure, "description": text} for status, text in REFUSALS.items()}


def body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, object]:
    """An error in OpenAI's shape."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return Failure(error=Fault(message=message, type=kind, param=param, code=code)).model_dump()


def status_of(error: PersonalignError) -> int:
    """The HTTP status of one of our errors."""
    return next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 500)


def message_of(error: PersonalignError) -> str:
    """What an error says is made for the caller, but for where the store is: that is for the log.

    What another package said may hold anything, and is told to all whose replies were being written.
    """
    status = status_of(error)
    if status == 503 and not isinstance(error, ErasurePending):
        log.error("the store can't be used: %s", error)
        return UNREACHED
    if status == 500 and error.__cause__ is not None:
        log.error("a reply failed with %s", logs.place(error.__cause__))
        return FAILED
    return str(error)


async def on_error(_: Request, error: Exception) -> JSONResponse:
    """Answer one of our errors."""
    assert isinstance(error, PersonalignError), "it is registered for these alone"
    status = status_of(error)
    headers = {"Retry-After": str(RETRY_S)} if status in {429, 503} else None
    return JSONResponse(body(status, message_of(error)), status, headers)


async def on_refusal(_: Request, error: Exception) -> JSONResponse:
    """Answer a refusal, and what the router itself refuses."""
    assert isinstance(error, HTTPException), "it is registered for these alone"
    param, code = getattr(error, "param", None), getattr(error, "code", None)
    return JSONResponse(body(error.status_code, error.detail, param, code), error.status_code, error.headers)


async def on_invalid(_: Request, error: Exception) -> JSONResponse:
    """Answer a body or a parameter that can't be read, with the place of the first fault and not its content."""
    assert isinstance(error, RequestValidationError), "it is registered for these alone"
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    return JSONResponse(body(400, f"{place}: {first['msg'].lower()}", place), 400)
