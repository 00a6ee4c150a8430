"""A trial: which way to write people like best, by their own choices between replies whose arms they aren't told.

``learn/shares.py`` says what the choices come to, and from when on they can be believed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from math import log
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from personalign.errors import EngineError, InputError, Overloaded, PersonalignError
from personalign.learn.shares import Pair, Results, Share, even_shares, pairs, shares
from personalign.messages import Conversation, instructed, shown
from personalign.options import Options
from personalign.store import Comparison, Person, Shown, Store, Trial
from personalign.store.trials import Sides
from personalign.types import Guidance, Question, Reply

if TYPE_CHECKING:
    from personalign.decode.request import Request
    from personalign.onboarding import Onboarding
    from personalign.replies import Replies

ARMS = {
    "plain": "no guidance",
    "population": "everybody's mean taste",
    "personal": "the person's profile",
    "words": "the profile in the system message, no guidance",
}
UNSAID = (None, "skip")  # say nothing of the arms
WINS = {"a": 1.0, "b": 0.0}  # of the left side, by how a choice begins; the others are half a win for each


@dataclass(frozen=True)
class ArmReport:
    """What is known of one arm."""

    arm: str
    share: Share  # of wins against the other arms
    even: Share  # the same if all replies were equally long
    choices: int  # people's, where it wrote a side
    failures: int  # replies that it didn't bring about


@dataclass(frozen=True)
class Report:
    """What a trial says so far."""

    started_at: datetime
    stopped_at: datetime | None  # None while it runs
    arms: tuple[ArmReport, ...]
    pairs: tuple[Pair, ...]
    people: int  # who have chosen
    waiting: int  # pairs of replies that were shown, and not chosen from
    erased: int  # people who were in it and were erased since

    @property
    def is_known(self) -> bool:
        """Whether enough is known of every two arms."""
        return all(pair.is_known for pair in self.pairs)

    def explain(self) -> str:
        """What is known of every two arms, in words; one line each."""
        return "\n".join(pair.explain() for pair in self.pairs)


class Trials:
    """The trials of one basis; one runs at a time."""

    def __init__(self, store: Store, people: Onboarding, replies: Callable[[], Replies]) -> None:
        self._store, self._people, self._replies = store, people, replies
        self._serving, self._basis = people.serving, people.serving.basis

    def start(self, arms: Sequence[str]) -> Trial:
        """Start a trial of two to four of the ``ARMS``; the one that runs, if it has the same.

        Raises:
            InputError: another one runs, an arm is unknown, or "population" where everybody's mean taste is none.
        """
        if not isinstance(arms, list | tuple) or not all(isinstance(arm, str) and arm in ARMS for arm in arms):
            raise InputError(f"the arms are {shown(arms)}, expected a list of some of {', '.join(ARMS)}")
        if len(arms) < 2 or len(set(arms)) < len(arms):
            raise InputError(f"the arms are {shown(arms)}, expected two different ones at least; name each once")
        if "population" in arms and not self._basis.prior.mean.any():
            raise InputError(
                "found the arm population, expected a basis that knows everybody's taste: this one's mean is 0, so the "
                "arm would be plain; leave it out, or fit a basis on a log of people's answers"
            )
        return self._store.start_trial(self._basis.id, [arm for arm in ARMS if arm in arms])

    def stop(self) -> Trial:
        """Stop the trial that runs; what it showed may still be answered."""
        trial = self._store.stop_trial(self._basis.id)
        if trial is None:
            raise InputError("no trial is running, so none can be stopped")
        return trial

    def report(self) -> Report:
        """Say what the trial that runs, or else the last one, has come to."""
        trial = self._store.newest_trial(self._basis.id)
        if trial is None:
            raise InputError(f"there has been no trial; start one with some of the arms {', '.join(ARMS)}")
        return report(trial, self._store.comparisons(trial.id))

    def compare(self, user: str, conversation: Conversation, options: Options) -> Question:
        """Let two arms of the running trial answer, drawn with their sides; what waits for a choice is shown again.

        Raises:
            InputError: no trial is running, or something else than its arms would act on the replies.
            EngineError: an arm failed, which is counted.
        """
        trial = self._store.newest_trial(self._basis.id)
        if trial is None or trial.stopped_at is not None:
            raise InputError("no trial is running; start one first")
        self._check(options)
        person, name = self._store.add_user(user), _name(trial, conversation)
        if person.is_paused:
            raise InputError("this person paused personalisation, which a trial is about; resume it first")
        waiting = self._store.open_comparison(user, self._basis.id, name)
        if waiting is None:
            sides, seed = draw(trial, user, self._store.num_compared(user, trial.id))
            seeded = options if options.seed is not None else replace(options, seed=seed)
            a, b = self._write(person, trial, sides, [self._request(arm, user, conversation, seeded) for arm in sides])
            v = self._people.compare(conversation, a, b)
            sight = Shown(name, conversation, a, b, swapped=False, v=v, kind="trial")
            waiting = self._store.present_comparison(person, self._basis.id, trial.id, sides, sight)
        return Question(waiting.id, waiting.prompt, waiting.a, waiting.b)

    def _check(self, options: Options) -> None:
        if options.expert is not None or options.rule == "args":
            raise InputError(
                "a trial is of replies by the model and its basis; leave out the expert, and take another rule than "
                '"args"'
            )
        if self._serving.is_shadow:
            raise InputError("in shadow mode all arms are the model's own replies; leave it to run a trial")

    def _request(self, arm: str, user: str, conversation: Conversation, options: Options) -> Request:
        request = self._replies().request(user, conversation, options)
        if arm == "personal":
            return request
        if arm == "population":
            weights = self._serving.weights(self._basis.first_profile(""))
            return replace(request, guidance=Guidance(weights, options.strength))
        words = self._people.profile(user).as_system_prompt() if arm == "words" else ""
        return replace(request, guidance=None, messages=instructed(conversation, words))

    def _write(self, person: Person, trial: Trial, sides: Sides, requests: Sequence[Request]) -> list[str]:
        """Write both replies together; where one fails, the pair is counted, and not shown."""
        with ThreadPoolExecutor(len(requests)) as pool:
            outcomes = list(pool.map(partial(_attempt, self._replies()), requests))
        errors = [outcome for outcome in outcomes if not isinstance(outcome, Reply)]
        if not errors:
            return [outcome.text for outcome in outcomes if isinstance(outcome, Reply)]
        if len(errors) == len(outcomes) and isinstance(errors[0], InputError):
            raise errors[0]  # what was asked for, and not an arm, is at fault
        failed = [side for side, outcome in zip("ab", outcomes, strict=True) if not isinstance(outcome, Reply)]
        self._store.note_failure(person, trial.id, sides, "".join(failed))
        raise EngineError(f"an arm of the trial failed, which its report counts: {errors[0]}") from errors[0]


def draw(trial: Trial, user: str, number: int) -> tuple[Sides, int]:
    """Draw the arms of the left and the right side, and a seed, for a person's pair of this number: again the same."""
    name = f"{trial.id}\0{user}\0{number}"
    random = Random(int.from_bytes(hashlib.sha256(name.encode()).digest()))
    a, b = random.sample(trial.arms, 2)
    return (a, b), random.getrandbits(53)


def report(trial: Trial, comparisons: Sequence[Comparison]) -> Report:
    """What a trial's comparisons come to."""
    chosen = [one for one in comparisons if one.choice not in UNSAID]
    results = _results(trial.arms, chosen)
    arms = [
        ArmReport(arm, share, even, sum(arm in {one.a, one.b} for one in chosen), _failures(arm, comparisons))
        for arm, share, even in zip(trial.arms, shares(results), even_shares(results), strict=True)
    ]
    return Report(
        trial.started_at,
        trial.stopped_at,
        arms=tuple(arms),
        pairs=tuple(pairs(results)),
        people=len({one.person for one in chosen}),
        waiting=sum(one.choice in UNSAID and not one.failed for one in comparisons),
        erased=trial.num_erased,
    )


def _results(arms: tuple[str, ...], chosen: Sequence[Comparison]) -> Results:
    left, right, person = (
        np.array([place(one) for one in chosen], dtype=np.int64)
        for place in (lambda one: arms.index(one.a), lambda one: arms.index(one.b), lambda one: one.person)
    )
    score = np.array([WINS.get(str(one.choice)[0], 0.5) for one in chosen], dtype=np.float64)
    longer = np.array([log((one.lengths[0] + 1) / (one.lengths[1] + 1)) for one in chosen], dtype=np.float64)
    return Results(arms, person, left, right, score, longer)


def _failures(arm: str, comparisons: Sequence[Comparison]) -> int:
    return sum({"a": one.a, "b": one.b}[side] == arm for one in comparisons for side in one.failed)


def _name(trial: Trial, conversation: Conversation) -> str:
    """The same for the same conversation in the same trial."""
    content = json.dumps([trial.id, *conversation])
    return f"trial:{hashlib.sha256(content.encode()).hexdigest()}"


def _attempt(replies: Replies, request: Request) -> Reply | PersonalignError:
    """A reply, or what it failed with; too many requests at once are no arm's failure."""
    try:
        return replies.write([request])[0]
    except Overloaded:
        raise
    except PersonalignError as error:
        return error
