"""Many conversations side by side, by transformers' own ``generate``, each reply steered for its person.

What has been read of a conversation stays in the cache from turn to turn. The engine reads all of it anew, which makes
twenty turns several times as dear.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor

from lab.prose.writing import SERVED, Written
from personalign.decode.sample import shares
from personalign.integrations.hf import SteeredModel
from personalign.types import Message, Profile

MARK = "…"  # stands for a reply where the tokens behind it are asked for


class Cut(LogitsProcessor):
    """Temperature and top-p as the engine has them: several times as fast on a CPU as transformers' own."""

    def __init__(self, temperature: float) -> None:
        self._settings = torch.tensor([[temperature, 0.0, SERVED.top_p, 0.0]], dtype=torch.float64)

    def __call__(self, _: Tensor, scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Scores of what may be drawn; the other tokens get −inf."""
        return shares(scores, self._settings.expand(len(scores), -1)).log().to(scores)


class Talks:
    """A row of tokens for each conversation; a mask says which of them are words, and which fill a row up."""

    def __init__(
        self, steered: SteeredModel, openings: Sequence[Message], temperature: float = SERVED.temperature
    ) -> None:
        self._steered, self._openings, self._temperature = steered, openings, temperature
        self._tokenizer: Any = steered.causal.tokenizer
        self._cache = DynamicCache(config=steered.causal.model.config)
        self._ids = torch.zeros(len(openings), 0, dtype=torch.long)
        self._mask = torch.zeros(len(openings), 0, dtype=torch.long)

    @torch.no_grad()
    def reply(self, lines: Sequence[str], people: Sequence[Profile | None], max_tokens: int, seed: int) -> Written:
        """Say a line in each conversation, and write the reply to it."""
        self._hear([self._tokens(*turn) for turn in zip(self._openings, lines, strict=True)])
        start = self._ids.shape[1]
        with torch.random.fork_rng(devices=[]), self._steered.by(people) as steer:
            torch.manual_seed(seed)
            written = self._generate(max_new_tokens=max_tokens, logits_processor=[steer, Cut(self._temperature)])
        is_word = ~self._ends(written[:, start:])
        self._ids, self._mask = written, torch.cat([self._mask, is_word.long()], dim=1)
        return Written(
            self._tokenizer.batch_decode(written[:, start:], skip_special_tokens=True),
            [account.kl for account in steer.report(written)],
            is_word.sum(1).tolist(),
            is_word.all(1).tolist(),
        )

    def _generate(self, **options: object) -> Int[Tensor, "talks T"]:
        model: Any = self._steered.causal.model
        options |= {"attention_mask": self._mask, "cache": self._cache, "do_sample": self._temperature > 0}
        ids: Tensor = model.generate(self._ids, temperature=1.0, top_p=1.0, top_k=0, **options)
        return ids

    def _ends(self, ids: Int[Tensor, "talks t"]) -> Bool[Tensor, "talks t"]:
        """Where a row's reply is over: its end, and what fills it up."""
        causal = self._steered.causal
        return torch.isin(ids, torch.tensor([*causal.ends, causal.model.generation_config.pad_token_id]))

    def _hear(self, rows: Sequence[Sequence[int]]) -> None:
        """Put tokens behind each row, filled up on the left."""
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + [*row] for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        self._ids, self._mask = torch.cat([self._ids, ids], dim=1), torch.cat([self._mask, mask], dim=1)

    def _tokens(self, opening: Message, line: str) -> list[int]:
        """What the chat template puts behind the reply before: its end, the line, and the next reply's beginning."""
        heard: Message = {"role": "user", "content": line}
        before: list[Message] = [] if not self._ids.shape[1] else [heard, {"role": "assistant", "content": MARK}]
        text = self._tokenizer.apply_chat_template(
            [opening, *before, heard], tokenize=False, add_generation_prompt=True
        )
        ids: list[int] = self._tokenizer(text.rpartition(MARK)[2], add_special_tokens=False)["input_ids"]
        return ids
