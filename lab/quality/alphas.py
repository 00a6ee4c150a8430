"""What a domain expert and a person's reward do to each other, for more and less of the expert.

The expert is judged by the bits it takes for held-out dialogues of its domain, without any reward (a short list has
no bits for the tokens it leaves out); the reward by the people, on greedy replies to prompts of that domain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedTokenizerFast

from lab.harness import Row
from lab.quality.panel import Bootstrap, Member, Origin, Table, utilities
from lab.zoo.dialogues import Dialogue
from lab.zoo.measure import bits_per_character
from personalign.bundled import TINY
from personalign.decode import CausalModel, Models, Request, generate, load_causal, load_expert
from personalign.options import Options
from personalign.train.expert.tune import Stack
from personalign.types import Message

EXPERT = "hotels"


def bits_rows(base: CausalModel, alphas: Sequence[float], dialogues: Sequence[Dialogue]) -> Iterator[Row]:
    """Bits per character of the expert's domain, for each α."""
    device = str(base.device)
    small, anti = (load_causal(TINY / "small", device) for _ in range(2))
    tuned = load_expert(TINY / "experts" / EXPERT, small).peft
    assert tuned is not None, "the bundled expert is an adapter"
    tuner: Any = tuned.base_model
    tuner.set_adapter([EXPERT], inference_mode=True)
    assert isinstance(base.tokenizer, PreTrainedTokenizerFast), "the bundled tokenizer is a fast one"
    for alpha in alphas:
        stack: nn.Module = base.model if alpha == 0 else Stack(base.model, tuned, anti.model, alpha)
        bits = bits_per_character(stack, base.tokenizer, dialogues)
        yield Row(f"alpha.bits.{alpha:g}", bits, facts={"alpha": alpha, "dialogues": len(dialogues)})


def gain_rows(
    models: Models, members: Sequence[Member], prompts: Sequence[Sequence[Message]], alphas: Sequence[float]
) -> Iterator[Row]:
    """What people gain over base's own replies, and over the expert's, for each α."""
    bootstrap = Bootstrap.draw(len(members), len(prompts))
    plain = {alpha: _utilities(models, members, prompts, alpha, is_guided=False)[0] for alpha in {0.0, *alphas}}
    origin = Origin(plain[0.0][:, :, None])
    for alpha in alphas:
        utility, kl = _utilities(models, members, prompts, alpha, is_guided=True)
        facts = {"alpha": alpha, "kl_reported": kl}
        without = origin.gain(plain[alpha])
        yield Row.estimated(f"alpha.gain.{alpha:g}", bootstrap.interval(origin.gain(utility)), facts)
        yield Row.estimated(
            f"alpha.gain_without_reward.{alpha:g}", bootstrap.interval(without), facts | {"kl_reported": 0.0}
        )
        yield Row.estimated(
            f"alpha.gain_by_reward.{alpha:g}", bootstrap.interval(origin.gain(utility) - without), facts
        )


def _utilities(
    models: Models,
    members: Sequence[Member],
    prompts: Sequence[Sequence[Message]],
    alpha: float,
    *,
    is_guided: bool,
) -> tuple[Table, float]:
    """How everybody likes the replies under their own reward, or those that all would get without one; and KL."""
    options = Options(expert=EXPERT, alpha=alpha) if alpha else Options()
    guidances = [member.guidance(1.0) for member in members] if is_guided else [None]
    requests = [Request(tuple(prompt), options, one) for one in guidances for prompt in prompts]
    replies = generate(models, requests)
    texts = [[reply.text for reply in replies[i : i + len(prompts)]] for i in range(0, len(replies), len(prompts))]
    rows = texts if is_guided else texts * len(members)
    return utilities(members, prompts, rows), float(np.mean([reply.kl for reply in replies]))
