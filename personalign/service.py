"""Personalign: the verbs an application calls. ``onboarding.py`` and ``replies.py`` do what they say.

torch is imported on the first ``chat``; asking, answering and reading profiles run without it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from personalign import aio
from personalign.basis import Basis
from personalign.bundled import Source, locate
from personalign.errors import EngineError, InputError, check_process
from personalign.learn.ask import StopRule
from personalign.learn.drift import Drift
from personalign.learn.served import Serving
from personalign.messages import Feedback, check_user, read_messages
from personalign.onboarding import Onboarding
from personalign.options import Options, OptionsDict
from personalign.store import Store
from personalign.types import Array, Capacity, Choice, Message, Profile, Question, Reply

if TYPE_CHECKING:
    from personalign.decode.models import Models
    from personalign.decode.seq import Outbox, Seq
    from personalign.replies import Replies
    from personalign.shift import ShiftedReply


class Personalign:
    """One model, one basis, one store, any number of people. Use it as a context manager, or call ``close``."""

    def __init__(
        self,
        store: Store,
        basis: Basis,
        source: Source,
        device: str,
        reward: str | None,
        serving: Serving,
        capacity: Capacity,
    ) -> None:
        self._store, self._source, self._device, self._reward, self._capacity = store, source, device, reward, capacity
        self._onboarding = Onboarding(store, basis, self._embed, serving)
        self._is_closed = False
        self._loading: dict[int, threading.Lock] = {}  # by process: the first caller loads the model, once
        self._loaded: Replies | None = None  # until then
        self.basis, self.serving = basis, serving

    @classmethod
    def open(
        cls,
        store: str = "sqlite:///profiles.db",
        model: str = "tiny",
        basis: str | Path | None = None,
        experts: Mapping[str, str | Path] | Sequence[str | Path] = (),
        reward: str | None = None,
        device: str = "auto",
        pinned: Mapping[str, float] | None = None,
        shadow: bool = False,
        slots: int = 32,
        waiting: int = 256,
        max_length: int | None = None,
    ) -> Personalign:
        """Open the store, creating a new SQLite file, and load the basis; the model waits for the first ``chat``.

        Args:
            store: a database URL.
            model: "tiny" (bundled), a path, or a hub id.
            basis: a basis directory; None means the bundled one, and is an error for any other model.
            experts: adapter folders beside the bundled ones, by name, or named by their last path component.
            reward: a reward model for ``rule="args"``: a sequence classifier, or a folder of ``train/reward.py``.
            device: "auto", or a torch device.
            pinned: axes by name with the weight that everyone who is guided has on them; 0 turns an axis off.
            shadow: write the model's own replies, and tell in their account what guidance would have done; as
                ``serving.is_shadow`` it may be changed at any time.
            slots: replies that are written at once.
            waiting: requests that may wait for a slot; further ones raise ``Overloaded``.
            max_length: tokens of prompt and reply together; None means the model's context, 2048 at most.

        Raises:
            BasisError: no basis was named, or it can't be read.
            InputError: a pinned axis isn't one of the basis's, or its weight isn't a number from −100 to 100; or
                slots, waiting or max_length isn't a whole number from 1.
            StoreError: the database can't be opened; SchemaError if its schema is older or newer.
        """
        capacity = Capacity(slots, waiting, max_length)
        source = locate(model, basis)
        named = experts if isinstance(experts, Mapping) else {Path(path).name: path for path in experts}
        source = replace(source, experts=source.experts | {name: Path(path) for name, path in named.items()})
        loaded = Basis.load(source.basis)
        serving = Serving(loaded, pinned or {}, is_shadow=shadow)
        opened = Store.open(store)
        try:
            opened.save_basis(loaded.id, loaded.model, {"axes": [axis.name for axis in loaded.axes]})
            return cls(opened, loaded, source, device, reward, serving, capacity)
        except BaseException:
            opened.close()
            raise

    # Onboarding

    def ask(self, user: str, consent: str | None = None) -> Question | None:
        """The next question for a person, who is created by the first one; None when enough is known.

        The same question comes back until it is answered.
        """
        return self._onboarding.ask(user, consent)

    def why_stopped(self, user: str) -> str | None:
        """Why there is no further question, in words; None while there is one."""
        return self._onboarding.why_stopped(user)

    def answer(self, user: str, question_id: str, choice: Choice) -> Profile:
        """Store an answer and the profile fitted to all of them.

        Raises:
            QuestionError: the question isn't this person's, or the choice is none of the five.
            AlreadyAnswered: it has another answer.
        """
        return self._onboarding.answer(user, question_id, choice)

    async def aask(self, user: str, consent: str | None = None) -> Question | None:
        """``ask`` for a task on an event loop, which it never blocks."""
        return await asyncio.to_thread(self.ask, user, consent)

    async def aanswer(self, user: str, question_id: str, choice: Choice) -> Profile:
        """``answer`` for a task on an event loop; cancelling the task doesn't take the answer back."""
        return await asyncio.to_thread(self.answer, user, question_id, choice)

    def reask(self, user: str) -> Question | None:
        """Ask the first question again, its sides changed, to see whether the person agrees with themselves.

        It comes until it is answered, by ``answer``; one question of a person is asked again, and tells the profile
        nothing. None without an answer to ask about. While another question is open, it is that one.
        """
        return self._onboarding.reask(user)

    def agreed(self, user: str) -> bool | None:
        """Whether the person preferred the same reply when asked again; None where they weren't, or skipped it."""
        return self._onboarding.agreed(user)

    def undo(self, user: str) -> Profile:
        """Take the last answer back; its question is open again.

        Raises:
            QuestionError: there is no answer to take back.
        """
        return self._onboarding.undo(user)

    def feedback(self, user: str, messages: Sequence[Message], chosen: str, rejected: str, kind: str) -> Profile:
        """Store what a person preferred in use, and the profile fitted with it; they are created by the first.

        The same feedback again changes nothing; turned round, it takes the place of the first.

        Args:
            user: the person.
            messages: the conversation up to the reply.
            chosen: the reply they preferred: their edited text, the second one, the one with its thumb up.
            rejected: the reply beside it: the one they edited, the first one, the one with its thumb down.
            kind: "edit", "regenerate" or "thumbs"; each counts less than an answer (``types.WEIGHTS``).

        Raises:
            InputError: and its kinds, as ``Feedback`` says.
        """
        return self._onboarding.feedback(user, Feedback(kind, read_messages(messages), chosen, rejected))

    def profile(self, user: str) -> Profile:
        """What is known of a person; the prior for someone who has answered nothing."""
        return self._onboarding.profile(user)

    @property
    def stop_rule(self) -> StopRule:
        """When enough is known; another rule holds from the next question on."""
        return self._onboarding.stop_rule

    @stop_rule.setter
    def stop_rule(self, rule: StopRule) -> None:
        self._onboarding.stop_rule = rule

    @property
    def rule(self) -> str:
        """How questions are chosen, from the next one on: by one of the rules of ``learn/ask.py``.

        "d_optimal" is the default; "random" is, where the basis foresees people too badly (``basis.active``). "eubo" is
        useful while it asks: it shows pairs whose better reply is expected to please most. "accuracy" looks ahead.
        """
        return self._onboarding.rule

    @rule.setter
    def rule(self, rule: str) -> None:
        self._onboarding.rule = rule

    def behind(self) -> list[str]:
        """The people whose answers were given under another basis, and aren't fitted on this one yet."""
        return self._onboarding.behind()

    def refit(self, user: str) -> Profile | None:
        """Fit a person's answers from other bases on this one, in one transaction; None where none is lacking.

        The texts they saw are measured anew. Their answers and profiles under the other bases stay.
        """
        return self._onboarding.refit(user)

    def drift(self, user: str) -> Drift:
        """What a person's answers say about a change of taste: after an alarm older ones count a quarter."""
        return self._onboarding.drift(user)

    @property
    def half_life_days(self) -> float | None:
        """After how many days an answer counts half, from the next fit on; None, the default, means never."""
        return self._onboarding.half_life_days

    @half_life_days.setter
    def half_life_days(self, days: float | None) -> None:
        self._onboarding.half_life_days = days

    # Replies

    def chat(self, user: str, messages: Sequence[Message], **options: Unpack[OptionsDict]) -> Reply:
        """Answer messages under a person's reward; someone unknown gets the model's own reply.

        Args:
            user: the person.
            messages: the conversation, ending with the user.
            options: how the reply is steered, drawn and ended, as ``Options`` says.

        Raises:
            InputError: and its kinds, for what can't be used.
            Overloaded: too many replies are being written already.
            EngineError: the reply failed while it was written.
        """
        asked = Options.from_keywords(options)
        return self._replies.write(self._replies.request(check_user(user), messages, asked))

    def stream(self, user: str, messages: Sequence[Message], **options: Unpack[OptionsDict]) -> Iterator[str]:
        """``chat`` piece by piece; the pieces joined are the reply's text. Dropping the iterator ends the reply.

        Raises:
            InputError, Overloaded: at the call, as ``chat``.
            EngineError: at the piece that can't be written.
        """
        asked = Options.from_keywords(options)
        return self._replies.stream(self._replies.request(check_user(user), messages, asked))

    async def achat(self, user: str, messages: Sequence[Message], **options: Unpack[OptionsDict]) -> Reply:
        """``chat`` for a task on an event loop, which it never blocks; cancelling the task ends the reply."""
        return await aio.result(partial(self._begin, user, messages, Options.from_keywords(options)))

    def astream(
        self, user: str, messages: Sequence[Message], **options: Unpack[OptionsDict]
    ) -> AsyncGenerator[str, None]:
        """``stream`` for a task on an event loop; its errors come at a piece, and closing it ends the reply."""
        return aio.texts(partial(self._begin, user, messages, Options.from_keywords(options), is_streamed=True))

    def _begin(
        self, user: str, messages: Sequence[Message], options: Options, outbox: Outbox, *, is_streamed: bool = False
    ) -> Seq:
        request = self._replies.request(check_user(user), messages, options)
        return self._replies.begin(request, outbox, is_streamed=is_streamed)

    def chat_many(
        self, users: Sequence[str], conversations: Sequence[Sequence[Message]], **options: Unpack[OptionsDict]
    ) -> list[Reply]:
        """``chat`` for several people at once, however many, each under their own reward.

        Raises:
            InputError: there aren't as many conversations as people; or as ``chat``.
        """
        asked, replies = Options.from_keywords(options), self._replies
        if len(users) != len(conversations):
            raise InputError(
                f"found {len(users)} people and {len(conversations)} conversations, expected as many; pass one for each"
            )
        pairs = zip(users, conversations, strict=True)
        return replies.write_all([replies.request(check_user(user), messages, asked) for user, messages in pairs])

    def shift(
        self, user: str, conversations: Sequence[Sequence[Message]], **options: Unpack[OptionsDict]
    ) -> list[ShiftedReply]:
        """Write the person's replies, and find out how their reward and the expert moved each token's probability.

        Raises:
            InputError: nothing moves the replies; or as ``chat``.
        """
        asked, replies = Options.from_keywords(options), self._replies
        return replies.shift([replies.request(check_user(user), messages, asked) for messages in conversations])

    @property
    def models(self) -> Models:
        """The model, loaded on first use, with the head of the basis and the experts."""
        return self._replies.models

    @property
    def _replies(self) -> Replies:
        self._check_open()
        for pid in list(self._loading):  # a child may find the model half loaded
            check_process(pid)
        with self._loading.setdefault(os.getpid(), threading.Lock()):
            if self._loaded is None:
                from personalign.replies import Replies, load_models

                models = load_models(self._source, self.basis, self._device, self._reward)
                self._loaded = Replies(models, self.basis, self._store, self.profile, self.serving, self._capacity)
            self._check_open()  # it may have been closed meanwhile
            return self._loaded

    def _check_open(self) -> None:
        if self._is_closed:
            raise EngineError("personalign is closed; open it again")

    def _embed(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> Array:
        """What the learnt axes of the basis project; loads the model on first use."""
        return self._replies.embed(prompts, replies)

    # Data rights and lifetime

    def forget(self, user: str) -> bool:
        """Erase everything about a person and tell whether they were known; the id may start anew."""
        try:
            return self._store.forget(user)
        finally:
            if self._loaded is not None:
                self._loaded.forget(user)

    def export(self, user: str) -> dict[str, Any]:
        """Everything stored about a person, ready for JSON."""
        return self._store.export(user)

    def close(self) -> None:
        """End the replies that are being written, and close the store; every verb raises an error afterwards."""
        self._is_closed = True
        if self._loaded is not None:
            self._loaded.close()
        self._store.close()

    def __enter__(self) -> Personalign:  # noqa: PYI034 - beartype can't read Self on a method
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
