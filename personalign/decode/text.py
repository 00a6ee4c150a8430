"""Token ids back into text, whole or as it comes, up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from personalign.decode.load import CausalModel
from personalign.decode.request import Piece


def text_of(causal: CausalModel, ids: Sequence[int]) -> str:
    """Decode a reply without special tokens."""
    text = causal.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str), "one list of ids is one text"
    return text


def cut(text: str, stop: Sequence[str]) -> str:
    """The text up to the first stop string in it."""
    places = [place for place in map(text.find, stop) if place >= 0]
    return text[: min(places)] if places else text


class TextStream:
    """Text as it becomes certain: what may still become another character or a stop string waits."""

    def __init__(self, causal: CausalModel, stop: Sequence[str] = ()) -> None:
        self._causal, self._stop = causal, stop
        self._num_ids = 0
        self.sent = ""
        self.is_stopped = False

    def push(self, ids: tuple[int, ...]) -> Piece:
        """Take the whole reply so far; give what is new."""
        new, self._num_ids = ids[self._num_ids :], len(ids)
        certain = text_of(self._causal, ids).rstrip("\N{REPLACEMENT CHARACTER}")
        kept = cut(certain, self._stop)
        self.is_stopped = len(kept) < len(certain)
        if not self.is_stopped:
            kept = kept[: len(kept) - self._num_withheld(kept)]
        text, self.sent = kept[len(self.sent) :], max(kept, self.sent, key=len)
        return Piece(new, text)

    def finish(self, ids: tuple[int, ...]) -> str:
        """The whole reply's text."""
        return cut(text_of(self._causal, ids), self._stop)

    def _num_withheld(self, text: str) -> int:
        """The length of the longest end of the text that a stop string may begin with."""
        lengths = range(max(map(len, self._stop), default=1) - 1, 0, -1)
        return next((n for n in lengths if any(s.startswith(text[-n:]) for s in self._stop if n <= len(text))), 0)
