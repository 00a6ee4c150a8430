"""The service and its server with vLLM as the engine, held against the same with ours."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from personalign import Personalign
from personalign.errors import EngineError, InputError, Overloaded
from personalign.serve.policy import Policy
from tests.integrations.vllm.conftest import CHAT, COMMAND, SMALL, free_port, started
from tests.serve.running import serving

LONG = [{"role": "user", "content": "Tell me a long story about a hotel."}]
RUNNING = "vllm:num_requests_running"
vllm = pytest.mark.vllm
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def remote(store: str, address: str) -> Iterator[Personalign]:
    """The service of the same people, with vLLM as its engine."""
    with Personalign.open(store, "tiny", vllm=address) as remote:
        yield remote


@pytest.fixture
def backend(remote: Personalign) -> Iterator[httpx.Client]:
    """A backend that talks to our server in front of vLLM."""
    key = remote.keys.create("backend", "tests")[1]
    with (
        serving(remote, Policy(rate="100000/minute")) as url,
        httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client,
    ):
        yield client


def told(reply: Any) -> tuple[Any, ...]:
    return (
        reply.text,
        reply.ids,
        reply.end,
        reply.guided,
        reply.reason,
        reply.revision,
        reply.finish_reason,
        reply.usage,
    )


@vllm
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_tokens": 5},
        {"max_tokens": None},
        {"strength": 0.5},
        {"strength": 0.0},
        {"stop": ["city"]},
        {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.2},
        {"logit_bias": {17: -5.0, 40: 3.0}},
    ],
)
def test_replies_are_our_engines(remote: Personalign, people: Personalign, options: dict[str, Any]) -> None:
    """Text, tokens, end, usage and account, for a stranger and two people; what vLLM doesn't tell is NaN."""
    for user in ("nobody", "ada", "ben"):
        reply, expected = (p.chat(user, CHAT, **options) for p in (remote, people))
        assert told(reply) == told(expected)
        assert math.isnan(reply.kl) == reply.guided
    pieces = list(remote.stream("ada", CHAT, **options))
    assert "".join(pieces) == people.chat("ada", CHAT, **options).text


@vllm
def test_a_pattern_wins_over_a_taste(remote: Personalign) -> None:
    """Schemas and patterns are vLLM's to keep."""
    assert remote.chat("ada", CHAT, regex="(yes|no)", max_tokens=8).text in {"yes", "no"}
    schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}
    assert "sure" in remote.chat("ben", CHAT, schema=schema, max_tokens=40).text


@vllm
def test_a_seed_repeats_a_draw(remote: Personalign) -> None:
    """And another one draws something else."""
    one, again, *others = (remote.chat("ada", LONG, temperature=2.0, seed=seed).text for seed in (1, 1, 2, 3, 4))
    assert one == again
    assert {*others} != {one}


@vllm
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logprobs": 2}, "logprobs"),
        ({"rule": "best_of", "temperature": 0.7}, "best_of"),
        ({"expert": "hotels"}, "an expert"),
        ({"max_tokens": 5000}, "fit into the model's context"),
        ({"max_tokens": 1020}, "vLLM takes 1024|fit into the model's context"),
    ],
)
def test_what_vllm_lacks_is_refused(remote: Personalign, options: dict[str, Any], message: str) -> None:
    """Nothing is left out silently."""
    with pytest.raises(InputError, match=message):
        remote.chat("ada", CHAT, **options)
    with pytest.raises(InputError, match="single tokens"):
        remote.shift("ada", [CHAT])


@vllm
def test_an_erasure_reaches_a_reply_that_is_being_written(remote: Personalign) -> None:
    """It goes on plainly and says so; the next one is a stranger's."""
    remote.set("eve", length=1)
    stream = remote.stream("eve", LONG, max_tokens=400, logit_bias=dict.fromkeys(remote.models.base.ends, -100.0))
    next(stream)
    (seq,) = remote._replies.worker._seqs
    remote.forget("eve")
    assert seq.guidance is None
    stream.close()
    assert remote.chat("eve", CHAT).reason == "no_answers"


@vllm
def test_leaving_a_reply_ends_it_in_vllm(remote: Personalign, address: str) -> None:
    """Its slot is free soon; it was taken before (the control)."""
    ends = dict.fromkeys(remote.models.base.ends, -100.0)
    stream = remote.stream("ada", LONG, max_tokens=900, logit_bias=ends)
    next(stream)
    assert num_running(address) == 1
    stream.close()
    until = time.monotonic() + 60
    while num_running(address) and time.monotonic() < until:
        time.sleep(0.05)
    assert num_running(address) == 0
    assert remote._replies.load == (0, 0)


def num_running(address: str) -> float:
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(RUNNING))


@vllm
def test_more_than_may_wait_are_refused(store: str, address: str) -> None:
    """As by our own engine; the others are written."""
    with Personalign.open(store, "tiny", vllm=address, slots=1, waiting=1) as remote:
        ends = dict.fromkeys(remote.models.base.ends, -100.0)
        stream = remote.stream("ada", LONG, max_tokens=900, logit_bias=ends)
        waiting = threading.Thread(target=remote.chat, args=("ben", CHAT))
        waiting.start()
        until = time.monotonic() + 60
        while remote._replies.load != (1, 1) and time.monotonic() < until:
            time.sleep(0.01)
        with pytest.raises(Overloaded):
            remote.chat("ada", CHAT)
        stream.close()
        waiting.join(60)
        assert not waiting.is_alive()


@vllm
def test_the_server_serves_the_same_routes(backend: httpx.Client, people: Personalign) -> None:
    """Chats, events and responses; the account has null for what vLLM doesn't tell."""
    body = {"model": "tiny", "user": "ada", "messages": CHAT}
    answer = backend.post("/v1/chat/completions", json=body).json()
    assert answer["choices"][0]["message"]["content"] == people.chat("ada", CHAT).text
    account = answer["personalign"]
    assert (account["guided"], account["revision"]) == (True, people.profile("ada").revision)
    assert account["kl"] is account["gained"] is None
    events = backend.post("/v1/chat/completions", json=body | {"stream": True}).text
    assert events.rstrip().endswith("data: [DONE]")
    assert '"kl":null' in events
    assert backend.post("/v1/responses", json={"model": "tiny", "user": "ada", "input": "Hello"}).is_success
    assert [card["id"] for card in backend.get("/v1/models").json()["data"]] == ["tiny"]
    assert backend.post("/v1/chat/completions", json=body | {"logprobs": True}).status_code == httpx.codes.BAD_REQUEST
    assert "nan" not in backend.get("/metrics").text.lower()


@vllm
def test_people_are_asked_and_erased_as_ever(backend: httpx.Client) -> None:
    """A question, an answer, a reply under the new profile, an erasure."""
    question = backend.get("/v1/people/kim/question").json()["question"]
    choice = {"question": question["id"], "choice": "a"}
    assert backend.post("/v1/people/kim/answers", json=choice).is_success
    body = {"model": "tiny", "user": "kim", "messages": CHAT}
    assert backend.post("/v1/chat/completions", json=body).json()["personalign"]["guided"]
    assert backend.delete("/v1/people/kim").is_success
    assert backend.post("/v1/chat/completions", json=body).json()["personalign"]["reason"] == "no_answers"


@vllm
def test_one_command_starts_both(tmp_path: Any) -> None:
    """Our server comes up once vLLM has, on a store that wasn't there; both end together."""
    port = free_port()
    options = ["--engine", "vllm", "--vllm-args", " ".join(SMALL), "--port", str(port)]
    command = [*COMMAND, "serve", "--store", f"sqlite:///{tmp_path / 'new.db'}", "--model", "tiny", *options]
    with started(command, f"http://127.0.0.1:{port}", "/readyz") as url:
        assert httpx.get(f"{url}/readyz").is_success


def test_without_vllm_at_the_address_the_command_is_told(tmp_path: Any) -> None:
    """At the first reply; people can be asked and answer before."""
    with Personalign.open(f"sqlite:///{tmp_path / 'p.db'}", vllm="http://127.0.0.1:9") as remote:
        remote.set("ada", length=-1)
        with pytest.raises(EngineError, match=r"can't be reached .*personalign vllm serve"):
            remote.chat("ada", CHAT)


def test_a_server_that_steers_nobody_is_refused(tmp_path: Any, p: Personalign) -> None:
    """Such as any other one that speaks OpenAI's protocol."""
    with (
        serving(p, Policy()) as url,
        Personalign.open(f"sqlite:///{tmp_path / 'q.db'}", vllm=url) as remote,
        pytest.raises((InputError, EngineError), match="vLLM"),
    ):
        remote.chat("ada", CHAT)


def test_what_doesnt_go_with_vllm_is_refused_at_the_door(tmp_path: Any) -> None:
    """Experts and reward models are our own engine's."""
    for others in ({"experts": ["hotels"]}, {"reward": "owner/name"}):
        with pytest.raises(InputError, match="vllm is"):
            Personalign.open(f"sqlite:///{tmp_path / 'p.db'}", vllm="http://127.0.0.1:1", **others)
