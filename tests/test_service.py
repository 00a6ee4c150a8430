"""The verbs of Personalign on the bundled model and a real SQLite file."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from personalign.basis import Basis, Learnt
from personalign.bundled import TINY
from personalign.cli.options import open_service
from personalign.decode import embed, load_causal
from personalign.errors import (
    AlreadyAnswered,
    BasisError,
    EngineError,
    InputError,
    MissingExtra,
    ModelError,
    QuestionError,
)
from personalign.service import Personalign
from personalign.train.reward.pairs import Pair
from personalign.train.reward.train import RewardRecipe, save_reward, train_reward
from tests.decode.gate import PATIENCE_S, Gate, until
from tests.onboarded import ENDLESS, HELLO, onboard


def heads(p: Personalign) -> int:
    """How many rows of the bank hold somebody's weights."""
    bank = p._replies.worker._engine._chain.tilt.rows._bank
    assert bank is not None
    return int(bank.weights.any(-1).sum())


def test_a_person_is_onboarded_and_served(p: Personalign) -> None:
    """Ten answers at most give a profile that explains itself and changes replies."""
    onboard(p, "ada")
    profile = p.profile("ada")
    assert 1 <= profile.answers <= p.stop_rule.max_questions
    assert p.why_stopped("ada")
    assert "prefers" in profile.explain() or "prefer" in profile.explain()
    reply = p.chat("ada", HELLO)
    assert reply.guided
    assert reply.kl > 0
    assert reply.revision == profile.revision


def test_nobody_gets_the_models_own_reply(p: Personalign) -> None:
    """A person without answers is served plain decoding, and told so; with answers it differs in kind."""
    plain = p.chat("nobody", HELLO)
    assert (plain.guided, plain.reason, plain.kl) == (False, "no_answers", 0.0)
    onboard(p, "ada")
    off = p.chat("ada", HELLO, strength=0)
    assert (off.text, off.guided, off.reason) == (plain.text, False, "strength_zero")
    assert p.chat("ada", HELLO).kl > 0  # the control: steering is felt


def test_a_stream_is_the_reply(p: Personalign) -> None:
    """The pieces joined are the text of chat."""
    onboard(p, "ada")
    assert "".join(p.stream("ada", HELLO)) == p.chat("ada", HELLO).text


def test_the_same_question_until_it_is_answered(p: Personalign) -> None:
    """Asking again shows the open question; answering again changes nothing; another answer is refused."""
    question = p.ask("ada")
    assert question is not None
    assert p.ask("ada") == question
    first = p.answer("ada", question.id, "a")
    assert p.answer("ada", question.id, "a").revision == first.revision
    with pytest.raises(AlreadyAnswered):
        p.answer("ada", question.id, "b")
    following = p.ask("ada")
    assert following is not None
    assert following.id != question.id


def test_another_stop_rule_holds_from_the_next_question_on(p: Personalign) -> None:
    """Whoever opens personalign decides how many questions are asked."""
    p.stop_rule = replace(p.stop_rule, max_questions=2)
    onboard(p, "ada")
    assert (p.profile("ada").answers, p.why_stopped("ada")) == (2, "reached 2 questions")


def test_undo_opens_the_question_again(p: Personalign) -> None:
    """An answer taken back leaves the profile as it was before it."""
    question = p.ask("ada")
    assert question is not None
    p.answer("ada", question.id, "b")
    assert p.undo("ada").informative == 0
    again = p.ask("ada")
    assert again is not None
    assert (again.a, again.b) == (question.a, question.b)
    with pytest.raises(QuestionError):
        p.undo("ada")


def test_forget_refuses_what_is_no_id_also_with_a_model(p: Personalign) -> None:
    """A list isn't looked for among those whose weights are in memory."""
    assert p.models
    with pytest.raises(InputError, match="person's id"):
        p.forget(["ada"])


def test_relative_paths_hold_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Model and experts are loaded by the first chat; a daemon may have gone elsewhere by then."""
    (tmp_path / "zoo").symlink_to(TINY)
    monkeypatch.chdir(tmp_path)
    with Personalign.open(model="zoo/base", basis="zoo/basis", reward="zoo/base", experts=["zoo/experts/hotels"]) as p:
        monkeypatch.chdir("/")
        places = (p.source.model, p.source.reward, *p.source.experts.values())
        assert all(Path(place).exists() for place in places)
        monkeypatch.chdir(tmp_path)


def test_forget_leaves_nothing(p: Personalign) -> None:
    """After forget the person is new again."""
    onboard(p, "ada")
    assert p.export("ada")
    p.forget("ada")
    assert p.profile("ada").answers == 0
    assert not p.chat("ada", HELLO).guided


def test_bad_input_is_refused(p: Personalign, tmp_path: Path) -> None:
    """Unknown choices, questions, rules and models are named."""
    question = p.ask("ada")
    assert question is not None
    with pytest.raises(QuestionError):
        p.answer("ada", "no such question", "a")
    with pytest.raises(InputError):
        p.chat("ada", HELLO, rule="magic")
    with pytest.raises(InputError):
        p.chat("ada", [])
    with (
        Personalign.open(f"sqlite:///{tmp_path / 'q.db'}", model="some/model") as other,
        pytest.raises(BasisError, match="basis bootstrap"),
    ):
        other.ask("ada")


@pytest.mark.parametrize("code", ["import personalign", "import personalign.cli"])
@pytest.mark.parametrize(("more", "loads"), [("sys", False), ("numpy", True)])
def test_importing_is_cheap(code: str, more: str, loads: bool) -> None:
    """Neither package nor command line loads what calculates or stores; the control shows what would be seen."""
    heavy = ("torch", "numpy", "scipy", "sqlalchemy", "pydantic")
    script = f"{code}, {more}\nimport sys\nprint(any(name in sys.modules for name in {heavy}))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(loads)


# One engine, many callers


def test_many_people_chat_at_once(p: Personalign) -> None:
    """The first callers load one model between them; everybody gets the reply they get alone."""
    users = [f"user-{number}" for number in range(6)]
    for number, user in enumerate(users):
        onboard(p, user, most=number)
    before = {*threading.enumerate()}
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda user: p.chat(user, HELLO), users * 4))
    assert len({*threading.enumerate()} - before) == 1
    alone = [p.chat(user, HELLO) for user in users] * 4
    # across batch shapes sums differ in their last bits, and so may tokens that are all but equally likely
    differing = [a.text for a, b in zip(alone, together, strict=True) if a.text != b.text]
    assert len(differing) <= 2, differing
    assert [reply.revision for reply in together] == [reply.revision for reply in alone]
    assert [reply.kl for reply in together] == pytest.approx([reply.kl for reply in alone], abs=1e-3) or differing
    assert len({reply.text for reply in alone}) > 2  # the control: a foreign reply would be seen


def test_a_dropped_stream_frees_its_slot(p: Personalign, gate: Gate) -> None:
    """Who stops reading ends the reply with the next step; without that it goes on (the control)."""
    pieces = p.stream("ada", HELLO, max_tokens=200, logit_bias=ENDLESS)
    first = threading.Thread(target=lambda: next(pieces))
    first.start()
    gate.let(10)
    first.join()
    assert not p._replies.worker._engine.is_idle
    pieces.close()  # type: ignore[attr-defined]
    gate.let(1)
    assert p._replies.worker._engine.is_idle


def test_a_stream_that_nobody_reads_frees_its_slot(p: Personalign, gate: Gate) -> None:
    """It is under way from the call on; dropping it ends the reply as well."""
    pieces = p.stream("ada", HELLO, max_tokens=200, logit_bias=ENDLESS)
    gate.let(10)
    assert not p._replies.worker._engine.is_idle
    del pieces
    gate.let(1)
    assert p._replies.worker._engine.is_idle


def test_closing_ends_replies(p: Personalign, gate: Gate) -> None:
    """A reply that is being written ends with an EngineError at once."""
    pieces = p.stream("ada", HELLO, max_tokens=900, logit_bias=ENDLESS)
    gate.let(10)
    next(pieces)
    p.close()
    gate.open()
    with pytest.raises(EngineError, match="closed"):
        list(pieces)


UNCLOSED = """
import contextlib, sys, threading, warnings
warnings.simplefilter("ignore")
from personalign import Personalign
from personalign.errors import EngineError
p = Personalign.open(sys.argv[1])
def talk():
    with contextlib.suppress(EngineError):
        for piece in p.stream("ada", [{"role": "user", "content": "hello"}], max_tokens=900, logit_bias={2: -100.0}):
            begun.set()
begun = threading.Event()
threading.Thread(target=talk, daemon=True).start()
begun.wait()
print("leaving", flush=True)
"""


def test_a_process_ends_without_close(tmp_path: Path) -> None:
    """While a reply is written the process ends promptly, in order, and without a word."""
    command = [sys.executable, "-c", UNCLOSED, f"sqlite:///{tmp_path / 'p.db'}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "leaving\n"
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0
    assert "Error" not in said
    assert "Traceback" not in said


# Profiles that change meanwhile


def test_a_refit_waits_for_the_next_reply(p: Personalign, gate: Gate) -> None:
    """A reply that has begun keeps the head it began with; the next one has the new revision."""
    gate.open()
    onboard(p, "ada", most=4)
    whole = p.chat("ada", HELLO)
    gate.close()
    pieces: list[str] = []
    reading = threading.Thread(target=lambda: pieces.extend(p.stream("ada", HELLO)))
    reading.start()
    gate.let(3)
    onboard(p, "ada", most=3)
    gate.open()
    reading.join()
    assert "".join(pieces) == whole.text
    following = p.chat("ada", HELLO)
    assert (whole.revision, following.revision) == (4, 7)
    assert following.kl != whole.kl  # the control: the new head tells another tale


def test_whoever_is_forgotten_meanwhile_leaves_no_head(p: Personalign, gate: Gate) -> None:
    """The reply goes on without them, and says so."""
    onboard(p, "ada")
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(p.chat, "ada", HELLO, max_tokens=30, logit_bias=ENDLESS)
        gate.let(5)
        assert heads(p) == 1
        p.forget("ada")
        gate.let(1)
        until(lambda: heads(p) == 0)
        gate.open()
        reply = coming.result()
    assert (reply.guided, reply.reason, reply.usage.completion_tokens) == (False, "forgotten", 30)
    assert heads(p) == 0


@pytest.mark.parametrize("verb", ["chat_many", "shift"])
def test_whoever_is_forgotten_meanwhile_leaves_no_head_in_a_group(p: Personalign, gate: Gate, verb: str) -> None:
    """Replies that are written together are within reach, too; whoever is not erased stays guided (the control)."""
    for user in ("ada", "ben"):
        onboard(p, user)
    write = partial(p.chat_many, ["ada", "ben"]) if verb == "chat_many" else partial(p.shift, "ada")
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(write, [HELLO, HELLO], max_tokens=30, logit_bias=ENDLESS)
        gate.let(5)
        assert heads(p) == (2 if verb == "chat_many" else 1)
        p.forget("ada")
        gate.open()
        if verb == "chat_many":
            assert [(reply.guided, reply.reason) for reply in coming.result()] == [(False, "forgotten"), (True, None)]
        else:
            with pytest.raises(InputError, match=r"nothing moves the replies \(forgotten\)"):
                coming.result()
    assert heads(p) == (verb == "chat_many")


def test_whoever_is_forgotten_before_it_begins_leaves_no_head(p: Personalign, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between reading a profile and handing the request over there is time to be erased."""
    onboard(p, "ada")
    submit = p._replies.worker.submit

    def submit_late(*words: object, **options: object) -> object:
        p.forget("ada")
        return submit(*words, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(p._replies.worker, "submit", submit_late)
    p.chat("ada", HELLO)
    until(lambda: not p._replies.worker._errands and p._replies.worker._engine.is_idle)
    assert heads(p) == 0


def test_another_processes_answers_steer_the_next_reply(p: Personalign, tmp_path: Path) -> None:
    """What is committed elsewhere is in effect here, and what is erased there is known here no more."""
    assert p.chat("ada", HELLO).reason == "no_answers"
    for verb, lines, found in (("onboard", "a\n" * 10, (True, 10)), ("forget", "", (False, 0))):
        command = [sys.executable, "-m", "personalign.cli", verb, "ada", "--store", f"sqlite:///{tmp_path / 'p.db'}"]
        subprocess.run(command, input=lines, text=True, check=True, capture_output=True, timeout=PATIENCE_S)
        reply = p.chat("ada", HELLO)
        assert (reply.guided, reply.revision) == found


def test_whoever_is_erased_elsewhere_leaves_no_head(p: Personalign, tmp_path: Path) -> None:
    """The next request, whoever's it is, empties their row; a person who came back keeps the new one."""
    for user in ("ada", "ben"):
        onboard(p, user, most=4)
        p.chat(user, HELLO, max_tokens=2)
    assert heads(p) == 2
    with Personalign.open(f"sqlite:///{tmp_path / 'p.db'}") as other:
        other.forget("ada")
        onboard(other, "ada", most=5)
    p.chat("ben", HELLO, max_tokens=2)
    assert heads(p) == 1
    assert p.chat("ada", HELLO, max_tokens=2).revision == 5
    p.chat("ben", HELLO, max_tokens=2)
    assert heads(p) == 2


# Rules, constraints, experts


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random sequence classifier over the bundled model's tokens."""
    folder = tmp_path_factory.mktemp("reward")
    config = AutoConfig.from_pretrained(TINY / "small")
    config.num_labels = 1
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    torch.nn.init.normal_(model.score.weight, std=0.5)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY / "base").save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
def test_a_reward_model_steers_everyone(tmp_path: Path, reward: Path) -> None:
    """Under the rule args even a stranger is guided; at strength 0, and by the other rule, nobody is."""
    with Personalign.open(f"sqlite:///{tmp_path / 'p.db'}", reward=str(reward)) as p:
        plain = p.chat("stranger", HELLO)
        asked = p.chat("stranger", HELLO, rule="args")
        assert (asked.guided, asked.reason) == (True, None)
        assert asked.kl > 0
        assert asked.gained > 0
        assert asked.text != plain.text
        assert "".join(p.stream("stranger", HELLO, rule="args")) == asked.text
        off = p.chat("stranger", HELLO, rule="args", strength=0)
        assert (off.text, off.guided, off.reason, off.kl) == (plain.text, False, "strength_zero", 0.0)
        assert (plain.guided, plain.reason) == (False, "no_answers")
        many = p.chat_many(["stranger", "ada"], [HELLO, HELLO], rule="args")
        assert [(reply.guided, reply.text) for reply in many] == [(True, asked.text)] * 2
        (moved,) = p.shift("stranger", [HELLO], rule="args")
        assert (moved.guided, moved.text) == (True, asked.text)
        assert fmean(position.is_top_changed for position in moved.positions) == pytest.approx(asked.changed)


@pytest.mark.filterwarnings("ignore")
def test_a_classifier_of_as_many_labels_is_no_judge_of_the_axes(tmp_path: Path, reward: Path) -> None:
    """It is refused by its labels; where these are the names of the axes, in any order, they are put in order."""
    names = [axis.name for axis in Basis.load(TINY / "basis").axes]
    config = AutoConfig.from_pretrained(reward)
    config.num_labels = len(names)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "classifier")
    AutoTokenizer.from_pretrained(reward).save_pretrained(tmp_path / "classifier")
    options = {"store": f"sqlite:///{tmp_path / 'p.db'}", "reward": str(tmp_path / "classifier")}
    with Personalign.open(**options) as p, pytest.raises(ModelError, match="personalign basis fit LOG --backbone"):
        p.chat("ada", HELLO, rule="args")
    saved = json.loads((tmp_path / "classifier" / "config.json").read_text())
    labels = {"id2label": dict(enumerate(names[::-1])), "label2id": {name: i for i, name in enumerate(names[::-1])}}
    (tmp_path / "classifier" / "config.json").write_text(json.dumps(saved | labels))
    with Personalign.open(**options) as p:
        p.chat("ada", HELLO, rule="args", max_tokens=2)
        assert p.models.reward_model is not None
        assert p.models.reward_model.axes == tuple(names)


@pytest.mark.filterwarnings("ignore")
def test_a_reward_trained_on_the_model_needs_no_copy_of_it(tmp_path: Path) -> None:
    """A LoRA's folder serves wherever it lies, if it was trained on the very model; on another one it is refused."""
    pairs = [Pair((*HELLO,), "Sure.", f"Sure, which one of the {n} do you like?") for n in range(2, 6)]
    pairs += [replace(pair, prompt=({"role": "user", "content": "Find me a bus."},)) for pair in pairs]
    recipe = RewardRecipe(epochs=2, learning_rate=2e-3, dev_share=0.5)
    for name in ("base", "small"):
        trained = train_reward(load_causal(TINY / name, "cpu"), pairs, recipe)
        save_reward(trained, tmp_path / f"on {name}", "Short replies.", "CC BY-SA 4.0")
    url = f"sqlite:///{tmp_path / 'p.db'}"
    with Personalign.open(url, reward=str(tmp_path / "on base")) as p:
        assert p.chat("stranger", HELLO, rule="args").guided
    with (
        Personalign.open(url, reward=str(tmp_path / "on small")) as p,
        pytest.raises(ModelError, match="trained on another model"),
    ):
        p.chat("stranger", HELLO, rule="args")


CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "nights": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "nights"],
    "additionalProperties": False,
}


def test_replies_keep_to_schema_and_regex(p: Personalign) -> None:
    """With a person's reward and an expert on, a reply is what was asked for; unasked it isn't (the control)."""
    onboard(p, "ada")
    for schema in (CITY, json.dumps(CITY)):
        found = json.loads(p.chat("ada", HELLO, schema=schema, expert="hotels").text)
        assert found["city"] in ("Paris", "Rome")
        assert 1 <= found["nights"] <= 9
    assert re.fullmatch("[A-F]{2}-[0-9]{3}", "".join(p.stream("ada", HELLO, regex="[A-F]{2}-[0-9]{3}")))
    with pytest.raises(json.JSONDecodeError):
        json.loads(p.chat("ada", HELLO, expert="hotels").text)


def test_a_missing_extra_names_its_command(p: Personalign, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without llguidance a constraint is refused with what to install; all else goes on."""
    for name in ("llguidance", "llguidance.hf"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=re.escape("pip install 'personalign[constrain]'")):
        p.chat("ada", HELLO, regex="a+")
    assert p.chat("ada", HELLO).text


@pytest.mark.filterwarnings("ignore")
def test_own_experts_stand_beside_the_bundled_one(tmp_path: Path) -> None:
    """A folder given at opening is an expert by its own name, or by the name it is given."""
    for name in ("legal", "medical"):
        shutil.copytree(TINY / "experts" / "hotels", tmp_path / name)
    url = f"sqlite:///{tmp_path / 'p.db'}"
    with Personalign.open(url, experts=[tmp_path / "legal", tmp_path / "medical"]) as p:
        bundled, *own = (p.chat("ada", HELLO, expert=name).text for name in ("hotels", "legal", "medical"))
        assert own == [bundled, bundled]
        assert bundled != p.chat("ada", HELLO).text
    with Personalign.open(url, experts={"law": tmp_path / "legal"}) as p:
        assert p.chat("ada", HELLO, expert="law").text == bundled


BAD: dict[str, dict[str, object]] = {
    "rule": {"rule": "magic"},
    "no reward model": {"rule": "args"},
    "strength": {"strength": 101.0},
    "alpha": {"expert": "hotels", "alpha": 11.0},
    "expert": {"expert": "magic"},
    "schema": {"schema": {"type": "no such type"}},
    "schema that nothing meets": {"schema": {"enum": []}},
    "long": {"max_tokens": 100_000},
}


@pytest.mark.parametrize("call", [Personalign.chat, Personalign.stream], ids=["chat", "stream"])
def test_bad_requests_raise_where_they_are_made(p: Personalign, gate: Gate, call: Callable[..., object]) -> None:
    """Each is an InputError of the caller's own, and no step is taken for it."""
    for case, options in BAD.items():
        with pytest.raises(InputError):
            call(p, "ada", HELLO, **options)
        assert p._replies.worker._engine.is_idle, case
    assert gate.num_steps == 0


def test_an_operator_names_the_encoder_that_a_basis_may_not_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the environment, and only one of the kind that the basis was fitted with; unnamed it is refused."""
    bundled = Basis.load(TINY / "basis")
    projection = np.random.default_rng(0).normal(size=(3, 1))
    replace(bundled, learnt=Learnt(projection, "encoder:./mine")).save(tmp_path / "basis")
    opened = partial(open_service, f"sqlite:///{tmp_path / 'p.db'}", "tiny", tmp_path / "basis")
    names: list[str] = []
    monkeypatch.setattr(embed, "_encoder", lambda name, _: names.append(name) or (lambda *_: np.ones((2, 3))))
    with opened() as p, pytest.raises(ModelError, match='pass embedder="encoder:PATH", or set PERSONALIGN_EMBEDDER'):
        p.feedback("ada", HELLO, "Sure!", "When?", "edit")
    monkeypatch.setenv("PERSONALIGN_EMBEDDER", "encoder:./mine")
    with opened() as p:
        assert p.feedback("ada", HELLO, "Sure!", "When?", "edit").revision == 1
    assert names == ["./mine"]
    monkeypatch.setenv("PERSONALIGN_EMBEDDER", "hidden")
    with pytest.raises(InputError, match="expected one that begins with 'encoder'"):
        opened()
