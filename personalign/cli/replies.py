"""Replies under a person's reward: chat, and shift, which looks at what was done to their tokens."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from personalign.bundled import no_basis
from personalign.cli.options import (
    OUTPUT,
    AsJson,
    BasisPath,
    Device,
    Model,
    Reward,
    StoreUrl,
    User,
    open_service,
    read_settings,
    takes_options,
)
from personalign.cli.output import err, out, print_row
from personalign.cli.show import show_ranking, show_reply, show_shift
from personalign.errors import InputError
from personalign.options import MAX_CONSTRAINT, OptionsDict

if TYPE_CHECKING:
    from personalign.service import Personalign
    from personalign.types import Message, Reply


@takes_options
def chat(
    user: User,
    message: Annotated[str | None, typer.Argument(help="message to answer; without it, a conversation begins")] = None,
    reward: Reward = None,
    store: StoreUrl = None,
    model: Model = None,
    basis: BasisPath = None,
    device: Device = None,
    as_json: AsJson = False,
    **options: object,
) -> None:
    """Answer a message under a person's reward.

    With --json: text, finish_reason, usage and seed; the account of guidance: guided, reason, revision, kl (nats a
    token), changed (share of positions whose likeliest token became another) and gained (reward); logprobs if asked
    for.
    """
    chosen = _options(options, reward)
    with open_service(store, model, basis, device, reward) as p:
        if not p.has_basis:
            err.print(no_basis(model or read_settings().model), style="yellow", markup=False, soft_wrap=True)
        if message is not None or as_json:
            text = message if message is not None else sys.stdin.read()
            reply = p.chat(user, [{"role": "user", "content": text}], **chosen)
            print_row(_reply_row(reply), as_json, show_reply, out, reply)
        else:
            _converse(p, user, chosen)


@takes_options
def shift(
    user: User,
    prompt: Annotated[list[str] | None, typer.Argument(help="messages to answer, each on its own")] = None,
    prompts: Annotated[Path | None, typer.Option(help="file of messages to answer, one a line")] = None,
    top: Annotated[int, typer.Option(help="number of tokens to list", min=1, rich_help_panel=OUTPUT)] = 20,
    reward: Reward = None,
    store: StoreUrl = None,
    model: Model = None,
    basis: BasisPath = None,
    device: Device = None,
    as_json: AsJson = False,
    **options: object,
) -> None:
    """Show which tokens a person's reward and an expert moved most.

    A reply is written to every prompt. The probability of each of its tokens is compared with the model's own at the
    same place. The tokens that moved most over all their places come first.

    With --json: tokens, each with id, token, count, mean_change, moved (the sum of absolute changes) and top_changed
    (the share of its places where another token became the likeliest); and replies, each with prompt, text, guided,
    reason and positions: id, token, added (to the text), before, after, and top_before and top_after, the likeliest
    token with its id and probability.
    """
    lines = [] if prompts is None else _read(prompts).splitlines()
    texts, chosen = [*(prompt or ()), *filter(str.strip, lines)], _options(options, reward)
    with open_service(store, model, basis, device, reward) as p:
        replies = p.shift(user, [[{"role": "user", "content": text}] for text in texts], **chosen)
    from personalign.shift import by_token

    tokens = by_token(replies)[:top]
    row = {"user": user, "tokens": list(map(asdict, tokens)), "replies": list(map(asdict, replies))}
    print_row(row, as_json, show_shift, out, tokens, replies)


def choose(
    user: User,
    message: Annotated[str, typer.Argument(help="message that the candidates reply to")],
    candidates: Annotated[list[str], typer.Argument(help="replies to choose from, of any model")],
    store: StoreUrl = None,
    model: Model = None,
    basis: BasisPath = None,
    as_json: AsJson = False,
) -> None:
    """Rank replies by how a person would like them, the best first.

    With --json: user, best (its text), order (places among the candidates), surety (the probability that the first is
    better than the second), reason (why the order isn't the person's own), revision, and candidates, each with index,
    text, utility and probability (of being the best).
    """
    with open_service(store, model, basis, is_asking=True) as p:
        ranking = p.choose(user, [{"role": "user", "content": message}], candidates)
    row = {"user": user, "best": ranking.best, "order": ranking.order} | asdict(ranking)
    print_row(row, as_json, show_ranking, out, ranking)


def _options(given: dict[str, Any], reward: str | None) -> OptionsDict:
    """The options of a request; naming a reward model means that it is asked."""
    rule, schema = given["rule"] or ("args" if reward else "successor"), given["schema"]
    if schema is not None and not schema.lstrip().startswith("{"):  # a file of JSON, not the JSON itself
        schema = _read(Path(schema))
    return cast("OptionsDict", given | {"rule": rule, "schema": schema, "stop": given["stop"] or ()})


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(MAX_CONSTRAINT + 1)
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path} can't be read ({error}); expected a text file in UTF-8") from error


def _converse(p: Personalign, user: str, options: OptionsDict) -> None:
    messages: list[Message] = []
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
