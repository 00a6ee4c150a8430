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
    """Take a prompt as files hold it: a list of messages, the JSON of one, or the text of the user's only message."""
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


def read_prompts(path: Path) -> list[tuple[object, Conversation]]:
    """Read a file of prompts, each with its line; no model is needed yet.

    A JSONL file has an object a line, with ``messages`` or a ``prompt``; any other has a user's message a line.
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


def take_prompts(
    prompts: Sequence[tuple[object, Conversation]], causal: CausalModel, max_tokens: int, source: str, *, strict: bool
) -> tuple[list[Conversation], int]:
    """Take the different prompts that the model can answer in ``max_tokens``, and count all different ones.

    Each comes with its place; ``strict`` refuses the first that the model can't answer, and names its place.
    """
    different: dict[str, tuple[object, Conversation]] = {}
    for place, prompt in prompts:
        different.setdefault(json.dumps(prompt), (place, prompt))
    room = None if causal.context is None else causal.context - max_tokens
    usable = []
    for place, prompt in different.values():
        try:
            render(causal.tokenizer, prompt, max_prompt_tokens=room)
            usable.append(prompt)
        except MessageError as error:
            if strict:
                raise MessageError(f"{place} can't be answered: {error}") from error
    if len(usable) < MIN_PROMPTS:
        answered = "" if strict else f"; the model can answer {len(usable)} of them"
        raise InputError(
            f"{source} holds {len(different)} different prompts{answered}, expected at least {MIN_PROMPTS}, ideally a "
            "few hundred: a question is asked about each, and the head learns from the replies to them; pass more with "
            "--prompts"
        )
    return usable, len(different)


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
