"""The whole method in plain words: one reply, no cache, one token after the other. Read this first.

    mix the experts (α) → penalties and bias → schema or regex → short list (top K) → the person's reward (β)
    → temperature → top-k → top-p → min-p → draw

It is slow on purpose, shares no steering code with the batched path, and is the oracle that path is tested against.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from personalign.decode.experts import Expert
from personalign.decode.lane import forward
from personalign.decode.load import CausalModel, render
from personalign.decode.lora import BASE_ADAPTER
from personalign.decode.models import Models
from personalign.decode.request import Account, Request, gain, reply_of
from personalign.decode.sample import uniforms
from personalign.errors import ConstraintError
from personalign.options import Options
from personalign.types import Reply, Usage


class Effect(NamedTuple):
    """What guidance did to one token."""

    kl: float = 0.0  # KL(steered ‖ mixed) in nats, over all tokens
    tilt_kl: float = 0.0  # its part within the short list
    changed: float = 0.0  # 1 where another token became the likeliest
    gained: float = 0.0  # reward


@torch.no_grad()
def generate(models: Models, request: Request) -> Reply:
    """Write what ``generate(models, [request])`` should, reading everything anew for every token."""
    if request.options.has_siblings and is_guided(models, request):
        return by_blocks(models, request)
    base = models.base
    ids: list[int] = []
    end: int | None = None
    effects: list[Effect] = []
    original, is_sound = request, True
    prompt = render(base.tokenizer, request.messages)
    for u in uniforms(request.options.seed, prompt, request.options.most_tokens).tolist():
        logits, done = steered(models, request, ids)
        if done is None:  # no guidance from here on; the reason is given below
            options = replace(request.options, rule="successor")
            request, is_sound = replace(request, options=options, guidance=None), False
        effects.append(done or Effect())
        token = drawn(logits, request.options, u)
        if token in base.ends:
            end = token
            break
        ids.append(token)
    account = Account(is_guided(models, request), is_sound, *map(sum, zip(*effects, strict=True)))
    return reply_of(
        original,
        account,
        models.steering,
        len(effects),
        text=base.detokenize(ids),
        finish_reason="stop" if len(ids) < len(effects) else "length",
        usage=Usage(len(prompt), len(ids)),
        ids=tuple(ids),
        end=end,
    )


def is_guided(models: Models, request: Request) -> bool:
    """Whether there is a reward to steer by."""
    if request.options.rule == "args":
        return models.reward_guidance(request) is not None
    return gain(request.guidance, models.steering, request.options) > 0


def by_blocks(models: Models, request: Request) -> Reply:
    """Write a block several times, from one prefix and by other random numbers; keep the best, and go on from it."""
    options, k, most = request.options, request.options.num_siblings, request.options.most_tokens
    prompt = render(models.base.tokenizer, request.messages)
    streams = [uniforms(options.seed, prompt, most, stream).tolist() for stream in range(k)]
    ids: list[int] = []  # the end included
    account = Account(guided=True)
    while not is_ended(models, request, ids):
        start, stop = len(ids), len(ids) + options.block
        siblings = [written(models, request, ids, stream[start:stop]) for stream in streams]
        values = expected(models, request, siblings)
        is_empty = [set(sibling) <= set(models.base.ends) for sibling in siblings]
        best = min(range(k), key=lambda i: (is_empty[i], -values[i]))
        ids = siblings[best]
        account = replace(
            account,
            kl=account.kl + math.log(k) - (k - 1) / k,
            changed=account.changed + (len(ids) - start if best else 0),
            gained=account.gained + values[best] - sum(values) / k,
        )
    text = [token for token in ids if token not in models.base.ends]
    return reply_of(
        request,
        account,
        models.steering,
        len(ids),
        text=models.base.detokenize(text),
        finish_reason="stop" if len(text) < len(ids) else "length",
        usage=Usage(len(prompt), len(text)),
        ids=tuple(text),
        end=ids[-1] if len(text) < len(ids) else None,
    )


def written(models: Models, request: Request, ids: Sequence[int], numbers: Sequence[float]) -> list[int]:
    """What the model itself writes after ``ids`` by these random numbers."""
    plain, ids = replace(request, guidance=None), list(ids)
    for u in numbers:
        if not is_ended(models, request, ids):
            logits, _ = steered(models, plain, ids)
            ids.append(drawn(logits, request.options, u))
    return ids


def is_ended(models: Models, request: Request, ids: Sequence[int]) -> bool:
    """Whether nothing may follow."""
    return len(ids) == request.options.most_tokens or (len(ids) > 0 and ids[-1] in models.base.ends)


def expected(models: Models, request: Request, siblings: Sequence[Sequence[int]]) -> list[float]:
    """⟨w, φ⟩ of what each has written; those that go on can expect as much more as ⟨w, ψ⟩ is above it in the mean."""
    assert request.guidance is not None, "it is what values"
    assert models.measure is not None, "a request isn't admitted without"
    weights, prompt = request.guidance.weights, render(models.base.tokenizer, request.messages)
    texts = [models.base.detokenize(ids) for ids in siblings]
    values = (models.measure([request.messages] * len(texts), texts) @ weights).tolist()
    going_on = [i for i, ids in enumerate(siblings) if not is_ended(models, request, ids)]
    more = []
    for i in going_on:
        _, hidden = read(models.base, [*prompt, *siblings[i][:-1]])
        psi = features(models, hidden)[siblings[i][-1]].double().cpu().numpy()
        more.append(float(psi @ weights) - values[i])
    return [value + (sum(more) / len(more) if i in going_on else 0.0) for i, value in enumerate(values)]


@torch.no_grad()
def steered(models: Models, request: Request, ids: Sequence[int]) -> tuple[Tensor, Effect | None]:
    """Logits (V,) of the token after ``ids``, and what guidance did to them: None where the reward wasn't finite."""
    base, options = models.base, request.options
    prompt = render(base.tokenizer, request.messages)
    logits, hidden = read(base, [*prompt, *ids])
    expert = None if options.expert is None else models.experts[options.expert]
    alpha = 0.0 if expert is None else expert.alpha if options.alpha is None else options.alpha
    if expert is not None and alpha:
        context = [*render(expert.anti.tokenizer, request.messages), *ids]
        logits = mixed(logits, expert, alpha, context, models.num_tokens)
    logits = adjusted(logits, options, prompt, ids)
    if options.schema is not None or options.regex is not None:
        logits = constrained(logits, models, request, ids)
    if not is_guided(models, request):
        return logits, Effect()
    may_end = len(ids) > 0 or int(logits.argmax()) in base.ends
    allowed = logits.clone()
    allowed[[] if may_end else list(base.ends)] = -math.inf
    if options.rule == "args":
        best, scores, rewards = by_reward_model(models, request, ids, allowed[: models.num_tokens])
    else:
        best, scores, rewards = by_successor_head(models, request, hidden, allowed)
    if not rewards.isfinite().all():
        return logits, None
    q = torch.full_like(logits, -math.inf)
    q[best] = scores
    return (logits if request.is_shadow else q), effect(logits, best, scores, rewards)


def read(causal: CausalModel, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Logits (V,) and hidden state (H,) after these tokens."""
    logits, hidden = forward(causal, torch.tensor([ids], device=causal.device), use_cache=False)
    return logits[0], hidden[0]


def mixed(logits: Tensor, expert: Expert, alpha: float, ids: Sequence[int], num_known: int) -> Tensor:
    """Base + α · (expert − anti-expert), and −∞ for rows of the output layer that aren't tokens."""
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
    """Logits with penalties on tokens that were written before, then the caller's bias."""
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
    words = np.zeros(-(-models.num_ids // 32), dtype=np.int32)  # a bit for each token
    matcher.allowed(words)
    is_allowed = np.unpackbits(words.view(np.uint8), bitorder="little")[: len(logits)]
    return logits.masked_fill(torch.tensor(is_allowed == 0, device=logits.device), -math.inf)


def by_successor_head(
    models: Models, request: Request, hidden: Tensor, logits: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The K likeliest tokens, their logits with the bounded reward added, and their rewards."""
    steering, guidance = models.steering, request.guidance
    assert guidance is not None, "it is what guides"
    best = possible(logits, steering.num_candidates)
    rewards = (features(models, hidden) @ torch.tensor(guidance.weights, dtype=torch.float32, device=hidden.device))[
        best
    ]
    p = logits[best].softmax(-1)
    delta = gain(guidance, steering) * (rewards - (p * rewards).sum())
    return best, logits[best] + delta.clamp(-steering.clip / 2, steering.clip / 2), rewards


def features(models: Models, hidden: Tensor) -> Tensor:
    """ψ (V, d): what the finished reply is expected to be like, for every next token."""
    assert models.head is not None, "guidance without a head isn't admitted"
    everywhere = hidden.expand(models.base.num_logits, -1)
    psi: Tensor = models.head(everywhere, models.base.output_embedding)
    return psi


def by_reward_model(
    models: Models, request: Request, ids: Sequence[int], logits: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """ARGS: the k likeliest tokens, their logits with w · reward added, and their rewards, read off the whole text."""
    model, guidance = models.reward_model, models.reward_guidance(request)
    assert model is not None, "a request isn't admitted without"
    assert guidance is not None, "it is what guides"
    best = possible(logits, models.args.num_candidates)
    text = [*render(model.tokenizer, request.messages), *ids]
    texts = torch.tensor([[*text, token] for token in best.tolist()], device=model.device)
    weights = torch.tensor(guidance.weights, dtype=torch.float32, device=model.device)
    rewards = model.rewards(texts, torch.ones_like(texts))[:, -1] @ weights
    return best, logits[best] + models.args.weight * gain(guidance, models.steering, request.options) * rewards, rewards


def possible(logits: Tensor, most: int) -> Tensor:
    """The likeliest tokens that can be drawn, best first."""
    best = logits.topk(min(most, len(logits))).indices
    return best[logits[best].isfinite()]


def effect(logits: Tensor, best: Tensor, scores: Tensor, rewards: Tensor) -> Effect:
    """What changes when the token is drawn from the scores of the best, and not from all logits."""
    log_p, log_q = logits[best].log_softmax(-1), scores.log_softmax(-1)
    q = log_q.exp()
    tilt_kl = float((q * (log_q - log_p)).nansum())
    outside = float(logits.logsumexp(-1) - logits[best].logsumexp(-1))  # −log of the short list's share
    is_changed = float(scores.argmax() != logits[best].argmax())
    return Effect(tilt_kl + outside, tilt_kl, is_changed, float(((q - log_p.exp()) * rewards).sum()))


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
