"""What is written of a reply: its tokens, its text, and whether it has ended. Siblings each write one of their own."""

from __future__ import annotations

from copy import copy

from personalign.decode.load import CausalModel
from personalign.decode.request import Piece
from personalign.decode.text import TextStream
from personalign.options import Options
from personalign.types import TokenLogprobs


class Draft:
    """Grows by a token at a time; ``needs_text`` says that the text is made along with it, for a stream or a stop."""

    def __init__(self, base: CausalModel, options: Options, *, needs_text: bool) -> None:
        self.needs_text = needs_text
        self.ids: list[int] = []
        self.end: int | None = None  # once it is drawn
        self.num_drawn = 0
        self.logprobs: list[TokenLogprobs] = []
        self._ends, self._max_tokens, self._detokenize = base.ends, options.most_tokens, base.detokenize
        self.text = TextStream(base.detokenize, options.stop)
        self._num_sent = 0  # ids
        self._unsent_ids: tuple[int, ...] = ()
        self._unsent_text = ""
        self._is_closed = False

    @property
    def is_stopped(self) -> bool:
        """Whether it ended by itself."""
        return self.end is not None or self.text.is_stopped

    @property
    def is_ended(self) -> bool:
        """Whether no token may follow."""
        return self.is_stopped or self.num_drawn == self._max_tokens

    @property
    def is_empty(self) -> bool:
        """Whether it has ended without a word."""
        return self.is_ended and not self.close().strip()

    def take(self, token: int, logprobs: TokenLogprobs | None = None) -> None:
        """Add the token just drawn."""
        self.num_drawn += 1
        if logprobs is not None:
            self.logprobs.append(logprobs)
        if token in self._ends:
            self.end = token
            return
        self.ids.append(token)
        if self.needs_text:
            self._unsent_ids += (token,)
            self._unsent_text += self.text.push([token])

    def close(self) -> str:
        """All of the text, once it has ended."""
        if not self._is_closed:
            self._is_closed = True
            self._unsent_text += self.text.finish(() if self.needs_text else self.ids)
        return self.text.text

    def so_far(self) -> str:
        """All of the text, whether it has ended or not."""
        return self.close() if self.is_ended else self._detokenize(self.ids)

    def unsent(self) -> Piece | None:
        """What has been written since this was asked last; None where no one reads along, or nothing was."""
        ids, text = self._unsent_ids, self._unsent_text
        first, self._num_sent = self._num_sent, self._num_sent + len(ids)
        self._unsent_ids, self._unsent_text = (), ""
        logprobs = tuple(self.logprobs[first : self._num_sent])
        return Piece(ids, text, logprobs) if self.needs_text and (ids or text) else None

    def fork(self) -> Draft:
        """One that goes on from here by itself."""
        other = copy(self)
        other.ids, other.logprobs, other.text = list(self.ids), list(self.logprobs), copy(self.text)
        return other
