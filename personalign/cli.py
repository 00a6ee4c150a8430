"""The command line: one function per verb, a thin shell over ``Personalign``.

With ``--json`` stdout carries exactly one line, a JSON object; everything else goes to stderr.
Exit codes: 2 for bad input, 3 for a database whose schema doesn't fit, 1 for what the system refuses.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from personalign.errors import InputError, PersonalignError, QuestionError
from personalign.service import Personalign
from personalign.settings import Settings
from personalign.show import (
    show_answer,
    show_decode,
    show_demo,
    show_onboarded,
    show_people,
    show_profile,
    show_quality,
    show_question,
    show_reply,
    show_report,
    show_shift,
)
from personalign.types import Choice, Message, Profile, Reply, Sampling

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
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="pairs of simulated people")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object on stdout, all else on stderr")]

Strength = Annotated[float, typer.Option(help="multiplies the person's reward; 0 turns it off")]
Expert = Annotated[str | None, typer.Option(help="a domain expert to stack, such as hotels")]
Alpha = Annotated[float | None, typer.Option(help="the expert's weight", show_default="its own")]
Reward = Annotated[str | None, typer.Option("--reward", help="a reward model for the rule args: a path or a hub id")]

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
    rule: Annotated[
        str | None, typer.Option(help="successor or args", show_default="args with --reward, otherwise successor")
    ] = None,
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
    seed: Annotated[int, typer.Option(help="of the draw")] = 0,
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
        "rule": rule or ("args" if reward else "successor"),
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
    with _open(store, model, basis, device, reward) as p:
        if message is not None or as_json:
            text = message if message is not None else sys.stdin.read()
            reply = p.chat(user, [{"role": "user", "content": text}], **options)
            _print_json(_reply_row(reply)) if as_json else show_reply(out, reply)
        else:
            _converse(p, user, options)


@app.command()
def shift(
    user: User,
    prompt: Annotated[list[str] | None, typer.Argument(help="one message each")] = None,
    prompts: Annotated[Path | None, typer.Option(help="a file with one message a line")] = None,
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
    texts = [*(prompt or ()), *_lines(prompts)]
    with _open(store, model, basis, device) as p:
        conversations: list[list[Message]] = [[{"role": "user", "content": text}] for text in texts]
        replies = p.shift(user, conversations, Sampling(max_tokens), strength, expert, alpha)
    from personalign.shift import by_token

    tokens = by_token(replies)[:top]
    row = {"user": user, "tokens": list(map(asdict, tokens)), "replies": list(map(asdict, replies))}
    _print_json(row) if as_json else show_shift(out, tokens, replies)


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
    seeds: Seeds = 20,
    first: Annotated[int, typer.Option(min=0, help="the first pair's seed")] = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Onboard simulated people and ask their hidden tastes: agreement, utility, KL."""
    from personalign.bench.people import run_people

    found = run_people(seeds, first, device or Settings().device)
    if as_json:
        _print_json(found)
    else:
        show_people(out, found["rows"])
        show_report(out, found["figures"])


@bench.command("confidence")
def bench_confidence(seeds: Seeds = 20, device: Device = None, as_json: AsJson = False) -> None:
    """Ask whether profiles should act more gently while little is known: ρ against one constant for all."""
    from personalign.bench.confidence import run_confidence

    found = run_confidence(seeds, device or Settings().device)
    _print_json(found) if as_json else show_report(out, found["figures"])


@bench.command("decode")
def bench_decode(
    full: Annotated[bool, typer.Option("--full", help="every ratio of every model at every concurrency")] = False,
    only: Annotated[str, typer.Option(help="only figures whose names begin so", show_default="all")] = "",
    results: Annotated[Path | None, typer.Option("--out", help="a file that is renewed with each figure")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Measure what rewards, experts and many people at once cost in speed; takes about 25 minutes on two cores."""
    from personalign.bench.decode import Plan, run_decode

    found = run_decode(device or Settings().device, Plan(is_full=full), only, results)
    _print_json(found) if as_json else show_decode(out, found)


@bench.command("quality")
def bench_quality(
    prompts: Annotated[int, typer.Option(help="held-out prompts, of 100")] = 100,
    people: Annotated[int, typer.Option(help="simulated people")] = 8,
    data: Annotated[Path | None, typer.Option(help="folder that holds corpora/, for the expert's dialogues")] = None,
    work: Annotated[Path, typer.Option(help="where the reward models are kept")] = Path(".zoo/rewards"),
    only: Annotated[str, typer.Option(help="only figures whose names begin so", show_default="all")] = "",
    results: Annotated[Path | None, typer.Option("--out", help="a file that is renewed with each figure")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Measure what people with known hidden tastes gain, and how far it moves the model; about 25 minutes."""
    from personalign.bench.quality import Plan, run_quality

    plan, settings = Plan(num_people=people, num_prompts=prompts), Settings()
    found = run_quality(plan, device or settings.device, data or settings.data, work, only, results)
    _print_json(found) if as_json else show_quality(out, found)


@bench.command("plot")
def bench_plot(
    result: Annotated[Path, typer.Argument(help="what bench quality --out left")],
    folder: Annotated[Path, typer.Argument(help="where quality.png and alpha.png go")],
    as_json: AsJson = False,
) -> None:
    """Draw a result of bench quality."""
    from personalign.bench.plot import plot

    pictures = [str(path) for path in plot(result, folder)]
    _print_json({"pictures": pictures}) if as_json else out.print(*pictures, sep="\n", markup=False)


def _open(
    store: str | None, model: str | None, basis: Path | None, device: str | None = None, reward: str | None = None
) -> Personalign:
    settings = Settings()
    return Personalign.open(
        store=store or settings.store,
        model=model or settings.model,
        basis=basis,
        reward=reward or settings.reward,
        device=device or settings.device,
    )


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


def _reply_row(reply: Reply) -> dict[str, Any]:
    row = asdict(reply)
    if not reply.logprobs:
        del row["logprobs"]
    return row


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
