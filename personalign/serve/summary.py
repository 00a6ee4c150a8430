"""What the operator's page shows: people, replies, tokens, gain and KL over the last 24 hours, and the trial."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from personalign.errors import InputError
from personalign.serve.access import Operator
from personalign.serve.metrics import Meters
from personalign.serve.trend import BUCKET_S
from personalign.service import Personalign

router = APIRouter(tags=["operator"])


@router.get("/v1/operator/summary")
def summary(request: Request, _: Operator) -> dict[str, Any]:
    """How many people there are, and what this process has written for them."""
    service: Personalign = request.app.state.service
    meters: Meters = request.app.state.meters
    vitals = service.vitals
    load = {"people": vitals.num_people, "running": vitals.num_running, "waiting": vitals.num_waiting}
    trend = {"bucket_s": BUCKET_S, "trend": meters.trend.rows()}
    return load | meters.trend.totals() | trend | {"trial": _trial(service)}


def _trial(service: Personalign) -> dict[str, Any] | None:
    """The report of the trial that runs, or else the last one; None where there has been none."""
    try:
        report = service.trials.report()
    except InputError:  # or there is no basis, and so no trial
        return None
    pairs = [asdict(pair) | {"is_known": pair.is_known, "verdict": pair.explain()} for pair in report.pairs]
    return asdict(report) | {"pairs": pairs, "is_known": report.is_known}
