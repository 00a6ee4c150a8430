"""Traces through OpenTelemetry, where the extra is installed and the environment says where they go.

A span has its route's template and no path, because paths hold ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

HIDDEN = ("http.target", "http.url", "url.path", "url.full", "url.query")


def trace(app: FastAPI, provider: TracerProvider) -> None:
    """Make a span of each request."""
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=provider, server_request_hook=_hide, exclude_spans=["receive", "send"]
    )


def exporter() -> TracerProvider:
    """What sends spans where the variables OTEL_… say; ImportError without the extra."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _hide(span: Span, _: dict[str, Any]) -> None:
    """Empty what holds a path."""
    for name in HIDDEN:
        span.set_attribute(name, "")
