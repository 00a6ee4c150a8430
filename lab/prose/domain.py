"""The expert's domain: sums for school children with worked answers, and how well models read those held out.

gsm8k (openai/grade-school-math, MIT) fits: its answers have a notation of their own, ``<<48/2=24>>``, which the base
hardly knows, and they are chat replies, as the answers to closed-book questions are. There is no smaller model with
SmolLM2's vocabulary, so expert and anti-expert are SmolLM2 itself with the adapter and without: at α = 1 the stack is
the directly tuned model, and another α goes less or more of the same way.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from lab.prose.writing import SERVED
from personalign.decode import CausalModel, load_causal, render
from personalign.decode.chain import mix
from personalign.decode.lora import WEIGHTS, attach, merged, read_lora
from personalign.errors import InputError
from personalign.train.expert.train import tune_expert
from personalign.train.work import identity, keep, track, write_whole
from personalign.types import Message

NAME = "sums"
RATE = 1e-3  # twice the usual one, for few steps
SHARD = 32  # conversations whose bits are kept together
Bits = Float[NDArray[np.float64], "n columns"]
Conversation = tuple[Message, ...]


def read_sums(data: Path) -> list[Conversation]:
    """Every question with its worked answer.

    Raises:
        InputError: the folder doesn't hold the file.
    """
    path = data / "corpora" / "gsm8k_train.jsonl"
    if not path.is_file():
        raise InputError(f"{path} isn't there; expected the folder that holds it; name it with --data DIR")
    return [_conversation(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def _conversation(question: str, answer: str) -> Conversation:
    system: Message = {"role": "system", "content": SERVED.system}
    return system, {"role": "user", "content": question}, {"role": "assistant", "content": answer}


def expert_on(place: str, sums: Sequence[Conversation], num_steps: int, work: Path, device: str) -> Path:
    """Tune an expert on a model as ``personalign expert train`` does, unless an earlier run has; give its folder."""
    folder = work / NAME
    if not (folder / "figures.json").is_file():
        lines = [json.dumps({"messages": conversation}, ensure_ascii=False) for conversation in sums]
        file = work / "gsm8k.jsonl"
        write_whole(file, lambda partial: partial.write_text("\n".join([*lines, ""]), encoding="utf-8"))
        tune_expert(place, file, NAME, work, device=device, num_steps=num_steps, learning_rate=RATE)
    return folder


def weights_of(folder: Path) -> str:
    """What an expert's adapter is known by."""
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def directly_tuned(place: str, folder: Path, device: str) -> CausalModel:
    """The model with the expert's adapter merged into its weights."""
    causal = load_causal(place, device)
    peft = attach(read_lora(folder, causal.model), NAME, causal.model, None)
    tuner: Any = peft.base_model
    tuner.set_adapter([NAME], inference_mode=True)
    return replace(causal, model=merged(peft))


@dataclass(frozen=True, eq=False)
class Pair:
    """The base, and itself directly tuned; ``origin`` is what both follow from."""

    base: CausalModel
    direct: CausalModel
    origin: str

    def bits(self, conversations: Sequence[Conversation], alphas: Sequence[float], work: Path) -> Bits:
        """Tokens of each conversation's last message, and the bits that they take at each α, given what came before.

        At 0 these are the base's, at 1 the direct model's.
        """
        shards = [conversations[i : i + SHARD] for i in range(0, len(conversations), SHARD)]
        return np.concatenate([self._kept(shard, alphas, work) for shard in track(shards, "reading at each α")])

    def _kept(self, shard: Sequence[Conversation], alphas: Sequence[float], work: Path) -> Bits:
        path = work / "read" / f"{identity(self.origin, shard, alphas)}.safetensors"
        return keep(path, lambda: {"bits": np.array([self._read(one, alphas) for one in shard])})["bits"]

    @torch.inference_mode()
    def _read(self, conversation: Conversation, alphas: Sequence[float]) -> list[float]:
        tokenizer, device = self.base.tokenizer, self.base.device
        before = render(tokenizer, conversation[:-1])
        last: list[int] = tokenizer(conversation[-1]["content"], add_special_tokens=False)["input_ids"]
        ids, answer = torch.tensor([before + last], device=device), torch.tensor(last, device=device)
        base, direct = (
            causal.model(input_ids=ids).logits[0, len(before) - 1 : -1] for causal in (self.base, self.direct)
        )
        stacks = [mix(base, direct, base, torch.full_like(base[:, 0], alpha), self.base.num_logits) for alpha in alphas]
        nats = [float(torch.nn.functional.cross_entropy(stack, answer, reduction="sum")) for stack in stacks]
        return [float(len(last)), *(x / math.log(2) for x in nats)]
