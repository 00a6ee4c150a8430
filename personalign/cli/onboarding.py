"""What people answer and show: onboard asks in a terminal, feedback takes what showed in use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from personalign.cli.options import AsJson, BasisPath, Model, StoreUrl, User, open_service
from personalign.cli.output import err, out, print_json
from personalign.cli.people import profile_row
from personalign.cli.show import show_answer, show_onboarded, show_profile, show_question
from personalign.errors import QuestionError

if TYPE_CHECKING:
    from personalign.service import Personalign
    from personalign.types import Choice, Question

KEYS: dict[str, Choice] = {"a": "a", "b": "b", "t": "tie", "n": "neither", "s": "skip"}


def onboard(
    user: User,
    consent: Annotated[str | None, typer.Option(help="the text the person agreed to, kept with them")] = None,
    check: Annotated[bool, typer.Option("--check", help="in the end, ask the first question again")] = False,
    store: StoreUrl = None,
    model: Model = None,
    basis: BasisPath = None,
    as_json: AsJson = False,
) -> None:
    """Ask a person which of two replies is better; stop at any time and go on later.

    With --json: the profile; stopped_because; effects, what each answer changed, in words; agreed, whether they
    preferred the same reply when asked again, null where they weren't.
    """
    with open_service(store, model, basis) as p:
        console, effects = err if as_json else out, list[str]()
        has_stopped = _converse(p, user, lambda: p.ask(user, consent), lambda: _number(p, user), console, effects)
        if check and not has_stopped:
            _converse(p, user, lambda: p.reask(user), lambda: "one question again", console, effects)
        found, reason, agreed = p.profile(user), p.why_stopped(user), p.agreed(user)
        if as_json:
            print_json(profile_row(found) | {"stopped_because": reason, "effects": effects, "agreed": agreed})
        else:
            show_onboarded(out, found, reason, agreed)


def _converse(
    p: Personalign,
    user: str,
    ask: Callable[[], Question | None],
    title: Callable[[], str],
    console: Console,
    effects: list[str],
) -> bool:
    """Ask until there is nothing left to ask; tell whether the person stopped before."""
    while question := ask():
        show_question(console, question, title())
        key = _read_key(console)
        if key == "q":
            return True
        _take(p, user, question.id, key, console, effects)
    return False


def _number(p: Personalign, user: str) -> str:
    return f"question {p.drift(user).asked + 1} of at most {p.stop_rule.max_questions}"


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


def _take(p: Personalign, user: str, question_id: str, key: str, console: Console, effects: list[str]) -> None:
    """Give one answer, or take the last one back."""
    if key == "u":
        try:
            p.undo(user)
        except QuestionError as error:
            console.print(str(error), markup=False)
    elif key in KEYS:
        before = p.profile(user)
        effects.append(p.answer(user, question_id, KEYS[key]).changes(before))
        show_answer(console, effects[-1])
    else:
        console.print(f"{key!r} is none of a, b, t, n, s, u, q", markup=False)
