"""A log of many people's answers: which of two replies to a prompt each of them preferred.

JSONL (an object a row), CSV (with a header) and Parquet have the same five columns, ``user``, ``prompt``, ``a``, ``b``
and ``choice``; ``id`` and ``time`` are read where they are there, others are left unread. A prompt is a text or a list
of messages, in any file also as the JSON of one. Every answer is kept, however often it was given: what is left out
is never chosen by what it says. Where a log has "a++" or "b++" and neither "a+" nor "b+", its "a" and "b" are a little
better, as for the people who were offered the five. Known items may have been rated instead: then the columns are
``user``, ``item`` and ``rating``. Read ``basis/people.py`` or ``reward/from_log.py`` next.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from personalign.errors import InputError, MessageError
from personalign.learn.items import Ratings, pairs_of
from personalign.messages import Conversation, check_text
from personalign.options import check_number
from personalign.train.prompts import looks_like_messages, read_prompt
from personalign.train.rows import OPTIONAL, BadRowError, Row, read_rows, regrades
from personalign.types import CHOICES, INFORMATIVE, SIDES, Array, Ints

BAD_ROWS = 0.1  # a share of them that a log may have
MIN_PEOPLE = 2
MOST = 1e100  # of a rating, up or down
MIN_CONSTANT = 5  # answers; fewer are on one side by chance too often to speak of
NO_VALUE = {"", "none", "null", "nan", "nat"}  # as files write that there is no id or time
MIRRORED = {"a": "b", "b": "a"}
ABOUT_ITEMS: Conversation = ({"role": "user", "content": "Which do you like better?"},)  # what known items answer


@dataclass(frozen=True)
class BadRows:
    """How many rows can't be used for one reason, and where the first of them is."""

    rows: int
    first: str


@dataclass(frozen=True)
class LogCounts:
    """What a log holds, and what in it may be doubted."""

    rows: int  # of the file
    people: int
    duplicates: int  # rows of an answer that was there before: same person, pair, id and time; left out
    repeats: int  # answers about a pair that the same person answered before, kept; of ratings the last counts
    contradictions: int  # pairs about which one person answered a, b or tie, and something else of these; all are kept
    uninformative: int  # answers that say neither or skip; kept
    constant_people: int  # whose five or more answers are all for one side, or whose ratings are all alike; kept
    bad: Mapping[str, BadRows]  # rows that can't be used, by reason; left out

    def describe_bad(self) -> str:
        """What is left out, as a phrase."""
        reasons = sorted(self.bad.items(), key=lambda item: -item[1].rows)
        return "; ".join(f"{bad.rows:,} have {reason} (the first is {bad.first})" for reason, bad in reasons)


@dataclass(frozen=True)
class Answer:
    """Which of two replies to a prompt a person preferred."""

    user: str
    prompt: Conversation
    a: str  # the reply shown on the left
    b: str
    choice: str
    event: tuple[str, ...] = ()  # the row's id and time, as far as there are any

    @property
    def pair(self) -> tuple[str, tuple[tuple[str, str], ...], str, str]:
        """Who was asked about what; the same for a pair turned round."""
        messages = tuple((message["role"], message["content"]) for message in self.prompt)
        return (self.user, messages, min(self.a, self.b), max(self.a, self.b))

    @property
    def preferred(self) -> str:
        """The choice without its grade, as if the pair had been shown in the texts' order."""
        side = SIDES.get(self.choice, self.choice)
        return MIRRORED.get(side, side) if self.a > self.b else side


class Numbered(NamedTuple):
    """N informative answers: who gave them, about which of the R different replies, and where they are in the log."""

    user: Sequence[str]  # names, in order
    person: Int[Ints, "N"]  # their numbers
    pair: Int[Ints, "N 2"]  # the replies on the left and on the right
    choice: NDArray[np.object_]
    row: Sequence[int]
    prompts: Sequence[Conversation]  # of every reply
    texts: Sequence[str]

    def differences(self, features: Float[Array, "R d"], rows: Int[Ints, "n"]) -> Float[Array, "n d"]:
        """Left minus right of some of the answers."""
        return np.asarray(features[self.pair[rows, 0]] - features[self.pair[rows, 1]])


@dataclass(frozen=True)
class AnswerLog:
    """Answers in the order of the file."""

    answers: tuple[Answer, ...]
    counts: LogCounts
    name: str  # of the file, without its folder
    ratings: Ratings | None = None  # what the answers come from, where known items were rated

    def numbered(self, *, by_text: bool = False) -> Numbered:
        """Number people in the order of names, and different replies in that of appearance.

        A text is another reply after another prompt, but ``by_text`` alone.
        """
        rows = [i for i, answer in enumerate(self.answers) if answer.choice in INFORMATIVE]
        informative = [self.answers[i] for i in rows]
        shown = [(answer.prompt, text) for answer in informative for text in (answer.a, answer.b)]
        places: dict[str, int] = {}
        keys = [text if by_text else json.dumps([prompt, text]) for prompt, text in shown]
        pair = np.array([places.setdefault(key, len(places)) for key in keys], dtype=np.int64)
        replies = [shown[i] for i in np.unique(pair, return_index=True)[1]]
        users, person = np.unique([answer.user for answer in informative], return_inverse=True)
        choice = np.array([answer.choice for answer in informative], dtype=object)
        prompts, texts = [prompt for prompt, _ in replies], [text for _, text in replies]
        numbers = person.astype(np.int64).ravel()
        return Numbered(users.tolist(), numbers, pair.reshape(-1, 2), choice, rows, prompts, texts)


@dataclass(frozen=True)
class _Rating:
    user: str
    item: str
    rating: float
    event: tuple[str, ...]


def read_log(path: Path, bad_rows: float = BAD_ROWS, *, strict: bool = False) -> AnswerLog:
    """Read a log of answers; its name says whether it is JSONL, CSV or Parquet.

    Rows that can't be used are left out and counted. Texts are kept as they are, to the character. Two rows are one
    answer only where an id or a time says so: the same person, pair, id and time.

    The share ``bad_rows`` is of the file's lines; ``strict`` refuses the first row that can't be used.

    Raises:
        InputError: the file isn't such, lacks a column, or has too many rows that can't be used, naming the first of
            each kind with line and column; or the answers are all one person's.
        MissingExtra: it is Parquet, and pyarrow isn't installed.
    """
    check_number("bad_rows", bad_rows, 0.0, 1.0)
    answers: list[Answer] = []
    ratings: list[_Rating] = []
    bad: dict[str, list[BadRowError]] = {}
    for row in read_rows(path):
        try:
            if isinstance(row, Row) and row.is_rating:
                ratings.append(_rating(row))
            else:
                answers.append(to_answer(row))
        except BadRowError as error:
            if strict:
                raise
            bad.setdefault(error.reason, []).append(error)
    _check_bad(path, bad, len(answers) + len(ratings), bad_rows)
    if ratings:
        if answers:
            raise InputError(f"{path} has {len(answers)} answers and {len(ratings)} ratings; expected rows of one kind")
        return _of_ratings(path, ratings, bad)
    events: dict[object, Answer] = {}
    for i, answer in enumerate(_regraded(answers)):
        events.setdefault((answer.pair, answer.event or i), answer)
    distinct = tuple(events.values())
    counts = _counts(len(answers), distinct, bad)
    _check_people(path, len(answers), "answers", counts.people)
    return AnswerLog(distinct, counts, path.name)


def _check_people(path: Path, num: int, what: str, num_people: int) -> None:
    if num_people < MIN_PEOPLE:
        raise InputError(
            f"{path} has {num} {what} of {num_people} people; expected those of at least {MIN_PEOPLE}, better of "
            "hundreds: what people differ in can't be learnt from one"
        )


def _of_ratings(path: Path, given: Sequence[_Rating], bad: Mapping[str, Sequence[BadRowError]]) -> AnswerLog:
    """The pairs of items that people rated apart, and the ratings themselves."""
    events = {(one.user, one.item, one.event or i): one for i, one in enumerate(given)}
    users, items = (tuple(sorted({getattr(one, name) for one in given})) for name in ("user", "item"))
    _check_people(path, len(given), "ratings", len(users))
    rows, columns = ({name: i for i, name in enumerate(names)} for names in (users, items))
    table = np.full((len(users), len(items)), np.nan)
    for one in events.values():
        table[rows[one.user], columns[one.item]] = one.rating
    pairs = pairs_of(table)
    answers = tuple(
        Answer(users[person], ABOUT_ITEMS, items[a], items[b], str(choice))
        for person, (a, b), choice in zip(pairs.person.tolist(), pairs.pair.tolist(), pairs.choice, strict=True)
    )
    counts = LogCounts(
        rows=len(given) + sum(map(len, bad.values())),
        people=len(users),
        duplicates=len(given) - len(events),
        repeats=len(events) - int(np.isfinite(table).sum()),
        contradictions=0,
        uninformative=0,
        constant_people=int((np.nanmax(table, axis=1) == np.nanmin(table, axis=1)).sum()),
        bad={reason: BadRows(len(errors), errors[0].place) for reason, errors in bad.items()},
    )
    return AnswerLog(answers, counts, path.name, Ratings(users, items, table))


def _regraded(answers: Sequence[Answer]) -> Sequence[Answer]:
    """Read "a" and "b" as a little better where that is what they were beside "much better"."""
    if not regrades({answer.choice for answer in answers}):
        return answers
    return [replace(given, choice=f"{given.choice}+") if given.choice in MIRRORED else given for given in answers]


def _check_bad(path: Path, bad: Mapping[str, Sequence[BadRowError]], num_answers: int, most: float) -> None:
    lines = {reason: sum(row.num_lines for row in rows) for reason, rows in sorted(bad.items())}
    num_bad = sum(lines.values())
    if num_bad > most * (num_bad + num_answers):
        kinds = "\n".join(f"  {number:,} have {reason}: {bad[reason][0]}" for reason, number in lines.items())
        raise InputError(
            f"{path} has {num_bad:,} unusable rows of {num_bad + num_answers:,}, expected {most:.0%} at most; mend "
            f"them, or let more be left out with --bad-rows. Of each kind the first:\n{kinds}"
        )


def _counts(num_usable: int, answers: Sequence[Answer], bad: Mapping[str, Sequence[BadRowError]]) -> LogCounts:
    informative = [answer for answer in answers if answer.choice in INFORMATIVE]
    choices = defaultdict(list)
    for answer in informative:
        choices[answer.user].append(SIDES.get(answer.choice, answer.choice))
    preferred = {(answer.pair, answer.preferred) for answer in informative}
    return LogCounts(
        rows=num_usable + sum(map(len, bad.values())),
        people=len({answer.user for answer in answers}),
        duplicates=num_usable - len(answers),
        repeats=len(answers) - len({answer.pair for answer in answers}),
        contradictions=sum(times > 1 for times in Counter(pair for pair, _ in preferred).values()),
        uninformative=len(answers) - len(informative),
        constant_people=sum(len(given) >= MIN_CONSTANT and set(given) in ({"a"}, {"b"}) for given in choices.values()),
        bad={reason: BadRows(len(rows), rows[0].place) for reason, rows in bad.items()},
    )


def to_answer(row: Row | BadRowError) -> Answer:
    """The answer that a row holds; BadRowError says what is wrong with one."""
    if isinstance(row, BadRowError):
        raise row
    user, choice = _text(row, "user"), _text(row, "choice")
    a, b = _reply(row, "a"), _reply(row, "b")
    if choice not in CHOICES:
        raise row.bad("choice", "an unknown choice", f"holds {choice[:20]!r}; expected one of {', '.join(CHOICES)}")
    if a == b:
        raise row.bad(
            "b", "the same reply twice", "holds the same text as column 'a'; expected another reply; leave the row out"
        )
    return Answer(user, _prompt(row), a, b, choice, _event(row))


def _rating(row: Row) -> _Rating:
    cell = row.cells["rating"]
    try:
        rating = math.nan if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError, OverflowError):
        rating = math.nan
    if not abs(rating) <= MOST:
        raise row.bad(
            "rating", "no number as rating", f"holds {str(cell)[:20]!r}; expected a number, higher for better"
        )
    return _Rating(_text(row, "user"), _reply(row, "item"), rating, _event(row))


def _event(row: Row) -> tuple[str, ...]:
    cells = {name: str(row.cells.get(name)) for name in OPTIONAL}
    return tuple(f"{name} {cell}" for name, cell in cells.items() if cell.strip().lower() not in NO_VALUE)


def _text(row: Row, column: str) -> str:
    cell = row.cells[column]
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise row.bad(column, "an empty cell", "is blank; expected text; leave the row out, or fill it in")
    try:
        return check_text(row.name(column), cell)
    except MessageError as error:
        raise BadRowError(str(error), "a text that can't be used", row.place) from error


def _reply(row: Row, column: str) -> str:
    text = _text(row, column)
    if looks_like_messages(text):
        raise row.bad(column, "messages for a reply", "begins like a list of messages; expected the reply's text")
    return text


def _prompt(row: Row) -> Conversation:
    cell = row.cells["prompt"]
    if not isinstance(cell, list) and not (isinstance(cell, str) and cell.strip()):
        return ({"role": "user", "content": _text(row, "prompt")},)
    try:
        return read_prompt(cell)
    except MessageError as error:
        raise row.bad("prompt", "a prompt that can't be used", f"can't be used: {error}") from error
