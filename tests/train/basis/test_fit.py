"""From a log of people's answers to a basis with learnt axes that serves: asked, answered, fed back, refitted."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from personalign import Basis, Personalign
from personalign.decode import load_causal
from personalign.decode.embed import HIDDEN, load_embedder
from personalign.errors import BasisError, InputError
from personalign.learn.axes import features, measure_many
from personalign.train.basis import fit as make_fitted
from personalign.train.basis.calibrate import Trials
from personalign.train.basis.fit import MadeFromLog, fit_from_log
from personalign.train.log import read_log
from personalign.train.plans import GRID, Budget, Calibration, HeadRecipe
from personalign.train.reward.from_log import make_backbone
from personalign.train.work import WORK
from personalign.types import Gaussian
from tests.train.crowd import AXES, LENGTH, Row, answers_of, replies_to
from tests.train.talker import SUBJECTS, teach

PEOPLE, EACH = 60, 24
ASKED = [({"role": "user", "content": f"{article} {subject}"},) for article, subject in product(("a", "the"), SUBJECTS)]
TEXTS = [(prompt, texts) for prompt, (_, texts) in zip(ASKED, replies_to(len(ASKED), 8, 10), strict=True)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teach(tmp_path_factory.mktemp("talker"))


@pytest.fixture(scope="module")
def rows(model: Path) -> list[Row]:
    """People who care about length, and about the main direction of hidden states that no named axis shows."""
    embed = load_embedder(HIDDEN, load_causal(model, "cpu"))
    prompts = [prompt for prompt, texts in TEXTS for _ in texts]
    texts = [text for _, found in TEXTS for text in found]
    hidden, named = embed(prompts, texts), measure_many(prompts, texts, AXES)
    known = np.column_stack([named, np.ones(len(named))])
    unseen = hidden - known @ np.linalg.lstsq(known, hidden)[0]
    direction = np.linalg.svd(unseen, full_matrices=False)[2][0]
    taste = {
        (json.dumps(prompt), text): np.array([length, value])
        for prompt, text, length, value in zip(prompts, texts, named[:, LENGTH], hidden @ direction, strict=True)
    }
    return answers_of(PEOPLE, EACH, TEXTS, lambda prompt, text: taste[json.dumps(prompt), text], strength=3.0)


@pytest.fixture(scope="module")
def log(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("log") / "log.jsonl", rows)


def written(path: Path, rows: list[Row]) -> Path:
    keys = ("user", "prompt", "a", "b", "choice")
    lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


BUDGET = Budget(  # a small head, and a setting or two for few people: a basis in seconds
    replies=120,
    head=HeadRecipe(rank=8, hidden=32, tokens_seen=400_000),
    calibration=Calibration(GRID[::9], num_people=2),
)


def fit_quickly(log: Path, model: str, out: Path, **options) -> MadeFromLog:
    """Ask about the log's prompts, which nobody wrote."""
    options = {"ask_log_prompts": "prompts" not in options} | options
    return fit_from_log(read_log(log), model, out, device="cpu", budget=BUDGET, **options)


@dataclass(frozen=True)
class Fitted:
    """A basis's folder, and what was said of it."""

    folder: Path
    made: MadeFromLog


@pytest.fixture(scope="module")
def fitted(model: Path, log: Path, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    folder = tmp_path_factory.mktemp("fitted") / "basis"
    # a rank of its own: whether "auto" learns axes depends on the last bits that a CPU's training leaves
    return Fitted(folder, fit_quickly(log, str(model), folder, rank=2))


@pytest.mark.slow
def test_the_folder_holds_a_basis_of_people(fitted: Fitted, model: Path, log: Path) -> None:
    """With learnt axes, what measures them and the kinds' shares; nothing of the run is left, nor whose answers."""
    assert {path.name for path in fitted.folder.iterdir()} == {
        "config.json", "model.safetensors", "questions.jsonl", "README.md", "report.json",
    }  # fmt: skip
    basis = Basis.load(fitted.folder)
    assert basis.learnt is not None
    assert basis.learnt.embedder == HIDDEN
    assert basis.num_axes > len(basis.named) > 0
    assert basis.shares.nothing < 1
    assert basis.shares == fitted.made.findings.judgement.shares
    assert basis.active
    assert basis.accuracy == fitted.made.findings.judgement.accuracy
    card = (fitted.folder / "README.md").read_text("utf-8")
    assert "learnt reward axes" in card
    assert "## People" in card
    assert "No human data" not in card
    assert "**The questions are about prompts that the log's people wrote**" in card
    assert "standard deviations, the root mean" in card
    assert str(model.parent) not in card
    assert str(log.parent) not in card
    everything = "".join(path.read_text("utf-8", errors="ignore") for path in fitted.folder.iterdir())
    assert "person 1" not in everything


@pytest.mark.slow
def test_the_report_counts_the_log_and_judges(fitted: Fitted) -> None:
    """What was in the log, and that held-out people are foretold better than by the population's mean."""
    report = json.loads((fitted.folder / "report.json").read_text("utf-8"))
    assert report == json.loads(json.dumps(fitted.made.row()))
    assert report["log"]["rows"] == PEOPLE * EACH
    assert report["log"]["people"] == report["people"] == PEOPLE
    assert report["log"]["rows"] == report["answers"]
    assert report["log"]["bad"] == {}
    assert report["obstacle"] is None
    assert 0 < report["likeness"]["num_askable"] <= report["likeness"]["num_prompts"]
    assert report["held_out"] == PEOPLE / 4
    ten = next(after for after in report["after"] if after["answers"] == 10)
    assert ten["accuracy"] > ten["population_accuracy"] + 0.1
    assert ten["margin"] > 0


@pytest.mark.slow
def test_weights_mean_the_same_over_the_models_own_replies(fitted: Fitted, model: Path) -> None:
    """The standardisation moves from the log's replies to the model's own; what people feel about a pair stays."""
    findings, basis = fitted.made.findings, fitted.made.basis
    embed = load_embedder(HIDDEN, load_causal(model, "cpu"))
    draft = findings.basis
    prompts = [prompt for prompt, _ in TEXTS]
    left, right = ([texts[i] for _, texts in TEXTS] for i in (0, 4))
    before, after = (features(b, prompts, left, embed) - features(b, prompts, right, embed) for b in (draft, basis))
    kept = [j for j, axis in enumerate(draft.axes) if axis in basis.axes]
    assert not np.allclose(before[:, kept], after)  # control
    assert np.allclose(before[:, kept] @ draft.prior.mean[kept], after @ basis.prior.mean)
    spread = draft.prior.covariance[np.ix_(kept, kept)]
    assert np.allclose(before[:, kept] @ spread @ before[:, kept].T, after @ basis.prior.covariance @ after.T)


@pytest.mark.slow
def test_it_serves(fitted: Fitted, model: Path, tmp_path: Path) -> None:
    """Someone is asked, answers, and gets a guided reply; feedback about other texts moves the learnt axes, too."""
    with Personalign.open(f"sqlite:///{tmp_path / 'p.db'}", str(model), fitted.folder, device="cpu") as p:
        while question := p.ask("ada"):
            p.answer("ada", question.id, "a" if len(question.a) > len(question.b) else "b")
        before = p.profile("ada")
        assert before.informative
        reply = p.chat("ada", [*ASKED[0]], max_tokens=16)
        assert reply.guided == bool(p.basis.steering.beta)
        after = p.feedback("ada", [*ASKED[1]], "The hat is nice.", "No hat today.", "edit")
        assert not np.allclose(after.mean[len(p.basis.named) :], before.mean[len(p.basis.named) :])


@pytest.mark.slow
def test_answers_follow_to_it(fitted: Fitted, model: Path, tmp_path: Path) -> None:
    """Who answered under another basis of the model is refitted on this one, their texts embedded."""
    other = tmp_path / "other"
    without_learnt(fitted.made.basis).save(other)
    store = f"sqlite:///{tmp_path / 'p.db'}"
    with Personalign.open(store, str(model), other, device="cpu") as p:
        while question := p.ask("ada"):
            before = p.answer("ada", question.id, "a" if len(question.a) > len(question.b) else "b")
    with Personalign.open(store, str(model), fitted.folder, device="cpu") as p:
        assert p.behind() == ["ada"]
        profile = p.refit("ada")
        assert profile.informative == before.informative > 0
        assert not np.allclose(profile.mean[len(p.basis.named) :], p.basis.prior.mean[len(p.basis.named) :])


def without_learnt(basis: Basis) -> Basis:
    """Another basis of the same model, which knows the named axes only."""
    k = len(basis.named)
    questions = (
        replace(
            q,
            first_features=q.first_features[:k],
            second_features=q.second_features[:k],
            other_features=tuple(features[:k] for features in q.other_features),
        )
        for q in basis.bank
    )
    return replace(
        basis,
        axes=basis.named,
        particles=None if basis.particles is None else basis.particles[:, :k],
        center=basis.center[:k],
        scale=basis.scale[:k],
        prior=Gaussian(basis.prior.mean[:k], basis.prior.covariance[:k, :k]),
        reference=basis.reference[:, :k],
        bank=tuple(questions),
        head=None,
        learnt=None,
    )


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(
    fitted: Fitted, model: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the calibration, it embeds nothing twice, and ends in the very same files."""
    out = tmp_path / "basis"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trials, "calibrate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit_quickly(log, str(model), out, rank=2)
    assert (out / WORK).is_dir()
    monkeypatch.setattr("personalign.train.basis.rollouts.KeptEmbedder._embedded", interrupted)
    monkeypatch.setattr("personalign.train.basis.rollouts._write_shard", interrupted)
    fit_quickly(log, str(model), out, rank=2)
    for path in fitted.folder.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name


def interrupted(*_args, **_options):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_prompts_the_model_cannot_read_are_counted(model: Path, rows: list[Row], tmp_path: Path, monkeypatch) -> None:
    """They stay in the log, but nothing is rolled out from them; too few others are refused with what to do."""
    long = ({"role": "user", "content": "so on " * 200},)
    novel = [(user, long, "Yes.", "No.", "a") for user in ("person 0", "person 1")]
    monkeypatch.setattr(make_fitted, "write_basis", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_quickly(written(tmp_path / "a.jsonl", [*rows, *novel]), str(model), tmp_path / "a")
    few = [row for row in rows if row[1] in ASKED[:15]]
    with pytest.raises(InputError, match=r"b.jsonl holds 16 different prompts; the model can answer 15 of them.*--pro"):
        fit_quickly(written(tmp_path / "b.jsonl", [*few, *novel]), str(model), tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(("options", "said"), [({}, "found no prompts"), ({"prompts": True}, "two sources of prompts")])
def test_nobodys_prompts_are_shown_to_others_by_accident(log: Path, tmp_path: Path, options, said: str) -> None:
    """One source of prompts has to be named; before a model is loaded, and nothing is written."""
    prompts = tmp_path / "prompts.txt" if options else None
    with pytest.raises(InputError, match=f"{said}.*--prompts.*--ask-log-prompts"):
        fit_from_log(
            read_log(log), str(tmp_path / "none"), tmp_path / "out", prompts=prompts, ask_log_prompts=bool(options)
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_with_prompts_of_ones_own_no_one_elses_are_asked_about(
    model: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model answers these alone, and the card doesn't warn."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"my {subject} {i}" for subject in SUBJECTS for i in range(2)))
    seen: list = []
    monkeypatch.setattr(make_fitted, "write_basis", lambda *given: seen.append(given) or interrupted())
    with pytest.raises(KeyboardInterrupt):
        fit_quickly(log, str(model), tmp_path / "out", prompts=prompts)
    (_, making, origin, section, _) = seen[0]
    assert all(prompt[0]["content"].startswith("my ") for prompt in making.prompts.train)
    assert "wrote" not in section
    assert "--prompts prompts.txt" in origin.command


@pytest.fixture(scope="module")
def far(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same log, its replies by somebody who writes quite otherwise."""
    essay = " ".join(f"However, consideration no. {i} deserves {i} careful paragraphs; perhaps." for i in range(40))
    longer = [(user, prompt, f"{a} {essay}", f"{b}!\n\n* {essay}\n", choice) for user, prompt, a, b, choice in rows]
    return written(tmp_path_factory.mktemp("far") / "far.jsonl", longer)


@pytest.mark.slow
def test_replies_unlike_the_models_own_end_early_with_what_is_known_of_people(
    model: Path, far: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No head is trained: the basis keeps axes, prior and gate, takes feedback, and writes the model's own replies."""
    monkeypatch.setattr(make_fitted, "write_basis", lambda *_: pytest.fail("hours were spent"))
    out = tmp_path / "basis"
    made = fit_quickly(far, str(model), out)
    assert made.made is None
    assert made.likeness.distance > 2
    err = capsys.readouterr().err
    assert "standard deviations, the root mean square" in err
    assert "collect answers about this model's own replies" in err
    assert "doesn't steer" in (out / "README.md").read_text("utf-8")
    assert json.loads((out / "report.json").read_text("utf-8"))["obstacle"] == made.obstacle
    basis = Basis.load(out)
    assert basis.steering.beta == 0
    assert np.allclose(basis.prior.covariance, made.findings.basis.prior.covariance)
    assert not (out / WORK).exists()
    with Personalign.open(f"sqlite:///{tmp_path / 'p.db'}", str(model), out, device="cpu") as p:
        assert p.ask("ada") is None
        profile = p.feedback("ada", [*ASKED[1]], "The hat is nice.", "No hat today.", "edit")
        assert not np.allclose(profile.mean, basis.prior.mean)
        assert p.chat("ada", [*ASKED[0]], max_tokens=8).text == p.chat("ben", [*ASKED[0]], max_tokens=8).text


@pytest.mark.slow
def test_an_obstacle_on_the_way_costs_nothing_that_is_known(
    model: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replies that can't be asked about end in the same kind of basis, not in an error."""
    monkeypatch.setattr("personalign.train.basis.build.make_bank", lambda *_: ())
    made = fit_quickly(log, str(model), tmp_path / "basis")
    assert made.obstacle.startswith("only 0 of")
    assert Basis.load(tmp_path / "basis").steering.beta == 0


@pytest.mark.slow
def test_a_reward_model_has_the_axes_of_a_basis(fitted: Fitted, model: Path, log: Path, tmp_path: Path) -> None:
    """One reward for each, learnt ones embedded; the basis of another model is refused."""
    made = make_backbone(str(model), read_log(log), tmp_path / "reward", "cpu", fitted.folder)
    assert made.trained.model.axes == tuple(axis.name for axis in fitted.made.basis.axes)
    with pytest.raises(BasisError, match="was made for"):
        make_backbone("tiny", read_log(log), tmp_path / "other", "cpu", fitted.folder)
