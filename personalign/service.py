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
from personalign.messages import Feedback, check_consent, check_place, check_user, read_messages
from personalign.onboarding import Onboarding
from personalign.options import Capacity, Options, OptionsDict, check_list, check_mapping, check_switch
from personalign.store import Store
from personalign.types import Array, Choice, Message, Profile, Question, Reply

if TYPE_CHECKING:
    from personalign.decode.models import Models
    from personalign.decode.request import Request
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
        model: str | Path = "tiny",
        basis: str | Path | None = None,
        experts: Mapping[str, str | Path] | Sequence[str | Path] = (),
        reward: str | Path | None = None,
        device: str = "auto",
        pinned: Mapping[str, float] | None = None,
        shadow: bool = False,
        question_rule: str | None = None,
        stop_rule: StopRule | None = None,
        half_life_days: float | None = None,
        slots: int = 32,
        waiting: int = 256,
        max_length: int | None = None,
        create: bool = True,
    ) -> Personalign:
        """Open the store, creating a new SQLite file, and load the basis; the model waits for the first ``chat``.

        Args:
            store: a database URL.
            model: "tiny" (bundled), a path, or a hub id.
            basis: a basis directory; None means the bundled one, and is an error for any other model.
            experts: adapter folders beside the bundled ones, by name, or named by their last path component.
            reward: a reward model for ``rule="args"``: a sequence classifier, or a folder of ``train/reward``.
            device: "auto", or a torch device.
            pinned: axes by name with the weight that everyone who is guided has on them; 0 turns an axis off.
            shadow: write the model's own replies, and tell in their account what guidance would have done; as
                ``serving.is_shadow`` it may be changed at any time.
            question_rule: how questions are chosen, as the property says; so do the next two.
            stop_rule: when enough is known.
            half_life_days: after how many days an answer counts half.
            slots: replies that are written at once.
            waiting: requests that may wait for a slot; further ones raise ``Overloaded``.
            max_length: tokens of prompt and reply together; None means the model's context, 2048 at most.
            create: make the SQLite file where there is none; False refuses that.

        Raises:
            BasisError: no basis was named, or it can't be read.
            InputError: another argument has the wrong type or is out of its range.
            StoreError: the database can't be opened; SchemaError if its schema is older or newer.
        """
        capacity, device = Capacity(slots, waiting, max_length), check_place("device", device)
        check_switch("shadow", shadow)
        pinned = {} if pinned is None else check_mapping("pinned", pinned)
        source = locate(check_place("model", model), basis if basis is None else check_place("basis", basis))
        source = replace(source, experts=source.experts | _experts(experts))
        reward = reward if reward is None else check_place("reward", reward)
        loaded = Basis.load(source.basis)
        serving = Serving(loaded, pinned, is_shadow=shadow)
        opened = Store.open(check_place("store", store), create)
        try:
            opened.save_basis(loaded.id, loaded.model, {"axes": [axis.name for axis in loaded.axes]})
            service = cls(opened, loaded, source, device, reward, serving, capacity)
            service.half_life_days = half_life_days
            service.question_rule = service.question_rule if question_rule is None else question_rule
            service.stop_rule = service.stop_rule if stop_rule is None else stop_rule
        except BaseException:
            opened.close()
            raise
        return service

    # Onboarding

    def ask(self, user: str, consent: str | None = None) -> Question | None:
        """The next question for a person, who is created by the first one; None when enough is known.

        The same question comes back until it is answered.
        """
        return self._onboarding.ask(check_user(user), check_consent(consent))

    def why_stopped(self, user: str) -> str | None:
        """Why there is no further question, in words; None while there is one."""
        return self._onboarding.why_stopped(check_user(user))

    def answer(self, user: str, question_id: str, choice: Choice) -> Profile:
        """Store an answer and the profile fitted to all of them.

        Raises:
            QuestionError: the question isn't this person's, or the choice is none of the five.
            AlreadyAnswered: it has another answer.
        """
        return self._onboarding.answer(check_user(user), question_id, choice)

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
        return self._onboarding.reask(check_user(user))

    def agreed(self, user: str) -> bool | None:
        """Whether the person preferred the same reply when asked again; None where they weren't, or skipped it."""
        return self._onboarding.agreed(check_user(user))

    def undo(self, user: str) -> Profile:
        """Take the last answer back; its question is open again.

        Raises:
            QuestionError: there is no answer to take back.
        """
        return self._onboarding.undo(check_user(user))

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
        return self._onboarding.feedback(check_user(user), Feedback(kind, read_messages(messages), chosen, rejected))

    def profile(self, user: str) -> Profile:
        """What is known of a person; the prior for someone who has answered nothing."""
        return self._onboarding.profile(check_user(user))

    @property
    def stop_rule(self) -> StopRule:
        """When enough is known; another rule holds from the next question on."""
        return self._onboarding.stop_rule

    @stop_rule.setter
    def stop_rule(self, rule: StopRule) -> None:
        self._onboarding.stop_rule = rule

    @property
    def question_rule(self) -> str:
        """How questions are chosen, from the next one on: by one of the rules of ``learn/ask.py``.

        The default is "d_optimal", or "random" where the basis predicts people too badly (``basis.active``). "eubo"
        shows pairs whose better reply is expected to please most. "accuracy" looks ahead.
        """
        return self._onboarding.question_rule

    @question_rule.setter
    def question_rule(self, rule: str) -> None:
        self._onboarding.question_rule = rule

    def behind(self) -> list[str]:
        """The people whose answers were given under another basis, and aren't fitted on this one yet."""
        return self._onboarding.behind()

    def refit(self, user: str) -> Profile | None:
        """Fit a person's answers from other bases on this one, in one transaction; None where none is lacking.

        The texts they saw are measured anew. Their answers and profiles under the other bases stay.
        """
        return self._onboarding.refit(check_user(user))

    def drift(self, user: str) -> Drift:
        """What a person's answers say about a change of taste: after an alarm older ones count a quarter."""
        return self._onboarding.drift(check_user(user))

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
        request = self._request(user, messages, options)
        return self._replies.write(request)

    def stream(self, user: str, messages: Sequence[Message], **options: Unpack[OptionsDict]) -> Iterator[str]:
        """``chat`` piece by piece; the pieces joined are the reply's text. Dropping the iterator ends the reply.

        Raises:
            InputError, Overloaded: at the call, as ``chat``.
            EngineError: at the piece that can't be written.
        """
        request = self._request(user, messages, options)
        return self._replies.stream(request)

    async def achat(self, user: str, messages: Sequence[Message], **options: Unpack[OptionsDict]) -> Reply:
        """``chat`` for a task on an event loop, which it never blocks; cancelling the task ends the reply."""
        return await aio.result(partial(self._begin, user, messages, options))

    def astream(
        self, user: str, messages: Sequence[Message], **options: Unpack[OptionsDict]
    ) -> AsyncGenerator[str, None]:
        """``stream`` for a task on an event loop; its errors come at a piece, and closing it ends the reply."""
        return aio.texts(partial(self._begin, user, messages, options, is_streamed=True))

    def _begin(
        self, user: str, messages: Sequence[Message], options: OptionsDict, outbox: Outbox, *, is_streamed: bool = False
    ) -> Seq:
        return self._replies.begin(self._request(user, messages, options), outbox, is_streamed=is_streamed)

    def chat_many(
        self, users: Sequence[str], conversations: Sequence[Sequence[Message]], **options: Unpack[OptionsDict]
    ) -> list[Reply]:
        """``chat`` for several people at once, however many, each under their own reward.

        Raises:
            InputError: there aren't as many conversations as people; or as ``chat``.
        """
        if len(check_list("users", users)) != len(check_list("conversations", conversations)):
            raise InputError(
                f"found {len(users)} people and {len(conversations)} conversations, expected as many; pass one for each"
            )
        pairs = zip(users, conversations, strict=True)
        return self._replies.write_all([self._request(user, messages, options) for user, messages in pairs])

    def shift(
        self, user: str, conversations: Sequence[Sequence[Message]], **options: Unpack[OptionsDict]
    ) -> list[ShiftedReply]:
        """Write the person's replies, and find out how their reward and the expert moved each token's probability.

        Raises:
            InputError: nothing moves the replies; or as ``chat``.
        """
        conversations = check_list("conversations", conversations)
        return self._replies.shift([self._request(user, messages, options) for messages in conversations])

    def _request(self, user: str, messages: Sequence[Message], options: OptionsDict) -> Request:
        """Check all that is asked for before the model is loaded."""
        user, conversation, chosen = check_user(user), read_messages(messages), Options.from_keywords(options)
        return self._replies.request(user, conversation, chosen)

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

    def is_known(self, user: str) -> bool:
        """Whether anything is stored about a person."""
        return self._store.person(check_user(user)).created_at is not None

    def forget(self, user: str) -> bool:
        """Erase everything about a person, and tell whether they were known; the id may start anew."""
        try:
            return self._store.forget(check_user(user))
        finally:
            if self._loaded is not None:
                self._loaded.forget(user)

    def export(self, user: str) -> dict[str, Any]:
        """Everything stored about a person, ready for JSON."""
        return self._store.export(check_user(user))

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


def _experts(folders: Mapping[str, str | Path] | Sequence[str | Path]) -> dict[str, Path]:
    """Adapter folders by the experts' names."""
    if not isinstance(folders, Mapping):
        folders = {Path(check_place("experts", folder)).name: folder for folder in check_list("experts", folders)}
    return {check_place("experts", name): Path(check_place("experts", folder)) for name, folder in folders.items()}
