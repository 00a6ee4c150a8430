"""The command line: one function per verb, a thin shell over ``Personalign``.

With ``--json`` stdout carries exactly one line, a JSON object; everything else goes to stderr.
Exit codes: 2 for bad input, 3 for a database whose schema doesn't fit, 1 for what the system refuses.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from personalign.errors import InputError, PersonalignError, QuestionError
from personalign.service import Personalign
from personalign.settings import Settings
from personalign.show import (
    show_answer,
    show_demo,
    show_onboarded,
    show_people,
    show_profile,
    show_question,
    show_reply,
    show_report,
)
from personalign.types import Choice, Profile

app = typer.Typer(
    help="Give every user of a chatbot their own reward function.", no_args_is_help=True, pretty_exceptions_enable=False
)
db = typer.Typer(help="Look after the database.", no_args_is_help=True)
bench = typer.Typer(help="Measure; the last line is one JSON object.", no_args_is_help=True)
app.add_typer(db, name="db")
app.add_typer(bench, name="bench")

User = Annotated[str, typer.Argument(help="the person's id")]
StoreUrl = Annotated[str | None, typer.Option("--store", help="database URL", show_default="sqlite:///profiles.db")]
Model = Annotated[str | None, typer.Option("--model", help='"tiny", a path or a hub id', show_default="tiny")]
BasisPath = Annotated[Path | None, typer.Option("--basis", help="basis folder", show_default="the bundled one")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda …", show_default="auto")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object on stdout, all else on stderr")]

KEYS: dict[str, Choice] = {"a": "a", "b": "b", "t": "tie", "n": "neither", "s": "skip"}
out, err = Console(), Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error of ours, or of the system, becomes one line on stderr and its exit code."""
    try:
        app(args=arguments)
    except PersonalignError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:  # above all stdout that can't be written: a full disk
        _close_stdout()
        _fail(f"{error}; the output is not complete", 1)


@app.command()
def demo(device: Device = None, as_json: AsJson = False) -> None:
    """Onboard two opposite people and answer the same prompts for each."""
    from personalign.bench.demo import run_demo

    with err.status("starting") as status:
        found = run_demo(device or Settings().device, status.update)
    _print_json(found.to_json()) if as_json else show_demo(out, found)


@app.command()
def onboard(
    user: User,
    consent: Annotated[str | None, typer.Option(help="the text the person agreed to, kept with them")] = None,
    store: StoreUrl = None,
    model: Model = None,
    basis: BasisPath = None,
    as_json: AsJson = False,
) -> None:
    """Ask a person which of two replies is better; stop at any time and go on later."""
    with _open(store, model, basis) as p:
        console = err if as_json else out
        while question := p.ask(user, consent):
            show_question(console, question, p.profile(user).answers + 1, p.stop_rule.max_questions)
            key = _read_key(console)
            if key == "q":
                break
            _take(p, user, question.id, key, console)
        reason = p.why_stopped(user)
        _print_json(_profile_row(p.profile(user)) | {"stopped_because": reason}) if as_json else show_onboarded(
            out, p.profile(user), reason
        )


@app.command()
def chat(
    user: User,
    message: Annotated[str | None, typer.Argument(help="one message; without it, a conversation begins")] = None,
    strength: Annotated[float, typer.Option(help="0 is the model's own reply")] = 1.0,
    expert: Annotated[str | None, typer.Option(help="a domain expert to stack, such as hotels")] = None,
    alpha: Annotated[float | None, typer.Option(help="the expert's weight", show_default="its own")] = None,
    max_tokens: Annotated[int, typer.Option()] = 64,
    temperature: Annotated[float, typer.Option(help="0 is greedy")] = 0.0,
    top_p: Annotated[float, typer.Option()] = 1.0,
    seed: Annotated[int, typer.Option()] = 0,
    store: StoreUrl = None,
    model: Model = None,
    basis: BasisPath = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Answer under a person's reward."""
    options: dict[str, Any] = {
        "strength": strength,
        "expert": expert,
        "alpha": alpha,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
    }
    with _open(store, model, basis, device) as p:
        if message is not None or as_json:
            text = message if message is not None else sys.stdin.read()
            reply = p.chat(user, [{"role": "user", "content": text}], **options)
            _print_json(_reply_row(reply)) if as_json else show_reply(out, reply)
        else:
            _converse(p, user, options)


@app.command()
def profile(
    user: User, store: StoreUrl = None, model: Model = None, basis: BasisPath = None, as_json: AsJson = False
) -> None:
    """Show what is known of a person, in words and as bars."""
    with _open(store, model, basis) as p:
        found = p.profile(user)
        _print_json(_profile_row(found)) if as_json else show_profile(out, found, p.basis.prior)


@app.command()
def forget(
    user: User, store: StoreUrl = None, model: Model = None, basis: BasisPath = None, as_json: AsJson = False
) -> None:
    """Erase everything about a person."""
    with _open(store, model, basis) as p:
        p.forget(user)
    _print_json({"forgotten": user}) if as_json else out.print("forgotten")


@app.command()
def export(
    user: User, store: StoreUrl = None, model: Model = None, basis: BasisPath = None, as_json: AsJson = False
) -> None:
    """Print everything stored about a person as JSON."""
    with _open(store, model, basis) as p:
        found = p.export(user)
    _print_json(found) if as_json else out.print_json(data=found)


@app.command()
def doctor(store: StoreUrl = None, model: Model = None, basis: BasisPath = None, as_json: AsJson = False) -> None:
    """Say what runs here: versions, database, model and basis, and whether they fit together."""
    from personalign.bench.doctor import examine

    report = examine(store or Settings().store, model or Settings().model, basis)
    _print_json(report) if as_json else show_report(out, report)


@db.command("upgrade")
def db_upgrade(store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Bring the database's schema up to date."""
    from personalign.store import schema

    url = store or Settings().store
    schema.upgrade(url)
    revision = schema.current(url)
    _print_json({"revision": revision}) if as_json else out.print(f"schema {revision}")


@bench.command("people")
def bench_people(
    seeds: Annotated[int, typer.Option(help="pairs of simulated people")] = 20,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Onboard simulated people and ask their hidden tastes: agreement, utility, KL."""
    from personalign.bench.people import run_people

    found = run_people(seeds, device or Settings().device)
    _print_json(found) if as_json else show_people(out, found)


def _open(store: str | None, model: str | None, basis: Path | None, device: str | None = None) -> Personalign:
    settings = Settings()
    return Personalign.open(
        store=store or settings.store,
        model=model or settings.model,
        basis=basis,
        device=device or settings.device,
    )


def _read_key(console: Console) -> str:
    """What a person answers; the end of the input means stop."""
    try:
        key = console.input(
            "[bold]a[/], [bold]b[/], [bold]t[/]ie, [bold]n[/]either, [bold]s[/]kip, u = undo, q = stop: "
        )
    except EOFError:
        return "q"
    return key.strip().lower()


def _take(p: Personalign, user: str, question_id: str, key: str, console: Console) -> None:
    """Give one answer, or take the last one back."""
    if key == "u":
        try:
            p.undo(user)
        except QuestionError as error:
            console.print(str(error), markup=False)
    elif key in KEYS:
        show_answer(console, p.answer(user, question_id, KEYS[key]))
    else:
        console.print(f"{key!r} is none of a, b, t, n, s, u, q", markup=False)


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


def _profile_row(profile: Profile) -> dict[str, Any]:
    return {
        "user": profile.user,
        "basis": profile.basis_id,
        "revision": profile.revision,
        "answers": profile.answers,
        "informative": profile.informative,
        "axes": [axis.name for axis in profile.axes],
        "mean": profile.mean.tolist(),
        "sd": [float(profile.covariance[j, j] ** 0.5) for j in range(len(profile.mean))],
        "explain": profile.explain(),
    }


def _reply_row(reply: Any) -> dict[str, Any]:  # noqa: ANN401
    from dataclasses import asdict

    return asdict(reply)


def _print_json(row: dict[str, Any]) -> None:
    typer.echo(json.dumps(row, ensure_ascii=False))  # flushed, so that it fails here or not at all


def _close_stdout() -> None:
    """Close it now: what is still buffered would fail once more when the process ends, with a traceback."""
    with suppress(OSError):
        if sys.stdout is not None:  # as it is where the shell closed it
            sys.stdout.close()


def _fail(message: str, code: int) -> NoReturn:
    err.print(f"personalign: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
