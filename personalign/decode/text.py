"""Token ids back into text, whole or as it comes."""

from __future__ import annotations

from collections.abc import Sequence

from personalign.decode.load import CausalModel
from personalign.decode.request import Piece


def text_of(causal: CausalModel, ids: Sequence[int]) -> str:
    """Decode a reply without special tokens."""
    text = causal.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str), "one list of ids is one text"
    return text


class TextStream:
    """Text as it becomes certain: a character whose bytes aren't all there yet waits."""

    def __init__(self, causal: CausalModel) -> None:
        self._causal = causal
        self._num_ids = 0
        self.sent = ""

    def push(self, ids: tuple[int, ...]) -> Piece:
        """Take the whole reply so far; give what is new."""
        new, self._num_ids = ids[self._num_ids :], len(ids)
        certain = text_of(self._causal, ids).rstrip("\N{REPLACEMENT CHARACTER}")
        text, self.sent = certain[len(self.sent) :], max(certain, self.sent, key=len)
        return Piece(new, text)
