"""From many people's ratings to a basis of known items that serves: asked about, answered, and ranked for a person."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from personalign import Basis, Personalign, Question
from personalign.basis import ITEMS, BankQuestion
from personalign.errors import BasisError, InputError
from personalign.learn.ask import Likeness, StopRule
from personalign.learn.axes import features, flags
from personalign.learn.items import Ratings, pairs_of
from personalign.train.basis.build import named_basis
from personalign.train.basis.fit import MadeFromLog, fit_from_log
from personalign.train.basis.people import MAX_DIMENSIONS, fit_basis
from personalign.train.log import ABOUT_ITEMS, Answer, AnswerLog, LogCounts, read_log
from personalign.types import Fingerprints, Message

pytestmark = pytest.mark.filterwarnings("ignore")  # of things to come in a loaded model's libraries

PEOPLE, TASTES = 120, 3
JOKES = [f"Joke no. {i:02}, about {thing}." for i, thing in enumerate(["cats", "hats", "rain", "work", "food"] * 6)]
PLACE = {joke: i for i, joke in enumerate(JOKES)}
TELL: list[Message] = [{"role": "user", "content": "Tell me a joke."}]
ASK_ON = StopRule(accuracy=1.0, information=0.0, max_questions=9)
PLANTED = np.random.default_rng(7)
MEAN = 0.6 * PLANTED.normal(size=len(JOKES))
LOADING = PLANTED.normal(size=(len(JOKES), TASTES)) * (1.2, 0.9, 0.7)


@dataclass(frozen=True)
class Fitted:
    """A basis's folder, and what was said of it."""

    folder: Path
    made: MadeFromLog

    def open(self, place: Path, stop: StopRule | None = None) -> AbstractContextManager[Personalign]:
        """A service with a store of its own."""
        return Personalign.open(f"sqlite:///{place / 'p.db'}", "tiny", self.folder, device="cpu", stop_rule=stop)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People's ratings in hundredths, one in ten of them missing."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("ratings") / "ratings.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "rating"])
        for person in range(PEOPLE):
            liked = MEAN + LOADING @ rng.normal(size=TASTES) + 0.7 * rng.normal(size=len(JOKES))
            rated = np.flatnonzero(rng.random(len(JOKES)) < 0.9)
            writer.writerows([f"person {person}", JOKES[j], round(float(liked[j]), 2)] for j in rated)
    return path


@pytest.fixture(scope="module")
def fitted(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    folder = tmp_path_factory.mktemp("fitted") / "basis"
    return Fitted(folder, fit_from_log(read_log(log), "tiny", folder, device="cpu"))


# ---------------------------------------------------------------- what is made


def test_the_folder_holds_a_basis_of_items(fitted: Fitted, log: Path) -> None:
    """Axes of what everybody likes and of the planted tastes; nothing that steers, nothing of the run, no name."""
    assert {path.name for path in fitted.folder.iterdir()} == {
        "config.json", "model.safetensors", "questions.jsonl", "README.md", "report.json",
    }  # fmt: skip
    basis = Basis.load(fitted.folder)
    assert [axis.name for axis in basis.axes] == ["liked", *(f"taste_{i + 1}" for i in range(TASTES))]
    assert basis.learnt is not None
    assert (basis.learnt.embedder, basis.named, basis.steering.beta) == (ITEMS, (), 0)
    assert sorted(basis.learnt.items) == sorted(JOKES)
    raw = basis.learnt.projection[[basis.learnt.items.index(joke) for joke in JOKES]]
    assert np.corrcoef(raw[:, 0], MEAN)[0, 1] > 0.9
    away = LOADING - LOADING.mean(axis=0)  # a taste for all items alike shows in no order
    inside = np.linalg.qr(raw[:, 1:])[0].T @ away
    assert (inside**2).sum() > 0.9 * (away**2).sum()
    everything = "".join(path.read_text("utf-8", errors="ignore") for path in fitted.folder.iterdir())
    assert "person 1" not in everything
    assert str(log.parent) not in everything


def test_an_axis_is_told_by_the_items_at_its_ends(fitted: Fitted) -> None:
    """Those that are lowest and highest on it."""
    basis = Basis.load(fitted.folder)
    phi = features(basis, [TELL] * len(JOKES), JOKES)
    for axis, places in zip(basis.axes, phi.T, strict=True):
        assert JOKES[places.argmin()] in axis.less
        assert JOKES[places.argmax()] in axis.more
    np.testing.assert_allclose(phi.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(phi.std(axis=0), 1)


def test_people_are_asked_about_the_items(fitted: Fitted) -> None:
    """Pairs of them with two others each, no pair twice, every item about as often, each with its own features."""
    basis = Basis.load(fitted.folder)
    phi = features(basis, [TELL] * len(JOKES), JOKES)
    assert len(basis.bank) > 200
    for question in basis.bank:
        assert (question.prompt, len({*question.replies})) == (ABOUT_ITEMS, 4)
        np.testing.assert_allclose(question.features, phi[[PLACE[text] for text in question.replies]], atol=1e-6)
    pairs = [frozenset((question.first, question.second)) for question in basis.bank]
    assert len(set(pairs)) == len(pairs)
    times = np.bincount([PLACE[text] for pair in pairs for text in pair])
    assert times.min() > 0.7 * times.mean()


def test_the_report_says_what_the_ratings_foretell(fitted: Fitted) -> None:
    """Held-out people are predicted better than by everybody's mean, and it says why nothing is steered."""
    report = json.loads((fitted.folder / "report.json").read_text("utf-8"))
    assert report == json.loads(json.dumps(fitted.made.row()))
    assert report["log"]["people"] == report["people"] == PEOPLE
    assert (report["held_out"], report["compared"], report["learnt"]) == (PEOPLE / 4, len(JOKES), 1 + TASTES)
    five = next(after for after in report["after"] if after["answers"] == 5)
    assert five["accuracy"] > five["population_accuracy"] + 0.1
    assert report["active"]
    assert report["shares"]["nothing"] < 0.3
    assert (report["left_out"], report["likeness"]) == ([], None)
    assert "known items" in report["obstacle"]


def test_it_comes_back_from_its_directory(fitted: Fitted, tmp_path: Path) -> None:
    """With its id, its items in their order, and its bank; in another order, the control, it is another basis."""
    back, made = Basis.load(fitted.folder), fitted.made.basis
    assert back.id == made.id == fitted.made.row()["id"]
    assert back.learnt is not None
    assert made.learnt is not None
    assert back.learnt.items == made.learnt.items
    assert [question.replies for question in back.bank] == [question.replies for question in made.bank]
    back.save(tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (fitted.folder / path.name).read_bytes(), path.name
    assert replace(back, learnt=replace(back.learnt, items=back.learnt.items[::-1])).id != back.id


CHANGED: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "one too few": (lambda items: items[1:], "has 29 known items and a projection of 30 rows, expected one for each"),
    "one too many": (lambda items: [*items, "x"], "has 31 known items and a projection of 30 rows"),
    "one twice": (lambda items: [items[1], *items[1:]], "has 30 known items and a projection of 30 rows"),
    "no text": (lambda items: [7, *items[1:]], "config.json, items, 0: .*found 7"),
    "another text": (lambda items: ["x", *items[1:]], "it was changed by hand"),
    "another order": (lambda items: items[::-1], "it was changed by hand"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_items_that_do_not_fit_are_refused(name: str, fitted: Fitted, tmp_path: Path) -> None:
    """As many as rows of the projection, each once, and those that it was fitted to."""
    change, said = CHANGED[name]
    folder = shutil.copytree(fitted.folder, tmp_path / "basis")
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(config), encoding="utf-8")
    assert Basis.load(folder).id == fitted.made.basis.id  # control
    path.write_text(json.dumps(config | {"items": change(config["items"])}), encoding="utf-8")
    with pytest.raises(BasisError, match=said):
        Basis.load(folder)


# ---------------------------------------------------------------- what it does for a person


def answered(p: Personalign, user: str, utility: np.ndarray, replies: int) -> None:
    """Answer what is asked by these utilities; of several replies the best and the worst are named."""
    while question := p.ask(user, replies=replies):
        order = sorted(range(len(question.replies)), key=lambda i: -utility[PLACE[question.replies[i]]])
        names = ["abcd"[i] for i in order]
        p.answer(user, question.id, f"{names[0]}>{names[-1]}" if question.others else names[0])


@pytest.mark.slow
@pytest.mark.parametrize("replies", [2, 4])
def test_choose_puts_items_into_a_persons_order(fitted: Fitted, replies: int, tmp_path: Path) -> None:
    """After ten answers, and far better than by everybody's mean or by what is known of somebody else (controls)."""
    rng = np.random.default_rng(replies)
    tastes = [MEAN + LOADING @ rng.normal(size=TASTES) for _ in range(4)]
    with fitted.open(tmp_path) as p:
        for user, utility in enumerate(tastes):
            answered(p, f"user {user}", utility, replies)
        assert p.choose("nobody", TELL, JOKES).reason == "no_answers"
        places = [
            [order.index(j) for j in range(len(JOKES))]
            for order in (p.choose(user, TELL, JOKES).order for user in (*(f"user {i}" for i in range(4)), "nobody"))
        ]
        best = [p.choose(f"user {i}", TELL, JOKES).best for i in range(4)]
    own, strangers, means = (
        np.mean([-spearmanr(places[chosen], utility)[0] for chosen, utility in zip(whose, tastes, strict=True)])
        for whose in (range(4), np.roll(range(4), 1), [4] * 4)
    )
    assert own > 0.7
    assert own > max(strangers, means) + 0.25
    assert np.mean([(utility <= utility[PLACE[text]]).mean() for text, utility in zip(best, tastes, strict=True)]) > 0.9


def test_a_text_that_is_no_item_is_named(fitted: Fitted, tmp_path: Path) -> None:
    """Also one that is an item but for a letter; a profile and an order of items are still there (the control)."""
    with fitted.open(tmp_path) as p:
        for text in ("Something else.", JOKES[0].upper(), f"{JOKES[0]} "):
            with pytest.raises(InputError, match=f"found the reply .*{text}.*, expected one of the 30 items"):
                p.choose("ada", TELL, [*JOKES[:3], text])
            with pytest.raises(InputError, match=f"found the reply .*{text}"):
                p.feedback("ada", TELL, JOKES[0], text, "edit")
        assert p.profile("ada").revision == 0
        assert p.feedback("ada", TELL, JOKES[0], JOKES[1], "edit").revision == 1
        assert len(p.choose("ada", TELL, JOKES[:3]).candidates) == 3


def test_answers_about_other_texts_stay_behind(fitted: Fitted, tmp_path: Path) -> None:
    """Whoever answered about a model's own replies is new to the items, and whoever chose among items isn't."""
    url = f"sqlite:///{tmp_path / 'p.db'}"
    with Personalign.open(url, "tiny", device="cpu") as p:
        for _ in range(3):
            p.answer("ada", p.ask("ada").id, "a")
        p.feedback("ben", TELL, JOKES[0], JOKES[1], "edit")
    with fitted.open(tmp_path) as p:
        assert p.behind() == ["ada", "ben"]
        assert p.refit("ada") is None
        assert p.profile("ada").is_silent
        assert p.refit("ben").revision == 1
        assert p.behind() == ["ada"]


def test_chat_is_plain(fitted: Fitted, tmp_path: Path) -> None:
    """Nothing is steered and nothing told to a model, however much is known of a person's taste."""
    with fitted.open(tmp_path) as p:
        answered(p, "ada", 3 * LOADING[:, 0], 2)
        assert p.choose("ada", TELL, JOKES).reason is None
        reply, stranger = (p.chat(user, TELL, max_tokens=6, seed=0) for user in ("ada", "ben"))
        assert (reply.guided, reply.reason, reply.text) == (False, "strength_zero", stranger.text)


# ---------------------------------------------------------------- what is shown


def with_bank(fitted: Fitted, place: Path, num_jokes: int, *, has_others: bool) -> Fitted:
    """The same basis with the questions about a few of the items, which are soon all shown."""
    bank: Sequence[BankQuestion] = fitted.made.basis.bank
    if not has_others:
        bank = [replace(question, others=(), other_features=()) for question in bank]
    some = tuple(question for question in bank if all(PLACE[text] < num_jokes for text in question.replies))
    replace(fitted.made.basis, bank=some).save(place)
    return replace(fitted, folder=place)


def shown(p: Personalign, user: str, replies: int) -> Iterator[tuple[Question, set[str], bool]]:
    """Every question, what was shown before it, and whether there was one of replies that weren't."""
    likeness, before, asked = Likeness.measure(p.basis), set[str](), np.zeros(len(p.basis.bank), dtype=bool)
    while question := p.ask(user, replies=replies):
        of_bank = [{*entry.replies[: len(question.replies)]} for entry in p.basis.bank]
        is_new = np.array([not texts & before for texts in of_bank])
        yield question, before, bool((is_new & ~likeness.repeats(asked)).any())
        before = before | {*question.replies}
        asked |= [texts == {*question.replies} for texts in of_bank]
        p.answer(user, question.id, "a>b" if question.others else "a")


@pytest.mark.parametrize(
    ("replies", "num_jokes", "has_others"),
    [
        (2, 12, False),
        (4, 18, True),
        (2, 16, True),
    ],
)
def test_no_item_is_shown_twice_while_others_are_left(
    replies: int, num_jokes: int, has_others: bool, fitted: Fitted, tmp_path: Path
) -> None:
    """Then, and only then, items come again."""
    basis = with_bank(fitted, tmp_path / "few", num_jokes, has_others=has_others)
    again: dict[bool, list[bool]] = {True: [], False: []}
    with basis.open(tmp_path, ASK_ON) as p:
        for question, before, is_any_left in shown(p, "ada", replies):
            again[is_any_left].append(bool(before & {*question.replies}))
    assert len(again[True]) >= 3
    assert not any(again[True])
    assert all(again[False])
    assert again[False]


def test_without_the_rule_items_come_again(fitted: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: chosen by what they tell alone, questions show the telling items again and again."""
    monkeypatch.setattr(Likeness, "shows_again", lambda likeness, *_: np.zeros(len(likeness.prompt), dtype=bool))
    basis = with_bank(fitted, tmp_path / "few", 12, has_others=False)
    with basis.open(tmp_path, ASK_ON) as p:
        assert any(before & {*question.replies} for question, before, is_left in shown(p, "ada", 2) if is_left)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("embedder", ["hidden", ITEMS])
@pytest.mark.parametrize("options", [{"prompts": Path("prompts.txt")}, {"ask_log_prompts": True}])
def test_prompts_for_known_items_are_refused(log: Path, embedder: str, options: dict, tmp_path: Path) -> None:
    """Nothing is written for them, in neither sense: no model is loaded, and no folder made."""
    for answers in (read_log(log), *([compared(2)] if embedder == ITEMS else [])):
        with pytest.raises(InputError, match=r"found prompts for a log of known items, .* leave them out"):
            fit_from_log(answers, str(tmp_path / "none"), tmp_path / "out", embedder=embedder, **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rank", [0, 30, "many"])
def test_a_rank_that_cannot_be_is_refused(log: Path, rank: int | str, tmp_path: Path) -> None:
    """There are fewer tastes than items; nothing half made is left as a basis."""
    with pytest.raises(InputError, match=r"found (the )?rank"):
        fit_from_log(read_log(log), "tiny", tmp_path / "out", rank, device="cpu")
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_rank_that_leaves_no_room_for_the_first_axis_is_refused() -> None:
    """A basis has 64 axes at most, and the first is what everybody likes."""
    ratings = rated(np.random.default_rng(0).normal(size=(24, 70)))
    with pytest.raises(InputError, match='found the rank 64, expected "auto" or a whole number from 1 to 63'):
        fit_basis(ratings, flags(()), DRAFT, ITEMS, rank=64)


def test_an_item_that_only_judges_rated_is_no_obstacle() -> None:
    """Few people rate a rare item, and chance may let all of them judge."""
    liked = np.random.default_rng(0).normal(size=(40, 12))
    liked[np.random.default_rng([0, 4]).permutation(40) >= 10, 5] = np.nan
    assert fit_basis(rated(liked), flags(()), DRAFT, ITEMS).held_out == 10


# ---------------------------------------------------------------- pairs of known items


DRAFT = named_basis("none", Fingerprints("tokenizer", "model"), "assistant")


def rated(liked: np.ndarray) -> AnswerLog:
    """A log of these ratings, by people and items that are numbered."""
    users, items = ([f"no. {i:03}" for i in range(num)] for num in liked.shape)
    person, pair, choice = pairs_of(liked)
    answers = tuple(
        Answer(users[i], ABOUT_ITEMS, items[a], items[b], str(side))
        for i, (a, b), side in zip(person.tolist(), pair.tolist(), choice, strict=True)
    )
    counts = LogCounts(int(np.isfinite(liked).sum()), len(users), 0, 0, 0, 0, 0, {})
    return AnswerLog(answers, counts, "ratings.csv", Ratings(tuple(users), tuple(items), liked))


def compared(each: int, jokes: int = 30, people: int = 60, prompts: int = 3) -> AnswerLog:
    """People with two tastes compare jokes, told after several prompts."""
    rng, answers = np.random.default_rng(1), []
    for person in range(people):
        utility = 3 * (LOADING[:, :2] @ rng.normal(size=2))
        for i in range(each):
            left, right = rng.choice(jokes, size=2, replace=False)
            is_left = rng.random() < 1 / (1 + np.exp(utility[right % 30] - utility[left % 30]))
            told = ({"role": "user", "content": f"Tell me joke {i % prompts}."},)
            texts = [JOKES[j] if j < len(JOKES) else f"Joke no. {j}." for j in (left, right)]
            answers.append(Answer(f"person {person}", told, *texts, "a" if is_left else "b"))
    return AnswerLog(tuple(answers), LogCounts(len(answers), people, 0, 0, 0, 0, 0, {}), "pairs.jsonl")


@pytest.mark.slow
def test_a_log_of_pairs_is_read_as_one_of_items(tmp_path: Path) -> None:
    """Each text is an item, whatever it answers, on learnt axes alone; people are foretold, asked and served."""
    made = fit_from_log(compared(14), "tiny", tmp_path / "basis", rank=2, embedder=ITEMS, device="cpu")
    basis = Basis.load(tmp_path / "basis")
    assert [axis.name for axis in basis.axes] == ["learnt_1", "learnt_2"]
    assert basis.learnt is not None
    assert (basis.learnt.embedder, basis.learnt.items) == (ITEMS, tuple(JOKES))
    assert {text for question in basis.bank for text in question.replies} == {*JOKES}
    five = next(after for after in made.findings.judgement.after if after.answers == 5)
    assert five.accuracy > five.population_accuracy + 0.1
    utility = LOADING[:, 0]
    with Fitted(tmp_path / "basis", made).open(tmp_path) as p:
        answered(p, "ada", utility, 2)
        order = p.choose("ada", TELL, JOKES).order
        with pytest.raises(InputError, match=r"Another joke.*expected one of the 30 items"):
            p.choose("ada", TELL, ["Another joke."])
    assert spearmanr(utility[list(order)], np.arange(len(JOKES)))[0] < -0.5


@pytest.mark.parametrize("prompts", [1, 3])
def test_an_item_is_the_same_after_any_prompt(prompts: int) -> None:
    """Where everybody compared the same few items, nothing is predicted from answers that share one."""
    findings = fit_basis(compared(12, 6, 24, prompts), flags(()), DRAFT, ITEMS, rank=1)
    assert [after.answers for after in findings.judgement.after] == [0]
    assert findings.replies == 6


def test_too_many_replies_are_no_known_items() -> None:
    """Of pairs, where another embedder may find what replies have in common."""
    many = compared(30, jokes=500)
    num = len({text for answer in many.answers for text in (answer.a, answer.b)})
    assert num > MAX_DIMENSIONS
    with pytest.raises(InputError, match=f"compares {num} different replies, expected 384 known items at most"):
        fit_basis(many, flags(()), DRAFT, ITEMS)


def test_questions_end_with_the_bank(fitted: Fitted, tmp_path: Path) -> None:
    """Whoever would be asked for ever is told that none is left, after every pair of a few items."""
    basis = with_bank(fitted, tmp_path / "few", 5, has_others=False)
    num = len(Basis.load(basis.folder).bank)
    assert num > 3
    with basis.open(tmp_path, StopRule(accuracy=1.0, information=0.0, max_questions=100)) as p:
        for _ in range(num):
            question = p.ask("ada")
            assert question is not None
            p.answer("ada", question.id, "a")
        assert p.ask("ada") is None
        assert p.why_stopped("ada") == "no question left"
