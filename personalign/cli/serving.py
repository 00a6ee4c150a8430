"""The server: serve, and the keys of those who call it (create, list, revoke)."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from personalign.cli.options import (
    AsJson,
    BasisPath,
    Device,
    Model,
    Reward,
    StoreUrl,
    open_service,
    open_store,
    read_settings,
)
from personalign.cli.output import out, print_row
from personalign.cli.show import show_keys, show_opening
from personalign.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from personalign.store import ApiKey

SERVER, VLLM = "Server", "vLLM"
KeyId = Annotated[str, typer.Argument(help="id of the key, as personalign key list has it")]

key = typer.Typer(help="Look after the keys that open the server.", no_args_is_help=True)


def serve(
    host: Annotated[str, typer.Option(help="address to listen on", rich_help_panel=SERVER)] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="port; 0 takes a free one", rich_help_panel=SERVER)
    ] = 8000,
    rate: Annotated[
        str, typer.Option(help="requests that each key and token may send", rich_help_panel=SERVER)
    ] = "600/minute",
    in_flight: Annotated[
        int, typer.Option(min=1, help="requests worked on at once; further ones are refused", rich_help_panel=SERVER)
    ] = 64,
    frame_ancestors: Annotated[
        list[str] | None,
        typer.Option(
            help="origin that may show the pages in a frame; may be given several times", rich_help_panel=SERVER
        ),
    ] = None,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="bring the schema up to date first", rich_help_panel=SERVER)
    ] = False,
    logs: Annotated[
        Literal["json", "text"], typer.Option(help="form of the log on stderr", rich_help_panel=SERVER)
    ] = "json",
    engine: Annotated[
        Literal["own", "vllm"], typer.Option(help="what writes the replies; vllm is started here", rich_help_panel=VLLM)
    ] = "own",
    vllm_url: Annotated[
        str | None, typer.Option(help="address of a vLLM that runs on this store already", rich_help_panel=VLLM)
    ] = None,
    vllm_args: Annotated[
        str, typer.Option(help="further options of the vLLM that is started here", rich_help_panel=VLLM)
    ] = "",
    store: StoreUrl = None,
    model: Model = None,
    basis: BasisPath = None,
    device: Device = None,
    reward: Reward = None,
    as_json: AsJson = False,
) -> None:
    """Serve OpenAI's routes, people's routes and pages over HTTP, until a signal comes.

    On a store without keys it makes the first one, and prints it with a link to the onboarding page.

    With --json: url, key and onboarding (both null where the store had keys).
    """
    _check_extra()
    from personalign.serve import run
    from personalign.serve.logs import start
    from personalign.serve.policy import Policy

    policy = Policy(rate=rate, in_flight=in_flight, frame_ancestors=tuple(frame_ancestors or ()))
    if migrate:
        from personalign.store import upkeep

        upkeep.upgrade(store or read_settings().store)
    start(logs)
    with (
        _vllm(engine, vllm_url, vllm_args, store, model, basis) as address,
        open_service(store, model, basis, device, reward, vllm=address) as service,
    ):
        run.serve(
            service, host, port, policy, lambda opening: print_row(vars(opening), as_json, show_opening, out, opening)
        )


@contextmanager
def _vllm(
    engine: str, url: str | None, arguments: str, store: str | None, model: str | None, basis: Path | None
) -> Iterator[str | None]:
    """The address of vLLM, which is started unless it runs already; None where our own engine writes."""
    if engine == "own":
        if url is not None or arguments:
            raise InputError("found --vllm-url or --vllm-args without --engine vllm; pass it, too, or leave them out")
        yield None
        return
    if url is not None:
        yield url
        return
    from personalign.integrations.vllm import contracts
    from personalign.integrations.vllm.server import Place, running
    from personalign.store import Store

    contracts.installed()
    settings = read_settings()
    place = Place(model or settings.model, store or settings.store, basis or settings.basis)
    Store.open(place.store).close()  # made where there is none: vLLM only opens it
    with running(place, shlex.split(arguments)) as address:
        yield address


def _check_extra() -> None:
    try:
        import fastapi  # noqa: F401 - whether it is there
    except ImportError as error:
        raise MissingExtra("fastapi", "serve") from error


@key.command("create")
def key_create(
    kind: Annotated[Literal["backend", "operator"], typer.Argument(help="what it may do")],
    name: Annotated[str, typer.Argument(help="whose it is, such as shop")],
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make a key, and show it this once: only a hash of it is stored.

    A backend's key acts for all of its users. An operator's key may also look after the server.

    With --json: id, kind, name, created_at, revoked_at and key.
    """
    with open_store(store) as opened:
        made, text = opened.keys.create(kind, name)

    def show() -> None:
        out.print(text, markup=False, highlight=False, soft_wrap=True)
        out.print(f"The {made.kind} key {made.id} ({made.name}) isn't shown again; keep it secret.", markup=False)

    print_row(_key_row(made) | {"key": text}, as_json, show)


@key.command("list")
def key_list(store: StoreUrl = None, as_json: AsJson = False) -> None:
    """List all keys, the oldest first, revoked ones included; none of them is shown.

    With --json: keys, each with id, kind, name, created_at and revoked_at.
    """
    with open_store(store) as opened:
        keys = opened.keys.list()
    print_row({"keys": [_key_row(one) for one in keys]}, as_json, show_keys, out, keys)


@key.command("revoke")
def key_revoke(key_id: KeyId, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Make a key good for nothing, at once and in all servers on this database.

    With --json: id, kind, name, created_at and revoked_at.
    """
    with open_store(store) as opened:
        revoked = opened.keys.revoke(key_id)
    text = f"revoked the {revoked.kind} key {revoked.id} ({revoked.name})"
    print_row(_key_row(revoked), as_json, out.print, text, markup=False)


def _key_row(api_key: ApiKey) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in vars(api_key).items()}
