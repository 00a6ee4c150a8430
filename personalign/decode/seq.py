"""One request on its way through the engine: what it has to be, its life as a table, and what it has written."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from personalign.decode.checkpoint import first_line
from personalign.decode.constrain import Matcher
from personalign.decode.experts import Expert
from personalign.decode.load import CausalModel, render
from personalign.decode.models import Models
from personalign.decode.request import Account, Piece, Request, check_guidance, reply_of
from personalign.decode.reward_model import RewardModel
from personalign.decode.text import TextStream
from personalign.errors import BasisError, EngineError, InputError, PersonalignError, check_process
from personalign.types import FinishReason, Guidance, Reply, Steering, TokenLogprobs, Usage

Outbox = Callable[[Piece | Reply | Exception], None]
State = Literal["waiting", "reading", "writing", "ended", "finished", "failed", "cancelled"]
Event = Literal["seat", "begin", "end", "finish", "fail", "cancel"]

# seat: it gets a slot; begin: its prompt is read; end: its last token is drawn; finish: the reply is sent
LIFE: Mapping[State, Mapping[Event, State]] = {
    "waiting": {"seat": "reading", "fail": "failed", "cancel": "cancelled"},
    "reading": {"begin": "writing", "fail": "failed", "cancel": "cancelled"},
    "writing": {"end": "ended", "fail": "failed", "cancel": "cancelled"},
    "ended": {"finish": "finished", "fail": "failed"},
    "finished": {},
    "failed": {},
    "cancelled": {},
}


@dataclass(frozen=True, eq=False)
class Stack:
    """The expert under a request: its α, and the prompt in its own template."""

    expert: Expert
    alpha: float
    prompt: list[int]


@dataclass(frozen=True, eq=False)
class RewardPrompt:
    """What a reward model reads of a request under rule "args": the prompt in its own template, and how it weighs."""

    prompt: list[int]
    guidance: Guidance


class Seq:
    """A reply being written. The engine alone changes it, but for the wish to cancel it.

    Any thread may make one: it checks the request, and renders the prompt for every model that reads it.

    Raises:
        InputError: and its kinds, as ``generate``.
    """

    def __init__(
        self, models: Models, request: Request, number: int, outbox: Outbox, *, is_streamed: bool = False
    ) -> None:
        options, base, reward = request.options, models.base, models.reward_model
        options.check_vocabulary(models.num_tokens)
        expert, alpha = models.expert(options)
        _check_guidance(models, request)
        self.number, self.request, self.prompt = number, request, _prompt(base, request)
        self.stack = None if expert is None else Stack(expert, alpha, _prompt(expert, request))
        self.reward_prompt: RewardPrompt | None = None
        if reward is not None and (guidance := models.reward_guidance(request)) is not None:
            self.reward_prompt = RewardPrompt(_prompt(reward, request), guidance)
        self.matcher: Matcher | None = None
        if options.schema is not None or options.regex is not None:
            self.matcher = models.constrainer.compile(options.schema, options.regex)
        self.guidance = request.guidance  # None once the person is erased
        self.state: State = "waiting"
        self.is_cancelled = False  # any thread may ask for that; the engine's next step lets it happen
        self._outbox, self._ends = outbox, base.ends
        self._needs_text = is_streamed or bool(options.stop)  # token by token
        self._ids: list[int] = []
        self._end: int | None = None  # once it is drawn
        self._num_drawn = 0
        self._logprobs: list[TokenLogprobs] = []
        self._text = TextStream(base.detokenize, options.stop)

    @property
    def owner(self) -> str | int:
        """The person whose turn it takes up; a request without a user takes turns on its own."""
        return self.request.user or self.number

    @property
    def is_first(self) -> bool:
        """Whether the next token is the reply's first."""
        return self._num_drawn == 0

    @property
    def num_tokens(self) -> int:
        """The most that prompt and reply come to, in any model's template."""
        prompts = [self.prompt, *(part.prompt for part in (self.stack, self.reward_prompt) if part is not None)]
        return max(map(len, prompts)) + self.request.options.max_tokens

    def enter(self, event: Event) -> None:
        """Let an event move the reply to its next state."""
        assert event in LIFE[self.state], f"no {event} where a reply is {self.state}"
        self.state = LIFE[self.state][event]

    def take(self, token: int, logprobs: TokenLogprobs | None = None) -> None:
        """Add the token just drawn, and find out whether it ends the reply."""
        self._num_drawn += 1
        if logprobs is not None:
            self._logprobs.append(logprobs)
        if token in self._ends:
            self._end = token
        else:
            self._ids.append(token)
            if self._needs_text:
                self._outbox(Piece((token,), self._text.push([token])))
        if self._is_stopped or self._num_drawn == self.request.options.max_tokens:
            self.enter("end")

    @property
    def _is_stopped(self) -> bool:
        return self._end is not None or self._text.is_stopped

    def finish(self, account: Account, steering: Steering) -> None:
        """Send the rest of the text, then the reply."""
        ids = tuple(self._ids)
        finish_reason: FinishReason = "stop" if self._is_stopped else "length"
        ending = self._text.finish(() if self._needs_text else ids)
        if ending and self._needs_text:
            self._outbox(Piece((), ending))
        self._outbox(
            reply_of(
                self.request,
                account,
                steering,
                self._num_drawn,
                text=self._text.text,
                finish_reason=finish_reason,
                usage=Usage(len(self.prompt), len(ids)),
                logprobs=tuple(self._logprobs),
                ids=ids,
                end=self._end,
            )
        )
        self.enter("finish")

    def forget(self) -> None:
        """Go without the person's weights: they were erased while the reply waited for its turn."""
        self.guidance = None
        if self.reward_prompt is not None and self.reward_prompt.guidance.user:
            self.reward_prompt = None

    def fail(self, error: Exception) -> None:
        """End without a reply; an outbox that fails can't be told."""
        self.enter("fail")
        with suppress(Exception):
            self._outbox(error)


class Ticket:
    """A reply to come: wait for all of it, or read it as it is written. Any thread of this process may use it."""

    def __init__(self) -> None:
        self.seq: Seq | None = None  # once it is handed over
        self._news: queue.SimpleQueue[Piece | Reply | Exception] = queue.SimpleQueue()
        self._outcome: Reply | Exception | None = None
        self._pid = os.getpid()
        self.put: Outbox = self._news.put

    def __iter__(self) -> Iterator[Piece | Reply]:
        """Yield the pieces as they come, then the reply, or raise what ended it."""
        while self._outcome is None:
            check_process(self._pid)
            item = self._news.get()
            if not isinstance(item, Piece):
                self._outcome = item
            if isinstance(item, Exception):
                raise item
            yield item

    def result(self) -> Reply:
        """Wait for the reply, or raise what ended it."""
        for _ in self:
            pass
        if isinstance(self._outcome, Exception):
            raise self._outcome
        assert self._outcome is not None, "the last item is a reply or an error"
        return self._outcome

    def cancel(self) -> None:
        """Let the reply end within two steps; a thread that waits for it gets an error."""
        if self._outcome is None and self.seq is not None:
            self.seq.is_cancelled = True
            self.put(EngineError("the reply was cancelled; send the request again"))


def _check_guidance(models: Models, request: Request) -> None:
    is_args, guidance, reward = request.options.rule == "args", request.guidance, models.reward_model
    if is_args and request.is_shadow:
        raise InputError(
            'the rule "args" can\'t follow in shadow what the model draws: it reads its own candidates alone; use '
            '"successor", or leave shadow mode'
        )
    if is_args and reward is None:
        raise InputError(
            'the rule "args" asks a reward model, and there is none; open with reward=PATH, or use "successor"'
        )
    if guidance is None:
        return
    if is_args and reward is not None:
        check_guidance(guidance, len(guidance.weights) if reward.num_axes == 1 else reward.num_axes)
    elif models.head is None:
        raise BasisError("guidance needs a successor head, and the basis has none; train one, or pass no guidance")
    else:
        check_guidance(guidance, models.head.num_axes)


def _prompt(reader: CausalModel | Expert | RewardModel, request: Request) -> list[int]:
    room = None if reader.context is None else reader.context - request.options.max_tokens
    return render(reader.tokenizer, request.messages, max_prompt_tokens=room)


def engine_error(error: BaseException) -> PersonalignError:
    """An error of ours as it is, any other one as the cause of an EngineError."""
    if isinstance(error, PersonalignError):
        return error
    what = f"{type(error).__name__}: {first_line(error)}"
    failure = EngineError(f"writing the reply failed with {what}; send the request again")
    failure.__cause__ = error
    return failure
