"""The user turns that a basis is made from: read from a file, checked against the model, and split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from personalign.decode.load import CausalModel, render
from personalign.errors import InputError, MessageError
from personalign.messages import read_messages
from personalign.train.files import Line, read_lines
from personalign.train.split import cut
from personalign.types import Message

EXPECTED = '{"messages": [{"role": "user", "content": "Hello"}]} or {"prompt": "Hello"}'
MIN_PROMPTS = 16  # ten to ask about, and some to test and to calibrate on
Prompt = tuple[Message, ...]


@dataclass(frozen=True)
class Prompts:
    """Real user turns: to learn from, to test the head on, and to calibrate on."""

    train: Sequence[Sequence[Message]]
    held_out: Sequence[Sequence[Message]]
    dev: Sequence[Sequence[Message]]


def read_prompts(path: Path, causal: CausalModel, max_tokens: int) -> tuple[list[Prompt], int]:
    """Read prompts that the model can answer in ``max_tokens``, and count those left out because they came before.

    A JSONL file has an object a line, with ``messages`` or a ``prompt``; any other has a user's message a line.

    Raises:
        InputError: a line isn't such, the model can't read it, or there are too few; naming the file and the line.
        ModelError: the model has no chat template.
    """
    room = None if causal.context is None else causal.context - max_tokens
    prompts: dict[str, Prompt] = {}
    lines = list(read_lines(path))
    for line in lines:
        prompt = _prompt(line)
        try:
            _check(causal, prompt, room)
        except MessageError as error:
            raise MessageError(f"{line} can't be answered: {error}") from error
        prompts[json.dumps(prompt)] = prompt
    _check_number(len(prompts), f"{path} holds {len(prompts)} different prompts")
    return list(prompts.values()), len(lines) - len(prompts)


def take_prompts(
    found: Sequence[Prompt], causal: CausalModel, max_tokens: int, source: str
) -> tuple[list[Prompt], int]:
    """Take the different ones that the model can answer in ``max_tokens``, and count the different ones it can't.

    Raises:
        InputError: there are too few, naming the source.
        ModelError: the model has no chat template.
    """
    room = None if causal.context is None else causal.context - max_tokens
    different = {json.dumps(prompt): prompt for prompt in found}.values()
    prompts = [prompt for prompt in different if _can_answer(causal, prompt, room)]
    said = f"{source} holds {len(different)} different prompts, {len(prompts)} of which the model can answer"
    _check_number(len(prompts), said)
    return prompts, len(different) - len(prompts)


def _can_answer(causal: CausalModel, prompt: Prompt, room: int | None) -> bool:
    try:
        _check(causal, prompt, room)
    except MessageError:
        return False
    return True


def _check_number(number: int, found: str) -> None:
    if number < MIN_PROMPTS:
        raise InputError(
            f"{found}, expected at least {MIN_PROMPTS}, better some hundreds: a question is asked about each, and the "
            "head learns from the replies to them; pass more with --prompts"
        )


def _prompt(line: Line) -> Prompt:
    if not line.is_json:
        return ({"role": "user", "content": line.text},)
    row = line.row(EXPECTED)
    found = row.get("messages", row.get("prompt"))
    if isinstance(found, str):
        return ({"role": "user", "content": found},)
    if not isinstance(found, list) or not all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in found):
        raise InputError(f"{line} has {', '.join(row) or 'nothing in it'}; expected {EXPECTED}")
    return tuple({"role": m["role"], "content": m["content"]} for m in found)


def _check(causal: CausalModel, prompt: Prompt, room: int | None) -> None:
    render(causal.tokenizer, read_messages(prompt), max_prompt_tokens=room)


def split_prompts(prompts: Sequence[Prompt], seed: int) -> Prompts:
    """A twentieth to test on and a tenth to calibrate on, at most 60 and 32; the rest to learn from."""
    num_held_out = min(max(len(prompts) // 20, 2), 60)
    num_dev = min(max(len(prompts) // 10, 4), 32)
    held_out, dev, train = cut(prompts, [num_held_out, num_dev], seed)
    return Prompts(train, held_out, dev)
