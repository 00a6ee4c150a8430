"""Conversations of twenty turns: what is said, how it is written turn by turn, and what is made of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lab.bootstrap import ratio
from lab.harness import Report
from lab.prose import bench, stick, traits
from lab.prose.people import Person
from lab.prose.stick import BARS, WINDOWS, Jury, Plan, copied, run_stick, scripts
from lab.prose.talks import Talks
from lab.prose.writing import Written, opening
from personalign import Personalign
from personalign.cli import main
from personalign.decode import Request, generate
from personalign.errors import InputError
from personalign.integrations.hf import SteeredModel
from personalign.options import Options
from personalign.types import Message, Profile, Reply

LINES = (
    ("I need a car.", "Hello, who are you and where are you from?"),
    ("Can you say more about that?", "Why?"),
    ("Is there another way?", "Where should I eat tonight?"),
)
NUM_TOKENS = 10


def test_every_window_holds_every_request_once() -> None:
    """Over the five scripts of a topic; a script that isn't turned would not (the control)."""
    made = scripts()
    topics = [made[i : i + 5] for i in range(0, len(made), 5)]
    assert len(topics) == 4
    for topic in topics:
        assert all(len(script) == 20 for script in topic)
        held = [sorted(line for script in topic for line in script[turns]) for turns in WINDOWS.values()]
        assert held == [sorted(topic[0])] * len(WINDOWS)
        assert sorted(topic[0][WINDOWS["1"]] * 5) != sorted(topic[0])


@pytest.mark.slow
def test_a_cached_conversation_is_the_one_that_is_read_anew(p: Personalign) -> None:
    """Every reply and its KL as the engine writes them from the whole conversation; without it they differ."""
    while question := p.ask("Ada"):
        p.answer("Ada", question.id, "a" if len(question.a) < len(question.b) else "b")
    base, ada = p.models.base, p.profile("Ada")
    openings = [opening(), opening("Be brief.")]
    talks = Talks(SteeredModel(base.model, base.tokenizer, p.basis), openings, temperature=0)
    messages = [[message] for message in openings]
    for lines in LINES:
        cached = talks.reply(lines, [ada, None], NUM_TOKENS, seed=0)
        anew = _reply(p, messages, lines, ada)
        assert cached.texts == [reply.text for reply in anew]
        assert cached.kl == pytest.approx([reply.kl for reply in anew], rel=1e-3)
        assert cached.cut == [reply.finish_reason == "length" for reply in anew]
    assert cached.kl[0] > 0
    assert cached.kl[1] == 0
    forgetful = _reply(p, [[message] for message in openings], LINES[-1], ada)
    assert [reply.text for reply in forgetful] != cached.texts


def _reply(p: Personalign, messages: list[list[Message]], lines: Sequence[str], ada: Profile) -> list[Reply]:
    """Say the lines, and let the engine answer; both are put behind ``messages``."""
    for talk, line in zip(messages, lines, strict=True):
        talk.append({"role": "user", "content": line})
    guidances = [p.serving.guidance(ada), None]
    requests = [Request(talk, Options(NUM_TOKENS), g) for talk, g in zip(messages, guidances, strict=True)]
    replies = generate(p.models, requests)
    for talk, reply in zip(messages, replies, strict=True):
        talk.append({"role": "assistant", "content": reply.text})
    return replies


def test_gains_are_counted_from_the_same_turn_of_the_same_conversation() -> None:
    """In deviations of the plain replies; what is liked as they are gains nothing."""
    likes = Person("likes it", np.array([1.0]), saturates=False)
    mind = Person("minds it", np.array([-1.0]), saturates=False)
    own = np.array([[[0.0], [10.0]], [[100.0], [0.0]], [[2.0], [12.0]], [[102.0], [2.0]]])  # of two scripts, twice each
    jury = Jury([likes, mind, likes, mind], own, num_scripts=2)
    middle = np.array([[[1.0], [11.0]], [[101.0], [1.0]]] * 2)
    assert np.allclose(jury.gains(middle), 0)
    assert np.allclose(jury.gains(middle + np.sqrt(2)), [[1, 1], [-1, -1]] * 2)


def test_copies_are_sentences_that_stood_in_an_earlier_reply() -> None:
    """To the same person, word for word; short ones don't count."""
    said = "You could try to go to bed at ten."
    turns = [
        [said, "Yes. A cup of warm milk helps many."],
        [f"{said} Then read a book until you sleep.", said],
        ["Yes.", said],
    ]
    assert copied(turns) == [[0, 0], [0.5, 0], [0, 1]]


def test_a_ratio_is_one_of_means() -> None:
    """Not a mean of ratios; where everybody keeps the same share, the interval is that share."""
    first = np.array([1.0, 2.0, 3.0, 0.5])
    assert np.allclose(ratio(0.5 * first, first), 0.5)
    assert ratio(np.array([0.0, 4.0]), np.array([1.0, 3.0])).value == 1.0


def test_what_lasts_has_an_interval_only_where_something_was_gained() -> None:
    """A half of the gain is left; where the first gain may be 0, the ratio stands alone, and the result says why."""
    gains = np.repeat(np.linspace(0.5, 1.5, 20)[:, None], 20, axis=1)
    gains[:, WINDOWS["20"]] *= 0.5
    report = Report("", "cpu", bars=BARS)
    stick.tell(report, "smollm2.stick_20", gains)
    assert report.figures == {"smollm2.stick_20.lost": 0.5, "smollm2.stick_20": 0.5}
    assert [row["is_reached"] for row in report.rows if "bar" in row] == [False]
    assert report.rows[1]["low"] == report.rows[1]["high"] == 0.5
    unsure = Report("", "cpu")
    stick.tell(unsure, "smollm2.stick_20", gains - 0.9)
    assert "low" in unsure.rows[0]
    assert "low" not in unsure.rows[1]
    assert unsure.skipped == ["the interval of smollm2.stick_20: the gain in the first turns can't be told from 0"]


def test_an_unknown_arm_is_refused(tmp_path: Path) -> None:
    """The error names those there are."""
    with pytest.raises(InputError, match=r"no arm begins with 'blocks'; expected one of tilt, words, words_and_tilt"):
        run_stick(Plan(bench.Plan()), "cpu", tmp_path, only="blocks")


@pytest.mark.slow
def test_a_run_tells_every_arm_and_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two people and one script: a figure for each arm and window; the same run again writes nothing."""
    one = json.loads(stick.CONVERSATIONS.read_text(encoding="utf-8"))
    one["requests"] = {"music": one["requests"]["music"]}
    (tmp_path / "one.json").write_text(json.dumps(one), encoding="utf-8")
    monkeypatch.setattr(stick, "CONVERSATIONS", tmp_path / "one.json")
    monkeypatch.setattr(stick, "STEP", 10)
    monkeypatch.setattr(traits, "_likeness", lambda texts: np.zeros((len(texts), len(traits.STYLES))))
    plan = Plan(bench.Plan(num_people=2, num_prompts=4, prompts_each=2, num_draws=2), max_tokens=8)
    result = run_stick(plan, "cpu", tmp_path, model="tiny")
    figures = result["figures"]
    assert {f"smollm2.stick_gain.{arm}.{w}" for arm in ("plain", *stick.NAMES) for w in WINDOWS} <= figures.keys()
    assert {f"smollm2.stick_20.{arm}.lost" for arm in stick.NAMES} <= figures.keys()
    assert all(np.isfinite(value) for value in figures.values())
    rows = {row["figure"]: row for row in result["rows"]}
    assert rows["smollm2.stick_gain.tilt.20"]["kl"] > 0
    assert rows["smollm2.stick_gain.words.20"]["kl"] == 0
    assert len(rows["smollm2.stick_repetition.plain"]["by_turn"]["copied"]) == 20
    monkeypatch.setattr(stick, "hold", lambda *_: [Written()])
    assert run_stick(plan, "cpu", tmp_path, model="tiny")["figures"] == figures


def test_the_verb_knows_its_devices(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Before anything is written, without a trace of Python."""
    with pytest.raises(SystemExit) as end:
        main(["bench", "stick", "--device", "toaster", "--work", str(tmp_path / "work"), "--json"])
    told = capfd.readouterr()
    assert end.value.code == 2
    assert told.out == ""
    assert "toaster" in told.err
    assert "Traceback" not in told.err
    assert not (tmp_path / "work").exists()
