"""A chat template, rendered as transformers does, but under a bound: it comes with the model, and may never end.

It runs in Jinja's sandbox. Every loop, call and filter is counted, and so are the characters that they make.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any, NoReturn, cast

from jinja2 import Template, TemplateError, nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer
from transformers import PreTrainedTokenizerBase

from personalign.decode.checkpoint import first_line
from personalign.errors import MessageError, ModelError
from personalign.messages import Message

STEPS, STEPS_PER_MESSAGE = 100_000, 20_000  # of a rendering: loops, calls and filters, by the size of what they take
LONGEST = 10_000_000  # characters of a text; an element of a list counts as CHARACTERS
WIDEST = 100_000  # any number that is passed on: a width, a count
CHARACTERS = 64  # of a text, that count as one step
LEAST = 4  # steps that anything takes
BUDGET = "budget of a rendering"  # no name that a template can say
WIDTH = re.compile(r"\d{6}")  # in a format: it pads to a hundred thousand characters


@dataclass
class _Budget:
    """What is left of a rendering's steps."""

    steps: int
    cost: int  # of one step: a long template writes more in one

    def spend(self, *values: object) -> None:
        """Take the cost of handling some values."""
        size = sum(map(_size, values))
        self.steps -= self.cost + size // CHARACTERS
        if self.steps < 0 or size > LONGEST:
            raise _Endless("it doesn't come to an end, or makes too much")


class _Refusal(TemplateError):  # noqa: N818 - reads as what it is
    """A template refuses messages that it wasn't made for."""


class _Endless(Exception):  # noqa: N818 - reads as what it is
    """A template doesn't end, or makes too much."""


def rendered(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, add_generation_prompt: bool = True
) -> str:
    """Write messages as the tokenizer's chat template has them."""
    if not tokenizer.chat_template:
        raise ModelError(
            "the tokenizer has no chat template; expected that of a chat model; put one into the model's folder as "
            "chat_template.jinja, which ends every turn with an end token"
        )
    try:
        source = tokenizer.get_chat_template()
        template = _compiled(source)
        budget = _Budget(STEPS + STEPS_PER_MESSAGE * len(messages), LEAST + len(source) // CHARACTERS)
        pieces = template.generate(
            {
                **tokenizer.special_tokens_map,
                "messages": [{"role": m["role"], "content": m["content"]} for m in messages],
                "tools": None,
                "documents": None,
                "add_generation_prompt": add_generation_prompt,
                BUDGET: budget,
            }
        )
        return _joined(pieces)
    except _Refusal as error:
        raise MessageError(f"the model's chat template refuses these messages: {first_line(error)}") from error
    except Exception as error:
        raise ModelError(
            f"the model's chat template fails ({type(error).__name__}: {first_line(error)}); expected one that renders "
            "any conversation; mend chat_template.jinja in the model's folder"
        ) from error


def ends_turns(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a reply's turn ends with the tokenizer's end token, by the chat template."""
    if not tokenizer.chat_template or not tokenizer.eos_token:
        return False
    turns: list[Message] = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    try:
        text = rendered(tokenizer, turns, add_generation_prompt=False)
    except MessageError:
        return False
    return text.rstrip().endswith(str(tokenizer.eos_token))


def _joined(pieces: Iterable[str]) -> str:
    parts: list[str] = []
    length = 0
    for piece in pieces:
        parts.append(piece)
        length += len(piece)
        if length > LONGEST:
            raise _Endless(f"it makes more than {LONGEST:,} characters")
    text = "".join(parts)
    text.encode()  # half a surrogate is no text: no tokenizer reads it
    return text


def _size(value: object) -> int:
    """Characters of a text, and as many for an element of a collection as count as one step."""
    if isinstance(value, str | bytes):
        return len(value)
    return CHARACTERS * len(value) if isinstance(value, list | tuple | dict | set) else 0


class _Counted(NodeTransformer):
    """Counts a template's loops and weighs what its filters and joins make."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - jinja names it
        """Count each turn."""
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "counted")
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Filter:  # noqa: N802
        """Weigh what it makes, but for a filter that ends a block."""
        self.generic_visit(node)
        return node if _is_of_block(node) else _filtered(node, "weighed")

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        """Weigh what it makes."""
        self.generic_visit(node)
        return _filtered(node, "weighed")


def _is_of_block(node: nodes.Filter) -> bool:
    inner: nodes.Expr | None = node
    while isinstance(inner, nodes.Filter):
        inner = inner.node
    return inner is None


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(
        cast("nodes.Expr", node), name, [], [], None, None, lineno=node.lineno, environment=node.environment
    )


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, counting."""

    intercepted_binops = frozenset({"+", "*", "%", "**"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template: nodes.Template = _Counted().visit(super()._parse(source, name, filename))
        return template

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as jinja has it
        """Call what a template calls."""
        owner = getattr(getattr(obj, "__wrapped__", obj), "__self__", None)  # the sandbox wraps str.format
        values = (owner, *args, *kwargs.values())
        _check_modest(getattr(obj, "__name__", ""), *values)
        _budget(context).spend(*values)
        return _weighed(context, super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401 - likewise
        """Compute what a template computes."""
        _check_modest(operator, left, *(right if isinstance(right, tuple) else (right,)))
        return _weighed(context, super().call_binop(context, operator, left, right))


def _budget(context: Context) -> _Budget:
    budget: _Budget = context.parent[BUDGET]
    return budget


@pass_context
def _weighed(context: Context, value: Any) -> Any:  # noqa: ANN401 - whatever a template makes
    _budget(context).spend(value)
    return value


@pass_context
def _counted(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    budget = _budget(context)
    for value in values:
        budget.spend()
        yield value


def _modest(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that refuses to make more than a prompt needs."""

    @wraps(function)  # which carries over whether jinja hands it the context
    def ask(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - any filter's
        values = [list(value) if isinstance(value, Iterator) else value for value in args]
        _check_modest(function.__name__.removeprefix("do_").removeprefix("sync_do_"), *values, *kwargs.values())
        return function(*values, **kwargs)

    return ask


def _check_modest(name: str, *values: object) -> None:
    """Refuse a call that would make far more than it takes, before it runs."""
    numbers = [abs(value) for value in values if isinstance(value, int)]
    texts = [value for value in values if isinstance(value, str)]
    size = sum(map(_size, values))
    is_wide = max(numbers, default=0) > WIDEST and name not in {"+", "int", "float"}
    is_padded = name in {"%", "format", "format_map"} and any(map(WIDTH.search, texts))
    if name == "replace" and len(texts) >= 3:
        size += texts[0].count(texts[1]) * len(texts[2])
    elif name == "join":
        size += sum(_size(part) for value in values if isinstance(value, list | tuple) for part in value)
        size += max(map(len, texts), default=0) * size // CHARACTERS
    elif name in {"*", "indent", "expandtabs", "tojson"}:
        size *= max(numbers, default=1)
    if is_wide or is_padded or name == "translate" or size > LONGEST:
        raise _Endless(f"{name or 'a call'} would make too much")


@lru_cache(maxsize=16)
def _compiled(source: str) -> Template:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_weighed
    )
    environment.filters = {name: _modest(function) for name, function in environment.filters.items()}
    environment.filters |= {"tojson": _modest(tojson), "counted": _counted, "weighed": _weighed}
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    del environment.globals["lipsum"]
    return environment.from_string(source)


class _Generation(Extension):
    """What transformers marks as the model's own text: written as it is."""

    tags = {"generation"}  # noqa: RUF012 - as jinja has it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Read the block."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON as transformers' templates expect it: Jinja's own filter escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise _Refusal(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)  # noqa: DTZ005 - a template wants the local date
