"""People whose tastes were drawn before any reply was seen: one to three traits, linear or saturating.

A person answers the service's questions, 15 % of them against their taste. Where they err in a pick, they name any
reply. Only their answers reach the service.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from lab.prose.traits import NAMES, score
from personalign.messages import LETTERS
from personalign.service import Personalign
from personalign.types import Array, Choice, Pick

FLIPPED = 0.15  # share of answers against the person's taste
STREAM = 12_112  # of random numbers that no other benchmark draws


@contextmanager
def opened(model: str, device: str) -> Iterator[Personalign]:
    """A service whose store is thrown away in the end."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Personalign.open(f"sqlite:///{Path(folder) / 'people.db'}", model=model, device=device) as p,
    ):
        yield p


@dataclass(frozen=True, eq=False)
class Scale:
    """Traits in standard deviations of the model's own replies; those that hardly vary are left out."""

    traits: list[int]  # of ``traits.NAMES``
    center: Float[Array, "t"]
    spread: Float[Array, "t"]

    def measure(self, texts: list[str]) -> Float[Array, "n t"]:
        """The traits of some texts."""
        return np.asarray((score(texts)[:, self.traits] - self.center) / self.spread)


@dataclass(frozen=True, eq=False)
class Person:
    """Someone with a hidden taste."""

    name: str
    weights: Float[Array, "t"]
    saturates: bool

    @property
    def main(self) -> int:
        """The trait that matters most to them."""
        return int(np.abs(self.weights).argmax())

    def utility(self, traits: Float[Array, "*n t"]) -> Float[Array, "*n"]:
        """How much they like replies with these traits."""
        felt = 2 * np.tanh(traits / 2) if self.saturates else traits
        return np.asarray(felt @ self.weights)


def draw(number: int, num_traits: int) -> Person:
    """One to three traits with random weights and signs; half of all people saturate."""
    rng = np.random.default_rng([STREAM, number])
    chosen = rng.permutation(num_traits)[: rng.integers(1, 4)]
    weights = np.zeros(num_traits)
    weights[chosen] = rng.normal(size=len(chosen))
    return Person(f"person {number}", weights / np.linalg.norm(weights), bool(rng.random() < 0.5))


def onboard(p: Personalign, person: Person, scale: Scale, user: str, replies: int = 2) -> int:
    """Answer the service's questions until it has enough, as a user of it; give their number."""
    rng = np.random.default_rng([STREAM, *user.encode()])
    number = 0
    while question := p.ask(user, replies=replies):
        p.answer(user, question.id, tap(person.utility(scale.measure(list(question.replies))), rng))
        number += 1
    return number


def tap(likes: Float[Array, "k"], rng: np.random.Generator) -> Choice | Pick:
    """What somebody says who likes replies so much: which of two, or the best and the worst of several."""
    if len(likes) == 2:
        return "a" if (likes[0] > likes[1]) != (rng.random() < FLIPPED) else "b"
    best = _pick(likes, list(range(len(likes))), rng)
    worst = _pick(-likes, [i for i in range(len(likes)) if i != best], rng)
    pick: Pick = f"{LETTERS[best]}>{LETTERS[worst]}"  # type: ignore[assignment]
    return pick


def _pick(likes: Float[Array, "k"], among: list[int], rng: np.random.Generator) -> int:
    return int(rng.choice(among)) if rng.random() < FLIPPED else max(among, key=lambda i: likes[i])


def main_trait(person: Person, scale: Scale) -> str:
    """The name of the trait that matters most to a person."""
    return NAMES[scale.traits[person.main]]
