"""One request on its way through the engine: where it sits, what it has written, and whom it tells."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from personalign.basis import Steering
from personalign.decode.account import Account
from personalign.decode.constrain import Matcher
from personalign.decode.experts import Expert
from personalign.decode.load import CausalModel
from personalign.decode.request import Generated, Piece, Request, reason
from personalign.decode.successor import Guidance
from personalign.decode.text import TextStream
from personalign.types import FinishReason, TokenLogprobs

Outbox = Callable[[Piece | Generated | Exception], None]


@dataclass(frozen=True, eq=False)
class Stack:
    """The expert under a request: its α, and the prompt in its own template."""

    expert: Expert
    alpha: float
    prompt: list[int]


@dataclass(frozen=True, eq=False)
class Judged:
    """A request under rule "args": its prompt in the reward model's own template, and the weights of the rewards."""

    prompt: list[int]
    guidance: Guidance


class Seq:
    """A reply being written. The engine alone changes it."""

    def __init__(
        self,
        number: int,
        request: Request,
        prompt: list[int],
        stack: Stack | None,
        judged: Judged | None,
        matcher: Matcher | None,
        base: CausalModel,
        outbox: Outbox,
        *,
        is_streamed: bool,
    ) -> None:
        self.number, self.request, self.prompt = number, request, prompt
        self.stack, self.judged, self.matcher = stack, judged, matcher
        self.guidance = request.guidance  # None once the person is erased
        self.is_cancelled = False
        self.finish_reason: FinishReason | None = None
        self._outbox, self._ends = outbox, base.ends
        self._needs_text = is_streamed or bool(request.sampling.stop)  # token by token
        self._started = time.perf_counter()
        self._first_token_s: float | None = None
        self._ids: list[int] = []
        self._end: int | None = None  # once it is drawn
        self._num_drawn = 0
        self._logprobs: list[TokenLogprobs] = []
        self._text = TextStream(base, request.sampling.stop)

    @property
    def owner(self) -> str:
        """Whose turn it takes up."""
        return self.request.guidance.user if self.request.guidance else ""

    @property
    def is_first(self) -> bool:
        """Whether the next token is the reply's first."""
        return self._num_drawn == 0

    @property
    def num_tokens(self) -> int:
        """The most that prompt and reply come to, in any model's template."""
        prompts = [self.prompt, *(part.prompt for part in (self.stack, self.judged) if part is not None)]
        return max(map(len, prompts)) + self.request.sampling.max_tokens

    @property
    def num_logprobs(self) -> int:
        """How many of the likeliest tokens are reported beside each one drawn."""
        return self.request.sampling.logprobs

    def take(self, token: int, logprobs: TokenLogprobs | None = None) -> None:
        """Add the token just drawn, and find out whether it ends the reply."""
        if self._first_token_s is None:
            self._first_token_s = time.perf_counter() - self._started
        self._num_drawn += 1
        if logprobs is not None:
            self._logprobs.append(logprobs)
        if token in self._ends:
            self.finish_reason, self._end = "stop", token
            return
        self._ids.append(token)
        if self._needs_text:
            self._outbox(self._text.push(tuple(self._ids)))
        if self._text.is_stopped:
            self.finish_reason = "stop"
        elif self._num_drawn == self.request.sampling.max_tokens:
            self.finish_reason = "length"

    def finish(self, account: Account, steering: Steering) -> None:
        """Send the rest of the text, then the reply."""
        assert self.finish_reason is not None, "the reply has ended"
        text = self._text.finish(tuple(self._ids))
        if rest := text[len(self._text.sent) :]:
            self._outbox(Piece((), rest))
        is_shadow = account.guided and self.request.is_shadow
        guided = account.guided and not is_shadow
        self._outbox(
            Generated(
                ids=tuple(self._ids),
                text=text,
                kl=account.kl / self._num_drawn,
                guided=guided,
                reason=None
                if guided
                else reason(self.request, steering, is_sound=account.is_sound, is_shadow=is_shadow),
                finish_reason=self.finish_reason,
                prompt_tokens=len(self.prompt),
                first_token_s=self._first_token_s,
                changed=account.changed / self._num_drawn,
                gained=account.gained / self._num_drawn,
                logprobs=tuple(self._logprobs),
                end=self._end,
            )
        )

    def forget(self) -> None:
        """Go without the person's head: they were erased while the reply waited for its turn."""
        self.guidance = None
        if self.judged is not None and self.judged.guidance.user:
            self.judged = None

    def fail(self, error: Exception) -> None:
        """End without a reply; where it is the outbox that fails, there is nobody to tell."""
        with suppress(Exception):
            self._outbox(error)
