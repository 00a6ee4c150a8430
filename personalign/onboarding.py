"""Onboarding: which question a person is asked next, how it is shown, and the profile fitted to their answers.

Feedback is an answer without a question, and is fitted with the others. This module puts store and learning in
sequence, and needs no model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from personalign.errors import InputError, QuestionError
from personalign.learn.ask import AHEAD, QUESTION_RULES, Likeness, StopRule, acquire, clip_pairs, why_stop
from personalign.learn.axes import Embed, features
from personalign.learn.evidence import Drift, evidence, follow
from personalign.learn.fit import fit
from personalign.learn.mixture import Mixture
from personalign.learn.rank import Picks, Ranking, rank
from personalign.learn.served import Serving
from personalign.learn.wishes import ReadWishes, Understood, understand
from personalign.messages import (
    MAX_REPLIES,
    Conversation,
    Feedback,
    check_text,
    instructed,
    read_candidates,
    read_pick,
    shown,
)
from personalign.options import check_choice, check_name, check_number, check_switch, check_whole
from personalign.store import Answer, Fit, Key, Presentation, Shown, Statements, Store
from personalign.types import (
    INFORMATIVE,
    SIDES,
    SPREADS,
    Array,
    Choice,
    Gaussian,
    Message,
    Pick,
    Profile,
    Question,
    Reason,
    Statement,
)

SHORTEST_DAYS, LONGEST_DAYS = 1e-3, 1e6  # of a half-life
PREFERRING = INFORMATIVE - {"tie"}  # choices that name a best reply
AT_RANDOM = "questions were drawn at random, because this basis doesn't predict answers well enough to choose them"
PATIENCE = 3  # times as many questions are shown as are to be answered; one passed over says nothing
EXPOSURE_FLOOR, EXPOSURE_SHARE = 50, 0.05  # no pair is shown more often than this, or than this share of all


@dataclass(frozen=True)
class Rules:
    """How people are asked, when enough is known, how long an answer counts, and how wishes in words are read."""

    question_rule: str  # one of QUESTION_RULES
    stop_rule: StopRule
    half_life_days: float | None = None  # None: never
    read_wishes: ReadWishes = understand

    def __post_init__(self) -> None:
        check_choice("question_rule", self.question_rule, QUESTION_RULES)
        if not isinstance(self.stop_rule, StopRule):
            raise InputError(
                f"stop_rule is {shown(self.stop_rule)}, expected a StopRule, such as StopRule(max_questions=15)"
            )
        if self.half_life_days is not None:
            check_number("half_life_days", self.half_life_days, SHORTEST_DAYS, LONGEST_DAYS)
        if not callable(self.read_wishes):
            raise InputError(f"read_wishes is {shown(self.read_wishes)}, expected a function of a text and some axes")


def rule(name: str, meaning: str) -> Any:  # noqa: ANN401 - the property is annotated
    """One of the ``Rules`` as a property of the service, which has an ``Onboarding``."""

    def read(service: Any) -> object:  # noqa: ANN401 - likewise
        return getattr(service._onboarding.rules, name)  # noqa: SLF001 - the property is the service's own

    def write(service: Any, rule: Any) -> None:  # noqa: ANN401 - as its annotation says, which the rules check
        service._onboarding.rules = replace(service._onboarding.rules, **{name: rule})  # noqa: SLF001

    return property(read, write, doc=meaning)


class Onboarding:
    """The questions of one basis, and people's answers to them."""

    def __init__(self, store: Store, serving: Serving, embed: Embed) -> None:
        self._store, self.serving, self._basis, self._embed = store, serving, serving.basis, embed
        self._pool = clip_pairs(self._basis.pool, self._basis.prior)
        self._prior = Mixture.of_people(self._basis)
        self.rules = Rules(AHEAD if self._basis.active else "random", StopRule())

    def ask(self, user: str, consent: str | None = None, *, graded: bool = False, replies: int = 2) -> Question | None:
        """The open question, or the next one; None when enough is known."""
        check_switch("graded", graded)
        check_whole("replies", replies, 2, MAX_REPLIES)
        person = self._store.add_user(user, consent)
        presentation = self._store.open_presentation(user, self._basis.id)
        if presentation is None or 2 + len(presentation.others) > replies:
            chosen, _ = self._choose(user, replies)
            if chosen is None:
                return None
            sides = self._show(user, *chosen)
            sides = replace(sides, graded=graded and not sides.others)
            presentation = self._store.present(user, self._basis.id, sides, person)
        elif presentation.graded != graded and not presentation.others:
            presentation = self._store.present(user, self._basis.id, replace(presentation, graded=graded), person)
        return _question(presentation)

    def _show(self, user: str, index: int, num_replies: int) -> Shown:
        question = self._basis.bank[index]
        if num_replies > 2:
            return Shown.pick(user, question.id, question.prompt, question.replies[:num_replies], question.features)
        return Shown.pair(user, question.id, question.prompt, question.first, question.second, self._basis.pool[index])

    def why_stopped(self, user: str) -> str | None:
        """Why there is no further question, in words; None while there is one."""
        return None if self._store.open_presentation(user, self._basis.id) else self._choose(user)[1]

    def answer(self, user: str, question_id: str, choice: Choice | Pick) -> Profile:
        """Store an answer and the profile fitted to all of them."""
        for name, value in (("question", question_id), ("choice", choice)):
            if not isinstance(value, str) or not value.isprintable() or len(value) > 64:
                raise QuestionError(f"the {name} is {shown(value)}, expected a question's id and one of its choices")
        return self._named(self._store.commit_answer(user, question_id, choice, self._fit_of(user)))

    def reask(self, user: str) -> Question | None:
        """The open question, or the first one answered by a side, its sides changed; None once one was asked again.

        Of a pick, the best reply and the worst are asked again, or the best and another.
        """
        person = self._store.person(user)
        presentation = self._store.open_presentation(user, self._basis.id)
        if presentation is None:
            answers = self._store.answers(user, self._basis.id)
            first = next((a for a in answers if a.kind == "question" and a.choice in PREFERRING), None)
            if first is None or any(answer.kind == "check" for answer in answers):
                return None
            turned = self._store.presentation(user, first.presentation_id).turned(first.choice)
            presentation = self._store.present(user, self._basis.id, turned, person)
        return _question(presentation)

    def agreed(self, user: str) -> bool | None:
        """Whether the person preferred the same reply when a question was asked again; None where it wasn't."""
        answers = self._store.answers(user, self._basis.id)
        check = next((answer for answer in answers if answer.kind == "check" and answer.choice != "skip"), None)
        if check is None:
            return None
        first = next((a for a in answers if a.kind == "question" and a.question_id == check.question_id), None)
        return first is not None and self._preferred(user, check) == self._preferred(user, first)

    def _preferred(self, user: str, answer: Answer) -> str | None:
        """The reply that was best; None for a tie."""
        if answer.choice not in PREFERRING:
            return None
        replies = self._store.presentation(user, answer.presentation_id).replies
        best, _ = read_pick(SIDES.get(answer.choice, answer.choice), len(replies))
        return replies[best]

    def undo(self, user: str) -> Profile:
        """Take the last answer back; its question is open again."""
        profile = self._store.undo_answer(user, self._basis.id, self._fit_of(user))
        if profile is None:
            raise QuestionError("there is no answer to take back; answer a question first")
        return self._named(profile)

    def feedback(self, user: str, feedback: Feedback) -> Profile:
        """Store what a person preferred in use, as a weak answer, and the profile fitted with it."""
        person = self._store.person(user)  # before measuring, which takes its time
        first, second = sorted((feedback.chosen, feedback.rejected))
        pair = json.dumps([feedback.kind, *feedback.prompt, first, second])
        name = f"{feedback.kind}:{hashlib.sha256(pair.encode()).hexdigest()}"
        v = self.compare(feedback.prompt, first, second)
        sides = replace(Shown.pair(user, name, feedback.prompt, first, second, v), kind=feedback.kind)
        choice = "a" if sides.a == feedback.chosen else "b"
        return self._named(self._store.commit_feedback(user, self._basis.id, sides, choice, self._fit_of(user), person))

    def set(self, user: str, positions: Mapping[str, float | None]) -> Profile:
        """Store where a person wants named axes, and the profile fitted with it; None takes back all stated on one."""
        if not positions:
            raise InputError(
                "found no axis to set, expected one at least, such as length=-1; pass a position from -1 to 1"
            )
        stated: dict[Key, Statement | None] = {}
        for name, position in positions.items():
            check_name("axis", name, [axis.name for axis in self._basis.named])
            if position is None:
                stated |= {(name, kind): None for kind in SPREADS}
            else:
                check_number(f"the position on the axis {name!r}", position, -1.0, 1.0)
                stated[name, "set"] = Statement(name, float(position))
        return self._state(user, stated)

    def say(self, user: str, text: str) -> Understood:
        """Store what a person wishes in words, as weak evidence, and the profile fitted with it."""
        understood = self.rules.read_wishes(text, self._basis.named)
        for wish in understood.wishes:
            check_name("axis", wish.axis, [axis.name for axis in self._basis.named])
            check_number(f"the position on the axis {wish.axis!r}", wish.position, -1.0, 1.0)
            check_text("the words of a wish", wish.words)
        if understood.wishes:
            self._state(user, {(wish.axis, "said"): replace(wish, kind="said") for wish in understood.wishes})
        return understood

    def _state(self, user: str, stated: Statements) -> Profile:
        person, fit = self._store.person(user), self._fit_of(user, stated)
        profile = self._store.commit_statements(user, self._basis.id, stated, fit, person)
        return self._named(profile or self._basis.first_profile(user))

    def drift(self, user: str) -> Drift:
        """What a person's answers so far say about a change of taste."""
        return self._watch(self._store.answers(user, self._basis.id))

    def refit(self, user: str) -> Profile | None:
        """Take a person's answers over from other bases, their texts measured anew; None where there are none.

        Answers about other texts than a basis's known items stay behind.
        """
        profile = self._store.adopt(user, self._basis.id, self._measure, self._fit_of(user))
        return None if profile is None else self._named(profile)

    def _measure(self, shown: Presentation) -> Array | None:
        if not self._basis.can_measure(texts := shown.replies):
            return None
        measured = features(self._basis, [shown.prompt] * len(texts), texts, self._embed)
        return measured if shown.others else np.asarray(measured[0] - measured[1])

    def profile(self, user: str) -> Profile:
        """What is known of a person; the prior for someone who has answered nothing."""
        return self._named(self._store.profile(user, self._basis.id) or self._basis.first_profile(user))

    def messages(self, user: str, conversation: Conversation) -> list[Message]:
        """The conversation with what is certain of a person in its system message."""
        return instructed(conversation, self.profile(user).as_system_prompt(is_certain=True))

    def choose(self, user: str, prompt: Sequence[Message], replies: Sequence[str]) -> Ranking:
        """Rank replies to a prompt by what is known of a person."""
        candidates = read_candidates(replies)
        profile = self.profile(user)
        guidance = self.serving.guidance(profile)
        is_personal = guidance is not None and guidance.is_personal
        reason: Reason | None = "no_answers" if profile.is_silent else None if is_personal else "nothing_personal"
        if profile.is_paused:
            profile, reason = self._basis.first_profile(user), "paused"
        phi = features(self._basis, [prompt] * len(candidates), candidates, self._embed)
        return rank(candidates, phi, self.serving.belief(profile), reason, profile.revision)

    def _choose(self, user: str, replies: int = 2) -> tuple[tuple[int, int] | None, str | None]:
        """The next bank question and how many of its replies are shown, or why there is none."""
        basis, rule, stop = self._basis, self.rules.question_rule, self.rules.stop_rule
        state, asked = self._store.state(user, basis.id), self._store.asked(user, basis.id)
        post = self._named(state.profile or basis.first_profile(user)).posterior
        picked = frozenset(answer.question_id for answer in state.answers if answer.v.ndim == 2)
        allowed, drift = self._allowed(asked, picked, replies), self._watch(state.answers)
        num_shown = sum(answer.kind == "question" for answer in state.answers[drift.restart :])
        reason = why_stop(post, basis.reference, self._pool[allowed], drift.asked, stop, basis.noise)
        if num_shown >= PATIENCE * stop.max_questions:
            reason = f"showed {num_shown} questions, most of which were passed over"
        if reason is not None:
            return None, f"{reason}; {AT_RANDOM}" if rule == "random" and not basis.active else reason
        seed = crc32(f"{user}\0{len(asked)}".encode())  # of the rule "random": the same question until it is asked
        pair = acquire(post, self._pool, rule, basis.noise, allowed, seed, sums=basis.sums)
        pick = self._pick(post, allowed, pair, state.answers) if replies > 2 else None
        if pick is None:
            return (pair, 2), None
        return (pick, min(replies, len(basis.bank[pick].replies))), None

    def _pick(self, post: Gaussian, allowed: NDArray[np.bool_], pair: int, answers: Sequence[Answer]) -> int | None:
        """The question whose pick tells more in a second than a pair does; None where none does."""
        pace = self._picks.pace([(a.question_id, a.v.ndim == 2, a.seconds) for a in answers if a.kind == "question"])
        return self._picks.better(post, allowed, pair, self._pool[pair], self._basis.noise, pace)

    @cached_property
    def _picks(self) -> Picks:
        return Picks.measure(self._basis)

    def _allowed(self, asked: frozenset[str], picked: frozenset[str], replies: int) -> NDArray[np.bool_]:
        exposures, bank = self._store.exposures(self._basis.id), self._basis.bank
        most = max(EXPOSURE_FLOOR, EXPOSURE_SHARE * sum(exposures.values()))
        is_asked, is_picked = (np.array([q.id in ids for q in bank], dtype=bool) for ids in (asked, picked))
        is_rested = np.array([exposures.get(question.id, 0) < most for question in bank], dtype=bool)
        allowed = is_rested & ~self._likeness.repeats(is_asked)
        is_fresh = allowed & ~self._likeness.shows_again(is_asked, is_picked, replies)
        return np.asarray(is_fresh if is_fresh.any() else allowed)

    @cached_property
    def _likeness(self) -> Likeness:
        return Likeness.measure(self._basis)

    def compare(self, prompt: Sequence[Message], first: str, second: str) -> Array:
        """Features of two texts, first minus second."""
        of_first, of_second = features(self._basis, [prompt, prompt], [first, second], self._embed)
        return np.asarray(of_first - of_second)

    def _fit_of(self, user: str, news: Statements = MappingProxyType({})) -> Fit:
        """What fits a person's answers, given what they stated and what they state now."""

        def fit_stated(answers: tuple[Answer, ...]) -> Gaussian:
            # a statement meanwhile makes another revision, and the store fits once more
            before, logged = self._store.before_answers(user, self._basis.id)
            stated = [statement for statement in {**before, **news}.values() if statement is not None]
            return self._fit(answers, self._prior if logged is None else self._prior.around(logged.belief), stated)

        return fit_stated

    def _fit(self, answers: Sequence[Answer], prior: Mixture, stated: Sequence[Statement]) -> Gaussian:
        v, choice, weight = evidence(answers, self._basis.prior, self.rules.half_life_days)
        return fit(v, choice, prior.conditioned(stated, self._basis.axes), self._basis.noise, weight)

    def _watch(self, answers: Sequence[Answer]) -> Drift:
        return follow(answers, self._basis.prior)

    def _named(self, profile: Profile) -> Profile:
        self._basis.check_profile(profile)
        return replace(self.serving.described(profile), is_paused=self._store.person(profile.user).is_paused)


def _question(presentation: Presentation) -> Question:
    return Question(presentation.id, presentation.prompt, presentation.a, presentation.b, presentation.others)
