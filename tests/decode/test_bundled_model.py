"""The bundled model under the decoder."""

from pathlib import Path

import torch
from tiny_models import STEERING, talk

import personalign.zoo
from personalign.decode.decoder import Decoder
from personalign.decode.load import load_causal, render
from personalign.decode.request import Piece, Request
from personalign.types import Sampling

BASE = Path(personalign.zoo.__file__).parent / "tiny" / "base"


def test_the_bundled_models_plain_replies_are_generates() -> None:
    """Greedy decoding of real prompts, in one batch, is model.generate on each alone, and streams as it is."""
    base = load_causal(BASE, "cpu")
    decoder = Decoder(base, None, STEERING, {})
    prompts = talk("I need a hotel in Paris", "Book me a table for two", "What movies are on?", "Thanks, bye!")
    replies = decoder.generate([Request(messages, Sampling(32)) for messages in prompts])
    for messages, reply in zip(prompts, replies, strict=True):
        ids = torch.tensor([render(base.tokenizer, messages)])
        whole = base.model.generate(ids, do_sample=False, max_new_tokens=32)[0, ids.shape[1] :].tolist()
        assert reply.ids == tuple(i for i in whole if i not in base.ends)
        pieces = decoder.stream(Request(messages, Sampling(32)))
        assert "".join(piece.text for piece in pieces if isinstance(piece, Piece)) == reply.text
        assert reply.text.strip()
