"""The whole method in plain words: one reply, no cache, one token after the other. Read this first.

    mix the experts (α) → penalties and bias → schema or regex → short list (top K) → the person's reward (β)
    → temperature → top-k → top-p → min-p → draw

It is slow on purpose, shares no steering code with the batched path, and is the oracle that path is tested against.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean as mean
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from personalign.decode.constrain import num_words
from personalign.decode.experts import Expert
from personalign.decode.lane import forward
from personalign.decode.load import CausalModel, render
from personalign.decode.lora import BASE_ADAPTER
from personalign.decode.models import Models
from personalign.decode.request import Request, reason
from personalign.decode.reward_model import RewardModel
from personalign.decode.sample import uniforms
from personalign.decode.successor import SuccessorHead
from personalign.errors import ConstraintError
from personalign.options import Options
from personalign.types import ArgsSteering, Guidance, Reply, Steering, Usage


class Effect(NamedTuple):
    """What guidance did to one token: KL(steered ‖ mixed) in nats, its part within the short list, and so on."""

    kl: float = 0.0
    tilt_kl: float = 0.0
    changed: float = 0.0
    gained: float = 0.0


@torch.no_grad()
def generate(models: Models, request: Request) -> Reply:
    """Write what ``generate(models, [request])`` should, reading everything anew for every token."""
    base = models.base
    ids: list[int] = []
    end: int | None = None
    effects: list[Effect] = []
    original, is_sound = request, True
    prompt = render(base.tokenizer, request.messages)
    for u in uniforms(request.options.seed, prompt, request.options.max_tokens).tolist():
        logits, done = steered(models, request, ids)
        if done is None:  # no guidance from here on; the reason is told below
            request, is_sound = (
                replace(request, options=replace(request.options, rule="successor"), guidance=None),
                False,
            )
        effects.append(done or Effect())
        token = drawn(logits, request.options, u)
        if token in base.ends:
            end = token
            break
        ids.append(token)
    is_shadow = is_guided(models, request) and request.is_shadow
    guided = is_guided(models, request) and not is_shadow
    return Reply(
        text=base.detokenize(ids),
        guided=guided,
        reason=None if guided else reason(original, models.steering, is_sound=is_sound, is_shadow=is_shadow),
        revision=original.guidance.revision if original.guidance else 0,
        kl=mean(effect.kl for effect in effects),
        finish_reason="stop" if len(ids) < len(effects) else "length",
        usage=Usage(len(prompt), len(ids)),
        changed=mean(effect.changed for effect in effects),
        gained=mean(effect.gained for effect in effects),
        tilt_kl=mean(effect.tilt_kl for effect in effects),
        seed=request.options.seed if request.options.temperature > 0 else None,
        ids=tuple(ids),
        end=end,
    )


def is_guided(models: Models, request: Request) -> bool:
    """Whether there is a reward to steer by."""
    if request.options.rule == "args":
        return models.reward_guidance(request) is not None
    return request.guidance is not None and strength(request.guidance, models.steering) > 0


def strength(guidance: Guidance, steering: Steering) -> float:
    """β·ρ·strength."""
    return steering.beta * max(0.0, guidance.confidence) * guidance.strength


@torch.no_grad()
def steered(models: Models, request: Request, ids: Sequence[int]) -> tuple[Tensor, Effect | None]:
    """Logits (V,) of the token after ``ids``, and what guidance did to them: None where the reward wasn't finite."""
    base, head, steering = models.base, models.head, models.steering
    prompt = render(base.tokenizer, request.messages)
    logits, hidden = read(base, [*prompt, *ids])
    expert = None if request.options.expert is None else models.experts[request.options.expert]
    alpha = 0.0 if expert is None else expert.alpha if request.options.alpha is None else request.options.alpha
    if expert is not None and alpha:
        context = [*render(expert.anti.tokenizer, request.messages), *ids]
        logits = mixed(logits, expert, alpha, context, models.num_tokens)
    logits = adjusted(logits, request.options, prompt, ids)
    if request.options.schema is not None or request.options.regex is not None:
        logits = constrained(logits, models, request, ids)
    if not is_guided(models, request):
        return logits, Effect()
    may_end = len(ids) > 0 or int(logits.argmax()) in base.ends
    allowed = logits.clone()
    allowed[[] if may_end else list(base.ends)] = -math.inf
    if (guidance := models.reward_guidance(request)) is not None and models.reward_model is not None:
        text = [*render(models.reward_model.tokenizer, request.messages), *ids]
        known = allowed[: models.num_tokens]
        tilted, done = by_reward_model(known, models.reward_model, models.args, guidance, text)
    else:
        assert request.guidance is not None, "it is what guides"
        assert head is not None, "guidance without a head isn't admitted"
        weights = torch.tensor(request.guidance.weights, dtype=torch.float32, device=base.device)
        rewards = features(head, base, hidden) @ weights
        tilted, done = tilted_short_list(allowed, rewards, strength(request.guidance, steering), steering)
    if done is None:
        return logits, None
    q = torch.full_like(logits, -math.inf)
    q[: len(tilted)] = tilted
    best = q.isfinite()
    rest = float(logits.logsumexp(-1) - logits[best].logsumexp(-1))  # −log of the short list's share
    return (logits if request.is_shadow else q), done._replace(kl=done.tilt_kl + rest)


def read(causal: CausalModel, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Logits (V,) and hidden state (H,) after these tokens."""
    logits, hidden = forward(causal, torch.tensor([ids], device=causal.device), use_cache=False)
    return logits[0], hidden[0]


def mixed(logits: Tensor, expert: Expert, alpha: float, ids: Sequence[int], num_known: int) -> Tensor:
    """Base + α · (expert − anti-expert), and −∞ for rows of the output layer that are no token."""
    tokens = torch.tensor([ids], device=expert.anti.device)
    if expert.tuned is None:
        tuned, _ = forward(expert.anti, tokens, expert.peft, adapter_names=[expert.name], use_cache=False)
        anti, _ = forward(expert.anti, tokens, expert.peft, adapter_names=[BASE_ADAPTER], use_cache=False)
    else:
        tuned, _ = forward(expert.tuned, tokens, use_cache=False)
        anti, _ = forward(expert.anti, tokens, use_cache=False)
    moved = torch.full_like(logits, -math.inf)
    moved[:num_known] = logits[:num_known] + alpha * (tuned[0, :num_known] - anti[0, :num_known])
    return moved


def adjusted(logits: Tensor, options: Options, prompt: Sequence[int], ids: Sequence[int]) -> Tensor:
    """Logits less what is held against tokens that were said before, plus the caller's bias."""
    logits = logits.clone()
    factor = options.repetition_penalty
    for token in {*prompt, *ids}:
        logits[token] = logits[token] * factor if logits[token] < 0 else logits[token] / factor
    for token in ids:
        logits[token] -= options.frequency_penalty
    for token in set(ids):
        logits[token] -= options.presence_penalty
    for token, amount in options.logit_bias.items():
        logits[token] += amount
    return logits


def constrained(logits: Tensor, models: Models, request: Request, ids: Sequence[int]) -> Tensor:
    """Logits of what may follow ``ids`` by the schema or regex, −∞ elsewhere."""
    matcher = models.constrainer.compile(request.options.schema, request.options.regex)
    for token in ids:
        matcher.advance(token)
    if matcher.error is not None:
        raise ConstraintError(f"nothing may follow by the schema or regex: {matcher.error}")
    words = np.zeros(num_words(models.num_ids), dtype=np.int32)
    matcher.allowed(words)
    is_allowed = np.unpackbits(words.view(np.uint8), bitorder="little")[: len(logits)]
    return logits.masked_fill(torch.tensor(is_allowed == 0, device=logits.device), -math.inf)


def features(head: SuccessorHead, base: CausalModel, hidden: Tensor) -> Tensor:
    """ψ (V, d): what the finished reply is expected to be like, for every next token."""
    everywhere = hidden.expand(base.num_logits, -1)
    psi: Tensor = head(everywhere, base.output_embedding)
    return psi


def tilted_short_list(logits: Tensor, rewards: Tensor, gain: float, steering: Steering) -> tuple[Tensor, Effect | None]:
    """The K likeliest tokens with their bounded reward added, and its effect; None if a reward isn't finite."""
    best = logits.topk(min(steering.num_candidates, len(logits))).indices
    best = best[logits[best].isfinite()]
    p = logits[best].softmax(-1)
    if not rewards[best].isfinite().all():
        return logits, None
    delta = gain * (rewards[best] - (p * rewards[best]).sum())
    delta = delta.clamp(-steering.clip / 2, steering.clip / 2)
    tilted = torch.full_like(logits, -math.inf)
    tilted[best] = logits[best] + delta
    return tilted, effect(p, tilted[best].softmax(-1), rewards[best])


def by_reward_model(
    logits: Tensor, reward: RewardModel, steering: ArgsSteering, guidance: Guidance, text: Sequence[int]
) -> tuple[Tensor, Effect | None]:
    """ARGS: the k likeliest tokens with w · reward added, a reward model reading the whole text with each of them."""
    best = logits.topk(min(steering.num_candidates, len(logits))).indices
    best = best[logits[best].isfinite()]
    texts = torch.stack([torch.tensor([*text, int(token)]) for token in best]).to(reward.device)
    weights = torch.tensor(guidance.weights, dtype=torch.float32, device=reward.device)
    rewards = reward.rewards(texts, torch.ones_like(texts))[:, -1] @ weights
    if not rewards.isfinite().all():
        return logits, None
    scores = torch.full_like(logits, -math.inf)
    gain = guidance.strength * guidance.confidence
    scores[best] = logits[best] + steering.weight * gain * rewards
    return scores, effect(logits[best].softmax(-1), scores[best].softmax(-1), rewards)


def effect(p: Tensor, q: Tensor, rewards: Tensor) -> Effect:
    """What going from p to q did, over the same candidates."""
    kl = float((q * (q.log() - p.log())).nansum())
    return Effect(kl, kl, float(q.argmax() != p.argmax()), float(((q - p) * rewards).sum()))


def drawn(logits: Tensor, options: Options, u: float) -> int:
    """Temperature, top-k, top-p, min-p, then the token at which the probabilities, by id, pass u."""
    if options.temperature == 0:
        return int(logits.argmax())
    scores = (logits.double() - logits.max()) / options.temperature
    if options.top_k:
        scores[scores < scores.topk(min(options.top_k, len(scores))).values[-1]] = -math.inf
    ranked, order = scores.sort(descending=True, stable=True)
    p = ranked.softmax(-1)
    p[p.cumsum(-1) - p >= options.top_p] = 0
    p[p < options.min_p * p[0]] = 0
    by_id = torch.zeros_like(p).scatter(-1, order, p / p.sum())
    possible = by_id.nonzero().flatten()
    place = int((by_id[possible].cumsum(-1) <= u).sum())
    return int(possible[min(place, len(possible) - 1)])
