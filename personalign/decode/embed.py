"""What a model makes of a reply: its hidden states, averaged, as the embedding that learnt axes project."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from personalign.decode.load import CausalModel, render
from personalign.decode.reward_model import RewardModel
from personalign.types import Message

ROWS = 16  # read at once
MAX_TOKENS = 512  # of prompt and reply, however long the model's context is
REPLY_SHARE = 0.5  # of those, that a long prompt leaves to the reply


@torch.no_grad()
def embed_replies(
    reader: CausalModel | RewardModel, prompts: Sequence[Sequence[Message]], replies: Sequence[str]
) -> Float[NDArray[np.float64], "n H"]:
    """Average the last hidden states over each reply, from the prompt's last token on: an empty reply has those, too.

    Of a text that is too long the prompt's beginning and then the reply's end are left unread: 512 tokens are read, or
    the model's context, if that is shorter.

    Raises:
        MessageError, ModelError: a prompt can't be rendered, as ``render`` says.
    """
    most = min(MAX_TOKENS, reader.context or MAX_TOKENS)
    rows = [_cut(*_tokens(reader, prompt, reply), most) for prompt, reply in zip(prompts, replies, strict=True)]
    found = np.empty((len(rows), reader.hidden_size))
    by_length = sorted(range(len(rows)), key=lambda i: sum(map(len, rows[i])))
    for start in range(0, len(rows), ROWS):
        chosen = by_length[start : start + ROWS]
        found[chosen] = _read(reader, [rows[i] for i in chosen])
    return found


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
    counted = torch.zeros(len(rows), longest)
    for i, (prompt, reply) in enumerate(rows):
        end = len(prompt) + len(reply)
        ids[i, :end] = torch.tensor([*prompt, *reply])
        counted[i, len(prompt) - 1 : end] = 1 / (len(reply) + 1)
    states = reader.layers(input_ids=ids.to(reader.device), use_cache=False)[0].float()
    return np.asarray(torch.einsum("bt,bth->bh", counted.to(states), states).double().cpu().numpy())
