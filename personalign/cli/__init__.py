"""The command line: one function per verb, a thin shell over ``Personalign``; the verbs of one noun share a file.

With ``--json`` stdout carries exactly one line, a JSON object; everything else goes to stderr.
Exit codes: 2 for bad input, 3 for a database whose schema doesn't fit, 1 for what the system refuses.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from typing import NoReturn

import typer

from personalign.cli.database import db, doctor
from personalign.cli.fitting import fit
from personalign.cli.onboarding import demo, feedback, onboard, place, say, trial
from personalign.cli.output import err, prepare_streams
from personalign.cli.people import export, forget, pause, profile, resume
from personalign.cli.replies import chat, choose, shift
from personalign.cli.serving import key, serve
from personalign.cli.training import basis, expert
from personalign.cli.vllm import vllm
from personalign.errors import PersonalignError

app = typer.Typer(
    help="Give every user of a chatbot their own reward function.", no_args_is_help=True, pretty_exceptions_enable=False
)
for verb in (
    demo,
    onboard,
    feedback,
    say,
    chat,
    choose,
    shift,
    profile,
    pause,
    resume,
    forget,
    export,
    serve,
    fit,
    doctor,
):
    app.command()(verb)
app.command()(fit)
app.command("set")(place)
app.add_typer(basis, name="basis")
app.add_typer(expert, name="expert")
app.add_typer(trial, name="trial")
app.add_typer(key, name="key")
app.add_typer(db, name="db")
app.add_typer(vllm, name="vllm")
for group in (app, basis, expert, trial, key, db, vllm):
    for command in group.registered_commands:
        assert command.callback is not None, "a verb is a function"
        paragraphs = inspect.cleandoc(command.callback.__doc__ or "").split("\n\n")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)  # the terminal breaks lines
for entry_point in entry_points(group="personalign.commands"):
    with suppress(ModuleNotFoundError):  # the laboratory, which a wheel leaves out
        app.add_typer(entry_point.load(), name=entry_point.name)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error of ours, or of the system, becomes one line on stderr and its exit code."""
    prepare_streams()
    try:
        app(args=arguments)
    except PersonalignError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:  # above all stdout that can't be written: a full disk
        _close_stdout()
        _fail(f"{error}; the output is not complete", 1)


def _close_stdout() -> None:
    """Close it now: what is still buffered would fail once more when the process ends, with a traceback."""
    with suppress(OSError):
        if sys.stdout is not None:  # as it is where the shell closed it
            sys.stdout.close()


def _fail(message: str, code: int) -> NoReturn:
    err.print(f"personalign: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)
