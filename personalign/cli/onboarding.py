"""What people answer, show, state and compare: demo, onboard in a terminal, feedback, set, say and trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personalign.bundled import smollm2_obstacle
from personalign.cli.options import AsJson, BasisPath, Device, Model, StoreUrl, User, open_service, read_settings
from personalign.cli.output import err, out, print_row
from personalign.cli.people import profile_row
from personalign.cli.show import (
    show_answer,
    show_demo,
    show_onboarded,
    show_profile,
    show_question,
    show_trial,
    show_understood,
)
from personalign.errors import InputError, QuestionError
from personalign.messages import LETTERS, MAX_REPLIES, PICKS, FeedbackKind

if TYPE_CHECKING:
    from rich.console import Console

    from personalign.service import Personalign
    from personalign.store import Trial
    from personalign.trial import Report
    from personalign.types import Choice, Pick, Question

KEYS: dict[str, Choice] = {"a": "a", "b": "b", "aa": "a++", "bb": "b++", "t": "tie", "n": "neither", "s": "skip"}
SIDES = "[bold]a[/], [bold]b[/]"
GRADES = "[bold]aa[/] = much better, [bold]a[/], [bold]b[/], [bold]bb[/] = much better"
trial = typer.Typer(help="Find out which way to write people like best, by blinded choices.", no_args_is_help=True)
PROMPT = "{}, [bold]t[/]ie, [bold]n[/]either, [bold]s[/]kip, u = undo, q = stop: "
PICK = "the best of [bold]{}[/], and the worst behind it if you like, such as ba; n, s, u, q: "


def demo(
    model: Annotated[
        str | None,
        typer.Option(help='"smollm2" or "tiny", the toy', show_default="smollm2 if it is installed, otherwise tiny"),
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Onboard two opposite people and answer the same prompts for each."""
    from personalign.demo.run import run_demo

    obstacle = smollm2_obstacle() if model is None else None
    if obstacle is not None:
        note = f"the demo runs on the toy model tiny, because {obstacle}"
        err.print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)
    with err.status("starting") as status:
        result = run_demo(model or ("tiny" if obstacle else "smollm2"), device or read_settings().device, status.update)
    print_row(result.to_json(), as_json, show_demo, out, result)


def onboard(
    user: User,
    consent: Annotated[str | None, typer.Option(help="text the person agreed to, stored with them")] = None,
    graded: Annotated[bool, typer.Option("--graded", help="offer “much better”, too: the keys aa and bb")] = False,
    replies: Annotated[
        int,
        typer.Option(min=2, max=MAX_REPLIES, help="replies that may be shown at once; of more than 2, pick the best"),
    ] = MAX_REPLIES,
    check: Annotated[bool, typer.Option("--check", help="ask the first question again at the end")] = False,
    store: StoreUrl = None,
    model: Model = None,
    basis: BasisPath = None,
    as_json: AsJson = False,
) -> None:
    """Ask a person which reply is better; stop at any time and go on later.

    With --json: the profile; stopped_because; effects, what each answer changed, in words; agreed, whether they
    preferred the same reply when asked again, null if they weren't.
    """
    with open_service(store, model, basis, is_asking=True) as p:
        console, effects, prompt = err if as_json else out, list[str](), PROMPT.format(GRADES if graded else SIDES)
        talk = partial(_converse, p, user, console=console, effects=effects, prompt=prompt)
        has_stopped = talk(lambda: p.ask(user, consent, graded=graded, replies=replies), lambda: _number(p, user))
        if check and not has_stopped:
            talk(lambda: p.reask(user), lambda: "one question again")
        profile, reason, agreed = p.profile(user), p.why_stopped(user), p.agreed(user)
        row = profile_row(profile) | {"stopped_because": reason, "effects": effects, "agreed": agreed}
        print_row(row, as_json, show_onboarded, out, profile, reason, agreed)


def _converse(
    p: Personalign,
    user: str,
    ask: Callable[[], Question | None],
    title: Callable[[], str],
    console: Console,
    effects: list[str],
    prompt: str,
) -> bool:
    """Ask until there is nothing left to ask; return whether the person stopped before."""
    while question := ask():
        show_question(console, question, title())
        try:
            key = console.input(_prompt(question, prompt)).strip().lower()
        except EOFError:
            return True
        if key == "q":
            return True
        _take(p, user, question, key, console, effects)
    return False


def _prompt(question: Question, of_pairs: str) -> str:
    letters = LETTERS[: len(question.replies)]
    return PICK.format(", ".join(letters)) if question.others else of_pairs


def _keys(question: Question) -> Mapping[str, Choice | Pick]:
    """What may be typed, and what it says; of several replies the letters of the best and the worst."""
    if not question.others:
        return KEYS
    letters = {*LETTERS[: len(question.replies)], ">"}
    picks: tuple[Choice | Pick, ...] = ("a", "b", *PICKS)
    keys: dict[str, Choice | Pick] = {pick.replace(">", ""): pick for pick in picks if {*pick} <= letters}
    return keys | {"n": "neither", "s": "skip"}


def _number(p: Personalign, user: str) -> str:
    return f"question {p.drift(user).asked + 1} of at most {p.stop_rule.max_questions}"


def _take(p: Personalign, user: str, question: Question, key: str, console: Console, effects: list[str]) -> None:
    """Give one answer, or take the last one back."""
    keys = _keys(question)
    if key == "u":
        try:
            p.undo(user)
        except QuestionError as error:
            console.print(str(error), markup=False)
    elif key in keys:
        before = p.profile(user)
        effects.append(p.answer(user, question.id, keys[key]).changes(before))
        show_answer(console, effects[-1])
    else:
        console.print(f"found {key!r}, expected one of {', '.join(keys)}, u, q", markup=False)


def feedback(
    user: User,
    message: Annotated[str, typer.Argument(help="message that was replied to")],
    chosen: Annotated[str, typer.Option(help="reply the person preferred")],
    rejected: Annotated[str, typer.Option(help="reply they were shown beside it")],
    kind: Annotated[FeedbackKind, typer.Option(help="what showed the preference")],
    store: StoreUrl = None,
    model: Model = None,
    basis: BasisPath = None,
    as_json: AsJson = False,
) -> None:
    """Learn from what a person preferred in use: an edited, regenerated or thumbed reply, as a weak answer."""
    with open_service(store, model, basis, is_asking=True) as p:
        profile = p.feedback(user, [{"role": "user", "content": message}], chosen, rejected, kind)
        print_row(profile_row(profile), as_json, show_profile, out, profile, p.basis.prior)


def place(
    user: User,
    positions: Annotated[
        list[str],
        typer.Argument(help="axes with positions from -1 to 1, such as length=-1 or emoji=0; none takes back"),
    ],
    store: StoreUrl = None,
    model: Model = None,
    basis: BasisPath = None,
    as_json: AsJson = False,
) -> None:
    """Place a person on named axes: at 1 they want as much as those who want it most, at 0 they don't mind.

    It is their own strong evidence, beside what their answers say. length=none takes back what was stated on an axis.

    With --json: the profile, with stated (axis, kind, position and words of each).
    """
    with open_service(store, model, basis, is_asking=True) as p:
        profile = p.set(user, **dict(map(_position, positions)))
        print_row(profile_row(profile), as_json, show_profile, out, profile, p.basis.prior)


def say(
    user: User,
    wish: Annotated[str, typer.Argument(help="wish about replies, in everyday English")],
    store: StoreUrl = None,
    model: Model = None,
    basis: BasisPath = None,
    as_json: AsJson = False,
) -> None:
    """Take a wish such as "shorter please, and stop the bullet points", as weak evidence of a person's taste.

    What isn't surely about replies says nothing. The verb set takes a wish back, by axis=none.

    With --json: user, revision, wishes (axis, kind, position and words of each) and remainder, what wasn't understood.
    """
    with open_service(store, model, basis, is_asking=True) as p:
        understood, profile = p.say(user, wish), p.profile(user)
        wishes = [vars(statement) for statement in understood.wishes]
        row = {"user": user, "revision": profile.revision, "wishes": wishes, "remainder": understood.remainder}
        print_row(row, as_json, show_understood, out, understood, profile)


def _position(text: str) -> tuple[str, float | None]:
    name, _, number = text.partition("=")
    try:
        return name, None if number == "none" else float(number)
    except ValueError:
        raise InputError(
            f"found {text!a}, expected an axis with a number from -1 to 1, or with none; pass for example length=-1"
        ) from None


@trial.command("start")
def trial_start(
    arms: Annotated[str, typer.Option(help="ways to write, between commas: plain, population, personal, words")],
    store: StoreUrl = None,
    model: Model = None,
    basis: BasisPath = None,
    as_json: AsJson = False,
) -> None:
    """Start a trial: "plain" without guidance, by everybody's mean taste, by the profile, or with it in words.

    While it runs, its arms can't be changed. Starting one with the same arms again goes on with it.

    With --json: arms, started_at and stopped_at.
    """
    with open_service(store, model, basis, is_asking=True) as p:
        started = p.trials.start([arm.strip() for arm in arms.split(",")])
        print_row(_trial_row(started), as_json, out.print, f"a trial of {', '.join(started.arms)} is running")


@trial.command("stop")
def trial_stop(store: StoreUrl = None, model: Model = None, basis: BasisPath = None, as_json: AsJson = False) -> None:
    """Stop the trial; its report stays.

    With --json: arms, started_at and stopped_at.
    """
    with open_service(store, model, basis, create=False, is_asking=True) as p:
        stopped = p.trials.stop()
        print_row(_trial_row(stopped), as_json, out.print, f"the trial of {', '.join(stopped.arms)} is stopped")


@trial.command("report")
def trial_report(store: StoreUrl = None, model: Model = None, basis: BasisPath = None, as_json: AsJson = False) -> None:
    """Show each arm's share of wins, and say whether enough is known; looking often does no harm.

    With --json: started_at, stopped_at; arms, each with share and even (the share if all replies were equally long),
    choices and failures; pairs, each with the interval of the difference of two shares, is_known and verdict; is_known;
    people, waiting (pairs that weren't chosen from) and erased (people).
    """
    with open_service(store, model, basis, create=False, is_asking=True) as p:
        report = p.trials.report()
        print_row(_report_row(report), as_json, show_trial, out, report)


@trial.command("ask")
def trial_ask(
    user: User,
    message: Annotated[str, typer.Argument(help="message to answer")],
    store: StoreUrl = None,
    model: Model = None,
    basis: BasisPath = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Let two arms of the trial answer a message, and ask the person which reply is better.

    With --json: the profile, and effects, what the choice changed, in words.
    """
    with open_service(store, model, basis, device, is_asking=True) as p:
        console, effects = err if as_json else out, list[str]()
        question = p.trial(user, [{"role": "user", "content": message}])
        prompt, title = PROMPT.format(SIDES), "which reply is better?"
        _converse(p, user, lambda: None if effects else question, lambda: title, console, effects, prompt)
        profile = p.profile(user)
        print_row(profile_row(profile) | {"effects": effects}, as_json, out.print, profile.explain(), markup=False)


def _trial_row(trial: Trial) -> dict[str, Any]:
    return {"arms": trial.arms} | _times(trial)


def _report_row(report: Report) -> dict[str, Any]:
    pairs = [asdict(pair) | {"is_known": pair.is_known, "verdict": pair.explain()} for pair in report.pairs]
    return asdict(report) | {"pairs": pairs, "is_known": report.is_known} | _times(report)


def _times(lasting: Trial | Report) -> dict[str, str | None]:
    stopped = lasting.stopped_at
    return {
        "started_at": lasting.started_at.isoformat(),
        "stopped_at": None if stopped is None else stopped.isoformat(),
    }
