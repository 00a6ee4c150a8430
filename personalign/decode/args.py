"""ARGS, exactly: every candidate token is scored by a reward model that reads the reply with it.

score(v) = s(v) + w · r(x, y, v) over the k likeliest tokens (Khanov et al., arXiv 2402.01694), greedy or drawn from
softmax(score / τ) at the request's temperature. Where the paper's release copies the reward model's cache k times, the
candidates are siblings here: one forward pass over one shared prefix, after which the chosen one's key and value stay.
With a d-wide reward r is ⟨w_u, r_u⟩ under the person's weights, and w is multiplied by the strength.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from personalign.decode.cache import Window
from personalign.decode.lane import Reading
from personalign.decode.models import Models
from personalign.decode.slots import Slots
from personalign.decode.steer import Step, Tilt, not_empty
from personalign.decode.weights import SteeredRows, WeightBank
from personalign.types import Guidance


class Args:
    """The steer that scores each row's k likeliest tokens by a reward model; it has rows of its own in the bank."""

    def __init__(self, models: Models, slots: Slots, max_length: int) -> None:
        assert models.reward_model is not None, "a request for it isn't admitted without"
        self._reward, self._weight = models.reward_model, models.args.weight
        self._num_tokens = models.num_tokens  # the output layer may have more rows, which a reward model can't read
        self._k = min(models.args.num_candidates, self._num_tokens)
        self._ends = torch.tensor(models.base.ends, dtype=torch.long, device=slots.device)
        # what is read is the prefix, and the candidates are written beyond it
        self._reading = Reading(self._reward.backbone, slots, max_length + self._k, ahead=self._k)
        self.rows = SteeredRows(slots, WeightBank(self._reward.num_axes, self._reward.device, slots.num_slots))
        self._asked: tuple[Step, Int[Tensor, "b k"]] | None = None  # the candidates whose drawn ones are accepted next

    def admit(self, slot: int, prompt: Sequence[int], guidance: Guidance) -> None:
        """Steer a slot from its first token on; the prompt is in the reward model's own template."""
        self.rows.admit(slot, guidance)
        self._reading.begin(slot, prompt)

    def forget(self, user: str) -> None:
        """Empty a person's rows."""
        self.rows.forget(user)

    def read(self, slot: int) -> int:
        """Read the next chunk of the slot's prompt, all of which is read before the first candidates."""
        return self._reading.read(slot, self._forward)

    def accept(self, tokens: Int[Tensor, "b"], active: Bool[Tensor, "b"]) -> None:
        """Keep the candidate that was drawn, in the slots whose reply goes on."""
        if self._asked is None:
            return
        reading, (step, candidates) = self._reading, self._asked
        b = len(tokens)
        row, length = torch.arange(b, device=reading.device), reading.lengths[:b]
        chosen = (candidates == tokens[:, None]).int().argmax(-1)
        reading.cache.keep(row, length + chosen, length)
        running = [slot for slot in step.writing if slot in self.rows.slots]
        reading.advance(active & self.rows.taken(b), running)
        self._asked = None

    def __call__(self, logits: Float[Tensor, "b V"], step: Step) -> Float[Tensor, "b V"]:
        """Replace the logits of guided rows by the scores of their short list, −inf elsewhere."""
        if not self.rows.slots:
            return logits
        b = len(logits)
        top, candidates = not_empty(logits, step, self._ends)[:, : self._num_tokens].topk(self._k)
        self._asked = step, candidates
        weights, gain = self.rows.weights(slice(b)), self.rows.gain(slice(b))
        rewards = (self.score(candidates) * weights[:, None, :]).sum(-1)
        rewards = torch.where(top.isfinite(), rewards, 0.0)
        delta = self._weight * gain[:, None] * rewards
        log_p, log_q = top.log_softmax(-1), (top + delta).log_softmax(-1)
        kl = torch.where(top.isfinite(), log_q.exp() * (log_q - log_p), 0.0).sum(-1).clamp_min(0.0)
        gained = ((log_q.exp() - log_p.exp()) * rewards).sum(-1)
        tilt = Tilt(delta, kl, rewards.isfinite().all(-1), gained)
        return self.rows.steered(logits, step, top, candidates, tilt, slice(len(logits)))

    def score(self, candidates: Int[Tensor, "b k"]) -> Float[Tensor, "b k d"]:
        """Rewards of each slot's prefix with each of its candidates, all at the position after the prefix."""
        reading, (b, k) = self._reading, candidates.shape
        positions = reading.lengths[:b, None].expand(b, k)
        written = positions + torch.arange(k, device=reading.device)
        window = reading.window(0, b, written, reading.span(b))
        place = torch.arange(window.length, device=reading.device)
        visible = (place < positions[:, :, None]) | (place == written[:, :, None])  # the prefix and itself
        return self._reward.score(self._forward(candidates, positions, window, visible))

    def _forward(
        self, ids: Int[Tensor, "r T"], positions: Int[Tensor, "r T"], window: Window, visible: Bool[Tensor, "r T L"]
    ) -> Float[Tensor, "r T H"]:
        output = self._reward.backbone(input_ids=ids, **self._reading.arguments(positions, window, visible))
        hidden: Tensor = output.last_hidden_state
        return hidden
