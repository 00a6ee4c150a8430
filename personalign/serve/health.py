"""What those who watch a server ask it, without a key: is it alive, can it take requests, what has it done."""

from __future__ import annotations

import asyncio
import logging
from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from personalign.errors import SchemaError, StoreError
from personalign.service import Personalign

PATIENCE_S = 2.0  # for the store's answer
UNREAD = "the store can't be read; for five minutes known people are served by the profiles at hand"

Status = Literal["ready", "degraded"]
log = logging.getLogger(__name__)
router = APIRouter(tags=["health"])


class Readiness(BaseModel):
    """Whether requests should be sent here, and why not."""

    status: Status
    reasons: list[str]
    model: str


@router.get("/livez")
async def livez() -> dict[str, str]:
    """Whether the process answers; it asks nothing else, so that no outage elsewhere gets it restarted."""
    return {"status": "live"}


@router.get("/health", response_model=Readiness, responses={503: {"model": Readiness}}, include_in_schema=False)
@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness}})
async def readyz(request: Request) -> JSONResponse:
    """Whether requests should be sent here: 503 with the reasons where not. Also /health, as vLLM calls it."""
    service: Personalign = request.app.state.service
    reasons = [] if (problem := await _problem(service)) is None else [problem]
    if request.app.state.traffic.is_draining:
        reasons.append("the server is stopping")
    status: Status = "degraded" if reasons else "ready"
    model = "loaded" if service.vitals.is_loaded else "not loaded before the first reply"
    readiness = Readiness(status=status, reasons=reasons, model=model)
    return JSONResponse(readiness.model_dump(), 503 if reasons else 200)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """What Prometheus reads."""
    return Response(request.app.state.meters.text(), media_type=CONTENT_TYPE_LATEST)


async def _problem(service: Personalign) -> str | None:
    """What is wrong with the store; its path is in the log alone."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.to_thread(service.vitals.check_store)
    except SchemaError as error:
        return str(error)
    except StoreError as error:
        log.warning("the store can't be read: %s", error)
        return UNREAD
    except TimeoutError:
        return f"the store hasn't answered for {PATIENCE_S:g} seconds"
    return None
