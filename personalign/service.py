"""Personalign: the verbs an application calls. It only puts store, learning and decoding in sequence.

torch is imported on the first ``chat``; asking, answering and reading profiles run without it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack
from zlib import crc32

import numpy as np

from personalign.basis import Basis
from personalign.bundled import Source, locate
from personalign.errors import ModelError, QuestionError
from personalign.learn.ask import StopRule, acquire, clip_pairs, why_stop
from personalign.learn.fit import fit
from personalign.store import Answer, Presentation, RecentProfiles, Store
from personalign.types import (
    CHOICES,
    Choice,
    Gaussian,
    Message,
    MoreSampling,
    Profile,
    Question,
    Reply,
    Sampling,
    Usage,
)

if TYPE_CHECKING:
    from personalign.decode import Decoder, Expert, Generated, Request, RewardModel, Ticket, Worker
    from personalign.shift import ShiftedReply

EXPOSURE_FLOOR, EXPOSURE_SHARE = 50, 0.05  # no pair is shown more often than this, or than this share of all


class Personalign:
    """One model, one basis, one store, any number of people. Use it as a context manager, or call ``close``."""

    def __init__(self, store: Store, basis: Basis, source: Source, device: str, reward: str | None = None) -> None:
        self._store = store
        self._source = source
        self._device = device
        self._reward = reward
        self._recent = RecentProfiles(store, self.profile)
        self._loading = threading.RLock()  # whoever comes first loads the model, once
        self.basis = basis
        self.stop_rule = StopRule()

    @classmethod
    def open(
        cls,
        store: str = "sqlite:///profiles.db",
        model: str = "tiny",
        basis: str | Path | None = None,
        experts: Mapping[str, str | Path] | Sequence[str | Path] = (),
        reward: str | None = None,
        device: str = "auto",
    ) -> Personalign:
        """Open the store, creating a new SQLite file, and load the basis; the model waits for the first ``chat``.

        Args:
            store: a database URL.
            model: "tiny" (bundled), a path, or a hub id.
            basis: a basis directory; None means the bundled one, and is an error for any other model.
            experts: adapter folders beside the bundled ones, by name, or named by their last path component.
            reward: a reward model for ``rule="args"``: a sequence classifier, or a folder of ``train/reward.py``.
            device: "auto", or a torch device.

        Raises:
            BasisError: no basis was named, or it can't be read.
            StoreError: the database can't be opened; SchemaError if its schema is older or newer.
        """
        source = locate(model, basis)
        named = experts if isinstance(experts, Mapping) else {Path(path).name: path for path in experts}
        source = replace(source, experts=source.experts | {name: Path(path) for name, path in named.items()})
        loaded = Basis.load(source.basis)
        opened = Store.open(store)
        opened.save_basis(loaded.id, loaded.model, {"axes": [axis.name for axis in loaded.axes]})
        return cls(opened, loaded, source, device, reward)

    # Onboarding

    def ask(self, user: str, consent: str | None = None) -> Question | None:
        """The next question for a person, who is created by the first one; None when enough is known.

        The same question comes back until it is answered.
        """
        self._store.add_user(user, consent)
        shown = self._store.open_presentation(user, self.basis.id)
        if shown is None:
            index, _ = self._choose(user)
            if index is None:
                return None
            shown = self._present(user, index)
        return Question(shown.id, shown.prompt, shown.a, shown.b)

    def why_stopped(self, user: str) -> str | None:
        """Why there is no further question, in words; None while there is one."""
        if self._store.open_presentation(user, self.basis.id):
            return None
        return self._choose(user)[1]

    def answer(self, user: str, question_id: str, choice: Choice) -> Profile:
        """Store an answer and the profile fitted to all of them.

        Raises:
            QuestionError: the question isn't this person's, or the choice is none of the five.
            AlreadyAnswered: it has another answer.
        """
        if choice not in CHOICES:
            raise QuestionError(f"the choice {choice!r} is unknown; expected one of {', '.join(CHOICES)}")
        return self._named(self._store.commit_answer(user, question_id, choice, self._fit))

    def undo(self, user: str) -> Profile:
        """Take the last answer back; its question is open again.

        Raises:
            QuestionError: there is no answer to take back.
        """
        profile = self._store.undo_answer(user, self.basis.id, self._fit)
        if profile is None:
            raise QuestionError("there is no answer to take back; answer a question first")
        return self._named(profile)

    def profile(self, user: str) -> Profile:
        """What is known of a person; the prior for someone who has answered nothing."""
        stored = self._store.profile(user, self.basis.id)
        return self._named(stored) if stored else self.basis.first_profile(user)

    # Replies

    def chat(
        self,
        user: str,
        messages: Sequence[Message],
        max_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        rule: str = "successor",
        strength: float = 1.0,
        expert: str | None = None,
        alpha: float | None = None,
        schema: Mapping[str, Any] | str | None = None,
        seed: int = 0,
        regex: str | None = None,
        **more: Unpack[MoreSampling],
    ) -> Reply:
        """Answer messages under a person's reward; someone unknown gets the model's own reply.

        Args:
            user: the person.
            messages: the conversation, ending with the user.
            max_tokens: of the reply.
            temperature: 0 is greedy.
            top_p: nucleus of the draw.
            rule: "successor", or "args" to ask the reward model that was opened about every candidate.
            strength: multiplies the calibrated β, or the reward's weight; 0 is plain decoding.
            expert: a domain expert to stack under the reward.
            alpha: the expert's weight; None means its own.
            schema: a JSON schema that the reply keeps to.
            seed: of the draw.
            regex: a pattern that the whole reply matches.
            more: penalties, bias, further cuts, stop strings and log-probabilities, as ``Sampling`` says.

        Raises:
            InputError: and its kinds, for what can't be used.
            Overloaded: too many replies are being written already.
            EngineError: the reply failed while it was written.
        """
        sampling = Sampling(max_tokens, temperature, top_p, seed, **more)
        request = self._request(user, messages, sampling, rule, strength, expert, alpha, schema, regex)
        return _reply(self._submit(request).result(), request)

    def stream(
        self,
        user: str,
        messages: Sequence[Message],
        max_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        rule: str = "successor",
        strength: float = 1.0,
        expert: str | None = None,
        alpha: float | None = None,
        schema: Mapping[str, Any] | str | None = None,
        seed: int = 0,
        regex: str | None = None,
        **more: Unpack[MoreSampling],
    ) -> Iterator[str]:
        """``chat`` piece by piece; the pieces joined are the reply's text. Dropping the iterator ends the reply."""
        from personalign.decode import Piece

        sampling = Sampling(max_tokens, temperature, top_p, seed, **more)
        request = self._request(user, messages, sampling, rule, strength, expert, alpha, schema, regex)
        ticket = self._submit(request, is_streamed=True)
        try:
            yield from (piece.text for piece in ticket if isinstance(piece, Piece) and piece.text)
        finally:
            ticket.cancel()

    def chat_many(
        self,
        users: Sequence[str],
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling | None = None,
        strength: float = 1.0,
        expert: str | None = None,
        alpha: float | None = None,
    ) -> list[Reply]:
        """``chat`` for several people in one batch, each under their own reward."""
        requests = [
            self._request(user, messages, sampling or Sampling(), "successor", strength, expert, alpha, None, None)
            for user, messages in zip(users, conversations, strict=True)
        ]
        replies = self.decoder.generate(requests)
        return [_reply(generated, request) for generated, request in zip(replies, requests, strict=True)]

    def shift(
        self,
        user: str,
        conversations: Sequence[Sequence[Message]],
        sampling: Sampling | None = None,
        strength: float = 1.0,
        expert: str | None = None,
        alpha: float | None = None,
    ) -> list[ShiftedReply]:
        """Write the person's replies, and find out how their reward and the expert moved each token's probability.

        Raises:
            InputError: nothing moves the replies; or as ``chat``.
        """
        from personalign.shift import shift

        sampling = sampling or Sampling()
        requests = [
            self._request(user, messages, sampling, "successor", strength, expert, alpha, None, None)
            for messages in conversations
        ]
        return shift(self.decoder, requests)

    @property
    def decoder(self) -> Decoder:
        """The model, loaded on first use, with the head of the basis and the experts."""
        with self._loading:
            return self._decoder

    @cached_property
    def _decoder(self) -> Decoder:
        from personalign.decode import Decoder, SuccessorHead, load_causal, load_expert

        causal = load_causal(self._source.model, self._device)
        self.basis.check_model(causal.fingerprints)
        head = SuccessorHead.from_arrays(self.basis.head) if self.basis.head is not None else None
        experts: dict[str, Expert] = {}
        if self._source.experts:
            small = load_causal(self._source.small or self._source.model, self._device)
            for name, path in self._source.experts.items():
                beside = next((expert for expert in experts.values() if expert.peft is not None), None)
                experts[name] = load_expert(path, small, beside)
        reward = None if self._reward is None else self._load_reward(self._reward)
        return Decoder(causal, head, self.basis.steering, experts, reward)

    def _load_reward(self, path: str) -> RewardModel:
        """Load a reward model; a LoRA whose base isn't found was trained on the model itself, or is refused."""
        from personalign.decode import load_reward
        from personalign.decode.backbone import MANIFEST

        try:
            return load_reward(path, self._device)
        except ModelError:
            if not (Path(path) / MANIFEST).exists():
                raise
            return load_reward(path, self._device, base=self._source.model)

    @property
    def _worker(self) -> Worker:
        with self._loading:
            return self._started_worker

    @cached_property
    def _started_worker(self) -> Worker:
        from personalign.decode import Engine, Worker

        return Worker(Engine(self.decoder))

    # Data rights and lifetime

    def forget(self, user: str) -> None:
        """Erase everything about a person; the id may start anew."""
        self._store.forget(user)
        if "_started_worker" in self.__dict__:
            self._worker.forget(user)

    def export(self, user: str) -> dict[str, Any]:
        """Everything stored about a person, ready for JSON."""
        return self._store.export(user)

    def close(self) -> None:
        """End the replies that are being written, and close the store."""
        if "_started_worker" in self.__dict__:
            self._worker.close()
        self._store.close()

    def __enter__(self) -> Personalign:  # noqa: PYI034 - beartype can't read Self on a method
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Below: how a question is chosen and shown, and how a request is made

    def _choose(self, user: str) -> tuple[int | None, str | None]:
        """The index of the next bank question, or the reason why there is none."""
        profile = self.profile(user)
        allowed = self._allowed(user)
        reason = why_stop(
            profile.posterior,
            self.basis.reference,
            self._pool[allowed],
            profile.answers,
            self.stop_rule,
            self.basis.noise,
        )
        if reason is not None:
            return None, reason
        return acquire(profile.posterior, self._pool, noise=self.basis.noise, allowed=allowed), None

    def _allowed(self, user: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
        asked = self._store.asked(user, self.basis.id)
        shown = self._store.exposures(self.basis.id)
        most = max(EXPOSURE_FLOOR, EXPOSURE_SHARE * sum(shown.values()))
        return np.array([q.id not in asked and shown.get(q.id, 0) < most for q in self.basis.bank], dtype=bool)

    @cached_property
    def _pool(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        return clip_pairs(self.basis.pool, self.basis.prior)

    def _present(self, user: str, index: int) -> Presentation:
        question = self.basis.bank[index]
        # a fair coin for the side, but the same one each time: what is shown can be repeated
        swapped = hashlib.sha256(f"{user}\0{question.id}".encode()).digest()[0] % 2 == 1
        a, b = (question.second, question.first) if swapped else (question.first, question.second)
        v = self.basis.pool[index] * (-1.0 if swapped else 1.0)
        return self._store.present(user, self.basis.id, question.id, question.prompt, a, b, swapped, v)

    def _fit(self, answers: Sequence[Answer]) -> Gaussian:
        v = np.array([answer.v for answer in answers]).reshape(len(answers), self.basis.num_axes)
        return fit(v, [answer.choice for answer in answers], self.basis.prior, self.basis.noise)

    def _named(self, profile: Profile) -> Profile:
        self.basis.check_profile(profile)
        return replace(profile, axes=self.basis.axes)

    def _request(
        self,
        user: str,
        messages: Sequence[Message],
        sampling: Sampling,
        rule: str,
        strength: float,
        expert: str | None,
        alpha: float | None,
        schema: Mapping[str, Any] | str | None,
        regex: str | None,
    ) -> Request:
        from personalign.decode import Guidance, Request
        from personalign.decode.request import check_strength

        check_strength(strength)  # before the profile: a stranger's typo is a typo
        profile = self._recent.get(user)
        guidance = None
        if profile.informative:
            confidence = self.basis.confidence(profile.covariance)
            fingerprint = crc32(profile.mean.tobytes())  # differs if the person was erased and came back
            guidance = Guidance(profile.mean, confidence, strength, profile.revision, user, fingerprint)
        elif rule == "args":
            guidance = Guidance(profile.mean, 0.0, strength)  # a reward that is everyone's is as strong as asked for
        return Request(tuple(messages), sampling, guidance, expert, alpha, schema, regex, rule)

    def _submit(self, request: Request, *, is_streamed: bool = False) -> Ticket:
        """Hand a request over; whoever was erased since their profile was read leaves no head behind."""
        ticket = self._worker.submit(request, is_streamed=is_streamed)
        user = request.guidance.user if request.guidance else ""
        if user and not self._recent.get(user).informative:
            self._worker.forget(user)
        return ticket


def _reply(generated: Generated, request: Request) -> Reply:
    return Reply(
        text=generated.text,
        guided=generated.guided,
        reason=generated.reason,
        revision=request.guidance.revision if request.guidance else 0,
        kl=generated.kl,
        finish_reason=generated.finish_reason,
        usage=Usage(generated.prompt_tokens, len(generated.ids)),
        changed=generated.changed,
        gained=generated.gained,
        logprobs=generated.logprobs,
    )
