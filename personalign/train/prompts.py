"""The user turns that a basis is made from: read from a file or a log, checked against the model, and split."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np

from personalign.decode.load import CausalModel, render
from personalign.errors import InputError, MessageError
from personalign.messages import Conversation, read_messages
from personalign.train.rows import Line, read_lines

EXPECTED = '{"messages": [{"role": "user", "content": "Hello"}]} or {"prompt": "Hello"}'
INVISIBLE = " \t\r\n\v\f\u00a0\ufeff\u200b\u200c\u200d\u2060"  # around a text, and no part of it
Item = TypeVar("Item")
MIN_PROMPTS = 16  # ten to ask about, and some to test and to calibrate on

# what begins so was meant as messages: Python's and numpy's way to print them, other keys, a whole record
_QUOTE = r"""(?:\\?["']|&quot;|&\#3[49];){0,2}"""
_LIST = re.compile(
    rf"""["']?(?:[\w.]+\()*[\[(]\s*(?:[\w.]*[({{]\s*|[\[(]\s*)+{_QUOTE}(role|from|content|value|user|human|assistant|system){_QUOTE}\s*[:=,]"""
)
_RECORD = re.compile(
    r"""["']?\{\s*\\?["'](?:(?:role|from)\\?["']\s*:\s*\\?["'](?:user|human|system|assistant|gpt)"""
    r"""|(?:messages|conversations?)\\?["']\s*:\s*\[)"""
)


@dataclass(frozen=True)
class Prompts:
    """Real user turns: to learn from, to test the head on, and to calibrate on."""

    train: Sequence[Conversation]
    held_out: Sequence[Conversation]
    dev: Sequence[Conversation]


def read_prompt(cell: object) -> Conversation:
    """Take a prompt as files hold it: a list of messages, the JSON of one, or the text of the user's only message.

    Raises:
        MessageError: it isn't such, or is a text that was meant as messages, such as Python prints them.
    """
    if not isinstance(cell, str):
        return read_messages(cell)
    messages = _spelt_out(cell)
    return read_messages([{"role": "user", "content": cell}] if messages is None else messages)


def _spelt_out(text: str) -> list[object] | None:
    """The messages whose JSON a text is; None where it is a text of the user's."""
    if text.lstrip(INVISIBLE).startswith("["):
        try:
            messages = json.loads(text.strip(INVISIBLE))
        except (ValueError, RecursionError):
            messages = None
        if messages and all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in messages):
            return list(messages)
    if looks_like_messages(text):
        raise MessageError(
            "a text begins like a list of messages and isn't the JSON of one; expected "
            '[{"role": "user", "content": "Hello"}]; write it with json.dumps'
        )
    return None


def looks_like_messages(text: str) -> bool:
    """Whether a text begins like messages that were printed: people don't write to a model like this."""
    begin = text.lstrip(INVISIBLE)[:2000]
    if match := _LIST.match(begin):
        return match[1] not in ("content", "value") or re.search(r"\b(role|from)\b", begin) is not None
    return _RECORD.match(begin) is not None


def read_prompts(path: Path) -> list[tuple[Line, Conversation]]:
    """Read a file of prompts, each with its line; no model is needed yet.

    A JSONL file has an object a line, with ``messages`` or a ``prompt``; any other has a user's message a line.

    Raises:
        InputError: a line isn't such, naming the file and the line.
    """
    return [(line, _prompt(line)) for line in read_lines(path)]


def _prompt(line: Line) -> Conversation:
    cell: object = line.text
    if line.is_json:
        row = line.row(EXPECTED)
        cell = row.get("messages", row.get("prompt"))
        if not isinstance(cell, str | list):
            raise InputError(f"{line} has {', '.join(row) or 'nothing in it'}; expected {EXPECTED}")
    try:
        return read_prompt(cell)
    except MessageError as error:
        raise MessageError(f"{line} can't be answered: {error}") from error


def check_prompts(
    lines: Sequence[tuple[Line, Conversation]], causal: CausalModel, max_tokens: int
) -> tuple[list[Conversation], int]:
    """Take the different prompts of a file, and count those left out because they came before.

    Raises:
        InputError: the model can't answer one in ``max_tokens``, naming its line, or there are too few.
        ModelError: the model has no chat template.
    """
    for line, prompt in lines:
        try:
            _check_room(causal, prompt, max_tokens)
        except MessageError as error:
            raise MessageError(f"{line} can't be answered: {error}") from error
    prompts = _different([prompt for _, prompt in lines])
    _check_number(len(prompts), f"{lines[0][0].path if lines else 'the file'} holds {len(prompts)} different prompts")
    return prompts, len(lines) - len(prompts)


def take_prompts(
    prompts: Sequence[Conversation], causal: CausalModel, max_tokens: int, source: str
) -> tuple[list[Conversation], int]:
    """Take the different ones that the model can answer in ``max_tokens``, and count the different ones it can't.

    Raises:
        InputError: there are too few, naming the source.
        ModelError: the model has no chat template.
    """
    different = _different(prompts)
    usable = [prompt for prompt in different if _has_room(causal, prompt, max_tokens)]
    _check_number(
        len(usable), f"{source} holds {len(different)} different prompts; the model can answer {len(usable)} of them"
    )
    return usable, len(different) - len(usable)


def _different(prompts: Sequence[Conversation]) -> list[Conversation]:
    return list({json.dumps(prompt): prompt for prompt in prompts}.values())


def _has_room(causal: CausalModel, prompt: Conversation, max_tokens: int) -> bool:
    try:
        _check_room(causal, prompt, max_tokens)
    except MessageError:
        return False
    return True


def _check_room(causal: CausalModel, prompt: Conversation, max_tokens: int) -> None:
    room = None if causal.context is None else causal.context - max_tokens
    render(causal.tokenizer, prompt, max_prompt_tokens=room)


def _check_number(number: int, description: str) -> None:
    if number < MIN_PROMPTS:
        raise InputError(
            f"{description}, expected at least {MIN_PROMPTS}, ideally a few hundred: a question is asked about each, "
            "and the head learns from the replies to them; pass more with --prompts"
        )


def split_prompts(prompts: Sequence[Conversation], seed: int) -> Prompts:
    """A twentieth to test on and a tenth to calibrate on, at most 60 and 32; the rest to learn from."""
    num_held_out = min(max(len(prompts) // 20, 2), 60)
    num_dev = min(max(len(prompts) // 10, 4), 32)
    held_out, dev, train = cut(prompts, [num_held_out, num_dev], seed)
    return Prompts(train, held_out, dev)


def cut(items: Sequence[Item], sizes: Sequence[int], seed: int) -> list[list[Item]]:
    """Shuffle the items and cut off parts of these sizes; the rest is the last part."""
    shuffled = [items[i] for i in np.random.default_rng(seed).permutation(len(items))]
    borders = [0, *np.cumsum(sizes).tolist(), len(items)]
    return [shuffled[begin:end] for begin, end in pairwise(borders)]
