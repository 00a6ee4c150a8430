"""The ways to write replies that are compared: what is asked of the model, and what it costs.

An arm writes a reply for every person and prompt, or chooses one of base's own. Sampled replies are drawn at
temperature 1, where KL is the policy's own and base is what best-of-n draws from; greedy ones are as chat serves them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from personalign.basis import Basis
from personalign.bench.divergence import Divergence, divergence_between
from personalign.bench.panel import Member, Origin, Table, Utilities, utilities
from personalign.decode import Decoder, Generated, Request, RewardModel, Step
from personalign.decode.args import NUM_CANDIDATES, WEIGHT
from personalign.learn.axes import measure_many
from personalign.train.calibrate import repetition
from personalign.train.reward import Over
from personalign.types import Message, Sampling

Decoding = Literal["sampled", "greedy"]
Method = Literal["short_list", "successor", "args_replies", "args_prefixes", "in_context", "best_of"]
JUDGES: Mapping[Method, Over] = {"args_replies": "replies", "args_prefixes": "prefixes"}


@dataclass(frozen=True)
class Arm:
    """A method and its settings; ``weight`` is what a reward is multiplied by: β, or w of ARGS."""

    method: Method
    decoding: Decoding = "sampled"
    weight: float | None = None
    num_candidates: int | None = None
    num_draws: int | None = None  # n of best-of-n

    @property
    def name(self) -> str:
        """Where it stands among the figures."""
        settings = (("k", self.num_candidates), ("w", self.weight), ("n", self.num_draws))
        return ".".join([self.decoding, self.method, *(f"{letter}{x:g}" for letter, x in settings if x is not None)])


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an arm gave each person at each prompt, and its costs; KL is in nats a token."""

    arm: Arm
    gain: Table
    wins: Table  # shares of base's replies to the same prompt that are liked less
    tokens: float  # a reply
    repetition: float  # of word trigrams
    truncated: float  # share of replies that never ended
    passes: float  # rows that models of base's size run for a token of the reply
    kl: float = 0.0  # over the whole vocabulary; for best-of-n an upper bound
    kl_reported: float | None = None  # as the replies tell it, within the short list


@dataclass(frozen=True, eq=False)
class Trial:
    """The models, the people who judge, the prompts, and what base itself writes to these."""

    basis: Basis
    decoder: Decoder
    rewards: Callable[[Over], RewardModel]  # made when the first arm asks for one
    members: Sequence[Member]
    prompts: Sequence[Sequence[Message]]
    draws: Sequence[Sequence[Generated]]  # base's sampled replies to each prompt
    origins: Mapping[Decoding, Origin]

    @classmethod
    def begin(
        cls,
        basis: Basis,
        decoder: Decoder,
        rewards: Callable[[Over], RewardModel],
        members: Sequence[Member],
        prompts: Sequence[Sequence[Message]],
        num_draws: int,
    ) -> Trial:
        """Let base write its own replies, sampled and greedy."""
        sampled = _draw(decoder, prompts, num_draws)
        greedy = [[reply] for reply in decoder.generate([Request(tuple(prompt)) for prompt in prompts])]
        origins: dict[Decoding, Origin] = {
            "sampled": _origin(members, prompts, sampled),
            "greedy": _origin(members, prompts, greedy),
        }
        return cls(basis, decoder, rewards, members, prompts, sampled, origins)

    def run(self, arm: Arm) -> Outcome:
        """Write or choose the replies, and ask the people."""
        if arm.method == "best_of":
            return self._best_of(arm)
        if arm.method == "in_context":
            return self._in_context(arm)
        return self._steered(arm)

    def _steered(self, arm: Arm) -> Outcome:
        decoder, guided = self._decoder(arm), arm.weight is not None
        requests = [
            Request(
                tuple(prompt),
                _sampling(arm, i),
                member.guidance(self._strength(arm)) if guided else None,
                rule="args" if arm.method in JUDGES else "successor",
            )
            for member in self.members
            for i, prompt in enumerate(self.prompts)
        ]
        measured = Divergence(decoder.base, len(requests))
        cut = [] if guided or arm.num_candidates is None else [_Cut(arm.num_candidates)]
        replies = decoder.generate(requests, steers=(*cut, measured))
        reported = float(np.mean([reply.kl for reply in replies])) if guided else None
        return self._outcome(arm, replies, measured.per_token, reported)

    def _in_context(self, arm: Arm) -> Outcome:
        """Tell base of each person in words, as a system message."""
        plain = [prompt for _ in self.members for prompt in self.prompts]
        told: list[tuple[Message, ...]] = [
            ({"role": "system", "content": member.profile.explain()}, *prompt)
            for member in self.members
            for prompt in self.prompts
        ]
        sampling = [_sampling(arm, i) for _ in self.members for i in range(len(self.prompts))]
        requests = [Request(messages, how) for messages, how in zip(told, sampling, strict=True)]
        replies = self.decoder.generate(requests)
        nats = [
            x
            for ours, theirs, reply in zip(told, plain, replies, strict=True)
            for x in divergence_between(self.decoder.base, ours, theirs, reply)
        ]
        return self._outcome(arm, replies, float(np.mean(nats)), None)

    def _outcome(self, arm: Arm, replies: Sequence[Generated], kl: float, reported: float | None) -> Outcome:
        """Ask every person about the replies written for them."""
        width = len(self.prompts)
        texts = [[reply.text for reply in replies[i : i + width]] for i in range(0, len(replies), width)]
        liked = utilities(self.members, self.prompts, texts)[:, :, None]
        return replace(self._judged(arm, liked, replies), kl=kl, kl_reported=reported)

    def _judged(self, arm: Arm, liked: Utilities, replies: Sequence[Generated]) -> Outcome:
        """An outcome without its KL, from how the people like the replies."""
        origin, num = self.origins[arm.decoding], range(liked.shape[2])
        return Outcome(
            arm,
            gain=origin.gain(liked.mean(2)),
            wins=np.mean([origin.wins(liked[:, :, k]) for k in num], axis=0),
            tokens=float(np.mean([len(reply.ids) for reply in replies])),
            repetition=float(np.mean([repetition(reply.text) for reply in replies])),
            truncated=float(np.mean([reply.finish_reason == "length" for reply in replies])),
            passes=self._passes(arm),
        )

    def _best_of(self, arm: Arm) -> Outcome:
        """Let each profile choose among n of base's replies; all draws are used, n at a time.

        The policy's divergence is at most log n − (n − 1)/n nats a reply (Beirami et al., arXiv 2401.01879).
        """
        n = arm.num_draws or 1
        num_groups, origin = len(self.draws[0]) // n, self.origins["sampled"]
        chosen = self._chosen(n, num_groups)  # (people, prompts, groups) indices of draws
        liked = np.take_along_axis(origin.utility, chosen, axis=2)
        replies = [self.draws[x][k] for person in chosen for x, row in enumerate(person) for k in row]
        outcome = self._judged(arm, liked, replies)
        bound = (np.log(n) - (n - 1) / n) / (outcome.tokens + 1)  # the end is a token too
        return replace(outcome, kl=float(bound))

    def _chosen(self, n: int, num_groups: int) -> Int[NDArray[np.int64], "people prompts groups"]:
        flat = [(prompt, reply.text) for prompt, draws in zip(self.prompts, self.draws, strict=True) for reply in draws]
        raw = measure_many([prompt for prompt, _ in flat], [text for _, text in flat], self.basis.axes)
        features = self.basis.standardise(raw).reshape(len(self.prompts), -1, self.basis.num_axes)
        weights = np.array([member.profile.mean for member in self.members])
        values = np.einsum("xkd,pd->pxk", features, weights)[:, :, : n * num_groups]
        best = values.reshape(*values.shape[:2], num_groups, n).argmax(-1)
        return np.asarray(best + n * np.arange(num_groups))

    def _decoder(self, arm: Arm) -> Decoder:
        base = self.decoder
        if arm.method in JUDGES:
            return Decoder(base.base, None, base.steering, {}, self.rewards(JUDGES[arm.method]))
        if arm.num_candidates is None:
            return base
        return base.with_steering(replace(base.steering, num_candidates=arm.num_candidates))

    def _strength(self, arm: Arm) -> float:
        assert arm.weight is not None, "a guided arm has a weight"
        return arm.weight / (WEIGHT if arm.method in JUDGES else self.decoder.steering.beta)

    def _passes(self, arm: Arm) -> float:
        if arm.method == "best_of":
            return float(arm.num_draws or 1)
        if arm.method in JUDGES:
            return 1.0 + NUM_CANDIDATES
        head = self.decoder.head
        if arm.method != "successor" or head is None:
            return 1.0
        own = sum(weight.numel() for name, weight in head.named_parameters() if not name.startswith("projection"))
        return 1 + own / sum(weight.numel() for weight in self.decoder.base.model.parameters())


class _Cut:
    """A steer that keeps the short list and nothing else: what a reward does when it likes all tokens alike."""

    def __init__(self, num_candidates: int) -> None:
        self._num_candidates = num_candidates

    def __call__(self, logits: Tensor, step: Step) -> Tensor:  # noqa: ARG002 - every steer is told of the step
        top = logits.topk(self._num_candidates)
        return torch.full_like(logits, -torch.inf).scatter(-1, top.indices, top.values)


def _sampling(arm: Arm, number: int) -> Sampling:
    return Sampling(temperature=float(arm.decoding == "sampled"), seed=number)


def _draw(decoder: Decoder, prompts: Sequence[Sequence[Message]], num_draws: int) -> list[list[Generated]]:
    requests = [
        Request(tuple(prompt), Sampling(temperature=1.0, seed=1_000_000 * (k + 1) + i))
        for i, prompt in enumerate(prompts)
        for k in range(num_draws)
    ]
    replies = decoder.generate(requests)
    return [replies[i : i + num_draws] for i in range(0, len(replies), num_draws)]


def _origin(
    members: Sequence[Member], prompts: Sequence[Sequence[Message]], replies: Sequence[Sequence[Generated]]
) -> Origin:
    by_draw = [[[row[k].text for row in replies]] * len(members) for k in range(len(replies[0]))]
    return Origin(np.stack([utilities(members, prompts, texts) for texts in by_draw], axis=2))
