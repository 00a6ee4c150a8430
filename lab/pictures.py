"""The pictures of README and docs, drawn from what the bundled model says: ``python -m lab.pictures``."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.table import Table
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

from personalign.cli.show import show_answer, show_question, show_shift
from personalign.service import Personalign
from personalign.shift import by_token
from personalign.types import Message, Question

FOLDER = Path(__file__).parents[1] / "docs" / "img"
WIDTH, NUM_TOKENS = 100, 6
PEOPLE = (("Ada", False), ("Ben", True))  # and whether they like the longer reply
PROMPTS = (
    "I'd like to rent a car please.",
    "Can you find me a place to eat tonight?",
    "I want to listen to some music.",
)
FONTS = re.compile(r"@font-face \{\{.*?\}\}\s*", re.DOTALL)  # rich's are fetched from elsewhere


def draw() -> None:
    """Onboard two people and draw a question, their replies, and the tokens that were moved."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Personalign.open(f"sqlite:///{Path(folder) / 'people.db'}", model="tiny") as p,
    ):
        shown = {name: _onboard(p, name, wants_longer) for name, wants_longer in PEOPLE}
        question, effect = shown["Ada"]
        _draw("onboard", "personalign onboard Ada", lambda console: _question(console, question, effect))
        _draw("people", "the same prompts, answered for each", lambda console: console.print(_replies(p)))
        moved = p.shift("Ben", [_messages(PROMPTS[1])])
        _draw(
            "shift",
            f'personalign shift Ben "{PROMPTS[1]}"',
            lambda console: show_shift(console, by_token(moved)[:NUM_TOKENS], moved),
        )


def _onboard(p: Personalign, user: str, wants_longer: bool) -> tuple[Question, str]:
    """Ask until enough is known; the third question, and what its answer changed."""
    shown: list[tuple[Question, str]] = []
    while question := p.ask(user):
        before = p.profile(user)
        a_is_longer = len(question.a) > len(question.b)
        after = p.answer(user, question.id, "a" if a_is_longer == wants_longer else "b")
        shown.append((question, after.changes(before)))
    return shown[2]


def _question(console: Console, question: Question, effect: str) -> None:
    show_question(console, question, "question 3 of 10 at most")
    console.print(Text("a, b, tie, neither, skip or undo: a"))
    show_answer(console, effect)


def _replies(p: Personalign) -> Table:
    names = ["nobody", *(name for name, _ in PEOPLE)]
    table = Table("prompt", *("the model itself" if name == "nobody" else name for name in names), show_lines=True)
    for prompt in PROMPTS:
        table.add_row(Text(prompt, style="dim"), *(Text(p.chat(name, _messages(prompt)).text) for name in names))
    return table


def _messages(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def _draw(name: str, title: str, show: Callable[[Console], None]) -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    show(console)
    FOLDER.mkdir(parents=True, exist_ok=True)
    text = console.export_svg(title=title, theme=DEFAULT_TERMINAL_THEME, code_format=FONTS.sub("", CONSOLE_SVG_FORMAT))
    (FOLDER / f"{name}.svg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    draw()
