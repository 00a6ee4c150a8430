"""Traces say which route took how long, and neither who asked nor what for."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from personalign.serve import telemetry
from personalign.serve.app import create_app
from personalign.service import Personalign
from personalign.settings import wants_traces

CANARY = "canary-7f3a"


def test_a_span_has_the_template_and_no_id(service: Personalign, backend_key: str) -> None:
    """Every request becomes a span with its route, method and status; the path that holds the id is nowhere."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = create_app(service)
    telemetry.trace(app, provider)

    async def ask() -> None:
        transport = httpx.ASGITransport(app)
        headers = {"Authorization": f"Bearer {backend_key}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
            assert (await client.get(f"/v1/people/{CANARY}/profile", params={"name": CANARY})).status_code == 200
            assert (await client.get(f"/{CANARY}")).status_code == 404

    asyncio.run(ask())
    spans = exporter.get_finished_spans()
    known = json.loads(spans[0].to_json())
    assert known["name"] == "GET /v1/people/{user:path}/profile"
    assert 200 in known["attributes"].values()
    assert CANARY not in "".join(span.to_json() for span in spans)
    provider.shutdown()


def test_traces_are_sent_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry's own variables turn them on; without one there are none (the control)."""
    assert not wants_traces()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    assert wants_traces()
    telemetry.exporter().shutdown()
