"""Frozen values that travel between the parts, and the letters of their shapes.

    B  rows of a batch        T  tokens            V  vocabulary      K  short list of next tokens
    H  hidden size            d  reward axes       R  rank of the successor head
    n  answers of one person  m  pairs of a pool   N  answers of many people

``Profile`` is the narrow waist of the system: fitting returns it, the store keeps it, a request carries it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from personalign.errors import InputError, ProfileError
from personalign.messages import PICKS
from personalign.messages import Message as Message  # noqa: PLC0414 - what questions and requests are made of
from personalign.messages import Pick as Pick  # noqa: PLC0414 - a kind of choice
from personalign.words import CLEAR, FAINT, IMPERSONAL, PAUSED, STRONG, UNKNOWN, Axis, bars

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
# "a++" is much better; "a+", a little better, is how "a" is stored where "a++" was offered beside it
Choice = Literal["a", "b", "tie", "neither", "skip", "a+", "b+", "a++", "b++"]
CHOICES: tuple[Choice, ...] = get_args(Choice)
ANSWERS: tuple[Choice | Pick, ...] = (*CHOICES, *PICKS)
SIDES: Mapping[str, str] = MappingProxyType({choice: choice[0] for choice in CHOICES if choice[0] in "ab"})
MAX_UTILITY = 100.0  # of a scale of answers: far more than a person shows, far less than overflows
INFORMATIVE: frozenset[str] = frozenset({*SIDES, "tie", *PICKS})  # what says something about a person's weights
# How much an answer counts in a fit: fully if it was asked, less if a person's use shows it. With p the share of such
# answers that follow their taste, it is ((2p − 1) / (2·¾ − 1))²: the Fisher information near indifference over that of
# an asked answer, of which ¾ do. p is assumed, not measured. An edit (.70) shows what was wanted, but may correct a
# fact; a thumb (.65) judges the content, too; a regenerated reply (.60) may be no better liked. A check counts nothing.
WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"question": 1.0, "edit": 0.64, "thumbs": 0.36, "regenerate": 0.16, "check": 0.0, "trial": 1.0}
)
StatementKind = Literal["set", "said"]
# How far off what is stated may be, in standard deviations of the prior: a slider means what it shows, words much less.
SPREADS: Mapping[StatementKind, float] = MappingProxyType({"set": 0.2, "said": 1.0})
MOST_TOLD = 200  # characters: at most 80 tokens, even of a vocabulary of 4,096
SURE = 1e-13  # of the largest variance: a covariance with a smaller one can't be inverted
LEARNT = "learnt_"  # begins the names of learnt axes, which have no words
MAX_AXES = 64  # reward axes of a basis
FinishReason = Literal["stop", "length"]
Reason = Literal[
    "no_basis",
    "no_answers",
    "nothing_personal",
    "strength_zero",
    "non_finite_reward",
    "forgotten",
    "shadow",
    "population",
    "paused",
]


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A normal distribution over reward weights: mean (d,), covariance (d, d)."""

    mean: Array
    covariance: Array


def is_covariance(matrix: Array) -> bool:
    """Whether a square matrix of finite numbers is symmetric and safely positive definite."""
    if not (np.abs(matrix - matrix.T) <= 1e-8 * np.abs(matrix).max(initial=0.0)).all():
        return False
    variances = np.linalg.eigvalsh(matrix)
    return len(variances) > 0 and bool(variances[0] > SURE * variances[-1] > 0)


@dataclass(frozen=True)
class Noise:
    """How people answer, the same for all of a population; tie, side and much are utility differences.

    Raises:
        InputError: NaN, Inf, a negative value, a lapse of 1 and more, or a scale beyond ``MAX_UTILITY``.
    """

    tie: float = 0.2  # Rao and Kupper's δ, under which a tie is likelier than either side; 0: ties aren't offered
    lapse: float = 0.05  # ε, the share of answers given at random over what is offered
    side: float = 0.2  # σ_b, the standard deviation of a person's bias towards the left
    much: float = 2.2  # how far beyond δ "much better" begins: a third of sided answers, of people without a log

    def __post_init__(self) -> None:
        is_scale = all(0 <= scale <= MAX_UTILITY for scale in (self.tie, self.side, self.much))
        if not (is_scale and self.much and 0 <= self.lapse < 1):
            raise InputError(
                f"found {self}; expected tie and side from 0 to {MAX_UTILITY:g}, 0 < much and 0 ≤ lapse < 1"
            )


@dataclass(frozen=True)
class Question:
    """Two replies to one prompt, as shown: ``a`` on the left, ``b`` on the right; the id is the presentation's.

    A pick shows up to two others behind them, which are called c and d.
    """

    id: str
    prompt: tuple[Message, ...]
    a: str
    b: str
    others: tuple[str, ...] = ()

    @property
    def replies(self) -> tuple[str, ...]:
        """All of them, in the order in which they are called a, b, c, d."""
        return (self.a, self.b, *self.others)


@dataclass(frozen=True)
class Statement:
    """What a person stated about a named axis: a position from −1 to 1, where 0 means that they are indifferent.

    ±1 is a taste as strong as those of the prior's strongest twentieth.
    """

    axis: str
    position: float
    kind: StatementKind = "set"
    words: str = ""  # in which it was said

    def explain(self, axis: Axis) -> str:
        """The same in words."""
        towards = axis.direction(self.position) if self.position else "indifferent"
        way = f"set to {self.position:g}" if self.kind == "set" else f"said “{self.words}”"
        return f"{axis.about}: {way} by the person ({towards})"


@dataclass(frozen=True, eq=False)
class Profile:
    """What is known of one person: the posterior over their reward weights, and what it came from.

    Feedback is informative by its weight, rounded down: three thumbs, or seven regenerated replies, are worth one
    answer. A person with less than that and no answer gets plain decoding.
    """

    user: str
    basis_id: str
    revision: int
    mean: Array  # (d,)
    covariance: Array  # (d, d)
    answers: int  # to questions, informative or not
    informative: int  # those that say something about the weights; 0 means plain decoding
    axes: tuple[Axis, ...] = field(default=(), repr=False)  # the basis's
    pinned: Mapping[str, float] = field(default_factory=dict)  # axes whose weight the operator sets
    common: Array | None = None  # (d,) the prior's mean, which isn't a taste of their own; None: 0
    is_personal: bool = True  # False where answers on the basis set nobody apart
    stated: tuple[Statement, ...] = ()  # what the person set or said, and didn't take back
    is_paused: bool = False  # whether the person gets plain replies until they resume
    logged: int = 0  # of the answers, those that a log told of

    @property
    def posterior(self) -> Gaussian:
        """The weights' distribution."""
        return Gaussian(self.mean, self.covariance)

    @property
    def is_silent(self) -> bool:
        """Whether nothing is known of the person, who gets plain decoding."""
        return not (self.informative or self.stated)

    def __repr__(self) -> str:
        tastes = "; ".join(axis.verdict(surety) for axis, surety in self._tastes(3)) or "no taste stands out"
        return (
            f"Profile({self.user!r}, basis {self.basis_id[:8]}, revision {self.revision}, {self.answers} answers: "
            f"{tastes})"
        )

    def _repr_html_(self) -> str:
        """A bar for each axis, which notebooks draw."""
        title = f"{self.user}: {self.answers} answers, revision {self.revision}"
        return bars(title, zip(self.axes, self.mean.tolist(), self._deviations().tolist(), strict=True))

    def explain(self, top: int = 5) -> str:
        """The tastes that stand out, in words, surest first, then what was stated and pinned; one line each."""
        notes = [PAUSED] if self.is_paused else []
        if not (self.stated or (self.informative and self.is_personal)):
            return "\n".join([*notes, IMPERSONAL if self.informative else UNKNOWN])
        stated = [s.explain(axis) for s in self.stated for axis in self.axes if axis.name == s.axis]
        has_set = {s.axis for s in self.stated if s.kind == "set"}
        learnt = [taste for taste in self._tastes(top + len(has_set)) if taste[0].name not in has_set][:top]
        tastes = [f"{axis.verdict(surety)} ({axis.about})" for axis, surety in learnt]
        pins = [
            f"{axis.about}: pinned to {self.pinned[axis.name]:g} by the operator, whatever was answered"
            for axis in self.axes
            if axis.name in self.pinned
        ]
        tastes = [*(tastes or stated or ["No taste stands out yet."]), *(stated if tastes else ())]
        return "\n".join([*notes, *tastes, *pins])

    def as_system_prompt(self, top: int = 5, *, is_certain: bool = False) -> str:
        """Describe the tastes that stand out to a language model, one sentence each; "" where none does.

        As a system message it is a baseline without steering, or goes with steering. With ``is_certain`` it holds what
        was stated and what is clear, in at most 80 tokens.
        """
        if self.is_paused or not (self.stated or (self.informative and self.is_personal)):
            return ""
        sizes = {s.axis: STRONG * abs(s.position) for s in self.stated if s.kind == "set"}
        stated = {s.axis for s in self.stated}
        tastes = [
            (axis, surety, sizes.get(axis.name, abs(surety)))
            for axis, surety in self._tastes(len(self.axes))
            if abs(surety) >= CLEAR or axis.name in stated or not is_certain
        ]
        tastes = sorted(tastes, key=lambda taste: taste[0].name not in stated)[:top]  # what was stated comes first
        pins = [(axis, self.pinned[axis.name], 1.0) for axis in self.axes if self.pinned.get(axis.name)]
        wishes = [axis.wish(*wish) for axis, *wish in [*tastes, *pins] if not axis.name.startswith(LEARNT)]
        lines = ["Write every reply the way this person likes replies to be.", *wishes]
        ends = accumulate(len(line) + 1 for line in lines)
        short = [line for line, end in zip(lines, ends, strict=True) if end <= MOST_TOLD or not is_certain]
        return "\n".join(short) if wishes else ""

    def changes(self, previous: Profile, top: int = 3) -> str:
        """The changes since an earlier profile, in words, the largest first; one line each.

        Raises:
            ProfileError: the two belong to different bases.
        """
        if previous.basis_id != self.basis_id:
            raise ProfileError(
                f"found profiles of the bases {previous.basis_id[:12]} and {self.basis_id[:12]}, whose axes can't be "
                "compared; expected two of one basis"
            )
        before, after = previous.mean / previous._deviations(), self.mean / self._deviations()
        largest = np.argsort(-np.abs(after - before))[:top]
        lines = [self.axes[j].change(before[j], after[j]) for j in largest if abs(after[j] - before[j]) >= 0.1]
        return "\n".join(lines) or "Nothing changed that could be seen."

    def _deviations(self) -> Array:
        return np.asarray(np.sqrt(np.diag(self.covariance)))

    def _tastes(self, top: int) -> list[tuple[Axis, float]]:
        """The axes that stand out as they are served, surest first, without the pinned ones and those of all people."""
        departure = self.mean if self.common is None else self.mean - self.common
        surety = self.mean / self._deviations()
        is_clear = (np.abs(surety) >= FAINT) & (np.abs(departure) >= FAINT * self._deviations())
        ranked = [(self.axes[j], float(surety[j])) for j in np.argsort(-np.abs(surety)) if self.axes and is_clear[j]]
        return [(axis, towards) for axis, towards in ranked if axis.name not in self.pinned][:top]


@dataclass(frozen=True)
class Steering:
    """How strongly a profile acts: β, the clip c of δ in nats, and the short list K, calibrated on dev prompts."""

    beta: float
    clip: float
    num_candidates: int


@dataclass(frozen=True)
class Fingerprints:
    """SHA-256 of the tokenizer's content and of a sample of the model; see ``decode.load``."""

    tokenizer: str
    model: str


@dataclass(frozen=True)
class ArgsSteering:
    """How a reward model steers; both numbers are those of ARGS' release."""

    num_candidates: int = 10  # k, the tokens that it scores
    weight: float = 1.5  # w, which multiplies its reward


@dataclass(frozen=True, eq=False)
class Guidance:
    """A person's reward as a request carries it.

    Requests of the same user, generation and revision share a row of the weight bank.
    """

    weights: Array  # (d,)
    strength: float = 1.0  # multiplies the calibrated β
    revision: int = 0
    user: str = ""
    generation: int = 0  # distinguishes a person from one who was erased under the same id
    is_shadow: bool = False  # nothing is steered, but the account says what would be
    is_personal: bool = True  # False where the basis finds nothing that sets one person apart: nothing is steered
    is_population: bool = False  # everybody's mean taste guides, because nothing sets the person apart


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural log-probabilities under the steered distribution, at temperature 1 before any cut."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]  # the likeliest tokens that can be drawn, best first


@dataclass(frozen=True)
class Usage:
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Reply:
    """A reply and the account of how it was steered.

    ``kl`` is the mean over the tokens drawn, the end included, of KL(steered ‖ unsteered) over the vocabulary, in nats
    at temperature 1. ``tilt_kl`` is its part within the short list, at most clip²/8 under the successor rule. The rest
    is −log of the short list's share, which has no bound: the price of leaving out all other tokens. ``changed`` is the
    share of positions whose likeliest token guidance changed. ``gained`` is the expected reward that it added, the mean
    over tokens of Σ q Q − Σ p Q within the short list.

    Under the rules "blocks" and "best_of" nothing is steered within a block, and the same fields say what the choices
    did, over as many tokens. ``kl`` is a bound, log k − (k − 1)/k nats for each block of k siblings, and ``tilt_kl`` is
    0. ``changed`` is the share of tokens in blocks where another sibling than the first was kept: the first is what the
    model writes by this seed without a choice. ``gained`` adds up what the best sibling was worth over their mean.

    ``reason`` says why a reply was not guided. It is None for one guided by the person's profile, and "population" for
    one guided by everybody's mean taste, because nothing sets the person apart. The others are: "no_basis" (the model
    was opened without one), "no_answers" (nothing is known of the person), "nothing_personal" (the basis finds nothing
    that sets one person apart), "strength_zero" (β or strength is 0, or there is one sibling), "non_finite_reward"
    (guidance ended at the first such token), "forgotten" (the person was erased meanwhile), "paused" (the person wants
    plain replies for now), or "shadow". In shadow the numbers say what guidance would have done to each token.
    They are NaN for a guided reply that vLLM wrote, which tells nothing of single tokens.
    """

    text: str
    guided: bool
    reason: Reason | None
    revision: int
    kl: float
    finish_reason: FinishReason
    usage: Usage
    changed: float = 0.0
    gained: float = 0.0
    tilt_kl: float = 0.0
    seed: int | None = field(default=None, compare=False)  # repeats the draw; None at temperature 0
    logprobs: tuple[TokenLogprobs, ...] = ()
    ids: tuple[int, ...] = field(default=(), repr=False)  # tokens of the text
    end: int | None = field(default=None, repr=False)  # the token that ended it; None: the limit or a stop string did
