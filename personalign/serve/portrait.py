"""Profiles, questions and events as people's routes show them: values of the service into ``views``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from personalign.learn.mixture import FULL
from personalign.views import (
    AxisView,
    DriftView,
    EventView,
    ExampleView,
    MessageView,
    ProfileView,
    QuestionView,
    StatementView,
)

if TYPE_CHECKING:
    from personalign.basis import BankQuestion, Basis
    from personalign.learn.evidence import Drift
    from personalign.store import Event
    from personalign.types import Message, Profile, Question, Statement
    from personalign.words import Axis


def profile_view(profile: Profile, basis: Basis, before: Profile | None = None) -> ProfileView:
    """A profile, and in words what changed since an earlier one."""
    return ProfileView(
        user=profile.user,
        revision=profile.revision,
        answers=profile.answers,
        informative=profile.informative,
        is_personal=profile.is_personal,
        paused=profile.is_paused,
        explanation=tuple(profile.explain().splitlines()),
        axes=axes_view(profile, basis),
        stated=statements_view(profile.stated, basis.axes),
        changes=() if before is None else tuple(profile.changes(before).splitlines()),
    )


def axes_view(profile: Profile, basis: Basis) -> tuple[AxisView, ...]:
    """Each axis in words and numbers."""
    positions = {stated.axis: stated.position for stated in profile.stated if stated.kind == "set"}
    deviations = np.sqrt(np.diag(profile.covariance)).tolist()
    units = (FULL * np.sqrt(np.diag(basis.prior.covariance))).tolist()
    rows = zip(basis.axes, profile.mean.tolist(), deviations, units, basis.examples, strict=True)
    return tuple(
        AxisView(
            name=axis.name,
            about=axis.about,
            low=axis.less,
            high=axis.more,
            mean=mean,
            deviation=deviation,
            unit=unit,
            position=positions.get(axis.name),
            example=None if example is None else _example(example, place),
        )
        for place, (axis, mean, deviation, unit, example) in enumerate(rows)
    )


def _example(question: BankQuestion, place: int) -> ExampleView:
    pair = (question.first_features[place], question.first), (question.second_features[place], question.second)
    (_, low), (_, high) = sorted(pair)
    return ExampleView(_messages(question.prompt), low, high)


def statements_view(stated: Sequence[Statement], axes: Sequence[Axis]) -> tuple[StatementView, ...]:
    """What was stated, each on its axis."""
    known = {axis.name: axis for axis in axes}
    return tuple(
        StatementView(s.axis, s.position, s.kind, s.words, s.explain(known[s.axis])) for s in stated if s.axis in known
    )


def question_view(question: Question, *, graded: bool) -> QuestionView:
    """A question; of more than two replies the best is picked, which has no grades."""
    is_pair = len(question.replies) == 2
    return QuestionView(question.id, _messages(question.prompt), question.replies, graded and is_pair)


def drift_view(drift: Drift) -> DriftView:
    """Whether a taste changed."""
    changed_at = drift.changed_at + 1 if drift.alarms else None
    return DriftView(drift.chance, drift.alarms, changed_at, drift.explain())


def event_view(event: Event) -> EventView:
    """An answer or a statement."""
    fields: dict[str, Any] = {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in event.to_json().items()
    }
    return EventView(**fields | {"prompt": _messages(fields.get("prompt", ()))})


def _messages(messages: Sequence[Message]) -> tuple[MessageView, ...]:
    return tuple(MessageView(message["role"], message["content"]) for message in messages)
