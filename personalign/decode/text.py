"""Token ids back into text, whole or as it comes, up to a stop string."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
WINDOW = 48  # ids that are decoded again as context; each is at least a byte, and a character at most four
RESYNC = 4  # characters of a window's text that may differ because the window begins inside a character


class Detokenizer:
    """Decodes ids without special tokens.

    A tokenizer with byte tokens (Llama 2, Mistral, Gemma) replaces a whole run of them if it ends inside a character.
    So each run is made valid here first, and its complete characters stay.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._byte_ids = _byte_ids(tokenizer)
        self._bytes = {token_id: byte for byte, token_id in enumerate(self._byte_ids)}
        self._spellings: dict[int, tuple[str, bytes | None]] = {}

    def __call__(self, ids: Iterable[int]) -> str:
        """Decode ids."""
        whole = list(self._whole_runs(self.visible(ids)))
        text = self._tokenizer.decode(whole, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str), "one list of ids is one text"
        return text

    def visible(self, ids: Iterable[int]) -> list[int]:
        """The ids that have a text."""
        return [token_id for token_id in ids if token_id not in self._special]

    def spell(self, token_id: int) -> tuple[str, bytes | None]:
        """A token's text as it stands inside a reply, and its bytes, which may be a part of a character.

        The bytes are None where the tokenizer doesn't say them. Some tokenizers drop the space that a text begins with,
        so the token is read behind another one.
        """
        if token_id not in self._spellings:
            text = self([*self._anchor, token_id])[len(self(self._anchor)) :]
            self._spellings[token_id] = text, self._raw_bytes(token_id) if UNKNOWN in text else text.encode()
        return self._spellings[token_id]

    @cached_property
    def _anchor(self) -> list[int]:
        """A token of a single letter."""
        ids: list[int] = self._tokenizer("a", add_special_tokens=False)["input_ids"]
        return ids[-1:]

    def _raw_bytes(self, token_id: int) -> bytes | None:
        if token_id in self._bytes:
            return bytes([self._bytes[token_id]])
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        assert isinstance(token, str), "one id is one token"
        letters = {letter: byte for byte, letter in bytes_to_unicode().items()}  # type: ignore[no-untyped-call]
        return bytes(letters[letter] for letter in token) if letters.keys() >= set(token) else None

    def _whole_runs(self, ids: Sequence[int]) -> Iterator[int]:
        for is_bytes, run in groupby(ids, self._bytes.__contains__):
            if is_bytes:
                text = bytes(self._bytes[token_id] for token_id in run).decode("utf-8", "replace")
                yield from (self._byte_ids[byte] for byte in text.encode())
            else:
                yield from run


def _byte_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of the 256 byte tokens; none if the tokenizer lacks some, or doesn't read them as bytes."""
    ids = tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in range(256)])
    assert isinstance(ids, list), "a list of tokens is a list of ids"
    is_complete = None not in ids and len(set(ids)) == len(ids)
    return ids if is_complete and tokenizer.decode([ids[ord("A")]]) == "A" else []


class TextStream:
    """Text as it becomes certain: what may still become another character or a stop string waits.

    Only the newest ids are decoded again with each push. Their text is right from its first few characters on, because
    UTF-8 and tokenizers' decoders find the next character from any place.
    """

    def __init__(self, detokenizer: Detokenizer, stop: Sequence[str] = ()) -> None:
        self._detokenizer, self._stop = detokenizer, stop
        self._longest = max(map(len, stop), default=0)
        self._window: list[int] = []  # the newest ids; never changed in place, so that a copy goes on by itself
        self._num_read = 0  # characters of the window's text that were certain already
        self._withheld = ""  # certain, but a stop string may begin with it
        self.text = ""  # given out
        self.is_stopped = False

    def push(self, ids: Iterable[int]) -> str:
        """Take the next ids; give the text that is certain now."""
        self._window = [*self._window, *self._detokenizer.visible(ids)]
        certain = _certain(self._detokenizer(self._window))
        self._withheld += certain[self._num_read :]
        self._num_read = max(self._num_read, len(certain))
        if len(self._window) >= 2 * WINDOW:
            self._shorten(certain)
        return self._give(self._num_withheld)

    def finish(self, ids: Iterable[int] = ()) -> str:
        """Take the last ids; give the rest of the text."""
        self._window = [*self._window, *self._detokenizer.visible(ids)]
        self._withheld += self._detokenizer(self._window)[self._num_read :]
        return self._give(0)

    def _shorten(self, certain: str) -> None:
        """Begin the window later if its text is the same from there."""
        later = self._window[-WINDOW:]
        text = _certain(self._detokenizer(later))
        if len(text) > RESYNC and certain.endswith(text[RESYNC:]) and self._num_read == len(certain):
            self._window, self._num_read = later, len(text)

    def _give(self, num_withheld: int) -> str:
        """Give what is withheld but for so many characters, up to a stop string."""
        if self.is_stopped:
            return ""
        places = [place for place in map(self._withheld.find, self._stop) if place >= 0]
        self.is_stopped = bool(places)
        end = min(places) if places else len(self._withheld) - num_withheld
        piece, self._withheld = self._withheld[:end], self._withheld[end:]
        self.text += piece
        return piece

    @property
    def _num_withheld(self) -> int:
        """The length of the longest end of the text that a stop string may begin with."""
        lengths = range(min(self._longest - 1, len(self._withheld)), 0, -1)
        return next((n for n in lengths if any(stop.startswith(self._withheld[-n:]) for stop in self._stop)), 0)


def _certain(text: str) -> str:
    """The text without the end that the bytes to come may turn into another character."""
    num_unknown = len(text) - len(text.rstrip(UNKNOWN))
    return text[: len(text) - min(num_unknown, 3)]
