"""vLLM: check that the installed one steers, and start its server for the people of a store."""

from __future__ import annotations

import os
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personalign.cli.options import AsJson, BasisPath, Model, StoreUrl, read_settings
from personalign.cli.output import out, print_row
from personalign.cli.show import show_report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from personalign.integrations.vllm.server import Place
    from personalign.service import Personalign
    from personalign.types import Message

SERVER = "Server"
PROMPTS = ("Can you help me find a place to eat?", "What should I do this weekend?", "Tell me about your day.")
CHECKED_TOKENS = 24
SMALL: dict[str, int] = {"max_model_len": 512, "max_num_seqs": 8, "kv_cache_memory_bytes": 1 << 28}
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}

vllm = typer.Typer(help="Steer inside vLLM.", no_args_is_help=True)


@vllm.command()
def check(
    static: Annotated[bool, typer.Option("--static", help="read vLLM's source, and run nothing")] = False,
    model: Model = None,
    basis: BasisPath = None,
    as_json: AsJson = False,
) -> None:
    """Check that the installed vLLM steers, and print a report to paste; exit code 1 where it doesn't.

    Its source is read first. Then two made-up people ask the model, here and in vLLM, and the tokens are compared.

    With --json: versions, contracts (what moved), checks (each true or false) and is_sound.
    """
    from personalign.integrations.vllm import contracts

    faults = contracts.broken(contracts.installed())
    checks = {} if static or faults else _checks(model or read_settings().model, basis)
    is_sound = not faults and all(checks.values())
    report: dict[str, Any] = {
        "versions": _versions(),
        "contracts": faults,
        "checks": checks,
        "is_sound": is_sound,
    }
    print_row(report, as_json, show_report, out, report | {"contracts": "\n".join(faults) or "all hold"})
    if not is_sound:
        raise typer.Exit(1)


@vllm.command(context_settings=PASS_ON)
def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="address to listen on", rich_help_panel=SERVER)] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port", rich_help_panel=SERVER)] = 8000,
    store: StoreUrl = None,
    model: Model = None,
    basis: BasisPath = None,
) -> None:
    """Start vLLM's OpenAI server, whose requests may name a person of the store; all other options are vLLM's.

    A request names them in vllm_xargs, as personalign_user, and may set personalign_strength.
    """
    from personalign.integrations.vllm import contracts
    from personalign.settings import environment
    from personalign.store import Store

    contracts.installed()
    settings = read_settings()
    place = _place(model or settings.model, store or settings.store, basis or settings.basis)
    Store.open(place.store).close()  # refused here, and not in one of vLLM's processes
    command = place.command(host, port, context.args)
    os.execvpe(command[0], command, environment(place.variables))  # noqa: S606 - a signal is then vLLM's own


def _place(model: str, store: str, basis: Path | None) -> Place:
    from personalign.integrations.vllm.server import Place

    return Place(model, store, basis)


def _versions() -> dict[str, str]:
    names = ("personalign", "torch", "transformers")
    return {name: version(name) for name in names} | {"vllm": _vllm_version(), "platform": platform.platform()}


def _vllm_version() -> str:
    """That of the package which brings the module vllm: the one for CPUs has another name."""
    from importlib.metadata import packages_distributions

    name = packages_distributions()["vllm"][0]
    return f"{name} {version(name)}"


def _checks(model: str, basis: Path | None) -> dict[str, bool]:
    """What vLLM writes, beside what our own engine writes for the same people in the same words."""
    from personalign.service import Personalign

    with tempfile.TemporaryDirectory() as folder:
        place = _place(model, f"sqlite:///{folder}/people.db", basis)
        with Personalign.open(place.store, model, basis, device="cpu") as p:
            for user, position in (("less", -1.0), ("more", 1.0)):
                p.set(user, **{axis.name: position for axis in p.basis.named})
            return _compared(p, place)


def _compared(p: Personalign, place: Place) -> dict[str, bool]:
    from personalign.decode.load import render
    from personalign.integrations.vllm.people import STRENGTH, USER
    from personalign.integrations.vllm.server import Offline

    conversations: list[list[Message]] = [[{"role": "user", "content": text}] for text in PROMPTS]
    own_tokens = {user: _tokens(p, user, conversations) for user in ("nobody", "less", "more")}
    prompts = [render(p.models.base.tokenizer, conversation) for conversation in conversations]
    engine = Offline(place, dtype="float32", enforce_eager=True, **SMALL)

    def written(*people: dict[str, Any] | None) -> list[list[list[int]]]:
        flat = engine.write(prompts * len(people), [one for one in people for _ in prompts], max_tokens=CHECKED_TOKENS)
        return [flat[start : start + len(prompts)] for start in range(0, len(flat), len(prompts))]

    plain, less, more, none = written(None, {USER: "less"}, {USER: "more"}, {USER: "more", STRENGTH: 0.0})
    checks = {
        "it steers": plain != less != more,
        "strength 0 is plain": none == plain,
        "plain replies are our engine's": plain == own_tokens["nobody"],
        "personal replies are our engine's": [less, more] == [own_tokens["less"], own_tokens["more"]],
        "someone unknown is refused": engine.refuses(prompts[0], {USER: "nobody"}),
    }
    p.forget("less")
    erased, known = (engine.refuses(prompts[0], {USER: user}) for user in ("less", "more"))
    return checks | {"someone erased is refused": erased and not known}


def _tokens(p: Personalign, user: str, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
    replies = p.chat_many([user] * len(conversations), conversations, max_tokens=CHECKED_TOKENS)
    return [[*reply.ids, *([] if reply.end is None else [reply.end])] for reply in replies]
