"""What people answer and show: onboard asks in a terminal, feedback takes what showed in use."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from personalign.cli.options import AsJson, BasisPath, Model, StoreUrl, User, open_service
from personalign.cli.output import err, out, print_json
from personalign.cli.people import profile_row
from personalign.errors import QuestionError
from personalign.service import Personalign
from personalign.show import show_answer, show_onboarded, show_profile, show_question
from personalign.types import Choice

KEYS: dict[str, Choice] = {"a": "a", "b": "b", "t": "tie", "n": "neither", "s": "skip"}


def onboard(
    user: User,
    consent: Annotated[str | None, typer.Option(help="the text the person agreed to, kept with them")] = None,
    store: StoreUrl = None,
    model: Model = None,
    basis: BasisPath = None,
    as_json: AsJson = False,
) -> None:
    """Ask a person which of two replies is better; stop at any time and go on later."""
    with open_service(store, model, basis) as p:
        console = err if as_json else out
        while question := p.ask(user, consent):
            show_question(console, question, p.drift(user).asked + 1, p.stop_rule.max_questions)
            key = _read_key(console)
            if key == "q":
                break
            _take(p, user, question.id, key, console)
        reason = p.why_stopped(user)
        print_json(profile_row(p.profile(user)) | {"stopped_because": reason}) if as_json else show_onboarded(
            out, p.profile(user), reason
        )


def feedback(
    user: User,
    message: Annotated[str, typer.Argument(help="the message that was replied to")],
    chosen: Annotated[str, typer.Option(help="the reply the person preferred")],
    rejected: Annotated[str, typer.Option(help="the reply beside it")],
    kind: Annotated[str, typer.Option(help="edit, regenerate or thumbs")],
    store: StoreUrl = None,
    model: Model = None,
    basis: BasisPath = None,
    as_json: AsJson = False,
) -> None:
    """Learn from what a person preferred in use: an edited, regenerated or thumbed reply, as a weak answer."""
    with open_service(store, model, basis) as p:
        found = p.feedback(user, [{"role": "user", "content": message}], chosen, rejected, kind)
        print_json(profile_row(found)) if as_json else show_profile(out, found, p.basis.prior)


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
