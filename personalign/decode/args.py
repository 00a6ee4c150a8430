"""ARGS, exactly: every candidate token is scored by a reward model that reads the reply with it.

score(v) = s(v) + w · r(x, y, v) over the k likeliest tokens (Khanov et al., arXiv 2402.01694), greedy or drawn from
softmax(score / τ) at the request's temperature. Where the paper's release copies the reward model's cache k times, the
candidates are siblings here: one forward pass over one shared prefix, after which the chosen one's key and value stay.
With a d-wide reward r is ⟨w_u, r_u⟩ under the person's weights, and w is multiplied by ρ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from personalign.decode.account import SteeredRows
from personalign.decode.cache import Window
from personalign.decode.lane import Reading
from personalign.decode.reward_model import RewardModel
from personalign.decode.slots import Slots
from personalign.decode.steer import Step, cut_kl, not_empty, short_list
from personalign.decode.weights import WeightBank
from personalign.types import ArgsSteering, Guidance


class SiblingLane:
    """A reward model and what it reads in the slots: the prefix stays, candidates are read beside each other."""

    def __init__(self, reward: RewardModel, slots: Slots, max_length: int, num_siblings: int) -> None:
        self._reward = reward
        self._reading = Reading(reward.backbone.config, slots, max_length + num_siblings, ahead=num_siblings)
        self._siblings: Int[Tensor, "b k"] | None = None  # the candidates read last

    def begin(self, slot: int, prompt: Sequence[int]) -> None:
        """Give an empty slot its prompt, all of which is read before the first candidates."""
        self._reading.begin(slot, prompt)

    def read(self, slot: int) -> int:
        """Read the next chunk of the slot's prompt; give the number of tokens, 0 when all are read."""
        return self._reading.read(slot, self._forward)

    def score(self, candidates: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
        """Rewards of each slot's prefix with each of its candidates, all at the position after the prefix."""
        reading, (b, k) = self._reading, candidates.shape
        positions = reading.lengths[:b, None].expand(b, k)
        written = positions + torch.arange(k, device=reading.device)
        window = reading.window(0, b, written, reading.span(b))
        place = torch.arange(window.length, device=reading.device)
        visible = (place < positions[:, :, None]) | (place == written[:, :, None])  # the prefix and itself
        self._siblings = candidates
        return self._reward.score(self._forward(candidates, positions, window, visible))

    def accept(self, tokens: Int[Tensor, "b"], active: Bool[Tensor, "b"], running: Sequence[int]) -> None:
        """Keep the candidate that was drawn, in the slots whose reply goes on."""
        assert self._siblings is not None, "score comes first"
        reading, b = self._reading, len(tokens)
        row, length = torch.arange(b, device=reading.device), reading.lengths[:b]
        chosen = (self._siblings == tokens[:, None]).int().argmax(-1)
        reading.cache.keep(row, length + chosen, length)
        reading.advance(active, running)

    def _forward(
        self, ids: Int[Tensor, "r T"], positions: Int[Tensor, "r T"], window: Window, visible: Bool[Tensor, "r T L"]
    ) -> Float[Tensor, "r T H"]:
        reading, reward = self._reading, self._reward
        reading.cache.open(window)
        output = reward.backbone(
            input_ids=ids,
            attention_mask=reading.attention.masks(visible, positions, reward.backbone.dtype),
            position_ids=positions,
            use_cache=True,
            **{reward.cache_argument: reading.cache},
        )
        hidden: Tensor = output.last_hidden_state
        return hidden


class Args:
    """The steer that scores each row's k likeliest tokens by a reward model; it has rows of its own in the bank."""

    def __init__(
        self,
        reward: RewardModel,
        steering: ArgsSteering,
        ends: Sequence[int],
        num_tokens: int,
        slots: Slots,
        max_length: int,
    ) -> None:
        self._num_tokens = num_tokens  # the output layer may have more rows, which a reward model can't read
        self._k, self._weight = min(steering.num_candidates, num_tokens), steering.weight
        self._ends = torch.tensor(list(ends), dtype=torch.long, device=slots.device)
        self._lane = SiblingLane(reward, slots, max_length, self._k)
        self.rows = SteeredRows(slots, WeightBank(reward.num_axes, reward.device, slots.num_slots))
        self._step: Step | None = None  # the one whose tokens are accepted next

    def admit(self, slot: int, prompt: Sequence[int], guidance: Guidance) -> None:
        """Steer a slot from its first token on; the prompt is in the reward model's own template."""
        self.rows.admit(slot, guidance)
        self._lane.begin(slot, prompt)

    def forget(self, user: str) -> None:
        """Empty a person's rows."""
        self.rows.forget(user)

    def read(self, slot: int) -> int:
        """Read the next chunk of the slot's prompt; give the number of tokens, 0 when all are read."""
        return self._lane.read(slot)

    def accept(self, tokens: Int[Tensor, "b"], active: Bool[Tensor, "b"]) -> None:
        """Keep the candidates that were drawn."""
        if self._step is not None:
            running = [slot for slot in self._step.writing if slot in self.rows.slots]
            self._lane.accept(tokens, active & self.rows.taken(len(tokens)), running)
            self._step = None

    def __call__(self, logits: Float[Tensor, "b V"], step: Step) -> Float[Tensor, "b V"]:
        """Replace the logits of guided rows by the scores of their short list, −inf elsewhere."""
        if not self.rows.slots:
            return logits
        b = len(logits)
        self._step = step
        top, candidates = not_empty(logits, step, self._ends)[:, : self._num_tokens].topk(self._k)
        weights, gain = self.rows.weights(slice(b)), self.rows.gain(slice(b))
        rewards = (self._lane.score(candidates) * weights[:, None, :]).sum(-1)
        rewards = torch.where(top.isfinite(), rewards, 0.0)
        scores = top + self._weight * gain[:, None] * rewards
        log_p, log_q = top.log_softmax(-1), scores.log_softmax(-1)
        kl = torch.where(top.isfinite(), log_q.exp() * (log_q - log_p), 0.0).sum(-1).clamp_min(0.0)
        gained = ((log_q.exp() - log_p.exp()) * rewards).sum(-1)
        guided = self.rows.record(step, gain, rewards.isfinite().all(-1), scores, kl, cut_kl(logits, top), gained)
        return short_list(logits, candidates, scores, guided)
