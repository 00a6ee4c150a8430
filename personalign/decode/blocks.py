"""Blockwise controlled decoding: siblings write on from one prefix, and the one that a person likes best is kept.

k siblings draw M tokens each from the model itself (Mudgal et al., arXiv 2310.17022). At the end of the block each is
valued by ⟨w, φ⟩ of its text so far. To those that go on the same is added: how much the head's ⟨w, ψ⟩ is above it, the
mean over them. We depart from the paper, which values each by a learnt prediction alone: what is already written tells
siblings apart far better. The best one's slot is copied over the others', and all go on, each by random numbers of its
own. With one block for the whole reply this is best of k. KL(kept ‖ model) is at most log k − (k − 1)/k a block: a
bound, and what the account says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from personalign.decode.constrain import ConstraintRows
from personalign.decode.models import Models
from personalign.decode.sample import RowSampler
from personalign.decode.scheduler import Scheduler
from personalign.decode.seq import Seq
from personalign.decode.slots import Slots
from personalign.types import Array


class Blocks:
    """What happens between two blocks; within one, siblings are rows like all others."""

    def __init__(
        self,
        models: Models,
        slots: Slots,
        scheduler: Scheduler,
        sampler: RowSampler,
        constraints: ConstraintRows,
        active: Bool[Tensor, "S"],
    ) -> None:
        self._models, self._slots, self._scheduler = models, slots, scheduler
        self._sampler, self._constraints, self._active = sampler, constraints, active

    def begin(self, leader: Seq) -> None:
        """Begin the first block, once the leader has read the prompt for all."""
        self._go_on(leader, leader, None)

    def end(self, leader: Seq, hidden: Float[Tensor, "b H"], tokens: Int[Tensor, "b"]) -> list[int]:
        """Keep the best sibling of a block and begin the next; give the slots that aren't needed any more."""
        winner = self._best(leader, hidden, tokens)
        leader.draft = winner.draft
        if winner.draft.is_ended or leader.guidance is None:
            return self._stay_alone(leader, winner)
        leader.send()
        self._go_on(leader, winner, leader.request.options.block)
        return []

    def _go_on(self, leader: Seq, winner: Seq, newest: int | None) -> None:
        """Let all siblings go on from one; the others lack its ``newest`` tokens, or all of them."""
        places = self._scheduler.places(leader)
        losers = [(sibling, place) for sibling, place in zip(leader.siblings, places, strict=True) if sibling != winner]
        self._slots.copy(places[winner.stream], [place for _, place in losers], newest)
        for sibling, place in losers:
            sibling.draft = winner.draft.fork()
            self._constraints.fork(place)
            self._sampler.seed(place, sibling.request.options, sibling.prompt, sibling.stream)
        for sibling in leader.siblings:
            sibling.enter("resume")
        self._active[places] = True

    def _stay_alone(self, leader: Seq, winner: Seq) -> list[int]:
        """Put the leader into the place of the one that is kept, to end the reply or to write on without a choice."""
        places = self._scheduler.places(leader)
        place = places.pop(winner.stream)
        self._scheduler.swap(leader, winner)
        for sibling in leader.others:
            sibling.enter("cancel")
        leader.others = []
        if leader.draft.is_ended:
            leader.enter("end")
        else:
            leader.send()
            leader.enter("resume")
            self._sampler.seed(place, leader.request.options, leader.prompt)
            self._active[place] = True
        return places

    def _best(self, leader: Seq, hidden: Float[Tensor, "b H"], tokens: Int[Tensor, "b"]) -> Seq:
        """The sibling to keep: none at a dead end of its schema, and no empty one where another isn't."""
        places, siblings = self._scheduler.places(leader), leader.siblings
        dead = [self._constraints.dead(place) for place in places]
        alive = [sibling for sibling, error in zip(siblings, dead, strict=True) if error is None]
        if not alive:
            raise next(error for error in dead if error is not None)
        eligible = [sibling for sibling in alive if not sibling.draft.is_empty] or alive
        if leader.guidance is None:
            return eligible[0]
        values = self._values(siblings, places, leader.guidance.weights, hidden, tokens)
        if not np.isfinite(values[[sibling.stream for sibling in alive]]).all():
            leader.forget(is_sound=False)
            return eligible[0]
        best = max(eligible, key=lambda sibling: values[sibling.stream])
        self._account(leader, best, values[best.stream] - values[[sibling.stream for sibling in alive]].mean())
        return best

    def _values(
        self,
        siblings: Sequence[Seq],
        places: Sequence[int],
        weights: Array,
        hidden: Float[Tensor, "b H"],
        tokens: Int[Tensor, "b"],
    ) -> Float[Array, "k"]:
        """What a person can expect of each sibling's reply."""
        models, drafts = self._models, [sibling.draft for sibling in siblings]
        assert models.measure is not None, "such a request isn't admitted"
        phi = models.measure([sibling.request.messages for sibling in siblings], [draft.so_far() for draft in drafts])
        values, goes_on = _dot(phi, weights), np.array([not draft.is_ended for draft in drafts])
        if goes_on.any():
            assert models.head is not None, "without a head a block is the whole reply"
            # of all siblings, so that its bits don't depend on how many have ended
            psi = models.head(hidden[places], models.base.output_embedding[tokens[places]])
            still_to_come = _dot(psi.double().cpu().numpy(), weights) - values
            values[goes_on] += still_to_come[goes_on].mean()
        return values

    def _account(self, leader: Seq, best: Seq, gained: float) -> None:
        """Add a block to what the reply says: sums over its tokens."""
        account, k = leader.choices, len(leader.siblings)
        assert account is not None, "siblings have one"
        num_tokens = (best.draft.num_drawn - 1) % leader.request.options.block + 1
        leader.choices = replace(
            account,
            kl=account.kl + math.log(k) - (k - 1) / k,
            changed=account.changed + (0 if best.stream == 0 else num_tokens),
            gained=account.gained + float(gained),
        )


def _dot(features: Float[Array, "n d"], weights: Float[Array, "d"]) -> Float[Array, "n"]:
    """Utilities; one that overflows is found out by what it has become."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(features @ weights)
