"""Text as it comes: pieces that make up the whole, whatever bytes the tokens cut through."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from personalign.decode.text import WINDOW, Detokenizer, TextStream
from tests.decode.tiny_models import Kit

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
BYTE = 2  # the id of byte 0 in the tokenizer below


@pytest.fixture(scope="module")
def by_bytes() -> Detokenizer:
    """As Llama 2 and Mistral write: characters without a token of their own are bytes."""
    return Detokenizer(byte_fallback())


def byte_fallback() -> PreTrainedTokenizerFast:
    tokens = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcde"]
    raw = Tokenizer(
        models.BPE({token: i for i, token in enumerate(tokens)}, merges=[], byte_fallback=True, unk_token="<unk>")
    )
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", unk_token="<unk>")


def byte_ids(text: bytes) -> list[int]:
    return [BYTE + byte for byte in text]


def read(detokenizer: Detokenizer, ids: Iterable[int], stop: Sequence[str] = ()) -> tuple[list[str], str]:
    """The pieces of a stream, the last one that of its end, and its text."""
    stream = TextStream(detokenizer, stop)
    pieces = [stream.push([token]) for token in ids]
    return [*pieces, stream.finish()], stream.text


def test_a_character_of_several_tokens_comes_whole(kit: Kit) -> None:
    """No piece shows half a character, and the last byte brings it."""
    ids = kit.base.tokenizer("a 😘旗é!")["input_ids"]
    pieces, _ = read(kit.base.detokenize, ids)
    assert len(ids) > len("a 😘旗é!")  # there are characters of several tokens, or this test proves nothing
    assert "".join(pieces) == "a 😘旗é!"
    assert UNKNOWN not in "".join(pieces)
    naive = "".join(kit.base.detokenize([i]) for i in ids)
    assert UNKNOWN in naive  # control: token by token they would break


@pytest.mark.parametrize("seed", range(30))
def test_pieces_of_any_tokens_make_up_the_text(kit: Kit, seed: int) -> None:
    """Of random tokens, broken characters and special tokens among them, no byte is lost, doubled or changed."""
    draw = random.Random(seed)
    ids = [draw.randrange(128) for _ in range(6 * WINDOW)]
    pieces, text = read(kit.base.detokenize, ids)
    assert "".join(pieces) == text == kit.base.detokenize(ids)


SCRIPTS = ["🙂 日本🙂🙂", "é", "日本語のテキスト", "a🙂b", "\x80\x81", UNKNOWN]


@pytest.mark.parametrize("text", SCRIPTS)
def test_complete_characters_are_never_lost(by_bytes: Detokenizer, text: str) -> None:
    """Wherever a run of byte tokens ends, what was complete stays, and half a character is one replacement."""
    raw = text.encode()
    for end in range(1, len(raw) + 1):
        pieces, whole = read(by_bytes, byte_ids(raw[:end]))
        assert "".join(pieces) == whole == raw[:end].decode("utf-8", "replace")


def test_a_tokenizer_by_itself_loses_characters(by_bytes: Detokenizer) -> None:
    """The control: without our help a whole run is lost with its last character."""
    ids = byte_ids("日本🙂".encode()[:-1])
    assert byte_fallback().decode(ids) == UNKNOWN * len(ids)
    assert by_bytes(ids) == f"日本{UNKNOWN}"


@pytest.mark.parametrize("seed", range(40))
def test_pieces_of_any_bytes_make_up_the_text(by_bytes: Detokenizer, seed: int) -> None:
    """Random bytes, characters, letters, spaces and special tokens: the pieces are the text, and it is the bytes'."""
    draw = random.Random(seed)
    ids, raw = [], b""
    for _ in range(3 * WINDOW):
        kind = draw.choice(["byte", "byte", "character", "letter", "special"])
        text = bytes([draw.choice([*range(128, 256), 65])])
        if kind == "character":
            text = draw.choice("日é🙂").encode()
        elif kind == "letter":
            text = draw.choice("abcde").encode()
        if kind == "letter":
            ids.append(BYTE + 256 + 1 + "abcde".index(text.decode()))
        elif kind == "special":
            ids.append(1)
        else:
            ids += byte_ids(text)
        raw += b"" if kind == "special" else text
    pieces, text = read(by_bytes, ids)
    assert "".join(pieces) == text == by_bytes(ids) == raw.decode("utf-8", "replace")


@pytest.mark.parametrize(
    "ids",
    [byte_ids(b"\x80" * 400), byte_ids("日".encode() * 200), [1] * 400, byte_ids(b"\xf0" * 400), [258] * 400],
    ids=["continuations", "characters", "special", "beginnings", "spaces"],
)
def test_a_push_decodes_no_more_than_a_window(ids: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is written, a step's work doesn't grow with the reply; and the text is the whole's."""
    detokenizer, lengths = Detokenizer(byte_fallback()), []
    decode = Detokenizer.__call__

    def noting(self: Detokenizer, some: Sequence[int]) -> str:
        lengths.append(len(some))
        return decode(self, some)

    monkeypatch.setattr(Detokenizer, "__call__", noting)
    pieces, text = read(detokenizer, ids)
    assert max(lengths) <= 2 * WINDOW
    assert "".join(pieces) == text == decode(detokenizer, ids)


@pytest.mark.parametrize("stop", [("b",), ("ab",), ("bc", "cde"), ("de a",), ("🙂",), ("x" * 200, "e")])
@pytest.mark.parametrize("seed", range(5))
def test_a_stop_string_ends_the_text_before_it(by_bytes: Detokenizer, stop: tuple[str, ...], seed: int) -> None:
    """Whatever its length, no piece shows any of it, and nothing before it is kept back for ever."""
    draw = random.Random(seed)
    text = "".join(draw.choice("aabcde 🙂") for _ in range(200))
    pieces, streamed = read(by_bytes, byte_ids(text.encode()), stop)
    text = text.removeprefix(" ")
    places = [place for place in map(text.find, stop) if place >= 0]
    assert "".join(pieces) == streamed == text[: min(places, default=len(text))]


@pytest.mark.parametrize("length", [10, 1_000_000])
def test_a_long_stop_string_costs_no_more_than_the_text(by_bytes: Detokenizer, length: int) -> None:
    """What a step compares is bounded by what was written, not by what it might stop at."""

    class Counted(str):  # noqa: SLOT000 - it counts
        num_compared = 0

        def startswith(self, *words: str) -> bool:  # type: ignore[override]
            Counted.num_compared += 1
            return super().startswith(*words)

    Counted.num_compared = 0
    read(by_bytes, byte_ids(b"the cat"), (Counted("t" * length),))
    assert Counted.num_compared <= 7 * 7


def test_spelled_tokens_make_up_the_bytes(kit: Kit, by_bytes: Detokenizer) -> None:
    """Parts of characters are spelt by their bytes, and the space that a text begins with isn't lost."""
    text = " a 😘旗é!"
    ids = kit.base.tokenizer(text)["input_ids"]
    spelt = [kit.base.detokenize.spell(token) for token in ids]
    assert b"".join(raw for _, raw in spelt if raw is not None).decode() == text
    assert any(UNKNOWN in shown for shown, _ in spelt)  # there are parts of characters, or this test proves nothing
    space, letter = BYTE + 256, BYTE + 257
    tokens = [space, letter, *byte_ids("é".encode())]
    assert [by_bytes.spell(token) for token in tokens[:2]] == [(" ", b" "), ("a", b"a")]
    assert b"".join(by_bytes.spell(token)[1] or b"" for token in tokens).decode() == " aé"
