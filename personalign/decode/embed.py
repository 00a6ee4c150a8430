"""Embeddings of replies, which learnt axes project: of the model, of a reward model, or of a sentence encoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from personalign.decode.checkpoint import first_line
from personalign.decode.load import CausalModel, render
from personalign.decode.reward_model import RewardModel, load_reward_beside
from personalign.errors import MissingExtra, ModelError
from personalign.types import Message

HIDDEN, REWARD, ENCODER = "hidden", "reward:", "encoder:"
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
ROWS = 16  # read at once
MAX_TOKENS = 512  # of prompt and reply, however long the model's context is
REPLY_SHARE = 0.5  # of those, that a long prompt leaves to the reply

_Embed = Callable[[Sequence[Sequence[Message]], Sequence[str]], NDArray[np.float64]]


def load_embedder(name: str, causal: CausalModel, *, is_trusted: bool = False) -> _Embed:
    """Load what embeds: "hidden", "reward:PATH" or "encoder:NAME".

    "hidden" is the base model's own states, a reward model's are those of its backbone, and a sentence encoder reads
    the last message and the reply, and cuts off what is too long for it.

    ``is_trusted`` says that the operator gave the name. A name from a basis may not be a folder of this machine: code
    in it might be run.

    Raises:
        ModelError: the name is none of these, or there is no such model.
        MissingExtra: sentence-transformers isn't installed.
    """
    if name == HIDDEN:
        return partial(embed_replies, causal)
    if name.startswith(REWARD):
        return partial(embed_replies, load_reward_beside(name.removeprefix(REWARD), causal.name, str(causal.device)))
    if not name.startswith(ENCODER):
        raise ModelError(f'found the embedder {name!r:.80}, expected "{HIDDEN}", "{REWARD}PATH" or "{ENCODER}NAME"')
    encoder = name.removeprefix(ENCODER)
    if not is_trusted and (not HUB_ID.fullmatch(encoder) or Path(encoder).exists()):
        raise ModelError(
            f"the basis names the folder {encoder!r:.60} as its encoder; expected a hub id such as owner/name, because "
            'what is in a folder might be run; if you trust it, pass embedder="encoder:PATH", or set '
            "PERSONALIGN_EMBEDDER"
        )
    return _encoder(encoder, str(causal.device))


def _encoder(name: str, device: str) -> _Embed:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtra("sentence-transformers", "encoder") from error
    try:
        encoder = SentenceTransformer(name, device=device, trust_remote_code=False)
    except Exception as error:
        raise ModelError(
            f"{name} isn't a sentence encoder that can be loaded ({first_line(error)}); expected a folder or a hub id"
        ) from error

    def embed(prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> Float[NDArray[np.float64], "n F"]:
        texts = [f"{prompt[-1]['content']}\n{reply}" for prompt, reply in zip(prompts, replies, strict=True)]
        return np.asarray(encoder.encode(texts, show_progress_bar=False, convert_to_numpy=True), dtype=np.float64)

    return embed


@torch.no_grad()
def embed_replies(
    reader: CausalModel | RewardModel, prompts: Sequence[Sequence[Message]], replies: Sequence[str]
) -> Float[NDArray[np.float64], "n H"]:
    """Average the last hidden states over each reply, from the prompt's last token on: an empty reply has those, too.

    At most 512 tokens are read, or as many as the model's context has. Of a longer text the prompt's beginning and then
    the reply's end are left out.
    """
    most = min(MAX_TOKENS, reader.context or MAX_TOKENS)
    rows = [_cut(*_tokens(reader, prompt, reply), most) for prompt, reply in zip(prompts, replies, strict=True)]
    embedded = np.empty((len(rows), reader.hidden_size))
    by_length = sorted(range(len(rows)), key=lambda i: sum(map(len, rows[i])))
    for start in range(0, len(rows), ROWS):
        chosen = by_length[start : start + ROWS]
        embedded[chosen] = _read(reader, [rows[i] for i in chosen])
    return embedded


def _tokens(reader: CausalModel | RewardModel, prompt: Sequence[Message], reply: str) -> tuple[list[int], list[int]]:
    options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
    ids: list[int] = reader.tokenizer(reply, **options)["input_ids"] if reply else []
    return render(reader.tokenizer, prompt), ids


def _cut(prompt: list[int], reply: list[int], most: int) -> tuple[list[int], list[int]]:
    room = max(1, most - max(min(len(reply), round(most * REPLY_SHARE)), most - len(prompt)))
    prompt = prompt[-room:]
    return prompt, reply[: most - len(prompt)]


def _read(reader: CausalModel | RewardModel, rows: Sequence[tuple[list[int], list[int]]]) -> NDArray[np.float64]:
    """Read a few rows together; padding stands on the right, where causal attention can't see it."""
    longest = max(len(prompt) + len(reply) for prompt, reply in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    share = torch.zeros(len(rows), longest)
    for i, (prompt, reply) in enumerate(rows):
        end = len(prompt) + len(reply)
        ids[i, :end] = torch.tensor([*prompt, *reply])
        share[i, len(prompt) - 1 : end] = 1 / (len(reply) + 1)
    states = reader.layers(input_ids=ids.to(reader.device), use_cache=False)[0].float()
    return np.asarray(torch.einsum("bt,bth->bh", share.to(states), states).double().cpu().numpy())
