"""One request on its way through the engine: what it has to be, its life as a table, and what it has written."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from typing import Literal

from personalign.decode.checkpoint import first_line
from personalign.decode.constrain import Matcher
from personalign.decode.draft import Draft
from personalign.decode.experts import Expert
from personalign.decode.load import CausalModel, render
from personalign.decode.models import Models
from personalign.decode.request import Account, Piece, Request, check_guidance, gain, reply_of
from personalign.decode.reward_model import RewardModel
from personalign.errors import BasisError, EngineError, InputError, PersonalignError, check_process
from personalign.types import FinishReason, Guidance, Reply, Steering, TokenLogprobs, Usage

Outbox = Callable[[Piece | Reply | Exception], None]
State = Literal["waiting", "reading", "writing", "paused", "ended", "finished", "failed", "cancelled"]
Event = Literal["seat", "begin", "pause", "resume", "end", "finish", "fail", "cancel"]

# seat: it gets a slot; begin: its prompt is read; end: its last token is drawn; finish: the reply is sent; pause: it
# waits for its siblings; resume: all go on from the best; cancel: its caller has gone, or a sibling was better
DEFAULT_LENGTH = 2048  # tokens of prompt and reply together
LIFE: Mapping[State, Mapping[Event, State]] = {
    "waiting": {"seat": "reading", "fail": "failed", "cancel": "cancelled"},
    "reading": {"begin": "writing", "pause": "paused", "fail": "failed", "cancel": "cancelled"},
    "writing": {"pause": "paused", "end": "ended", "fail": "failed", "cancel": "cancelled"},
    "paused": {"resume": "writing", "end": "ended", "fail": "failed", "cancel": "cancelled"},
    "ended": {"finish": "finished", "fail": "failed"},
    "finished": {},
    "failed": {},
    "cancelled": {"fail": "failed"},  # its slot couldn't be emptied
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

    Where the best of several siblings is kept, each is a seq in a slot of its own; their leader is the one that a
    caller waits for, and alone says something to them.

    Any thread may make one: it checks the request, and renders the prompt for every model that reads it. ``longest``
    counts the tokens of prompt and reply that there is room for, where the request names no ``max_tokens``.

    Raises:
        InputError: and its kinds, as ``generate``.
    """

    def __init__(
        self,
        models: Models,
        request: Request,
        number: int,
        outbox: Outbox,
        *,
        is_streamed: bool = False,
        longest: int = DEFAULT_LENGTH,
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
        if options.max_tokens is None:
            room = min([longest, *(one.context for one in (base, expert, reward) if one and one.context)])
            options = replace(options, max_tokens=max(1, room - self._num_prompt_tokens))
            self.request = replace(request, options=options)
        self.matcher: Matcher | None = None
        if options.schema is not None or options.regex is not None:
            self.matcher = models.constrainer.compile(options.schema, options.regex)
        self.guidance = request.guidance  # None once the person is erased
        self.state: State = "waiting"
        self.is_cancelled = False  # any thread may ask for that; the engine's next step lets it happen
        self._outbox = outbox
        self.draft = Draft(base, options, needs_text=is_streamed or bool(options.stop))
        self._has_siblings = options.has_siblings and gain(self.guidance, models.steering, options) > 0
        if self._has_siblings and models.measure is None:
            raise InputError(
                f'the rule "{options.rule}" measures replies that have ended, and nothing here does; pass '
                'Models(measure=…), as Personalign.open does, or use "successor"'
            )
        self.stream = 0  # of the request's random numbers
        self.elder: Seq | None = None  # of a sibling that isn't the leader itself: no seq refers to itself
        self.others: list[Seq] = []  # of a leader
        self.choices: Account | None = None  # what choosing among siblings has done; None where there are none

    @property
    def owner(self) -> str | int:
        """The person whose turn it takes up; a request without a user takes turns on its own."""
        return self.request.user or self.number

    @property
    def is_first(self) -> bool:
        """Whether the next token is the reply's first."""
        return self.draft.num_drawn == 0

    @property
    def num_slots(self) -> int:
        """How many slots it takes: one for each sibling."""
        return self.request.options.num_siblings if self._has_siblings and self.guidance is not None else 1

    @property
    def leader(self) -> Seq:
        """Whose reply it writes a version of."""
        return self if self.elder is None else self.elder

    @property
    def siblings(self) -> list[Seq]:
        """All that write a leader's reply, itself the first, in the order of their streams."""
        return [self, *self.others]

    @property
    def is_alone(self) -> bool:
        """Whether it has no siblings."""
        return not self.leader.others

    @property
    def num_tokens(self) -> int:
        """The most that prompt and reply come to, in any model's template."""
        return self._num_prompt_tokens + self.request.options.most_tokens

    @property
    def _num_prompt_tokens(self) -> int:
        prompts = [self.prompt, *(part.prompt for part in (self.stack, self.reward_prompt) if part is not None)]
        return max(map(len, prompts))

    def spread(self) -> list[Seq]:
        """Get its siblings, one for each slot that it takes."""
        if self.num_slots > 1:
            self.others = [self._sibling(stream) for stream in range(1, self.num_slots)]
            self.choices = Account(guided=True)
        return self.siblings

    def _sibling(self, stream: int) -> Seq:
        other = copy(self)
        other.elder, other.stream, other.draft, other.guidance = self, stream, self.draft.fork(), None
        return other

    def enter(self, event: Event) -> None:
        """Let an event move the reply to its next state."""
        assert event in LIFE[self.state], f"no {event} where a reply is {self.state}"
        self.state = LIFE[self.state][event]

    def take(self, token: int, logprobs: TokenLogprobs | None = None) -> None:
        """Add the token just drawn, and find out whether it ends the reply, or the block of a sibling."""
        draft = self.draft
        draft.take(token, logprobs)
        if self.is_alone:
            self.send()
            if draft.is_ended:
                self.enter("end")
        elif draft.is_ended or draft.num_drawn % self.request.options.block == 0:
            self.enter("pause")

    def send(self) -> None:
        """Send what is new to a caller who reads along."""
        if (piece := self.draft.unsent()) is not None:
            self._outbox(piece)

    def finish(self, account: Account, steering: Steering) -> None:
        """Send the rest of the text, then the reply."""
        draft, ids = self.draft, tuple(self.draft.ids)
        finish_reason: FinishReason = "stop" if draft.is_stopped else "length"
        text = draft.close()
        self.send()
        self._outbox(
            reply_of(
                self.request,
                account,
                steering,
                draft.num_drawn,
                text=text,
                finish_reason=finish_reason,
                usage=Usage(len(self.prompt), len(ids)),
                logprobs=tuple(draft.logprobs),
                ids=ids,
                end=draft.end,
            )
        )
        self.enter("finish")

    def forget(self, *, is_sound: bool = True) -> None:
        """Go on without the person's weights: they were erased, or a reward wasn't finite."""
        self.guidance = None
        if self.choices is not None:
            self.choices = replace(self.choices, guided=False, is_sound=is_sound)
        if self.reward_prompt is not None and self.reward_prompt.guidance.user:
            self.reward_prompt = None

    def fail(self, error: Exception) -> None:
        """End without a reply, and tell the caller; an outbox that fails can't be told."""
        self.enter("fail")
        if self.elder is None:
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
    options, guidance, reward = request.options, request.guidance, models.reward_model
    is_args = options.rule == "args"
    if request.is_shadow and options.rule != "successor":
        raise InputError(
            f'the rule "{options.rule}" can\'t follow in shadow what the model draws: it chooses among candidates of '
            'its own; use "successor", or leave shadow mode'
        )
    if is_args and reward is None:
        raise InputError(
            'the rule "args" asks a reward model, and there is none; open with reward=PATH, or use "successor"'
        )
    if guidance is None:
        return
    if is_args and reward is not None:
        check_guidance(guidance, len(guidance.weights) if reward.num_axes == 1 else reward.num_axes)
    elif models.head is None and options.rule != "best_of":
        raise BasisError("guidance needs a successor head, and the basis has none; train one, or pass no guidance")
    else:
        check_guidance(guidance, len(guidance.weights) if models.head is None else models.head.num_axes)


def _prompt(reader: CausalModel | Expert | RewardModel, request: Request) -> list[int]:
    room = None if reader.context is None else reader.context - (request.options.max_tokens or 1)
    return render(reader.tokenizer, request.messages, max_prompt_tokens=room)


def engine_error(error: BaseException) -> PersonalignError:
    """An error of ours as it is, any other one as the cause of an EngineError."""
    if isinstance(error, PersonalignError):
        return error
    what = f"{type(error).__name__}: {first_line(error)}"
    failure = EngineError(f"writing the reply failed with {what}; send the request again")
    failure.__cause__ = error
    return failure
