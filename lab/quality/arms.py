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
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from lab.quality.divergence import Divergence, divergence_between, num_drawn
from lab.quality.panel import Member, Origin, Table, Utilities, utilities
from personalign.basis import Basis
from personalign.decode import Models, Request, RewardModel, Step, generate
from personalign.learn.axes import measure_many
from personalign.options import Options
from personalign.train.basis.calibrate import repetition
from personalign.train.reward.pairs import Units
from personalign.types import ArgsSteering, Message, Profile, Reply

Decoding = Literal["sampled", "greedy"]
Method = Literal["short_list", "successor", "args_replies", "args_prefixes", "in_context", "best_of"]
JUDGES: Mapping[Method, Units] = {"args_replies": "replies", "args_prefixes": "prefixes"}


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
    """What an arm gave each person at each prompt, and its costs."""

    arm: Arm
    gain: Table
    wins: Table  # shares of base's replies to the same prompt that are liked less
    nats: Table  # KL of a reply from base, over the whole vocabulary; for best-of-n an upper bound
    drawn: Table  # tokens of a reply, its end included
    tokens: float  # a reply
    repetition: float  # of word trigrams
    truncated: float  # share of replies that never ended
    passes: float  # rows that models of base's size run for a token of the reply
    kl_reported: float | None = None  # in nats a token as the replies tell it, within the short list

    @property
    def kl(self) -> float:
        """Nats a token."""
        return float(self.nats.sum() / self.drawn.sum())


@dataclass(frozen=True, eq=False)
class Trial:
    """The models, the people who judge, the prompts, and what base itself writes to these."""

    models: Models
    rewards: Callable[[Units], RewardModel]  # made when the first arm asks for one
    members: Sequence[Member]
    prompts: Sequence[Sequence[Message]]
    draws: Sequence[Sequence[Reply]]  # base's sampled replies to each prompt
    values: Utilities  # of the draws, by each person's profile
    origins: Mapping[Decoding, Origin]

    @classmethod
    def begin(
        cls,
        basis: Basis,
        models: Models,
        rewards: Callable[[Units], RewardModel],
        members: Sequence[Member],
        prompts: Sequence[Sequence[Message]],
        num_draws: int,
    ) -> Trial:
        """Let base write its own replies, sampled and greedy."""
        sampled = _draw(models, prompts, num_draws)
        greedy = [[reply] for reply in generate(models, [Request(tuple(prompt)) for prompt in prompts])]
        origins: dict[Decoding, Origin] = {
            "sampled": _origin(members, prompts, sampled),
            "greedy": _origin(members, prompts, greedy),
        }
        values = _values(basis, members, prompts, sampled)
        return cls(models, rewards, members, prompts, sampled, values, origins)

    def run(self, arm: Arm) -> Outcome:
        """Write or choose the replies, and ask the people."""
        if arm.method == "best_of":
            return self._best_of(arm)
        if arm.method == "in_context":
            return self._in_context(arm)
        return self._steered(arm)

    def _steered(self, arm: Arm) -> Outcome:
        models, guided = self._models(arm), arm.weight is not None
        requests = [
            Request(
                tuple(prompt),
                replace(_sampling(arm, i), rule="args" if arm.method in JUDGES else "successor"),
                member.guidance(1.0) if guided else None,
            )
            for member in self.members
            for i, prompt in enumerate(self.prompts)
        ]
        measured = Divergence(models.base, len(requests))
        cut = [] if guided or arm.num_candidates is None else [_Cut(arm.num_candidates)]
        replies = generate(models, requests, steers=(*cut, measured))
        reported = float(np.mean([reply.kl for reply in replies])) if guided else None
        return self._outcome(arm, replies, measured.nats, reported)

    def _in_context(self, arm: Arm) -> Outcome:
        """Tell base of each person in words, as a system message."""
        plain = [prompt for _ in self.members for prompt in self.prompts]
        prompted = [(*_as_system(member.profile), *prompt) for member in self.members for prompt in self.prompts]
        sampling = [_sampling(arm, i) for _ in self.members for i in range(len(self.prompts))]
        requests = [Request(messages, how) for messages, how in zip(prompted, sampling, strict=True)]
        replies = generate(self.models, requests)
        nats = [
            sum(divergence_between(self.models.base, given, plain_prompt, reply))
            for given, plain_prompt, reply in zip(prompted, plain, replies, strict=True)
        ]
        return self._outcome(arm, replies, np.array(nats), None)

    def _outcome(
        self, arm: Arm, replies: Sequence[Reply], nats: Float[NDArray[np.float64], "n"], reported: float | None
    ) -> Outcome:
        """Ask every person about the replies written for them."""
        width = len(self.prompts)
        texts = [[reply.text for reply in replies[i : i + width]] for i in range(0, len(replies), width)]
        liked = utilities(self.members, self.prompts, texts)[:, :, None]
        return replace(self._judged(arm, liked, replies, nats.reshape(-1, width)), kl_reported=reported)

    def _judged(self, arm: Arm, liked: Utilities, replies: Sequence[Reply], nats: Table) -> Outcome:
        """An outcome from how the people like the replies: those of a person stand together, then those to a prompt."""
        origin, num = self.origins[arm.decoding], range(liked.shape[2])
        drawn = np.array([num_drawn(reply) for reply in replies], dtype=np.float64)
        return Outcome(
            arm,
            gain=origin.gain(liked.mean(2)),
            wins=np.mean([origin.wins(liked[:, :, k]) for k in num], axis=0),
            nats=nats,
            drawn=drawn.reshape(liked.shape).mean(2),
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
        bound = np.full(liked.shape[:2], np.log(n) - (n - 1) / n)
        return self._judged(arm, liked, replies, bound)

    def _chosen(self, n: int, num_groups: int) -> Int[NDArray[np.int64], "people prompts groups"]:
        values = self.values[:, :, : n * num_groups]
        best = values.reshape(*values.shape[:2], num_groups, n).argmax(-1)
        return np.asarray(best + n * np.arange(num_groups))

    def _models(self, arm: Arm) -> Models:
        base = self.models
        if arm.num_candidates is None or arm.weight is None:
            return base
        if arm.method in JUDGES:
            args = ArgsSteering(arm.num_candidates, arm.weight)
            return Models(base.base, None, base.steering, {}, self.rewards(JUDGES[arm.method]), args)
        return replace(base, steering=replace(base.steering, beta=arm.weight, num_candidates=arm.num_candidates))

    def _passes(self, arm: Arm) -> float:
        if arm.method == "best_of":
            return float(arm.num_draws or 1)
        if arm.method in JUDGES:
            return 1.0 + (arm.num_candidates or 0)
        head = self.models.head
        if arm.method != "successor" or head is None:
            return 1.0
        own_size = sum(weight.numel() for name, weight in head.named_parameters() if not name.startswith("projection"))
        return 1 + own_size / sum(weight.numel() for weight in self.models.base.model.parameters())


class _Cut:
    """A steer that keeps the short list and nothing else: what a reward does when it likes all tokens alike."""

    def __init__(self, num_candidates: int) -> None:
        self._num_candidates = num_candidates

    def __call__(self, logits: Tensor, step: Step) -> Tensor:  # noqa: ARG002 - every steer is told of the step
        top = logits.topk(self._num_candidates)
        return torch.full_like(logits, -torch.inf).scatter(-1, top.indices, top.values)


def _as_system(profile: Profile) -> tuple[Message, ...]:
    """A profile in words, as the message before a conversation; none where no taste stands out."""
    words = profile.as_system_prompt()
    return ({"role": "system", "content": words},) if words else ()


def _sampling(arm: Arm, number: int) -> Options:
    return Options(temperature=float(arm.decoding == "sampled"), seed=number)


def _draw(models: Models, prompts: Sequence[Sequence[Message]], num_draws: int) -> list[list[Reply]]:
    requests = [
        Request(tuple(prompt), Options(temperature=1.0, seed=1_000_000 * (k + 1) + i))
        for i, prompt in enumerate(prompts)
        for k in range(num_draws)
    ]
    replies = generate(models, requests)
    return [replies[i : i + num_draws] for i in range(0, len(replies), num_draws)]


def _values(
    basis: Basis,
    members: Sequence[Member],
    prompts: Sequence[Sequence[Message]],
    replies: Sequence[Sequence[Reply]],
) -> Utilities:
    """How much each person's profile thinks they like the replies to each prompt."""
    flat = [(prompt, reply.text) for prompt, row in zip(prompts, replies, strict=True) for reply in row]
    raw = measure_many([prompt for prompt, _ in flat], [text for _, text in flat], basis.axes)
    features = basis.standardise(raw).reshape(len(prompts), -1, basis.num_axes)
    means = np.array([member.profile.mean for member in members])
    return np.asarray(np.einsum("xkd,pd->pxk", features, means))


def _origin(
    members: Sequence[Member], prompts: Sequence[Sequence[Message]], replies: Sequence[Sequence[Reply]]
) -> Origin:
    by_draw = [[[row[k].text for row in replies]] * len(members) for k in range(len(replies[0]))]
    return Origin(np.stack([utilities(members, prompts, texts) for texts in by_draw], axis=2))
