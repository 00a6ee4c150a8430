"""The command line on the bundled model: one JSON line on stdout, exit codes, and nothing changed by bad input."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import typer

from personalign.bundled import TINY
from personalign.cli import app
from personalign.cli.output import Terminal, print_json
from personalign.cli.show import show_question
from personalign.store import Store, schema
from personalign.store.sqlite.database import sqlite_driver
from personalign.types import Question
from tests.commands import Ran, run_verb

# a loaded model's libraries warn of things to come; what reaches stdout is what is tested here
pytestmark = pytest.mark.filterwarnings("ignore")

QUALITY = Path(__file__).parents[1] / "lab" / "results" / "quality.json"
HELLO = "I'd like to rent a car please."
SCHEMA = (
    '{"type": "object", "properties": {"n": {"type": "boolean"}}, "required": ["n"], "additionalProperties": false}'
)

Run = Callable[..., Ran]
Onboarded = Callable[..., None]


class Keys(io.StringIO):
    """Lines typed one by one; where they end, the input ends, or the person presses Ctrl-C."""

    def __init__(self, lines: Iterable[str], at_end: type[BaseException] | None = None) -> None:
        super().__init__("".join(f"{line}\n" for line in lines))
        self._at_end = at_end

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
        line = super().readline(size)
        if not line and self._at_end:
            raise self._at_end
        return line


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a verb in this process on ``tmp_path/p.db``, with lines on stdin."""

    def invoke(*words: str, keys: Iterable[str] = (), at_end: type[BaseException] | None = None) -> Ran:
        monkeypatch.setenv("PERSONALIGN_STORE", f"sqlite:///{tmp_path / 'p.db'}")
        monkeypatch.setattr(sys, "stdin", Keys(keys, at_end))
        return run_verb(capfd, *words)

    return invoke


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Path]:
    """Stores in which ada has answered, by her keys."""
    return {}


@pytest.fixture
def onboarded(
    run: Run, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, stores: dict[tuple[str, ...], Path]
) -> Onboarded:
    """Have ada answer; the same keys a second time take the first store's copy."""

    def answer(keys: list[str], *words: str) -> None:
        if (saved := stores.get((*words, *keys))) is not None:
            shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
            return
        assert run("onboard", "ada", *words, keys=keys).code == 0
        stores[*words, *keys] = tmp_path_factory.mktemp("onboarded") / "store"
        shutil.copytree(tmp_path, stores[*words, *keys])

    return answer


def start(folder: Path, *words: str, text: str = "", **environment: str) -> Ran:
    """Run a verb in a process of its own, in the folder."""
    command = [sys.executable, "-m", "personalign.cli", *words]
    done = subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | environment,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def verbs(group: Any, prefix: str = "") -> set[str]:
    """Every verb that takes --json, with the name of its group before it."""
    found = set()
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= verbs(command, f"{prefix}{name} ")
        elif any("--json" in parameter.opts for parameter in command.params):
            found.add(prefix + name)
    return found


def files(folder: Path) -> dict[str, bytes]:
    """Every file with its bytes, but for the number in the lock that writers take turns by."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): b"" if path.suffix == ".lock" else path.read_bytes() for path in paths}


def choices(run: Run) -> list[str]:
    """What ada has answered so far."""
    return [answer["choice"] for answer in run("export", "ada", "--json").row()["tables"]["answers"]]


# One line of JSON

JSON = {
    "onboard": (
        ("onboard", "ada"),
        {"answers", "mean", "sd", "explain", "stopped_because", "effects", "agreed"},
    ),
    "feedback": (
        ("feedback", "ada", HELLO, "--chosen", "Sure, where to?", "--rejected", "No.", "--kind", "edit"),
        {"user", "revision", "answers", "informative", "mean", "explain"},
    ),
    "set": (("set", "ada", "length=-1", "names=0"), {"user", "revision", "mean", "stated", "explain"}),
    "say": (("say", "ada", "Shorter, please. And stop the rain."), {"user", "revision", "wishes", "remainder"}),
    "chat": (("chat", "ada", HELLO), {"text", "guided", "reason", "revision", "kl", "changed", "gained", "usage"}),
    "choose": (
        ("choose", "ada", HELLO, "Where to?", "I can rent you a car, a van or a bike."),
        {"user", "best", "order", "surety", "reason", "revision", "candidates"},
    ),
    "shift": (("shift", "ada", HELLO, "--max-tokens", "8"), {"user", "tokens", "replies"}),
    "profile": (("profile", "ada"), {"user", "known", "revision", "answers", "axes", "mean", "sd", "explain", "drift"}),
    "pause": (("pause", "ada"), {"user", "known", "paused"}),
    "resume": (("resume", "ada"), {"user", "known", "paused"}),
    "forget": (("forget", "ada"), {"forgotten", "known"}),
    "export": (("export", "ada"), {"user", "known", "tables"}),
    "doctor": (("doctor",), {"versions", "store", "basis", "model"}),
    "trial start": (("trial", "start", "--arms", "plain,words"), {"arms", "started_at", "stopped_at"}),
    "key create": (("key", "create", "backend", "shop"), {"id", "kind", "name", "created_at", "revoked_at", "key"}),
    "key list": (("key", "list"), {"keys"}),
    "db upgrade": (("db", "upgrade"), {"revision"}),
    "db refit": (("db", "refit"), {"basis", "people", "answers", "behind"}),
}
BENCHMARK = {"command", "machine", "versions", "figures", "rows"}  # what every benchmark's line holds
JSON_ALONE = {  # verbs that make a database of their own, and remove it
    "demo": (("demo", "--model", "tiny"), {"users", "replies", "tokens_per_s", "ms_to_first_steered_token", "seconds"}),
    "bench people": (("bench", "people", "--seeds", "1"), BENCHMARK),
    "bench decode": (("bench", "decode", "--only", "head_write_us"), BENCHMARK),
    "bench quality": (
        ("bench", "quality", "--only", "gain.sampled.best_of", "--prompts", "2", "--people", "1"),
        BENCHMARK | {"skipped"},
    ),
    "bench learn": (("bench", "learn", "--only", "acquire_ms"), BENCHMARK | {"skipped"}),
    "bench plot": (("bench", "plot", str(QUALITY), "."), {"pictures"}),
}
LONG = ("demo", "bench people", "bench decode", "bench quality", "bench learn")  # some ten seconds each and more
# below, in test_cli_training.py, or in the tests of store, serve, scale, integrations/vllm and lab
ELSEWHERE = {
    "bench serve",
    "basis bootstrap",
    "basis fit",
    "expert train",
    "serve",
    "trial ask",
    "trial report",
    "trial stop",
    "key revoke",
    "db backup",
    "db restore",
    "bench knowledge",
    "bench stick",
    "bench scale",
    "bench vllm",
    "db copy",
    "fit",
    "vllm check",
}


def test_every_verb_is_tested() -> None:
    """A verb that is added to the command line is missed here."""
    assert set(JSON | JSON_ALONE) | ELSEWHERE == verbs(typer.main.get_command(app))


@pytest.mark.parametrize("verb", JSON)
def test_json_is_one_line(run: Run, verb: str, onboarded: Onboarded) -> None:
    """With --json stdout is one line, a JSON object with the promised fields; without it, it isn't (the control)."""
    words, fields = JSON[verb]
    onboarded(["a", "b"])
    assert fields <= set(run(*words, "--json", keys=["a"]).row())
    plain = run(*words, keys=["a"])
    assert plain.code == 0
    with pytest.raises((AssertionError, json.JSONDecodeError)):
        plain.row()


@pytest.mark.parametrize(
    "verb", [pytest.param(verb, marks=[pytest.mark.slow] if verb in LONG else []) for verb in JSON_ALONE]
)
def test_json_is_one_line_of_a_process(tmp_path: Path, verb: str) -> None:
    """Nothing else reaches stdout from a process of its own, and nothing is left in its folder but what it names."""
    words, fields = JSON_ALONE[verb]
    row = start(tmp_path, *words, "--json").row()
    assert fields <= set(row)
    assert set(files(tmp_path)) == {str(tmp_path / picture) for picture in row.get("pictures", ())}


def test_a_trial_from_its_start_to_its_report(run: Run) -> None:
    """Refused before it runs; then a pair is asked until a choice is made, which the report counts."""
    assert [run("trial", *words).code for words in (("report",), ("stop",), ("ask", "ada", HELLO))] == [2, 2, 2]
    assert run("trial", "start", "--arms", "plain, magic").code == 2
    assert run("trial", "start", "--arms", "plain, words", "--json").row()["arms"] == ["plain", "words"]
    asked = run("trial", "ask", "ada", HELLO, "--json", keys=["x", "a"])
    assert "words" not in asked.err.replace("which reply is better", "")
    assert (asked.row()["answers"], len(asked.row()["effects"])) == (1, 1)
    assert run("trial", "ask", "ben", HELLO, keys=["q"]).code == 0
    row = run("trial", "report", "--json").row()
    assert (row["people"], row["waiting"], row["erased"], row["is_known"]) == (1, 1, 0, False)
    assert [set(arm) for arm in row["arms"]] == [{"arm", "share", "even", "choices", "failures"}] * 2
    assert row["pairs"][0]["verdict"] in " ".join(run("trial", "report").out.split())
    assert run("trial", "stop", "--json").row()["stopped_at"] is not None
    assert run("trial", "ask", "ada", HELLO).code == 2


def test_a_key_is_shown_when_it_is_made_and_never_again(run: Run, tmp_path: Path, onboarded: Onboarded) -> None:
    """With its text and without --json too; then it is listed by its id, revoked by it, and marked as revoked."""
    onboarded(["a"])
    made = run("key", "create", "operator", "[b]me", "--json").row()
    assert made["key"].startswith("pa_")
    assert "[b]me" in run("key", "list").out
    listed = run("key", "list", "--json")
    assert made["key"] not in listed.out
    assert [row["id"] for row in listed.row()["keys"]] == [made["id"]]
    with Store.open(f"sqlite:///{tmp_path / 'p.db'}") as store:
        assert store.keys.find(made["key"]) is not None  # the control
    assert run("key", "revoke", made["id"], "--json").row()["revoked_at"]
    with Store.open(f"sqlite:///{tmp_path / 'p.db'}") as store:
        assert store.keys.find(made["key"]) is None
    assert run("key", "revoke", "nothing").code == 2


def test_a_person_is_paused_and_resumes(run: Run, onboarded: Onboarded) -> None:
    """The profile says so until then; a mistyped id is named."""
    onboarded(["a"])
    assert run("pause", "ada", "--json").row() == {"user": "ada", "known": True, "paused": True}
    assert run("chat", "ada", HELLO, "--json").row()["reason"] == "paused"
    assert run("profile", "ada", "--json").row()["paused"] is True
    assert run("resume", "ada", "--json").row()["paused"] is False
    assert run("chat", "ada", HELLO, "--json").row()["guided"]
    assert "no one called 'adda' is known" in run("resume", "adda").err


def test_a_backup_is_one_line_and_so_is_its_way_back(run: Run, tmp_path: Path, onboarded: Onboarded) -> None:
    """Each verb says on one line what it wrote; what came after the backup is gone once it is back."""
    onboarded(["a"])
    copy = tmp_path / "copy.db"
    assert run("db", "backup", str(copy), "--json").row() == {"path": str(copy), "bytes": copy.stat().st_size}
    run("onboard", "ben", keys=["a"])
    assert run("db", "restore", str(copy), "--json").row() == {"restored": str(copy)}
    assert [run("profile", user, "--json").row()["known"] for user in ("ada", "ben")] == [True, False]


def test_a_message_may_come_from_stdin(tmp_path: Path) -> None:
    """With --json and no message, all of stdin is the message; the database lies where the environment says."""
    found = start(tmp_path, "chat", "ada", "--json", text=HELLO, PERSONALIGN_STORE=f"sqlite:///{tmp_path / 'p.db'}")
    assert found.row()["reason"] == "no_answers"
    assert (tmp_path / "p.db").exists()


def test_what_the_operator_decides_stands_in_the_environment(
    run: Run, monkeypatch: pytest.MonkeyPatch, onboarded: Onboarded
) -> None:
    """Shadow and pins hold for every verb; without them the reply is guided (the control)."""
    onboarded(["a"] * 10)
    assert run("chat", "ada", HELLO, "--json").row()["guided"]
    monkeypatch.setenv("PERSONALIGN_SHADOW", "true")
    assert run("chat", "ada", HELLO, "--json").row()["reason"] == "shadow"
    monkeypatch.setenv("PERSONALIGN_PINNED", '{"length": 0}')
    assert "pinned to 0" in run("profile", "ada").out
    monkeypatch.setenv("PERSONALIGN_PINNED", '{"nonsense": 0}')
    assert "pinned axis 'nonsense'" in run("profile", "ada").err


# Bad input

REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown model": (("profile", "ada", "--model", "some/model"), "basis bootstrap"),
    "model that isn't there": (
        ("chat", "ada", HELLO, "--model", "/no/such/model", "--basis", str(TINY / "basis")),
        "no model '/no/such/model'",
    ),
    "basis of another model": (
        ("chat", "ada", HELLO, "--model", str(TINY / "small"), "--basis", str(TINY / "basis")),
        "the basis was made for",
    ),
    "folder without a basis": (("profile", "ada", "--basis", str(TINY)), "expected a basis directory"),
    "empty message": (("chat", "ada", ""), "blank"),
    "blank message": (("chat", "ada", " \n\t"), "blank"),
    "huge message": (("chat", "ada", "hello " * 20_000), "shorten it"),
    "half a character": (("chat", "ada", "hi \udcff"), "half a surrogate pair"),
    "unknown expert": (("chat", "ada", HELLO, "--expert", "magic"), "no expert 'magic'"),
    "unknown device": (("chat", "ada", HELLO, "--device", "abacus"), "device 'abacus'"),
    "no strength": (("chat", "ada", HELLO, "--strength", "nan"), "strength is nan"),
    "a stranger's strength": (("chat", "stranger", HELLO, "--strength", "-1"), "strength is -1"),
    "no alpha": (("chat", "ada", HELLO, "--expert", "hotels", "--alpha", "-1"), "alpha is -1"),
    "no temperature": (("chat", "ada", HELLO, "--temperature", "-1"), "temperature is -1"),
    "no top-p": (("chat", "ada", HELLO, "--top-p", "0"), "top_p is 0"),
    "no tokens": (("chat", "ada", HELLO, "--max-tokens", "0"), "max_tokens is 0"),
    "unknown rule": (("chat", "ada", HELLO, "--rule", "magic"), "Invalid value for '--rule'"),
    "no reward model": (("chat", "ada", HELLO, "--rule", "args"), "open with reward=PATH"),
    "greedy siblings": (("chat", "ada", HELLO, "--rule", "blocks"), "temperature is 0"),
    "many siblings": (("chat", "ada", HELLO, "--num-siblings", "17"), "num_siblings is 17"),
    "no block": (("chat", "ada", HELLO, "--block-tokens", "0"), "block_tokens is 0"),
    "blank candidate": (("choose", "ada", HELLO, "fine", " "), "candidate 1 is blank"),
    "nothing to choose from": (("choose", "ada", HELLO), "Missing argument"),
    "no such reward model": (("chat", "ada", HELLO, "--reward", "/no/such/model"), "no model '/no/such/model'"),
    "no schema": (("chat", "ada", HELLO, "--schema", "{'type'"), "schema"),
    "impossible schema": (("chat", "ada", HELLO, "--schema", '{"type": "string", "maxLength": -1}'), "schema"),
    "schema that nothing meets": (("chat", "ada", HELLO, "--schema", '{"enum": []}'), "schema"),
    "no schema file": (("chat", "ada", HELLO, "--schema", "/no/such/file"), "expected a text file"),
    "no regex": (("chat", "ada", HELLO, "--regex", "("), "regex"),
    "schema and regex": (("chat", "ada", HELLO, "--schema", "{}", "--regex", "a"), "expected one of them"),
    "huge alpha": (("chat", "ada", HELLO, "--expert", "hotels", "--alpha", "1e9"), "alpha is 1000000000"),
    "huge strength": (("chat", "ada", HELLO, "--strength", "101"), "expected a number from 0 to 100"),
    "empty stop": (("chat", "ada", HELLO, "--stop", ""), "stop holds a string of 0 characters"),
    "no repetition penalty": (("chat", "ada", HELLO, "--repetition-penalty", "0"), "repetition_penalty is 0"),
    "negative top-k": (("chat", "ada", HELLO, "--top-k", "-1"), "top_k is -1"),
    "many logprobs": (("chat", "ada", HELLO, "--logprobs", "1000"), "logprobs is 1000"),
    "no reward model to shift by": (("shift", "ada", HELLO, "--rule", "args"), "open with reward=PATH"),
    "no such reward model to shift by": (("shift", "ada", HELLO, "--reward", "/no/such"), "no model '/no/such'"),
    "nothing to shift": (("shift", "stranger", HELLO), "nothing moves the replies (no_answers)"),
    "nothing to answer": (("shift", "ada"), "there is no prompt"),
    "no file of prompts": (("shift", "ada", "--prompts", "/no/such/file"), "expected a text file"),
    "no tokens to list": (("shift", "ada", HELLO, "--top", "0"), "Invalid value"),
    "blank wish": (("say", "ada", " "), "the wish is blank"),
    "huge wish": (("say", "ada", "shorter please " * 10_000), "shorten it"),
    "unknown axis": (("set", "ada", "lenght=-1"), "did you mean length?"),
    "no position": (("set", "ada", "length=short"), "expected an axis with a number"),
    "no axis": (("set", "ada", "-1"), "No such option"),
    "position out of range": (("set", "ada", "length=2"), "expected a number from -1 to 1"),
    "position that is no number": (("set", "ada", "length=nan"), "expected a number from -1 to 1"),
    "unknown kind of feedback": (
        ("feedback", "ada", HELLO, "--chosen", "Yes.", "--rejected", "No.", "--kind", "applause"),
        "Invalid value for '--kind'",
    ),
    "feedback that says nothing": (
        ("feedback", "ada", HELLO, "--chosen", "Yes.", "--rejected", "Yes.", "--kind", "edit"),
        "two texts that differ",
    ),
    "blank feedback": (
        ("feedback", "ada", HELLO, "--chosen", " ", "--rejected", "No.", "--kind", "edit"),
        "the chosen reply is blank",
    ),
    "half a character as feedback": (
        ("feedback", "ada", HELLO, "--chosen", "\udcff", "--rejected", "No.", "--kind", "edit"),
        "half a surrogate pair",
    ),
    "empty user": (("onboard", ""), "as a person's id"),
    "long user": (("onboard", "a" * 200), "expected 1 to 128 printable characters"),
    "user with a bell": (("onboard", "ada\a"), "expected 1 to 128 printable characters"),
    "half a character as consent": (("onboard", "new", "--consent", "\udcff"), "half a surrogate pair"),
    "other database": (("profile", "ada", "--store", "postgresql://host/db"), "such as sqlite:///profiles.db"),
    "no URL": (("profile", "ada", "--store", "profiles.db"), "such as sqlite:///profiles.db"),
    "nothing to look at": (("doctor", "--store", "sqlite:////no/such/folder/p.db"), "there is no store at"),
    "unknown option": (("profile", "ada", "--magic"), "No such option"),
    "unknown verb": (("dance",), "No such command"),
    "no user": (("profile",), "Missing argument"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_exits_with_2(run: Run, tmp_path: Path, case: str, onboarded: Onboarded) -> None:
    """What was wrong is said on stderr, stdout is empty, and no byte of the database changes."""
    words, said = REFUSED[case]
    onboarded(["a", "b", "a"])
    before = files(tmp_path)
    refused = run(*words, "--json")
    assert refused.code == 2, refused
    assert refused.out == ""
    assert said in refused.err
    assert "Traceback" not in refused.err
    assert files(tmp_path) == before


def test_a_change_would_be_seen(run: Run, tmp_path: Path, onboarded: Onboarded) -> None:
    """The control of the test above: one more answer changes the database's bytes, looking at the profile doesn't."""
    onboarded(["a"])
    before = files(tmp_path)
    assert run("profile", "ada").code == 0
    assert files(tmp_path) == before
    run("onboard", "ada", keys=["a"])
    assert files(tmp_path) != before


def test_bad_input_makes_no_database(run: Run, tmp_path: Path) -> None:
    """A model without a basis is refused before anything is made."""
    assert run("onboard", "ada", "--model", "some/model").code == 2
    assert not files(tmp_path)


def _write_text(path: Path) -> None:
    path.write_text("dear diary, " * 1000)


def _write_foreign(path: Path) -> None:
    connection = sqlite_driver().connect(str(path))
    connection.execute("CREATE TABLE notes (text)")
    connection.commit()
    connection.close()


@pytest.mark.parametrize("verb", ["onboard", "chat", "profile", "forget", "export", "doctor", "db upgrade"])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_write_text, "isn't a SQLite file"),
        (_write_foreign, "belongs to another program"),
        (Path.mkdir, "there is no store at"),
    ],
    ids=["text", "foreign", "folder"],
)
def test_what_is_no_store_is_left_as_it_was(
    run: Run, tmp_path: Path, make: Callable[[Path], None], said: str, verb: str
) -> None:
    """A text file, another program's database and a folder are refused by every verb, byte for byte as before."""
    make(tmp_path / "p.db")
    before = files(tmp_path)
    refused = run(*JSON[verb][0], "--json", keys=["a"])
    assert (refused.code, refused.out) == (2, "")
    assert said in refused.err
    assert files(tmp_path) == before


def test_a_store_that_cannot_be_written_is_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a question is shown, not at the first answer."""
    run("onboard", "ada", keys=["a"])
    before = files(tmp_path)
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write whatever the mode says
    refused = run("onboard", "ada", keys=["a"])
    assert (refused.code, refused.out) == (2, "")
    assert "check their permissions" in refused.err
    assert files(tmp_path) == before


def test_a_half_life_comes_from_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sound one is taken by every verb, another one is refused."""
    monkeypatch.setenv("PERSONALIGN_HALF_LIFE_DAYS", "30")
    assert run("onboard", "ada", "--json", keys=["a"]).row()["answers"] == 1
    monkeypatch.setenv("PERSONALIGN_HALF_LIFE_DAYS", "-1")
    refused = run("onboard", "ada", "--json", keys=["a"])
    assert (refused.code, refused.out) == (2, "")
    assert "half_life_days is -1.0" in refused.err


# Output that fails

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full, the device that is always full")


@needs_full
@pytest.mark.parametrize("words", [("--help",), *(words for words, _ in JSON.values())], ids=" ".join)
def test_a_full_disk_under_stdout_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], onboarded: Onboarded
) -> None:
    """With --json and without: one line on stderr, exit code 1, and the store is as good as before."""
    onboarded(["a", "b"])
    for option in [(), ("--json",)] if words != ("--help",) else [()]:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", FULL.open("w", encoding="utf-8"))
            failed = run(*words, *option, keys=["a"])
        assert (failed.code, failed.out) == (1, "")
        assert "No space left on device" in failed.err
        assert "Traceback" not in failed.err
    assert run("export", "ada", "--json").code == 0


def _full() -> int:
    return os.open(FULL, os.O_WRONLY)


def _unread() -> int:
    """A pipe whose reader has gone."""
    read, write = os.pipe()
    os.close(read)
    return write


@needs_full
@pytest.mark.parametrize(("make", "num_lines"), [(_full, 1), (_unread, 0)], ids=["full", "unread"])
def test_failing_output_ends_a_process_in_order(tmp_path: Path, make: Callable[[], int], num_lines: int) -> None:
    """Nothing is left to fail once more at the end, which would be code 120; a pipe that nobody reads is no news."""
    Store.open(f"sqlite:///{tmp_path / 'profiles.db'}").close()
    ended = subprocess.run(
        [sys.executable, "-m", "personalign.cli", "profile", "ada", "--json"],
        stdout=(stdout := make()),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )
    os.close(stdout)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == num_lines, ended.stderr


# Schema

STORED = ["onboard", "chat", "profile", "forget", "export"]


@pytest.mark.parametrize("verb", STORED)
def test_an_older_schema_exits_with_3(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, onboarded: Onboarded
) -> None:
    """The command to run is named, and nothing is changed on its own."""
    onboarded(["a"])
    before = files(tmp_path)
    monkeypatch.setattr(schema, "HEAD", "next")
    refused = run(*JSON[verb][0], "--json", keys=["a"])
    assert (refused.code, refused.out) == (3, "")
    assert "run: personalign db upgrade" in refused.err
    assert files(tmp_path) == before


@pytest.mark.parametrize("verb", [*STORED, "db upgrade"])
def test_a_newer_schema_exits_with_3(run: Run, tmp_path: Path, verb: str, onboarded: Onboarded) -> None:
    """A database that a later release wrote is left alone, by the upgrade too."""
    onboarded(["a"])
    connection = sqlite_driver().connect(str(tmp_path / "p.db"))
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    before = files(tmp_path)
    refused = run(*JSON[verb][0], "--json", keys=["a"])
    assert (refused.code, refused.out) == (3, "")
    assert "newer than this code" in refused.err
    assert files(tmp_path) == before


# Onboarding


def test_the_keys_are_the_five_choices(run: Run) -> None:
    """Each key is its choice, in either case; a neither and a skip are kept and tell nothing."""
    row = run("onboard", "ada", "--json", keys=["a", "B", " t ", "n", "S", "q"]).row()
    assert (row["answers"], row["informative"], row["stopped_because"]) == (5, 3, None)
    assert choices(run) == ["a", "b", "tie", "neither", "skip"]


def test_graded_keys_say_much_better(run: Run) -> None:
    """With --graded a is a little better beside aa; without it, it is better, and aa is much better all the same."""
    run("onboard", "ada", "--graded", keys=["a", "AA", "bb", "t", "aaa", "q"])
    assert choices(run) == ["a+", "a++", "b++", "tie"]
    offered = run("onboard", "ada", "--graded", keys=["a"])
    assert "aa = much better" in offered.out
    assert "much better" not in run("onboard", "ada", keys=["b", "bb"]).out
    assert choices(run) == ["a+", "a++", "b++", "tie", "a+", "b", "b++"]


@pytest.mark.parametrize("end", ["q", "end of input", "Ctrl-C"])
def test_onboarding_goes_on_where_it_stopped(run: Run, end: str) -> None:
    """Three answers are kept however it ends; the next run shows the same fourth question."""
    keys = ["a", "b", "a", *(["q"] if end == "q" else [])]
    first = run("onboard", "ada", keys=keys, at_end=KeyboardInterrupt if end == "Ctrl-C" else None)
    assert (first.code == 0) == (end != "Ctrl-C")
    again = run("onboard", "ada", keys=["q"])
    number = "question 4 of at most 10"
    assert number in first.out
    assert number in again.out
    assert "question 1 of" not in again.out
    fourth = first.out[first.out.index(number) :].splitlines()[1:6]
    assert again.out[again.out.index(number) :].splitlines()[1:6] == fourth
    assert choices(run) == ["a", "b", "a"]


def test_the_end_of_input_still_gives_its_line(run: Run) -> None:
    """A pipe that ends early is a person who stops: with --json there is the one line."""
    row = run("onboard", "ada", "--json", keys=["a", "b"]).row()
    assert (row["answers"], row["stopped_because"]) == (2, None)


def test_onboarding_ends_by_itself(run: Run) -> None:
    """Ten questions at most are asked, the reason is told, and a further run asks nothing."""
    done = run("onboard", "ada", keys=["a"] * 20)
    assert "question 10 of at most 10" in done.out
    assert "question 11" not in done.out
    row = run("onboard", "ada", "--json", keys=["b"]).row()
    assert row["answers"] == 10
    assert row["stopped_because"] == "reached 10 questions"


def test_every_answers_effect_is_told(run: Run) -> None:
    """A line after each answer on the screen, and all of them with --json; an undo has none."""
    row = run("onboard", "ada", "--json", keys=["a", "u", "a", "s", "q"]).row()
    assert [effect.startswith("towards ") for effect in row["effects"]] == [True, True, False]
    assert "towards " in run("onboard", "ben", keys=["a", "q"]).out


@pytest.mark.slow
def test_one_question_is_asked_again_on_request(run: Run) -> None:
    """With --check, once, after the others; with the same key the other text is meant. Off by default (the control)."""
    off = run("onboard", "ada", keys=["a"] * 12)
    assert "question again" not in off.out
    checked = run("onboard", "ben", "--check", keys=["a"] * 12)
    assert checked.out.count("one question again") == 1
    assert "Asked again: another choice" in checked.out
    assert run("onboard", "cem", "--check", "--json", keys=["a"] * 10 + ["b"]).row()["agreed"] is True
    assert run("onboard", "dan", "--check", "--json", keys=["a", "q"]).row()["agreed"] is None


def test_an_unknown_key_asks_again(run: Run) -> None:
    """It is no answer: the same question waits, and the keys are named; text like markup is shown as it is."""
    asked = run("onboard", "ada", keys=["x", "[/bold]", "q"])
    assert asked.code == 0
    assert "found 'x', expected one of a, b, aa, bb, t, n, s, u, q" in asked.out
    assert "found '[/bold]', expected one of" in asked.out
    assert asked.out.count("question 1 of at most 10") == 3
    assert choices(run) == []


def test_undo_takes_one_answer_back(run: Run) -> None:
    """The last question is asked again; with nothing to take back it says so and goes on."""
    asked = run("onboard", "ada", keys=["u", "a", "u", "b", "q"])
    assert asked.code == 0
    assert "there is no answer to take back" in asked.out
    assert asked.out.count("question 1 of at most 10") == 3
    assert run("profile", "ada", "--json").row()["answers"] == 1


def test_consent_is_kept_with_the_person(run: Run) -> None:
    """The text given once stays, a new one replaces it, none leaves it; a person without one has none."""
    for consent, kept in ((None, None), ("yes, v1", "yes, v1"), (None, "yes, v1"), ("yes, v2", "yes, v2")):
        run("onboard", "ada", *(["--consent", consent] if consent else []), keys=["q"])
        (person,) = run("export", "ada", "--json").row()["tables"]["users"]
        assert person["consent"] == kept
        assert (person["consent_at"] is None) == (kept is None)


# What is shown


def test_a_conversation_goes_on_after_a_blank_line(run: Run) -> None:
    """Without a message lines are read and answered until the input ends; a blank one is refused and forgotten."""
    talked = run("chat", "ada", keys=[HELLO, "", "thanks"])
    assert talked.code == 0
    assert "blank" in talked.out
    assert talked.out.count("you ") >= 4


def test_the_profile_of_a_person_says_what_stands_out(run: Run, onboarded: Onboarded) -> None:
    """Ten answers are shown as bars between two directions in words."""
    onboarded(["a"] * 10)
    shown = run("profile", "ada")
    assert "10 answers, revision 10" in shown.out
    assert shown.out.count("●") == len(run("profile", "ada", "--json").row()["axes"])


@pytest.mark.slow
def test_a_reply_is_written_as_asked(run: Run, tmp_path: Path, onboarded: Onboarded) -> None:
    """The options of chat reach the reply: its account, log-probabilities, stop strings, penalties and constraints."""
    onboarded(["a"] * 10)
    plain = run("chat", "ada", HELLO, "--json").row()
    assert plain["guided"]
    assert plain["kl"] > 0
    assert "logprobs" not in plain
    told = run("chat", "ada", HELLO, "--json", "--logprobs", "2").row()["logprobs"]
    assert len(told) >= plain["usage"]["completion_tokens"]
    assert all(len(token["top"]) == 2 for token in told)
    first = plain["text"].split()[0]
    assert run("chat", "ada", HELLO, "--json", "--stop", "@@", "--stop", first).row()["text"] == ""
    repetitive = run("chat", "ada", HELLO, "--json", "--repetition-penalty", "9", "--frequency-penalty", "2").row()
    assert repetitive["text"] != plain["text"]
    drawn = ("--temperature", "5", "--seed", "1", "--json")
    assert run("chat", "ada", HELLO, *drawn).row()["text"] != plain["text"]
    for narrow in (("--top-k", "1"), ("--min-p", "1")):
        assert run("chat", "ada", HELLO, *drawn, *narrow).row()["text"] == plain["text"]
    (tmp_path / "schema.json").write_text(SCHEMA)
    for schema_or_file in (SCHEMA, str(tmp_path / "schema.json")):
        assert set(json.loads(run("chat", "ada", HELLO, "--json", "--schema", schema_or_file).row()["text"])) == {"n"}
    assert re.fullmatch("[a-f]{3,9}", run("chat", "ada", HELLO, "--json", "--regex", "[a-f]{3,9}").row()["text"])


def test_the_account_is_one_line(run: Run, onboarded: Onboarded) -> None:
    """Below a reply stands how far it was guided, or why it wasn't."""
    onboarded(["a"] * 10)
    assert "not guided: no_answers; " in run("chat", "ben", HELLO).out.splitlines()[-1]
    assert re.search(
        r"guided by revision 10: KL \S+, \d+% changed, reward \S+; \d+ tokens, ", run("chat", "ada", HELLO).out
    )


@pytest.mark.slow
def test_shift_tells_what_moved(run: Run, tmp_path: Path, onboarded: Onboarded) -> None:
    """Tokens come in order of how much they were moved, from prompts as words and as lines of a file."""
    onboarded(["a"] * 10)
    (tmp_path / "prompts.txt").write_text("I need a hotel in Paris.\n\nFind me a bus.\n")
    words = ("shift", "ada", HELLO, "--prompts", str(tmp_path / "prompts.txt"), "--expert", "hotels", "--top", "5")
    row = run(*words, "--json").row()
    assert [reply["prompt"] for reply in row["replies"]] == [HELLO, "I need a hotel in Paris.", "Find me a bus."]
    moved = [token["moved"] for token in row["tokens"]]
    assert len(moved) == 5
    assert moved == sorted(moved, reverse=True)
    position = row["replies"][0]["positions"][0]
    assert set(position) == {"id", "token", "added", "before", "after", "top_before", "top_after"}
    assert set(position["top_before"]) == {"id", "token", "probability"}
    shown = run(*words).out
    assert repr(row["tokens"][0]["token"]) in shown
    assert row["replies"][1]["text"] in shown.replace("\n", "")
    assert "change of a token's probability" in shown


# Nobody, and other terminals


@pytest.mark.parametrize("verb", ["profile", "forget", "export"])
def test_nobody_is_told_to_be_unknown(run: Run, tmp_path: Path, verb: str) -> None:
    """A mistyped id is named, a mistyped store is refused and not made; who is there is known (the control)."""
    mistyped = run(verb, "ada", "--json", "--store", f"sqlite:///{tmp_path / 'typo.db'}")
    assert mistyped.code == 2
    assert "there is no store at" in mistyped.err
    assert not files(tmp_path)
    run("onboard", "ada", keys=["a"])
    before = (tmp_path / "p.db").read_bytes()
    assert run(verb, "adda", "--json").row()["known"] is False
    told = run(verb, "adda")
    assert "no one called 'adda' is known" in told.out + told.err
    assert (tmp_path / "p.db").read_bytes() == before
    assert run(verb, "ada", "--json").row()["known"] is True


def test_a_damaged_row_is_exported_and_said_to_be(run: Run, tmp_path: Path, onboarded: Onboarded) -> None:
    """On stderr, with how many there are; a sound export says nothing there (the control)."""
    onboarded(["a", "b"])
    assert run("export", "ada", "--json").err == ""
    connection = sqlite_driver().connect(str(tmp_path / "p.db"))
    connection.execute("UPDATE presentations SET a = 'another text' WHERE state = 'answered'")
    connection.commit()
    connection.close()
    ran = run("export", "ada", "--json")
    assert "2 rows were damaged" in ran.err
    assert [row.get("damaged", False) for row in ran.row()["tables"]["presentations"]].count(True) == 2


def test_a_schema_without_an_end_is_refused(run: Run) -> None:
    """No more is read of it than a schema may have."""
    assert "the schema has 100,001 characters" in run("chat", "ada", HELLO, "--schema", "/dev/zero").err


def test_erasing_needs_no_basis(run: Run, monkeypatch: pytest.MonkeyPatch, onboarded: Onboarded) -> None:
    """Whatever became of model and basis, a person can be erased."""
    onboarded(["a"])
    monkeypatch.setenv("PERSONALIGN_MODEL", "/gone")
    assert run("profile", "ada").code == 2  # the control
    assert run("export", "ada", "--json").row()["known"]
    assert run("forget", "ada", "--json").row() == {"forgotten": "ada", "known": True}


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("verb", ["profile", "onboard", "doctor", "export", "forget"])
def test_any_terminal_can_be_written_to(
    run: Run, monkeypatch: pytest.MonkeyPatch, verb: str, encoding: str, onboarded: Onboarded
) -> None:
    """What an encoding lacks becomes a question mark or an escape, with --json and without, and never a traceback."""
    onboarded(["a", "b"], "--consent", "gerne \u2192 \u65e5\u672c")
    words = (verb,) if verb == "doctor" else (verb, "ada")
    for extra in ((), ("--json",)):
        stdout, stderr = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2))
        monkeypatch.setattr(sys, "stdout", stdout)
        monkeypatch.setattr(sys, "stderr", stderr)
        ran = run(*words, *extra, keys=["a", "q"])
        text = stdout.buffer.getvalue().decode(encoding)
        assert (ran.code, "Traceback" in stderr.buffer.getvalue().decode(encoding)) == (0, False)
        assert text
        if extra:
            assert isinstance(json.loads(text), dict)


def test_no_text_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences in questions, replies and ids come out as marks; lines and tabs stay, as do our own colours."""
    hostile = "a\x1b]52;c;eA==\x07\x1b[2J\x9b2Jb\u202e\r"
    written = io.StringIO()
    console = Terminal(file=written, force_terminal=True, color_system="truecolor", width=200)
    show_question(
        console, Question("1", ({"role": "user", "content": hostile},), hostile, f"{hostile}\n\tend"), hostile
    )
    console.print(hostile, markup=False, end="")
    text = re.sub(r"\x1b\[[0-9;]*m", "", written.getvalue())
    assert "\x1b[" in written.getvalue()
    assert not set("\x1b\x07\x9b\u202e\r") & set(text)
    assert "end" in text
    print_json({"text": hostile})
    line = capsys.readouterr().out
    assert not set("\x1b\x07\x9b\u202e\r") & set(line)
    assert json.loads(line) == {"text": hostile}
