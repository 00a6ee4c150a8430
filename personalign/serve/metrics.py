"""What Prometheus reads: vLLM's names under our prefix, and what guidance did. No label holds an id or a text."""

from __future__ import annotations

import math
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from personalign.serve.trend import Trend
from personalign.service import Personalign
from personalign.types import Reply

PREFIX = "personalign:"
FIRST_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
WHOLE_S = (0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0)
NATS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
GAINS = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 3.0, 10.0)


class Meters:
    """Counters of one application, in a registry of their own."""

    def __init__(self, service: Personalign) -> None:
        self.trend, self._registry = Trend(), CollectorRegistry()
        self._success = self._counter("request_success", "Replies written to their end.", ["finished_reason"])
        self._prompt = self._counter("prompt_tokens", "Tokens read.")
        self._generation = self._counter("generation_tokens", "Tokens written.")
        self._replies = self._counter("replies", "Replies by whether and why they were guided.", ["guided", "reason"])
        self._refusals = self._counter("refusals", "Requests answered with an error, by status.", ["status"])
        self._first = self._histogram("time_to_first_token_seconds", "From the request to the first token.", FIRST_S)
        self._token = self._histogram("time_per_output_token_seconds", "From one token to the next.", TOKEN_S)
        self._whole = self._histogram("e2e_request_latency_seconds", "From the request to the last token.", WHOLE_S)
        self._kl = self._histogram("kl_nats_per_token", "How far guidance moved a reply's tokens.", NATS)
        self._gained = self._histogram("gained", "The expected reward that guidance added to a reply.", GAINS)
        self._gauge("num_requests_running", "Replies being written.", lambda: service.vitals.num_running)
        self._gauge("num_requests_waiting", "Replies waiting for a slot.", lambda: service.vitals.num_waiting)
        self._gauge(
            "profiles_stale", "1 while the store couldn't be read for a reply.", lambda: service.vitals.is_stale
        )
        ProcessCollector(registry=self._registry)

    def note_reply(self, reply: Reply, first_s: float | None, seconds: float) -> None:
        """Count a reply: the seconds from the request to its first piece, if it was streamed, and to its end."""
        written = reply.usage.completion_tokens
        self._success.labels(reply.finish_reason).inc()
        self._replies.labels(str(reply.guided).lower(), reply.reason or "").inc()
        self._prompt.inc(reply.usage.prompt_tokens)
        self._generation.inc(written)
        self._whole.observe(seconds)
        if first_s is not None:
            self._first.observe(first_s)
        if first_s is not None and written > 1:
            self._token.observe((seconds - first_s) / (written - 1))
        if reply.guided and not math.isnan(reply.kl):
            self._kl.observe(reply.kl)
            self._gained.observe(reply.gained)
        self.trend.note(reply)

    def note_refusal(self, status: int) -> None:
        """Count a request that was answered with an error."""
        self._refusals.labels(str(status)).inc()

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)

    def _counter(self, name: str, what: str, labels: list[str] | None = None) -> Counter:
        return Counter(PREFIX + name, what, labels or (), registry=self._registry)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(PREFIX + name, what, buckets=buckets, registry=self._registry)

    def _gauge(self, name: str, what: str, read: Callable[[], float]) -> None:
        Gauge(PREFIX + name, what, registry=self._registry).set_function(read)
