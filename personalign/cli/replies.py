"""Replies under a person's reward: chat, and shift, which looks at what was done to their tokens."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from personalign.cli.options import AsJson, BasisPath, Device, Model, StoreUrl, User, open_service
from personalign.cli.output import out, print_json
from personalign.cli.show import show_reply, show_shift
from personalign.errors import InputError
from personalign.service import Personalign
from personalign.types import Message, Reply

Strength = Annotated[float, typer.Option(help="multiplies the person's reward; 0 turns it off")]
Expert = Annotated[str | None, typer.Option(help="a domain expert to stack, such as hotels")]
Alpha = Annotated[float | None, typer.Option(help="the expert's weight", show_default="its own")]
Reward = Annotated[str | None, typer.Option("--reward", help="a reward model for the rule args: a path or a hub id")]
Rule = Annotated[
    str | None,
    typer.Option("--rule", help="successor or args", show_default="args with --reward, otherwise successor"),
]


def chat(
    user: User,
    message: Annotated[str | None, typer.Argument(help="one message; without it, a conversation begins")] = None,
    rule: Rule = None,
    reward: Reward = None,
    strength: Strength = 1.0,
    expert: Expert = None,
    alpha: Alpha = None,
    schema: Annotated[str | None, typer.Option(help="a JSON schema to keep to: a file, or the JSON itself")] = None,
    regex: Annotated[str | None, typer.Option(help="a pattern that the whole reply matches")] = None,
    max_tokens: Annotated[int, typer.Option()] = 64,
    stop: Annotated[list[str] | None, typer.Option(help="text that ends the reply; may be given again")] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy")] = 0.0,
    top_k: Annotated[int, typer.Option(help="draw from so many tokens; 0 is all")] = 0,
    top_p: Annotated[float, typer.Option(help="draw from the likeliest that make up so much probability")] = 1.0,
    min_p: Annotated[float, typer.Option(help="draw from those this much as likely as the likeliest")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="makes a draw repeatable", show_default="a fresh one")] = None,
    repetition_penalty: Annotated[float, typer.Option(help="on what prompt or reply holds; 1 is none")] = 1.0,
    presence_penalty: Annotated[float, typer.Option(help="on what the reply holds")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="likewise, each time")] = 0.0,
    logprobs: Annotated[int, typer.Option(help="likeliest tokens to report beside each one drawn")] = 0,
    store: StoreUrl = None,
    model: Model = None,
    basis: BasisPath = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Answer under a person's reward.

    With --json: text, finish_reason and usage; the account of guidance: guided, reason, revision, kl (nats a token),
    changed (share of positions whose likeliest token became another) and gained (reward); logprobs if asked for.
    """
    options: dict[str, Any] = {
        "rule": _rule(rule, reward),
        "strength": strength,
        "expert": expert,
        "alpha": alpha,
        "schema": _schema_text(schema),
        "regex": regex,
        "max_tokens": max_tokens,
        "stop": tuple(stop or ()),
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "seed": seed,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "logprobs": logprobs,
    }
    with open_service(store, model, basis, device, reward) as p:
        if message is not None or as_json:
            text = message if message is not None else sys.stdin.read()
            reply = p.chat(user, [{"role": "user", "content": text}], **options)
            print_json(_reply_row(reply)) if as_json else show_reply(out, reply)
        else:
            _converse(p, user, options)


def shift(
    user: User,
    prompt: Annotated[list[str] | None, typer.Argument(help="one message each")] = None,
    prompts: Annotated[Path | None, typer.Option(help="a file with one message a line")] = None,
    rule: Rule = None,
    reward: Reward = None,
    strength: Strength = 1.0,
    expert: Expert = None,
    alpha: Alpha = None,
    top: Annotated[int, typer.Option(help="how many tokens to list", min=1)] = 20,
    max_tokens: Annotated[int, typer.Option()] = 64,
    store: StoreUrl = None,
    model: Model = None,
    basis: BasisPath = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Show which tokens a person's reward and an expert moved most.

    Replies are written to every prompt; each of their tokens' probabilities is compared with the model's own at the
    same place. The tokens moved most, all their places together, come first.

    With --json: tokens, each with id, token, count, mean_change, moved (the sum of absolute changes) and top_changed
    (the share of its places where another token became the likeliest); and replies, each with prompt, text, guided,
    reason and positions: id, token, added (to the text), before, after, and top_before and top_after, the likeliest
    token with its id and probability.
    """
    options: Any = {
        "max_tokens": max_tokens,
        "strength": strength,
        "expert": expert,
        "alpha": alpha,
        "rule": _rule(rule, reward),
    }
    texts = [*(prompt or ()), *_lines(prompts)]
    with open_service(store, model, basis, device, reward) as p:
        conversations: list[list[Message]] = [[{"role": "user", "content": text}] for text in texts]
        replies = p.shift(user, conversations, **options)
    from personalign.shift import by_token

    tokens = by_token(replies)[:top]
    row = {"user": user, "tokens": list(map(asdict, tokens)), "replies": list(map(asdict, replies))}
    print_json(row) if as_json else show_shift(out, tokens, replies)


def _rule(given: str | None, reward: str | None) -> str:
    """Who names a reward model wants it asked."""
    return given or ("args" if reward else "successor")


def _schema_text(given: str | None) -> str | None:
    """The JSON itself, or what the file holds."""
    return given if given is None or given.lstrip().startswith("{") else _read(Path(given))


def _lines(path: Path | None) -> list[str]:
    """The lines of a file that aren't blank."""
    return [] if path is None else [line for line in _read(path).splitlines() if line.strip()]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path} can't be read ({error}); expected a text file in UTF-8") from error


def _converse(p: Personalign, user: str, options: dict[str, Any]) -> None:
    """Read lines, stream replies, until the input ends."""
    messages: list[Any] = []
    while True:
        try:
            text = out.input("[bold cyan]you[/] ")
        except EOFError:
            return
        messages.append({"role": "user", "content": text})
        pieces = []
        try:
            for piece in p.stream(user, messages, **options):
                pieces.append(piece)
                out.print(piece, end="", markup=False, highlight=False)
        except InputError as error:
            messages.pop()
            out.print(str(error), style="red", markup=False)
            continue
        out.print()
        messages.append({"role": "assistant", "content": "".join(pieces)})


def _reply_row(reply: Reply) -> dict[str, Any]:
    row = asdict(reply)
    if not reply.logprobs:
        del row["logprobs"]
    return row
