"""Replies under people's rewards: from a person and a conversation to a request, and through the worker to a reply.

It puts profiles and decoding in sequence. Importing it loads torch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np

from personalign.basis import Basis
from personalign.bundled import Source
from personalign.decode.embed import HIDDEN, load_embedder
from personalign.decode.engine import Engine
from personalign.decode.experts import Expert, load_expert
from personalign.decode.load import load_causal, load_outline
from personalign.decode.models import Models
from personalign.decode.request import Piece, Request
from personalign.decode.reward_model import load_reward_beside
from personalign.decode.seq import Outbox, Seq, Ticket
from personalign.decode.successor import SuccessorHead
from personalign.decode.worker import Worker, Writer
from personalign.errors import BasisError, EngineError, InputError, check_process
from personalign.integrations.vllm.remote import RemoteWorker
from personalign.learn.axes import Embed, features
from personalign.learn.served import Serving
from personalign.messages import Conversation
from personalign.options import Capacity, Options
from personalign.shift import ShiftedReply, shift
from personalign.store import Store
from personalign.store.recent import RecentProfiles
from personalign.types import Array, Guidance, Message, Profile, Reply, Steering

NO_STEERING = Steering(beta=0.0, clip=0.0, num_candidates=1)  # of a model without a basis


class Replies:
    """The models, and the worker that writes with them for as many callers as there are."""

    def __init__(
        self,
        source: Source,
        store: Store,
        profile: Callable[[str], Profile],
        serving: Serving | None,
        capacity: Capacity,
    ) -> None:
        self._basis = basis = None if serving is None else serving.basis
        measure = None if basis is None else partial(features, basis, embed=self._embed_here)
        self.models, self._source = replace(load_models(source, basis), measure=measure), source
        self._serving, self._capacity = serving, capacity
        self._recent = RecentProfiles(store, profile, self._forget_weights)
        self._pid = os.getpid()
        self._starting = threading.Lock()
        self._worker: Writer | None = None  # until the first reply
        self._is_closed = False
        self._embedder: Embed | None = None  # until the first text that learnt axes are measured in

    @property
    def worker(self) -> Writer:
        """Who writes: the thread that owns the engine, or vLLM; begun on first use, and anew where it has failed."""
        check_process(self._pid)
        with self._starting:
            if self._is_closed:
                raise EngineError("personalign is closed; open it again")
            if self._worker is None or not self._worker.is_alive:
                address = self._source.vllm
                self._worker = Worker(self._engine()) if address is None else self._remote(address)
            return self._worker

    @property
    def load(self) -> tuple[int, int]:
        """How many replies have a slot, and how many wait for one."""
        return (0, 0) if self._worker is None else self._worker.load

    @property
    def is_stale(self) -> bool:
        """Whether known people were served by the profiles at hand, because the store couldn't be read."""
        return self._recent.is_stale

    def _engine(self) -> Engine:
        capacity = self._capacity
        try:
            return Engine(self.models, capacity.slots, capacity.max_length, capacity.waiting)
        except Exception as error:
            raise EngineError(
                f"the engine can't be started: {error}; free memory on the device, or open personalign with smaller "
                "slots= or max_length="
            ) from error

    def _remote(self, address: str) -> RemoteWorker:
        return RemoteWorker(self.models, address, self._capacity.slots, self._capacity.waiting)

    def request(self, user: str, conversation: Conversation, options: Options) -> Request:
        """What a person asks for, under their newest profile."""
        check_process(self._pid)
        reward_model = self.models.reward_model if options.rule == "args" else None
        is_everyones = reward_model is not None and reward_model.num_axes == 1
        if self._serving is None:
            everyones = Guidance(np.ones(1), options.strength) if is_everyones else None
            return Request(conversation, options, everyones, user, has_basis=False)
        profile = self._recent.get(user)
        guidance = self._serving.guidance(profile, options.strength, is_everyones=is_everyones)
        return Request(conversation, options, guidance, user, is_paused=profile.is_paused)

    def begin(self, request: Request, outbox: Outbox, *, is_streamed: bool) -> Seq:
        """Begin a reply whose pieces, result or error are put into ``outbox`` by the engine's thread."""
        (seq,) = self.worker.write([request], [outbox], is_streamed=is_streamed)
        try:
            self._forget_erased([request])
        except BaseException:
            seq.is_cancelled = True
            raise
        return seq

    def stream(self, request: Request) -> Iterator[str]:
        """Begin a reply, and give its text as it is written; dropping the iterator ends the reply."""
        texts = _texts(*self._submit([request], is_streamed=True))
        next(texts)  # up to the try: a generator that was never begun would be dropped without its finally
        return texts

    def write(self, requests: Sequence[Request]) -> list[Reply]:
        """Write replies to requests, few enough at a time that other callers find room; giving up ends them."""
        written: list[Reply] = []
        num_together = -(-self._capacity.waiting // 2)  # one person's share of an empty queue
        for start in range(0, len(requests), num_together):
            tickets = self._submit(requests[start : start + num_together])
            try:
                written += [ticket.result() for ticket in tickets]
            finally:  # where one failed, or the caller gave up, no one waits for the others
                _cancel(tickets)
        return written

    def shift(self, requests: Sequence[Request]) -> list[ShiftedReply]:
        """Write replies, and find out what moved each of their tokens."""
        if self._source.vllm is not None:
            raise InputError("vLLM tells nothing of single tokens; expected our own engine; open without vllm=")
        return shift(self.models, requests, self.write, self.worker.perform)

    def embed(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> Array:
        """Embeddings (n, F) of replies, for the learnt axes of the basis."""
        self._load_embedder()
        return self.worker.perform(lambda: self._embed_here(prompts, replies))

    def _embed_here(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> Array:
        """The same on the engine's own thread."""
        return self._load_embedder()(prompts, replies)

    def _load_embedder(self) -> Embed:
        with self._starting:
            if self._embedder is None:
                named = self._basis.learnt.embedder if self._basis and self._basis.learnt else HIDDEN
                chosen = self._source.embedder
                if self._source.vllm is not None and (chosen or named) == HIDDEN:
                    raise BasisError(
                        "the basis has axes that are measured in the model's hidden states, which vLLM doesn't tell; "
                        "expected embedder= with an encoder, or a basis of named axes"
                    )
                self._embedder = load_embedder(chosen or named, self.models.base, is_trusted=chosen is not None)
            return self._embedder

    def _submit(self, requests: Sequence[Request], *, is_streamed: bool = False) -> list[Ticket]:
        tickets = self.worker.submit(requests, is_streamed=is_streamed)
        try:
            self._forget_erased(requests)
        except BaseException:
            _cancel(tickets)
            raise
        return tickets

    def _forget_erased(self, requests: Sequence[Request]) -> None:
        """Remove the weights of people who were erased after their profile was read."""
        for user in {request.guidance.user for request in requests if request.guidance}:
            if user and self._recent.get(user).is_silent:
                self._forget_weights(user)

    def forget(self, user: str) -> None:
        """Remove a person from memory; replies that are being written go on without their weights."""
        if os.getpid() != self._pid:
            return  # a child writes no replies
        self._recent.forget(user)
        self._forget_weights(user)

    def _forget_weights(self, user: str) -> None:
        if (worker := self._worker) is not None:
            with suppress(EngineError):  # an engine that is closed or has failed serves no one
                worker.forget(user)

    def close(self) -> None:
        """End the replies that are being written."""
        self._is_closed = True
        if self._worker is not None:
            self._worker.close()


def _cancel(tickets: Sequence[Ticket]) -> None:
    for ticket in tickets:
        ticket.cancel()


def _texts(ticket: Ticket) -> Iterator[str]:
    """Nothing, at once; then a reply's text, piece by piece."""
    try:
        yield ""
        yield from (piece.text for piece in ticket if isinstance(piece, Piece) and piece.text)
    finally:
        ticket.cancel()


def load_models(source: Source, basis: Basis | None) -> Models:
    """Load a model with the head of its basis, if it has one, its experts, and a reward model if one is named.

    Of one that vLLM has loaded only the outline is needed here; there it was checked against its basis.
    """
    if source.vllm is not None:
        causal, known = load_outline(source.model), {} if basis is None else {"model": basis.fingerprints.model}
        causal = replace(causal, fingerprints=replace(causal.fingerprints, **known))
    else:
        causal = load_causal(source.model, source.device)
    if basis is not None:
        basis.check_model(causal.fingerprints)
    head = SuccessorHead.from_arrays(basis.head) if basis is not None and basis.head is not None else None
    experts: dict[str, Expert] = {}
    if source.experts:
        small = load_causal(source.small or source.model, source.device)
        for name, path in source.experts.items():
            attached = next((expert for expert in experts.values() if expert.peft is not None), None)
            experts[name] = load_expert(path, small, attached)
    judge = None if source.reward is None else load_reward_beside(source.reward, source.model, source.device, basis)
    return Models(causal, head, NO_STEERING if basis is None else basis.steering, experts, judge)
