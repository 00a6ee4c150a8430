"""The quality benchmark on the real path with a tiny budget: its contract, and that it measures what it says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.plots import plot
from lab.quality import rewards
from lab.quality.arms import Arm, Outcome, Trial
from lab.quality.curves import Curve
from lab.quality.divergence import Divergence, divergence_between, num_drawn
from lab.quality.panel import Bootstrap, Member, Origin, interval_of
from lab.quality.quality import Plan, load_prompts, run_quality
from lab.quality.rewards import Training
from personalign.basis import Basis
from personalign.bundled import TINY
from personalign.decode import Models, Request, SuccessorHead, load_causal
from personalign.decode.engine import generate
from personalign.demo.run import load_prompts as bundled_prompts
from personalign.demo.simulate import opposite_pair
from personalign.errors import InputError
from personalign.options import Options
from personalign.types import Guidance, Message, Profile

# a loaded model's libraries warn of things to come
pytestmark = pytest.mark.filterwarnings("ignore")

DATA = Path(__file__).parents[2] / "data"
PLAN = Plan(
    num_people=2, num_prompts=3, num_hotel_prompts=2, multiples=(1.0,), candidates=(5, 10),
    args_multiples={"args_prefixes": (1.0,), "args_replies": (1.0,)}, num_chosen=(1, 2), alphas=(0.0, 1.0),
    training=Training(num_prompts=6, replies_per_prompt=2, epochs=1),
)  # fmt: skip
HEAD = ("greedy.successor.k10.w16", "sampled.successor.k10.w16")  # what all else is compared with
ASKED: tuple[Message, ...] = ({"role": "user", "content": "I'd like to rent a car please."},)

Run = tuple[dict[str, Any], Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run of everything, and the file it kept."""
    folder = tmp_path_factory.mktemp("quality")
    out = folder / "quality.json"
    return run_quality(PLAN, "cpu", DATA, folder / "rewards", out=out), out


@pytest.fixture(scope="module")
def basis() -> Basis:
    return Basis.load(TINY / "basis")


@pytest.fixture(scope="module")
def models(basis: Basis) -> Models:
    assert basis.head is not None
    base = load_causal(str(TINY / "base"), "cpu")
    return Models(base, SuccessorHead.from_arrays(basis.head), basis.steering, {})


def someone(basis: Basis, seed: int = 0) -> Member:
    """A person with a taste, and a profile that knows nothing of it."""
    replies = [text for q in basis.bank[:20] for text in (q.first, q.second)]
    person, _ = opposite_pair(seed, [q.prompt for q in basis.bank[:20] for _ in range(2)], replies)
    mean = np.random.default_rng(seed).normal(size=basis.num_axes)
    profile = Profile("ada", basis.id, 1, mean, np.eye(basis.num_axes), 1, 1, basis.axes)
    return Member(person, profile, Guidance(mean, revision=1, user="ada"))


@pytest.mark.slow
def test_every_method_is_measured(run: Run) -> None:
    """The promised fields; each figure is its row's number, finite and inside its interval; all arms are there."""
    found, _ = run
    assert list(found) == ["command", "machine", "versions", "figures", "skipped", "rows"]
    assert found["skipped"] == []
    assert list(found["figures"]) == [row["figure"] for row in found["rows"]]
    for row in found["rows"]:
        assert row["value"] == found["figures"][row["figure"]]
        assert math.isfinite(row["value"])
        assert row.get("low", row["value"]) <= row["value"] <= row.get("high", row["value"])
    arms = {
        "greedy.successor.k10.w16", "greedy.in_context", "sampled.args_replies.k5.w4",
        "sampled.successor.k10.w16", "sampled.args_replies.k10.w16",
        "sampled.args_prefixes.k10.w1.5", "sampled.in_context", "sampled.best_of.n2", "sampled.short_list.k10",
        "sampled.args_prefixes.k5.w16", "sampled.best_of.n6",
    }  # fmt: skip
    assert {f"{told}.{arm}" for told in ("gain", "wins") for arm in arms} <= set(found["figures"])
    compared = {f"{told}_over_successor.{arm}" for told in ("gain", "wins") for arm in arms}
    assert compared - set(found["figures"]) == {
        f"{told}_over_successor.{arm}" for told in ("gain", "wins") for arm in HEAD
    }
    assert {"alpha.bits.0", "alpha.bits.1", "alpha.gain.1", "alpha.gain_by_reward.1"} <= set(found["figures"])
    assert "gain_over_best_of.sampled.args_prefixes.k5.w16" in found["figures"]


@pytest.mark.slow
def test_what_changes_nothing_gains_nothing(run: Run) -> None:
    """The best of one reply is base itself: no gain, half of the comparisons won, no divergence; α = 0 likewise."""
    found, _ = run
    rows = {row["figure"]: row for row in found["rows"]}
    assert rows["gain.sampled.best_of.n1"]["value"] == pytest.approx(0, abs=1e-9)
    assert rows["wins.sampled.best_of.n1"]["value"] == pytest.approx(0.5)
    assert rows["gain.sampled.best_of.n1"]["kl"] == 0
    assert rows["alpha.gain_without_reward.0"]["value"] == 0
    assert rows["gain.sampled.best_of.n2"]["kl"] > 0  # control


@pytest.mark.slow
def test_what_was_found_is_kept(run: Run) -> None:
    """The file holds the result, and is there before the end."""
    found, out = run
    assert json.loads(out.read_text(encoding="utf-8")) == found


@pytest.mark.slow
def test_a_stopped_run_goes_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured before isn't measured again; in the end nothing of it is left, and a new run measures anew."""
    found, _ = run
    asked: list[Arm] = []
    measure = Trial.run

    def until_the_third(self: Trial, arm: Arm) -> Outcome:
        asked.append(arm)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return measure(self, arm)

    monkeypatch.setattr(Trial, "run", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        run_quality(PLAN, "cpu", DATA, tmp_path, only="gain.sampled.best_of")
    again = run_quality(PLAN, "cpu", DATA, tmp_path, only="gain.sampled.best_of")
    assert len(set(asked)) == len(asked) - 1  # the one that was stopped
    assert again["rows"] == [row for row in found["rows"] if row["figure"].startswith("gain.sampled.best_of")]
    assert list(tmp_path.iterdir()) == []
    run_quality(PLAN, "cpu", DATA, tmp_path, only="gain.sampled.best_of")
    assert len(asked) == 2 * len(set(asked)) + 1  # the control


@pytest.mark.slow
def test_reward_models_are_trained_once(
    basis: Basis, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same training is loaded from the work folder; another one isn't found there (the control)."""
    rewards.reward_model(basis, models, "prefixes", PLAN.training, tmp_path)
    monkeypatch.setattr(rewards, "train_reward", lambda *_: pytest.fail("it was trained again"))
    loaded = rewards.reward_model(basis, models, "prefixes", PLAN.training, tmp_path)
    assert loaded.axes == tuple(axis.name for axis in basis.axes)
    with pytest.raises(pytest.fail.Exception):
        rewards.reward_model(basis, models, "prefixes", Training(6, 2, 2), tmp_path)


@pytest.mark.slow
def test_missing_dialogues_are_named(tmp_path: Path) -> None:
    """Without the expert's dialogues its figures are left out and the reason is given."""
    found = run_quality(PLAN, "cpu", tmp_path, tmp_path, only="alpha.bits")
    assert found["figures"] == {}
    assert str(tmp_path) in found["skipped"][0]


@pytest.mark.parametrize("only", ["speed", "gain.sampled.best_of.n3"])
def test_a_figure_that_isnt_there_is_refused(tmp_path: Path, only: str) -> None:
    """A typo is said."""
    with pytest.raises(InputError, match="no figure begins"):
        run_quality(PLAN, "cpu", DATA, tmp_path, only=only)


def test_nobody_to_ask_is_refused(tmp_path: Path) -> None:
    """No person, no prompt: an error that names the numbers."""
    with pytest.raises(InputError, match="0 people"):
        run_quality(Plan(num_people=0), "cpu", DATA, tmp_path)


def test_prompts_are_new_to_the_basis(basis: Basis) -> None:
    """A hundred and forty different prompts, none of them in the bank or shipped for the demo."""
    prompts = load_prompts("others") + load_prompts("hotels")
    assert (len(load_prompts("others")), len(load_prompts("hotels"))) == (100, 40)
    new = {json.dumps(prompt) for prompt in prompts}
    assert len(new) == 140
    assert not new & {json.dumps(list(prompt)) for prompt in bundled_prompts()}
    assert not new & {json.dumps(question.prompt) for question in basis.bank}
    assert {json.dumps(question.prompt) for question in basis.bank} & {json.dumps(basis.bank[0].prompt)}  # control


def test_divergence_covers_the_whole_vocabulary(basis: Basis, models: Models) -> None:
    """Nothing where nothing moved; for a guided reply what it reports, more than the tilt alone."""
    sampling = Options(max_tokens=12, temperature=1.0, seed=0)
    weights = np.ones(basis.num_axes)
    reported, by_all = [], []
    for strength in (0.0, 1.0):
        measured = Divergence(models.base, 1)
        [reply] = generate(models, [Request(ASKED, sampling, Guidance(weights, strength))], steers=[measured])
        reported.append(reply.kl)
        by_all.append(measured.nats[0] / num_drawn(reply))
    assert by_all[0] == pytest.approx(0, abs=1e-5)
    assert by_all[1] == pytest.approx(reported[1], abs=1e-4)
    assert by_all[1] > reply.tilt_kl > 0


def test_divergence_between_prompts(models: Models) -> None:
    """A prompt is no way from itself, at any of the reply's tokens; one that says more is."""
    [reply] = generate(models, [Request(ASKED)])
    same = divergence_between(models.base, ASKED, ASKED, reply)
    told: tuple[Message, ...] = ({"role": "system", "content": "clearly prefers shorter replies"}, *ASKED)
    assert len(same) == len(reply.ids) + 1
    assert same == pytest.approx([0] * len(same), abs=1e-6)
    assert max(divergence_between(models.base, told, ASKED, reply)) > 1e-3


def test_best_of_n_chooses_by_the_profile(basis: Basis, models: Models) -> None:
    """Every draw is looked at, and none is valued more by the profile than the one that is chosen."""
    prompts = load_prompts("others")[:2]
    trial = Trial.begin(basis, models, lambda _: pytest.fail("nobody asked"), [someone(basis)], prompts, 6)
    chosen = trial._chosen(3, 2)
    assert chosen.shape == (1, 2, 2)
    assert ((chosen >= [0, 3]) & (chosen < [3, 6])).all()
    values = [
        [trial.members[0].profile.mean @ basis.standardise(measured) for measured in row]
        for row in (_measured(basis, prompt, draws) for prompt, draws in zip(prompts, trial.draws, strict=True))
    ]
    best = [[max(row[:3]), max(row[3:])] for row in values]
    assert np.take_along_axis(np.array(values)[None], chosen, axis=2)[0] == pytest.approx(np.array(best))
    assert trial.run(Arm("best_of", num_draws=3)).passes == 3


def _measured(basis: Basis, prompt: Any, draws: Any) -> list[Any]:
    from personalign.learn.axes import measure

    return [measure(prompt, reply.text, basis.axes) for reply in draws]


def test_intervals_are_of_the_median_person() -> None:
    """By hand: medians over people of means over prompts; what is the same for all has no width."""
    table = np.array([[1.0, 3.0], [0.0, 0.0], [10.0, 1000.0]])
    bootstrap = Bootstrap.draw(3, 2)
    value, low, high = bootstrap.interval(table)
    assert value == 2
    assert low < value < high
    assert bootstrap.interval(np.full((3, 2), 0.7)) == pytest.approx((0.7, 0.7, 0.7))
    assert bootstrap.interval(table - (table - 1)) == pytest.approx((1, 1, 1))  # paired


def outcome(gain: float, nats: float) -> Outcome:
    """Everybody gains as much; a reply has four tokens."""
    table = np.ones((3, 2))
    return Outcome(Arm("successor"), gain * table, gain * table, nats * table, 4 * table, 3, 0, 0, 1)


def test_gains_are_read_off_between_settings() -> None:
    """By hand, in any order: straight between the settings around a divergence, as at the ends beyond them."""
    bootstrap = Bootstrap.draw(3, 2)
    outcomes = [outcome(5, 1.6), outcome(0, 0.0), outcome(1, 0.4)]
    curve = Curve.interpolated(bootstrap, outcomes, [o.gain for o in outcomes])
    for kl, gain, is_reached in ((0.0, 0, True), (0.05, 0.5, True), (0.1, 1, True), (0.25, 3, True), (0.5, 5, False)):
        nats = np.full(len(bootstrap.people), kl)
        assert interval_of(curve.means_at(nats)) == pytest.approx((gain,) * 3)
        assert curve.reaches(nats).all() == is_reached


def test_every_resample_has_its_own_divergence() -> None:
    """Where one of two people is moved and gains more, no resample's gain and divergence part."""
    bootstrap = Bootstrap.draw(2, 2)
    moved = np.array([[0.0, 0.0], [1.0, 1.0]])
    ends = [Outcome(Arm("successor"), x * moved, moved, x * moved, np.ones((2, 2)), 3, 0, 0, 1) for x in (0, 1)]
    curve = Curve.interpolated(bootstrap, ends, [end.gain for end in ends])
    assert len(set(curve.kl[:, 1])) > 2
    assert curve.means_at(curve.kl[:, 1]) == pytest.approx(bootstrap.means(ends[1].gain))


def test_wins_count_ties_half() -> None:
    """By hand: one of four replies is liked less, two as much."""
    origin = Origin(np.array([[[1.0, 2.0, 2.0, 3.0]]]))
    assert origin.wins(np.array([[2.0]])).tolist() == [[0.5]]
    assert origin.wins(np.array([[3.5]])).tolist() == [[1.0]]
    assert origin.gain(np.array([[3.0]])).tolist() == [[1.0]]


@pytest.mark.slow
def test_pictures_are_small(run: Run, tmp_path: Path) -> None:
    """Two PNG files of less than 150 kB."""
    _, out = run
    pictures = plot(out, tmp_path / "docs")
    assert [picture.name for picture in pictures] == ["quality.png", "alpha.png"]
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 150_000


def test_what_isnt_a_result_isnt_drawn(tmp_path: Path) -> None:
    """Another file is refused by name."""
    other = tmp_path / "other.json"
    other.write_text("{}")
    with pytest.raises(InputError, match=r"other\.json"):
        plot(other, tmp_path)
