"""Policy accuracy: whether what steers the tokens agrees with what a person prefers, reply against reply.

A reward may rank finished replies well and still lead the next token astray (arXiv 2512.23067), so the policy itself
is asked: of the pairs that a person decided, in what share did guidance raise log q(y | x) − log p(y | x) more for the
reply they preferred? q is the steered policy and p the model's own, both at temperature 1. It is the mean over a
reply's tokens that counts: each costs KL(p ‖ q) on average where the model wrote it, so that sums speak for the shorter
reply, whoever is asked. Unlike in chat, the whole vocabulary is the short list, which would give probability 0 to any
reply with a token that isn't on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from personalign.decode import Decoder, Guidance, Request
from personalign.errors import InputError
from personalign.service import Personalign
from personalign.shift import Reading
from personalign.types import Message, Sampling

NORMAL_95 = 1.96


@dataclass(frozen=True)
class Decided:
    """Two replies to one prompt, and which of them a person preferred."""

    prompt: tuple[Message, ...]
    preferred: str
    rejected: str


@dataclass(frozen=True)
class PolicyAccuracy:
    """The share of pairs ranked as the person does, with its 95 % interval (Wilson 1927); a draw counts half.

    ``margin`` is by how many nats a token guidance raised the preferred reply more than the other, the mean over pairs.
    """

    accuracy: float
    low: float
    high: float
    margin: float
    num_pairs: int


def policy_accuracy(p: Personalign, user: str, pairs: Sequence[Decided], strength: float = 1.0) -> PolicyAccuracy:
    """Ask the policy that serves a person about pairs they decided; best ones that their profile hasn't seen.

    Raises:
        InputError: there are no pairs, a reply is empty, or nothing guides this person's replies.
        MessageError: a prompt can't be used, or with its reply it is longer than the model's context.
    """
    profile = p.profile(user)
    guidance = Guidance(p.serving.head(profile), p.basis.confidence(profile.covariance), strength)
    if not (profile.informative and guidance.gain(p.basis.steering) > 0):
        raise InputError(
            "nothing guides this person's replies; answer some questions first, and raise strength above 0"
        )
    if not pairs:
        raise InputError("there are no pairs, expected at least one that the person decided")
    prompts = [pair.prompt for pair in pairs]
    preferred = log_ratios(p.decoder, guidance, prompts, [pair.preferred for pair in pairs])
    margins = preferred - log_ratios(p.decoder, guidance, prompts, [pair.rejected for pair in pairs])
    accuracy = float(((margins > 0) + (margins == 0) / 2).mean())
    return PolicyAccuracy(accuracy, *_wilson(accuracy, len(pairs)), float(margins.mean()), len(pairs))


def log_ratios(
    decoder: Decoder, guidance: Guidance, prompts: Sequence[Sequence[Message]], replies: Sequence[str]
) -> Float[NDArray[np.float64], "n"]:
    """Nats a token by which guidance makes each reply, its end included, likelier than the model has it: (n,)."""
    tokens = [_tokens(decoder, reply) for reply in replies]
    everything = replace(decoder.steering, num_candidates=decoder.base.num_logits)
    steered = decoder.with_steering(everything)
    requests = [Request(tuple(prompt), Sampling(len(ids))) for prompt, ids in zip(prompts, tokens, strict=True)]
    guided = [replace(request, guidance=guidance) for request in requests]
    moved = _log_likelihood(steered, guided, tokens) - _log_likelihood(steered, requests, tokens)
    return np.asarray(moved / np.array([len(ids) for ids in tokens]))


def _log_likelihood(
    decoder: Decoder, requests: Sequence[Request], tokens: Sequence[Sequence[int]]
) -> Float[NDArray[np.float64], "n"]:
    reading = Reading(tokens, decoder.base.device)
    decoder.generate(requests, [reading])
    return np.asarray(reading.logprobs.double().sum(-1).cpu().numpy())


def _tokens(decoder: Decoder, reply: str) -> list[int]:
    if not reply:
        raise InputError("found an empty reply, expected words; leave the pair out")
    options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
    return [*decoder.base.tokenizer(reply, **options)["input_ids"], decoder.base.ends[0]]


def _wilson(share: float, num: int) -> tuple[float, float]:
    z = NORMAL_95**2 / num
    middle, half = (share + z / 2) / (1 + z), math.sqrt(z * share * (1 - share) + z**2 / 4) / (1 + z)
    return middle - half, middle + half
