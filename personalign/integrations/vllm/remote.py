"""A writer whose replies come from vLLM, by a thread and a connection for each reply.

Prompts, ends, stop strings and text are handled here as for our own engine; vLLM gets tokens and gives tokens.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

from personalign.decode.models import Models
from personalign.decode.request import Account, Request, gain
from personalign.decode.seq import DEFAULT_LENGTH, Outbox, Seq, engine_error
from personalign.decode.worker import Writer
from personalign.errors import EngineError, InputError, MessageError, MissingExtra, Overloaded, check_process
from personalign.integrations.vllm.people import PREFIX, STRENGTH, UNKNOWN, USER
from personalign.options import Options
from personalign.types import Guidance

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

CONNECT_S = 10.0
READ_S = 600.0  # a reply may wait in vLLM's queue
EVENT = "data: "
LAST = "[DONE]"
PROBE = f"{PREFIX}probe"  # an argument that our processor refuses, and no other does
AS_THEY_ARE = ("max_tokens", "temperature", "top_p", "seed", "min_p")
PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")
BAD_REQUEST, TOO_MANY = 400, 429
UNTOLD = math.nan  # of what vLLM doesn't tell


class RemoteWorker(Writer):
    """Sends requests to vLLM, so many at once; further ones wait here.

    Raises:
        EngineError: nothing answers at this address.
        InputError: it isn't a vLLM with our processor.
        MissingExtra: httpx isn't installed.
    """

    def __init__(self, models: Models, address: str, num_slots: int, num_waiting: int) -> None:
        self._models, self._pid, self._address = models, os.getpid(), address
        self._client = _client(address, num_slots)
        self._numbers, self._most = itertools.count(), num_slots + num_waiting
        self._lock, self._is_closed = Lock(), False
        self._seqs: set[Seq] = set()  # that wait or are being written
        self._num_slots = num_slots
        try:
            with self._reached():
                card = _body(self._client.get("/v1/models"))["data"][0]
                self._model, self._longest = str(card["id"]), int(card.get("max_model_len") or DEFAULT_LENGTH)
                self._check_processor()
        except BaseException:
            self._client.close()
            raise
        self._pool = ThreadPoolExecutor(num_slots, "personalign-vllm")

    @property
    def is_alive(self) -> bool:
        """Whether it takes on requests."""
        return not self._is_closed

    @property
    def load(self) -> tuple[int, int]:
        """How many replies are being written, and how many wait."""
        num = len(self._seqs)
        return min(num, self._num_slots), max(0, num - self._num_slots)

    def write(self, requests: Sequence[Request], outboxes: Sequence[Outbox], *, is_streamed: bool) -> list[Seq]:
        """Send requests; what isn't there in vLLM is refused, too."""
        check_process(self._pid)
        for request in requests:
            _check(request)
        seqs = [
            Seq(self._models, request, next(self._numbers), outbox, is_streamed=is_streamed, longest=self._longest)
            for request, outbox in zip(requests, outboxes, strict=True)
        ]
        for seq in seqs:
            if seq.num_tokens > self._longest:
                raise MessageError(
                    f"prompt and max_tokens come to {seq.num_tokens} tokens, vLLM takes {self._longest}; shorten the "
                    "conversation, ask for fewer tokens, or start vLLM with a larger --max-model-len"
                )
        with self._lock:
            if self._is_closed:
                raise EngineError("personalign is closed; open it again")
            if len(self._seqs) + len(seqs) > self._most:
                raise Overloaded(f"{len(self._seqs)} requests are with vLLM, and no more may; send it again later")
            self._seqs.update(seqs)
        for seq in seqs:
            self._pool.submit(self._run, seq)
        return seqs

    def perform(self, work: Callable[[], T]) -> T:
        """Do other work at once: nothing here is in its way."""
        return work()

    def forget(self, user: str) -> None:
        """Say that replies which are being written go on without a person's weights; vLLM sees to it by itself."""
        with self._lock:
            for seq in self._seqs:
                if seq.guidance is not None and seq.guidance.user == user:
                    seq.forget()

    def close(self) -> None:
        """End the replies that are being written."""
        with self._lock:
            self._is_closed = True
            for seq in self._seqs:
                seq.is_cancelled = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _run(self, seq: Seq) -> None:
        try:
            seq.enter("seat")
            seq.enter("begin")
            with self._reached():
                self._read(seq)
            if seq.state == "ended":
                seq.finish(_account(self._models, seq), self._models.steering)
        except Exception as error:  # noqa: BLE001 - a caller waits for it, whatever it is
            seq.fail(engine_error(error))
        finally:
            with self._lock:
                self._seqs.discard(seq)

    def _read(self, seq: Seq) -> None:
        """Take a reply's tokens as they come; once more, and plainly, where its person was erased meanwhile."""
        try:
            self._take(seq)
        except InputError as refusal:
            if seq.guidance is None or UNKNOWN not in str(refusal):
                raise
            seq.forget()
            self._take(seq)

    def _take(self, seq: Seq) -> None:
        for tokens, reason in self._events(seq):
            for token in tokens:
                if seq.is_cancelled:
                    seq.enter("cancel")
                    return
                seq.take(token)
                if seq.state != "writing":
                    return
            if reason is not None:
                raise EngineError(
                    f"vLLM ended the reply by itself ({reason}) after {seq.draft.num_drawn} tokens; expected an end of "
                    "the model's own, or max_tokens; start it with a context as long as the model's"
                )

    def _events(self, seq: Seq) -> Iterator[tuple[list[int], str | None]]:
        """The tokens of each event, and why it is the last one; leaving ends the reply in vLLM."""
        with self._client.stream("POST", "/v1/completions", json=self._order(seq)) as response:
            if response.is_error:
                response.read()
                _body(response)
            for line in response.iter_lines():
                if line.startswith(EVENT) and line != f"{EVENT}{LAST}":
                    for choice in _choices(json.loads(line.removeprefix(EVENT))):
                        yield choice.get("token_ids") or [], choice.get("finish_reason")

    def _order(self, seq: Seq) -> dict[str, Any]:
        options = seq.request.options
        ends = {"stop_token_ids": list(self._models.base.ends), "stream": True, "return_token_ids": True}
        order = {"model": self._model, "prompt": seq.prompt, **ends, **_sampling(options)}
        return order | _constraint(options) | _arguments(seq.guidance, self._gain(seq))

    def _gain(self, seq: Seq) -> float:
        return gain(seq.guidance, self._models.steering, seq.request.options)

    def _check_processor(self) -> None:
        """Refuse a vLLM that would write plain replies for everybody."""
        order = {"model": self._model, "prompt": [0], "max_tokens": 1, "vllm_xargs": {PROBE: 1}}
        response = self._client.post("/v1/completions", json=order)
        if response.status_code != BAD_REQUEST or PREFIX not in response.text:
            raise InputError(
                f"the server at {self._address} isn't a vLLM that steers; expected one that was started with: "
                "personalign vllm serve"
            )

    @contextmanager
    def _reached(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except httpx.HTTPError as error:
            if self._is_closed:
                raise EngineError("personalign was closed while the reply was written; send it again") from error
            raise EngineError(
                f"vLLM at {self._address} can't be reached ({type(error).__name__}); start it with: personalign vllm "
                "serve, and send the request again"
            ) from None


def _client(address: str, num_slots: int) -> httpx.Client:
    try:
        import httpx
    except ImportError as error:
        raise MissingExtra("httpx", "client") from error
    limits = httpx.Limits(max_connections=num_slots + 1, max_keepalive_connections=num_slots)
    return httpx.Client(base_url=address, timeout=httpx.Timeout(READ_S, connect=CONNECT_S), limits=limits)


def _body(response: httpx.Response) -> Any:  # noqa: ANN401 - JSON
    """What vLLM answers; its refusals are errors of ours."""
    if not response.is_error:
        return response.json()
    try:
        message = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = "no reason"
    if response.status_code == BAD_REQUEST:
        raise InputError(f"vLLM refuses the request: {message}")
    kind = Overloaded if response.status_code == TOO_MANY else EngineError
    raise kind(f"vLLM answers with status {response.status_code}: {message}")


def _choices(event: Mapping[str, Any]) -> list[dict[str, Any]]:
    if "error" in event:
        raise EngineError(f"vLLM failed while it wrote the reply: {event['error'].get('message', 'no reason')}")
    choices: list[dict[str, Any]] = event.get("choices", [])
    return choices


def _check(request: Request) -> None:
    """Refuse what our own engine does, and vLLM can't be asked for."""
    options = request.options
    lacking = {
        f'the rule "{options.rule}"': options.rule != "successor",
        "logprobs": options.logprobs > 0,  # those of vLLM are of the unsteered model
        "an expert": options.expert is not None,
        "shadow mode": request.is_shadow,
    }
    for what in (what for what, is_asked in lacking.items() if is_asked):
        raise InputError(f"found {what}, which replies written by vLLM don't have; leave it out, or use our own engine")


def _sampling(options: Options) -> dict[str, Any]:
    named = {name: getattr(options, name) for name in (*AS_THEY_ARE, *PENALTIES)}
    bias = {str(token): amount for token, amount in options.logit_bias.items()}
    return named | {"top_k": options.top_k or -1, "logit_bias": bias or None}


def _constraint(options: Options) -> dict[str, Any]:
    if options.schema is None and options.regex is None:
        return {}
    schema = dict(options.schema) if isinstance(options.schema, Mapping) else options.schema
    return {"structured_outputs": {"regex": options.regex} if schema is None else {"json": schema}}


def _arguments(guidance: Guidance | None, strength: float) -> dict[str, Any]:
    if guidance is None or strength == 0:
        return {}
    return {"vllm_xargs": {USER: guidance.user, STRENGTH: guidance.strength}}


def _account(models: Models, seq: Seq) -> Account:
    """Whether somebody guided a reply; how far isn't known."""
    is_guided = gain(seq.guidance, models.steering, seq.request.options) > 0
    return Account(guided=True, kl=UNTOLD, tilt_kl=UNTOLD, changed=UNTOLD, gained=UNTOLD) if is_guided else Account()
