"""What embeds replies for the learnt axes: the model, a reward model, or a sentence encoder (extra ``encoder``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from personalign.decode.checkpoint import first_line
from personalign.decode.embed import embed_replies
from personalign.decode.load import CausalModel
from personalign.decode.reward_model import load_reward_beside
from personalign.errors import MissingExtra, ModelError
from personalign.types import Message

HIDDEN = "hidden"
REWARD = "reward:"
ENCODER = "encoder:"

Embed: TypeAlias = Callable[[Sequence[Sequence[Message]], Sequence[str]], Float[NDArray[np.float64], "n F"]]


def load_embedder(name: str, causal: CausalModel) -> Embed:
    """Load the embedder that a basis names.

    "hidden" is the base model's own states, "reward:PATH" those of a reward model's backbone, and "encoder:NAME" a
    sentence encoder, which reads the last message and the reply, and cuts off what is too long for it.

    Raises:
        ModelError: the name is none of these, or there is no such model.
        MissingExtra: sentence-transformers isn't installed.
    """
    if name == HIDDEN:
        return partial(embed_replies, causal)
    if name.startswith(REWARD):
        return partial(embed_replies, load_reward_beside(name.removeprefix(REWARD), causal.name, str(causal.device)))
    if not name.startswith(ENCODER):
        raise ModelError(f'found the embedder {name!r}, expected "{HIDDEN}", "{REWARD}PATH" or "{ENCODER}NAME"')
    return _encoder(name.removeprefix(ENCODER), str(causal.device))


def _encoder(name: str, device: str) -> Embed:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtra("sentence-transformers", "encoder") from error
    try:
        encoder = SentenceTransformer(name, device=device, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{name} isn't a sentence encoder that can be loaded ({first_line(error)}); expected a folder or a hub id"
        ) from error

    def embed(prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> Float[NDArray[np.float64], "n F"]:
        texts = [f"{prompt[-1]['content']}\n{reply}" for prompt, reply in zip(prompts, replies, strict=True)]
        return np.asarray(encoder.encode(texts, show_progress_bar=False, convert_to_numpy=True), dtype=np.float64)

    return embed
