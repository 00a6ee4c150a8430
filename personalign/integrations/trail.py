"""Which row held a sequence at which step: rows of one prompt, such as beams, change places, fork and stop.

It knows nothing of steering. The steer of ``hf.py`` keeps one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from personalign.errors import InputError


class Trail:
    """For each step of a batch and each of its rows: the row before that it continues, and by which token.

    The batch holds the first prompt's rows, then the second's, and so on, as many for each.
    """

    def __init__(self, num_prompts: int) -> None:
        self._num_prompts = num_prompts
        self._ids: Tensor | None = None  # (B, T), what the rows held at the last step; None before the first
        self._parents: list[Tensor] = []  # (B,) a step
        self._tokens: list[Tensor] = []  # (B,) a step
        self.prompt_length = 0  # set by the first step

    def __len__(self) -> int:
        """How many steps there were."""
        return len(self._parents)

    def extend(self, ids: Int[Tensor, "B T"]) -> Int[Tensor, "B"]:
        """Take what the rows hold before a token is drawn; give the row of the step before that each continues."""
        parents = self._begun(ids) if self._ids is None else self._continued(self._ids, ids)
        self._tokens.append(ids[:, -1] if len(self) else torch.zeros_like(parents))
        self._parents.append(parents)
        self._ids = ids
        return parents

    def paths(self, drawn: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """For each sequence, in the order of ``generate``, the rows its tokens were drawn from, while one held it."""
        num_rows = len(self._parents[0]) // self._num_prompts
        steps = list(zip(torch.stack(self._parents).tolist(), torch.stack(self._tokens).tolist(), strict=True))
        for i, tokens in enumerate(drawn):
            first = i * self._num_prompts // len(drawn) * num_rows
            yield _path(steps, range(first, first + num_rows), tokens)

    def _begun(self, ids: Int[Tensor, "B T"]) -> Int[Tensor, "B"]:
        rows = self._by_prompt(ids)
        if not (rows == rows[:, :1]).all():
            raise InputError(
                f"the batch has {len(ids)} rows for {self._num_prompts} profiles, and the rows of one profile begin "
                "with different prompts; expected one profile, or None, for each prompt"
            )
        self.prompt_length = ids.shape[1]
        return torch.arange(len(ids), device=ids.device)

    def _continued(self, before: Int[Tensor, "b t"], ids: Int[Tensor, "B T"]) -> Int[Tensor, "B"]:
        if ids.shape == (before.shape[0], before.shape[1] + 1):
            now = self._by_prompt(ids[:, :-1])
            same = (now[:, :, None] == self._by_prompt(before)[:, None]).all(-1)  # (prompts, rows, rows before)
            if same.any(-1).all():
                first = torch.arange(self._num_prompts, device=ids.device)[:, None] * same.shape[-1]
                return (same.int().argmax(-1) + first).flatten()
        raise InputError(
            "the rows don't continue those of the step before by a token each; expected one generate call for each "
            "steer: make another for the next"
        )

    def _by_prompt(self, ids: Int[Tensor, "B T"]) -> Int[Tensor, "prompts rows T"]:
        return ids.reshape(self._num_prompts, len(ids) // self._num_prompts, ids.shape[1])


def _path(steps: Sequence[tuple[list[int], list[int]]], rows: range, drawn: Sequence[int]) -> list[int]:
    holders, path = list(rows), [rows[0]]
    for (parents, tokens), token in zip(steps[1:], drawn[:-1], strict=False):
        holders = [row for row in rows if tokens[row] == token and parents[row] in holders]
        if not holders:
            break
        path.append(holders[0])
    return path
