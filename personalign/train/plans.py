"""How much work goes into a basis: which replies are rolled out, how the head learns from them, what is calibrated."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

from personalign.types import Steering

NUM_REFERENCE = 256  # pairs
NUM_ASKED = 3_400  # replies that the questions are picked from
MIN_QUESTIONS = 10  # what is asked of a person, simulated or not
BANK_TEMPERATURE = 0.8  # a little under 1: people compare replies that read well
UNCALIBRATED = Steering(beta=1.0, clip=3.0, num_candidates=20)
GRID = tuple(Steering(*setting) for setting in product((16.0, 32.0, 64.0), (3.0, 4.0, 5.0), (10, 20)))


@dataclass(frozen=True)
class Plan:
    """How many replies of which kind; ``alphas`` are cycled over the replies of a prompt."""

    replies_per_prompt: int
    max_tokens: int
    num_candidates: int
    expert: str | None = None
    alphas: tuple[float, ...] = (0.0,)
    forced_share: float = 0.5
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    num_prompts: int | None = None  # answer only the first so many
    latest_forced: int = 16  # forced positions are uniform below: about the length of a reply
    rows: int = 96  # written at once


@dataclass(frozen=True)
class HeadRecipe:
    """Size and training of a successor head."""

    rank: int = 64
    hidden: int = 256
    epochs: int | None = None  # by default as many as it takes to see tokens_seen, from 6 to 60
    tokens_seen: int = 1_600_000
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    seed: int = 0
    checkpoint_every_s: float = 120.0

    def num_epochs(self, num_tokens: int) -> int:
        """How often each of so many tokens is learnt from."""
        return self.epochs or min(max(round(self.tokens_seen / num_tokens), 6), 60)


@dataclass(frozen=True)
class Calibration:
    """Which settings are tried on how many simulated people, and which of them are allowed."""

    grid: tuple[Steering, ...] = GRID
    num_people: int = 8
    max_kl: float = 0.4  # nats a token
    enough: float = 0.9  # of the largest utility
    tolerance: float = 0.01  # of each fault: one reply in a hundred


QUICK = Calibration(GRID[::8], num_people=2)  # for a first look


@dataclass(frozen=True)
class Plans:
    """Which replies are rolled out, how the head is trained on them, and which settings are tried."""

    learn: Plan  # for the head to learn from and be tested on
    ask: Plan  # for the questions to be picked from; natural ones only
    head: HeadRecipe = field(default_factory=HeadRecipe)
    calibration: Calibration = field(default_factory=Calibration)
    axes: str = "assistant"  # the set of named axes, one of learn.axes.SETS


@dataclass(frozen=True)
class Budget:
    """How much work goes into a basis, however many prompts there are.

    The head learns from ``replies``, 4 to 64 for each prompt; about 3,400 more are written to ask about. A reply that
    is cut off after ``max_tokens`` is not asked about. Replies are drawn as they will be when the model is served.
    """

    replies: int = 11_000
    max_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    num_asked: int = NUM_ASKED
    head: HeadRecipe = field(default_factory=HeadRecipe)
    calibration: Calibration = field(default_factory=Calibration)
    axes: str | None = None  # the set of named axes; None: "dialogue" for the bundled model, "assistant" for others

    def axes_for(self, model: str) -> str:
        """The set of named axes that a model's replies are measured on."""
        return self.axes or ("dialogue" if model == "tiny" else "assistant")

    def plans(self, num_prompts: int, model: str) -> Plans:
        """The plans for so many prompts to learn from; with few prompts there are fewer replies."""
        learn = Plan(
            replies_per_prompt=min(max(self.replies // num_prompts, 4), 64),
            max_tokens=self.max_tokens,
            num_candidates=20,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            num_prompts=max(self.replies // 4, MIN_QUESTIONS),
            latest_forced=max(self.max_tokens // 4, 1),
        )
        ask = Plan(
            replies_per_prompt=min(max(self.num_asked // num_prompts, 8), 16),
            max_tokens=self.max_tokens,
            num_candidates=20,
            forced_share=0.0,
            temperature=min(self.temperature, BANK_TEMPERATURE),
            top_p=self.top_p,
            seed=self.seed + 1,
            num_prompts=max(self.num_asked // 8, MIN_QUESTIONS),
        )
        return Plans(learn, ask, self.head, self.calibration, self.axes_for(model))
