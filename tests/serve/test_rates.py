"""How much each caller may ask for, and what is kept of callers who come no more."""

from __future__ import annotations

from contextlib import suppress

import httpx
import pytest
from limits.storage import memory

from personalign.serve.failures import Refusal
from personalign.serve.policy import Policy
from personalign.serve.rates import Rates
from personalign.service import Personalign
from tests.decode.gate import until
from tests.serve.running import serving

BEGIN = 1_000_000.0


class Clock:
    """Time as a test sets it, for whoever counts requests."""

    def __init__(self) -> None:
        self.now = BEGIN

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(memory, "time", clock)
    return clock


def test_who_asks_for_too_much_waits(service: Personalign, backend_key: str) -> None:
    """The request beyond the rate gets 429 and when to come again; another key's requests are its own."""
    other = service.keys.create("backend", "another")[1]

    def ask(key: str) -> httpx.Response:
        return httpx.get(f"{address}/v1/models", headers={"Authorization": f"Bearer {key}"})

    with serving(service, Policy(rate="3/hour")) as address:
        answers = [ask(key) for key in (*[backend_key] * 4, other)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 200]
    assert "3 per 1 hour" in answers[3].json()["error"]["message"]
    assert 1 <= int(answers[3].headers["retry-after"]) <= 2 * 3600


def test_a_rate_holds_over_any_time_of_its_length(clock: Clock) -> None:
    """Also where half of that lies in the next second of the clock; later there is room again."""
    rates, times = Rates("20/second"), list[int]()
    for moment in range(420, 3420):  # milliseconds
        clock.now = BEGIN + moment / 1000
        with suppress(Refusal):
            rates.spend("ada")
            times.append(moment)
    windows = [sum(start <= moment < start + 1000 for moment in times) for start in times]
    assert max(windows) <= 1.5 * 20  # counters know the past on average
    assert len(times) > 2 * 20


def test_callers_who_come_no_more_are_forgotten(clock: Clock) -> None:
    """Memory, and the time that a request takes, go by the callers of a while, not by all there ever were."""
    rates = Rates("1000000/second")
    storage = rates._limiter.storage

    def num_kept() -> int:
        rates.spend("ada")  # which is when others are dropped
        return max(len(getattr(storage, name)) for name in ("storage", "events", "expirations", "locks"))

    for number in range(1000):
        rates.spend(f"user:{number}")
    assert num_kept() > 500, "the control: they are known for a while"
    clock.now += 3
    until(lambda: num_kept() < 500)


def test_another_rate_is_refused() -> None:
    """What the package can't read is bad input."""
    with pytest.raises(ValueError, match="expected requests and a time"):
        Rates("many")
