"""Text as it comes: pieces that make up the whole, whatever bytes the tokens cut through."""

import random

import pytest

from personalign.decode.text import TextStream, text_of
from tests.decode.tiny_models import Kit


def _pieces(kit: Kit, ids: tuple[int, ...]) -> list[str]:
    stream = TextStream(kit.base)
    return [stream.push(ids[: n + 1]).text for n in range(len(ids))]


def test_a_character_of_several_tokens_comes_whole(kit: Kit) -> None:
    """No piece shows half a character, and the last byte brings it."""
    ids = tuple(kit.base.tokenizer("a 😘旗é!")["input_ids"])
    pieces = _pieces(kit, ids)
    assert len(ids) > len("a 😘旗é!")  # there are characters of several tokens, or this test proves nothing
    assert "".join(pieces) == "a 😘旗é!"
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
    naive = "".join(text_of(kit.base, [i]) for i in ids)
    assert "\N{REPLACEMENT CHARACTER}" in naive  # control: token by token they would break


@pytest.mark.parametrize("seed", range(30))
def test_pieces_of_any_bytes_make_up_the_text(kit: Kit, seed: int) -> None:
    """Of random tokens, broken characters and special tokens among them, no byte is lost, doubled or changed."""
    draw = random.Random(seed)
    ids = tuple(draw.randrange(128) for _ in range(40))
    whole = text_of(kit.base, ids)
    told = "".join(_pieces(kit, ids))
    assert whole.startswith(told)
    assert set(whole[len(told) :]) <= {"\N{REPLACEMENT CHARACTER}"}
