"""README and docs: their code runs and prints what they say, and what is made in them is up to date."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, Self

import pytest
from typer.testing import CliRunner

from lab import house, pages
from personalign.cli import app
from personalign.cli.output import Terminal
from personalign.cli.show import show_opening
from personalign.errors import PersonalignError
from personalign.serve.run import Opening

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITHOUT_MODEL = ("cli.md", "measured.md")  # generated; they show commands, and no code
# need the network, or a model or a key of one's own
ELSEWHERE = (
    *("pip install", "export ", "personalign basis", "personalign expert", "personalign vllm"),
    "personalign serve --engine",
)
ADDRESS = "http://127.0.0.1:8000"  # of a server on a page; here it has another port
VARYING = re.compile(r"pa_[\w-]{43}|#[\w.-]{40,}|chatcmpl-\w+|\b[0-9a-f]{16}\b|(?<=\"created\":)\d+|127\.0\.0\.1:\d+")
OWN_MODEL = 'model="M"'  # in code; no page can bring M

# a loaded model's libraries warn of things to come
pytestmark = pytest.mark.filterwarnings("ignore")


class Block(NamedTuple):
    """A fenced block, and what the page says it prints; None where it says nothing."""

    language: str
    code: str
    printed: str | None


def blocks(text: str) -> list[Block]:
    """All blocks of a page; a ``text`` block tells what the one right before it prints."""
    fenced = re.findall(r"^```(\w+)\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", text, re.MULTILINE | re.DOTALL)
    return [Block(language, code, printed or None) for language, code, printed in fenced if language != "text"]


class Machine:
    """What a page's blocks run on: the names of its Python, and the server that it starts."""

    def __init__(self) -> None:
        self._names: dict[str, object] = {}
        self._address, self._servers = ADDRESS, contextlib.ExitStack()

    def run(self, block: Block) -> str:
        """What a block prints."""
        if block.language == "python":
            code = compile(self._here(block.code), "page", "exec")
            if OWN_MODEL in block.code:
                return ""
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(code, self._names)
            return out.getvalue()
        assert block.language == "sh", f"a page holds a block of {block.language}, which nothing runs"
        lines = block.code.replace("\\\n", " ").splitlines()
        return "".join(self._type(line) for line in lines if not line.startswith(ELSEWHERE) and "--model M" not in line)

    def _type(self, line: str) -> str:
        program, *words = shlex.split(self._here(line))
        if program == "curl":
            command = ["bash", "-c", self._here(line)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            return f"{answer}\n" if answer else ""  # as a terminal shows it
        assert program == "personalign"
        if words[0] == "serve":
            return self._serve(words)
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, f"{line}: {result.output}{result.exception}"
        return result.stdout

    def _serve(self, words: list[str]) -> str:
        """Start a server on a port of its own; what it prints has its address, and KEY its first key."""
        command = [sys.executable, "-m", "personalign.cli", *words, "--port", "0", "--json"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._servers.enter_context(server)
        self._servers.callback(server.terminate)
        assert server.stdout is not None
        opening = json.loads(server.stdout.readline())
        self._address, os.environ["KEY"] = opening["url"], opening["key"] or ""
        shown = Terminal(file=io.StringIO())
        show_opening(shown, Opening(**opening))
        return str(shown.file.getvalue())  # type: ignore[attr-defined]

    def _here(self, code: str) -> str:
        return code.replace(ADDRESS, self._address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.close()


def settle(printed: str) -> str:
    """What is printed, without what differs from run to run: keys, ids, times, ports and last digits."""
    return VARYING.sub("…", re.sub(r"(\d\.\d{3})\d{3,}", r"\1", printed))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in DOCS if page.name not in WITHOUT_MODEL], ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks run from top to bottom in an empty folder, and print what stands below them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEY", "")
    with Machine() as machine:
        for block in blocks(page.read_text("utf-8")):
            printed = machine.run(block)
            assert block.printed is None or settle(block.printed) == settle(printed)


def test_a_page_that_says_something_else_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: wrong output, failing code and an unknown verb are noticed."""
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("```python\nprint(1)\n```\n\n```text\n2\n```\n")
    assert block.printed is not None
    with Machine() as machine:
        assert settle(machine.run(block)) == "1\n" != settle(block.printed)
        with pytest.raises(AssertionError, match="No such command"):
            machine.run(Block("sh", "personalign dance\n", None))
        with pytest.raises(PersonalignError):
            machine.run(Block("python", "import personalign.errors\nraise personalign.errors.InputError('x')\n", None))


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.stem)
def test_what_is_made_is_up_to_date(page: Path) -> None:
    """Tables hold what the result files and the code say; a number changed by hand is caught (the control)."""
    text = page.read_text("utf-8")
    assert pages.fill(text) == text, "run: python -m lab.pages"
    assert pages.fill(text.replace("| 0.", "| 7.").replace("| writing", "| riding")) == text


def test_every_word_has_its_name_in_the_code() -> None:
    """The glossary's last column names what is there; a name that isn't there is caught (the control)."""
    names = re.findall(r"\| `([\w.]+)` \|$", (ROOT / "docs" / "words.md").read_text("utf-8"), re.MULTILINE)
    assert len(names) > 20
    assert [name for name in names if not _exists(name)] == []
    assert not _exists("types.Persona")


def _exists(name: str) -> bool:
    """Whether ``package.module.Name.attribute`` can be reached."""
    parts = name.split(".")
    for i in range(len(parts) - 1, 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found: object = import_module(".".join(["personalign", *parts[:i]]))
            for part in parts[i:]:
                found = getattr(found, part, None)
            return found is not None
    return False


def test_every_link_leads_somewhere() -> None:
    """Pages and pictures that a page links to are there."""
    for page in DOCS:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_files_to_read_are_few_and_there() -> None:
    """What a newcomer is asked to read exists and is short."""
    files = house.House().reading()
    assert len(files) >= 5
    assert all((ROOT / path).exists() for path in files)
