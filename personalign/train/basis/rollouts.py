"""Roll-outs: replies the model itself writes, with the hidden state before every token.

They cover what steered decoding will do: a share of them each with half and all of an expert, and in half
of them one random position takes a uniform draw from the short list and goes on from there, because most
candidates are never sampled. Read ``head.py`` next.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from personalign.decode.engine import generate
from personalign.decode.models import Models
from personalign.decode.request import Request
from personalign.decode.steer import Step
from personalign.errors import ModelError
from personalign.learn.axes import Embed
from personalign.options import Options
from personalign.train.plans import Plan
from personalign.train.work import Arrays, identity, keep, track
from personalign.types import Array, Bools, Ints, Message, Reply


@dataclass(frozen=True, eq=False)
class Rollouts:
    """N replies; the tokens of reply i are those with ``reply == i``, the end-of-sequence token included."""

    prompt: Int[Ints, "N"]  # index into the prompts
    text: tuple[str, ...]
    complete: Bools  # (N,) ended by itself
    alpha: Float[Array, "N"]
    forced_at: Int[Ints, "N"]  # position of the uniform draw; -1 where there was none
    reply: Int[Ints, "tokens"]
    position: Int[Ints, "tokens"]
    token: Int[Ints, "tokens"]
    hidden: Float[NDArray[np.float16], "tokens H"]  # the state the token was drawn from

    @property
    def natural(self) -> Bools:
        """(N,) the model's own replies: no expert, nothing forced."""
        return np.asarray((self.alpha == 0) & (self.forced_at < 0))

    @property
    def is_forced(self) -> Bools:
        """(tokens,) the tokens that were drawn uniformly."""
        return np.asarray(self.position == self.forced_at[self.reply])

    def before(self, token: int) -> Int[Ints, "n"]:
        """The ids of the reply before one of its tokens."""
        return self.token[token - self.position[token] : token]

    def __add__(self, other: Rollouts) -> Rollouts:
        """Both, one after the other; they must answer the same list of prompts."""
        joined = {
            name: np.concatenate([getattr(self, name), getattr(other, name)])
            for name in ("prompt", "complete", "alpha", "forced_at", "position", "token", "hidden")
        }
        reply = np.concatenate([self.reply, other.reply + len(self.text)])
        return Rollouts(text=self.text + other.text, reply=reply, **joined)


def roll_out(models: Models, prompts: Sequence[Sequence[Message]], plan: Plan, work: Path) -> Rollouts:
    """Write ``plan.replies_per_prompt`` replies to each prompt; what a run of the same plan left in ``work`` is kept.

    Same are the models by their fingerprints, the prompts and the plan: another one has a folder of its own.
    """
    if not models.base.ends:
        raise ModelError(
            f"{models.base.name} names no token that ends a reply; expected eos_token_id in its generation_config.json"
        )
    content = [asdict(models.base.fingerprints), expert_identity(models, plan.expert), asdict(plan)]
    folder = work / identity(*content, [list(prompt) for prompt in prompts])
    jobs = [(i, k) for i in range(len(prompts[: plan.num_prompts])) for k in range(plan.replies_per_prompt)]
    jobs.sort(key=lambda job: sum(len(m["content"]) for m in prompts[job[0]]))  # even lengths, little padding
    shards = [jobs[i : i + plan.rows] for i in range(0, len(jobs), plan.rows)]
    written = []
    for number, shard in enumerate(track(shards, "roll-outs")):
        path = folder / f"{number:05}.safetensors"
        written.append(keep(path, lambda: _write_shard(models, prompts, shard, plan, number)))  # noqa: B023
    return _joined(written)


def expert_identity(models: Models, name: str | None) -> list[object]:
    """What the expert of this name is made of, for ``identity``."""
    if name is None:
        return []
    expert = models.experts[name]
    prints = [asdict(model.fingerprints) for model in (expert.anti, expert.tuned) if model is not None]
    weights = {} if expert.peft is None else dict(expert.peft.named_parameters())
    # the adapter's own weights: the small model may have other adapters
    adapter = {n: w.detach().float().cpu().numpy() for n, w in sorted(weights.items()) if f".{expert.name}" in n}
    return [prints, list(adapter), identity(*adapter.values())]


def _write_shard(
    models: Models, prompts: Sequence[Sequence[Message]], shard: list[tuple[int, int]], plan: Plan, number: int
) -> Arrays:
    rng = np.random.default_rng([plan.seed, number])
    alphas = np.array([plan.alphas[k % len(plan.alphas)] for _, k in shard])
    forced = rng.random(len(shard)) < plan.forced_share
    forced_at = np.where(forced, rng.integers(0, plan.latest_forced, len(shard)), -1)
    requests = [
        Request(
            tuple(prompts[i]),
            Options(
                max_tokens=plan.max_tokens,
                temperature=plan.temperature,
                top_p=plan.top_p,
                seed=int(rng.integers(2**31)),
                expert=plan.expert if alpha else None,
                alpha=float(alpha) if alpha else None,
            ),
        )
        for (i, _), alpha in zip(shard, alphas, strict=True)
    ]
    device = models.base.device
    forced_from = torch.from_numpy(forced_at).to(device)
    # the last row takes what belongs to no request
    hidden = torch.zeros(len(shard) + 1, plan.max_tokens, models.base.hidden_size, dtype=torch.half, device=device)

    def record(logits: Tensor, step: Step) -> Tensor:
        hidden[torch.where(step.active, step.request, len(shard)), step.index] = step.hidden.half()
        return logits

    def force(logits: Tensor, step: Step) -> Tensor:
        uniform = torch.full_like(logits, -torch.inf)
        uniform.scatter_(1, logits.topk(plan.num_candidates).indices, 0.0)
        return torch.where((forced_from[step.request] == step.index)[:, None], uniform, logits)

    replies = generate(models, requests, steers=(record, force))
    if not hidden.isfinite().all():
        raise ModelError(f"a hidden state of {models.base.name} overflows half precision; expected smaller ones")
    return _shard_arrays(shard, alphas, forced_at, replies, hidden[:-1].cpu().numpy())


def _shard_arrays(
    shard: list[tuple[int, int]], alphas: Array, forced_at: Ints, replies: Sequence[Reply], hidden: NDArray[np.float16]
) -> Arrays:
    tokens = [np.array(r.ids if r.end is None else [*r.ids, r.end], dtype=np.int64) for r in replies]
    lengths = np.array([len(row) for row in tokens])
    return {
        "prompt": np.array([i for i, _ in shard], dtype=np.int64),
        "complete": np.array([r.finish_reason == "stop" for r in replies]),
        "alpha": alphas,
        "forced_at": np.where(forced_at < lengths, forced_at, -1),
        "length": lengths,
        "token": np.concatenate(tokens),
        "hidden": np.concatenate([hidden[i, :length] for i, length in enumerate(lengths)]),
        "text": np.frombuffer(json.dumps([r.text for r in replies]).encode(), dtype=np.uint8),
    }


def _joined(shards: Sequence[Arrays]) -> Rollouts:
    joined = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0] if name != "text"}
    lengths = joined.pop("length")
    return Rollouts(
        text=tuple(text for shard in shards for text in json.loads(shard["text"].tobytes())),
        reply=np.repeat(np.arange(len(lengths)), lengths),
        position=np.concatenate([np.arange(length) for length in lengths]),
        **joined,
    )


@dataclass(frozen=True)
class KeptEmbedder:
    """Embeds by ``embed`` and keeps the embeddings in files; ``name`` says which model and embedder they are of."""

    embed: Embed
    folder: Path
    name: str
    rows: int = 512  # of a file

    def __call__(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> Float[Array, "n F"]:
        """Embed replies to their prompts, one row each."""
        keys = [json.dumps([list(prompt), reply]) for prompt, reply in zip(prompts, replies, strict=True)]
        distinct, first, row = np.unique(np.array(keys, dtype=object), return_index=True, return_inverse=True)
        embedded = []
        for begin in track(range(0, len(distinct), self.rows), "embeddings"):
            block = slice(begin, begin + self.rows)
            path = self.folder / f"{identity(self.name, distinct[block].tolist())}.safetensors"
            embedded.append(keep(path, lambda: self._embedded(first[block], prompts, replies))["embedded"])  # noqa: B023
        return np.asarray(np.vstack(embedded)[row])

    def _embedded(self, rows: Ints, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> dict[str, Array]:
        embedded = self.embed([prompts[i] for i in rows], [replies[i] for i in rows])
        return {"embedded": np.asarray(embedded, dtype=np.float64)}
