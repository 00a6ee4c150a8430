"""Verbs in any order say what a dict would, on either database, through two stores that are open side by side."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from personalign.errors import AlreadyAnswered, InputError
from personalign.store import Store
from tests.store.store_worker import count, pair

ON_BOTH = True  # databases
NUMBERS = itertools.count()  # of people and questions, none of whom is met twice
NAMES = st.sampled_from(["ada", "bob", "eve"])
CHOICES = st.sampled_from(["a", "b", "tie", "skip"])


@dataclass
class Known:
    """What a dict would hold of a person."""

    consent: str | None = None
    is_paused: bool = False
    revision: int = 0
    asked: list[str] = field(default_factory=list)  # questions that were answered, by the id of what was shown
    choices: dict[str, str] = field(default_factory=dict)  # of all that stands, oldest first
    waiting: str | None = None  # what was shown and isn't answered


class Machine(RuleBasedStateMachine):
    """Two stores on one database, and a dict."""

    def __init__(self, stores: tuple[Store, Store]) -> None:
        super().__init__()
        self.stores, self.people = stores, dict[str, Known]()

    @initialize()
    def begin(self) -> None:
        self.run_number, self.touched = next(NUMBERS), list[str]()

    def user(self, name: str) -> str:
        self.touched = [name]
        return f"{self.run_number}-{name}"

    @property
    def store(self) -> Store:
        """One and then the other."""
        self.stores = self.stores[::-1]
        return self.stores[0]

    @rule(name=NAMES, consent=st.sampled_from([None, "yes", "all"]))
    def add(self, name: str, consent: str | None) -> None:
        self.store.add_user(self.user(name), consent)
        known = self.people.setdefault(name, Known())
        known.consent = consent or known.consent

    @rule(name=NAMES, is_paused=st.booleans())
    def pause(self, name: str, is_paused: bool) -> None:
        self.store.pause(self.user(name), is_paused=is_paused)
        if is_paused or name in self.people:
            self.people.setdefault(name, Known()).is_paused = is_paused

    @rule(name=NAMES, choice=CHOICES)
    def ask_and_answer(self, name: str, choice: str) -> None:
        if (known := self._shown(name)) is None:
            return
        shown = known.waiting
        assert self.store.commit_answer(self.user(name), shown, choice, count).revision == known.revision + 1
        known.revision, known.waiting = known.revision + 1, None
        known.asked.append(shown)
        known.choices[shown] = choice

    @rule(name=NAMES)
    def ask(self, name: str) -> None:
        self._shown(name)

    def _shown(self, name: str) -> Known | None:
        """What is open is shown again; nothing is shown to a stranger."""
        question = pair(f"q{next(NUMBERS)}")
        if name not in self.people:
            with pytest.raises(InputError, match="isn't known"):
                self.store.present(self.user(name), "basis", question)
            return None
        known = self.people[name]
        shown = self.store.present(self.user(name), "basis", question).id
        assert known.waiting in {None, shown}
        known.waiting = shown
        return known

    @rule(name=NAMES, choice=CHOICES)
    def answer_again(self, name: str, choice: str) -> None:
        known = self.people.get(name)
        if known is None or not known.asked:
            return
        shown = known.asked[-1]
        if choice == known.choices[shown]:
            assert self.store.commit_answer(self.user(name), shown, choice, count).revision == known.revision
        else:
            with pytest.raises(AlreadyAnswered):
                self.store.commit_answer(self.user(name), shown, choice, count)

    @rule(name=NAMES)
    def undo(self, name: str) -> None:
        found = self.store.undo_answer(self.user(name), "basis", count)
        known = self.people.get(name)
        if known is None or not known.asked:
            assert found is None
            return
        known.waiting = known.asked.pop()
        del known.choices[known.waiting]
        known.revision += 1
        assert found.revision == known.revision

    @rule(name=NAMES, number=st.integers(0, 2), choice=st.sampled_from(["a", "b"]))
    def prefer(self, name: str, number: int, choice: str) -> None:
        """The newest feedback on a pair takes the place of the one before."""
        key, user = f"edit:{number}", self.user(name)
        shown = replace(pair(key), kind="edit")
        person = self.store.person(user)
        revision = self.store.commit_feedback(user, "basis", shown, choice, count, person).revision
        known = self.people.setdefault(name, Known())
        if known.choices.get(key) != choice:
            known.choices.pop(key, None)
            known.choices[key] = choice
            known.revision += 1
        assert revision == known.revision

    @rule(name=NAMES)
    def forget(self, name: str) -> None:
        assert self.store.forget(self.user(name)) == (name in self.people)
        self.people.pop(name, None)

    @invariant()
    def everything_is_said(self) -> None:
        """Of whoever was spoken of last."""
        for name in self.touched:
            known, store, user = self.people.get(name), self.store, self.user(name)
            person, profile = store.person(user), store.profile(user, "basis")
            assert (person.created_at is not None) == (known is not None)
            known = known or Known()
            answers = store.answers(user, "basis")
            keys = [each.question_id if each.kind == "edit" else each.presentation_id for each in answers]
            assert dict(zip(keys, (each.choice for each in answers), strict=True)) == known.choices
            assert keys == list(known.choices)
            assert (person.is_paused, profile.revision if profile else 0) == (known.is_paused, known.revision)
            if profile is not None:
                assert profile.mean[0] == len(answers)
            waiting = store.open_presentation(user, "basis")
            assert (waiting and waiting.id) == known.waiting
            users = store.export(user)["tables"]["users"]
            assert [row["consent"] for row in users] == ([known.consent] if name in self.people else [])


@pytest.fixture
def run(url: str) -> Callable[..., None]:
    """Run so many examples of so many steps."""

    def play(examples: int, steps: int, phases: tuple[Phase, ...] = tuple(Phase)) -> None:
        with Store.open(url) as one, Store.open(url) as other:
            one.save_basis("basis", "tiny", {})
            quiet = settings(
                max_examples=examples,
                stateful_step_count=steps,
                suppress_health_check=list(HealthCheck),
                phases=phases,
            )
            run_state_machine_as_test(lambda: Machine((one, other)), settings=quiet)

    return play


def test_a_dict_would_say_the_same(run: Callable[..., None]) -> None:
    """A few verbs, a few times."""
    run(8, 12)


@pytest.mark.slow
def test_a_dict_would_say_the_same_of_many(run: Callable[..., None]) -> None:
    """Many verbs, many times."""
    run(50, 25)


def test_what_the_dict_has_otherwise_would_be_seen(run: Callable[..., None], monkeypatch) -> None:
    """The control: a pause that lets go of nothing is found."""
    monkeypatch.setattr(Store, "pause", lambda *_, **_named: None)
    with pytest.raises(AssertionError):
        run(8, 12, (Phase.generate,))  # the first one will do
