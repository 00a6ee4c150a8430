"""What Prometheus reads is what was done, under the names that vLLM's dashboards know."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from personalign.serve.metrics import PREFIX, Meters
from personalign.serve.trend import BUCKET_S, NUM_BUCKETS, Trend
from personalign.service import Personalign
from personalign.types import Reply, Usage
from tests.decode.gate import Gate, until
from tests.serve.running import serving

VLLM = {
    "request_success_total",
    "time_to_first_token_seconds_bucket",
    "time_per_output_token_seconds_bucket",
    "e2e_request_latency_seconds_bucket",
    "num_requests_running",
    "num_requests_waiting",
    "prompt_tokens_total",
    "generation_tokens_total",
}
REPLY = Reply(
    "Where to?", guided=True, reason=None, revision=3, kl=0.2, finish_reason="stop", usage=Usage(20, 11), gained=0.5
)
PLAIN = Reply("Yes.", guided=False, reason="no_answers", revision=0, kl=0.0, finish_reason="length", usage=Usage(5, 1))
CANARY = "canary-7f3a"

Samples = dict[tuple[str, tuple[str, ...]], float]


def samples(text: str) -> Samples:
    """Each sample by its name and the values of its labels."""
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(s.labels.values())): s.value for family in families for s in family.samples}


def test_a_reply_is_counted(service: Personalign) -> None:
    """Tokens, seconds, nats and gain add up; what was written plainly has no nats."""
    meters = Meters(service)
    meters.note_reply(REPLY, 0.3, 1.3)
    meters.note_reply(PLAIN, None, 0.2)
    meters.note_refusal(429)
    values = samples(meters.text().decode())
    expected = {
        ("request_success_total", ("stop",)): 1,
        ("request_success_total", ("length",)): 1,
        ("prompt_tokens_total", ()): 25,
        ("generation_tokens_total", ()): 12,
        ("replies_total", ("true", "")): 1,
        ("replies_total", ("false", "no_answers")): 1,
        ("refusals_total", ("429",)): 1,
        ("time_to_first_token_seconds_sum", ()): 0.3,
        ("time_per_output_token_seconds_sum", ()): 0.1,
        ("e2e_request_latency_seconds_sum", ()): 1.5,
        ("e2e_request_latency_seconds_count", ()): 2,
        ("kl_nats_per_token_sum", ()): 0.2,
        ("kl_nats_per_token_count", ()): 1,
        ("gained_sum", ()): 0.5,
    }
    assert {key: values[PREFIX + key[0], key[1]] for key in expected} == pytest.approx(expected)


def test_the_names_are_those_of_vllm(server: str, client: httpx.Client) -> None:
    """A dashboard made for vLLM needs another prefix, and nothing else."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "A taxi, please."}], "max_tokens": 4}
    assert client.post("/v1/chat/completions", json=body).status_code == 200
    values = samples(httpx.get(f"{server}/metrics").text)
    assert {PREFIX + name for name in VLLM} <= {name for name, _ in values}


def test_what_runs_and_waits_is_told(open_store: Callable[..., Personalign]) -> None:
    """The gauges show replies while they are written and while they wait, and none afterwards."""
    p = open_store(slots=1)
    gate = Gate(p._replies.worker._engine)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3}
    headers = {"Authorization": f"Bearer {p.keys.create('backend', 'tests')[1]}"}

    def load() -> tuple[float, float]:
        values = samples(httpx.get(f"{address}/metrics").text)
        return values[f"{PREFIX}num_requests_running", ()], values[f"{PREFIX}num_requests_waiting", ()]

    with serving(p) as address, ThreadPoolExecutor(2) as pool:
        url = f"{address}/v1/chat/completions"
        asked = [pool.submit(httpx.post, url, json=body, headers=headers, timeout=60) for _ in range(2)]
        until(lambda: load() == (0, 2))
        gate.let(1)
        assert load() == (1, 1)
        gate.open()
        assert [answer.result().status_code for answer in asked] == [200, 200]
        until(lambda: load() == (0, 0))  # its slot is freed after a reply is sent


def test_no_label_holds_an_id_or_a_text(client: httpx.Client, server: str) -> None:
    """After a reply for somebody, and one refused, their id and words are nowhere; the reply is (the control)."""
    before = samples(httpx.get(f"{server}/metrics").text)[f"{PREFIX}generation_tokens_total", ()]
    body = {"model": "tiny", "messages": [{"role": "user", "content": CANARY}], "user": CANARY, "max_tokens": 4}
    assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert client.get(f"/v1/people/{CANARY}/nothing").is_client_error
    text = httpx.get(f"{server}/metrics").text
    assert CANARY not in text
    assert samples(text)[f"{PREFIX}generation_tokens_total", ()] > before


class Clock:
    """Time as a test sets it."""

    def __init__(self) -> None:
        self.now = 1_000_000 * BUCKET_S

    def __call__(self) -> float:
        return float(self.now)


def test_a_day_is_kept_and_no_more() -> None:
    """Replies are summed by five minutes; what is older than a day is let go of."""
    clock = Clock()
    trend, begin = Trend(clock), clock.now
    for reply in (REPLY, REPLY, PLAIN):
        trend.note(reply)
    clock.now += BUCKET_S + 100
    trend.note(PLAIN)
    first, second = trend.rows()
    assert first == {
        "start": begin,
        "replies": 3,
        "guided": 2,
        "tokens": 23,
        "kl": pytest.approx(0.2),
        "gained": pytest.approx(0.5),
        "tokens_per_s": pytest.approx(23 / BUCKET_S),
    }
    assert (second["start"], second["kl"], second["tokens_per_s"]) == (begin + BUCKET_S, None, 1 / 100)
    assert trend.totals()["tokens_per_s"] == pytest.approx(24 / (BUCKET_S + 100))
    assert (trend.totals()["replies"], trend.totals()["kl"]) == (4, pytest.approx(0.2))
    clock.now = begin + NUM_BUCKETS * BUCKET_S
    assert [row["replies"] for row in trend.rows()] == [1]
    for _ in range(3 * NUM_BUCKETS):
        clock.now += BUCKET_S
        trend.note(PLAIN)
    assert len(trend.rows()) == len(trend._buckets) == NUM_BUCKETS


def test_an_operator_sees_it_all(server: str, client: httpx.Client, operator_key: str) -> None:
    """The summary counts people, replies and tokens; another key doesn't get it."""
    headers = {"Authorization": f"Bearer {operator_key}"}
    before = httpx.get(f"{server}/v1/operator/summary", headers=headers).json()
    body = {"model": "tiny", "messages": [{"role": "user", "content": "A taxi, please."}], "max_tokens": 4}
    assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert client.post("/v1/people/summarised/set", json={"positions": {"length": 1}}).status_code == 200
    after = httpx.get(f"{server}/v1/operator/summary", headers=headers).json()
    assert after["people"] == before["people"] + 1
    assert after["replies"] == before["replies"] + 1
    assert sum(row["replies"] for row in after["trend"]) == after["replies"]
    assert after["tokens_per_s"] > 0
    assert client.get("/v1/operator/summary").status_code == 403
