"""People whose hidden tastes are known: onboarded by the service, then asked how they like replies.

A profile has never seen the taste, which is no function of the axes; so who judges here has guided nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from lab.bootstrap import ENDS, RESAMPLES, Interval
from personalign.demo.people import make_pair, onboard
from personalign.demo.simulate import SimulatedPerson
from personalign.service import Personalign
from personalign.types import Guidance, Message, Profile

FIRST_SEED = 300  # nobody else meets these people

Table = Float[NDArray[np.float64], "people prompts"]
Utilities = Float[NDArray[np.float64], "people prompts draws"]
Means = Float[NDArray[np.float64], "resamples people"]


@dataclass(frozen=True, eq=False)
class Member:
    """Someone with a hidden taste, and what ten answers told of it."""

    person: SimulatedPerson
    profile: Profile
    served: Guidance

    def guidance(self, strength: float) -> Guidance:
        """What a request carries of them."""
        return replace(self.served, strength=strength)


@dataclass(frozen=True, eq=False)
class Origin:
    """The replies that gains are counted from: how much each person likes base's own."""

    utility: Utilities

    def gain(self, utility: Table) -> Table:
        """How much more replies are liked."""
        return np.asarray(utility - self.utility.mean(2))

    def wins(self, utility: Table) -> Table:
        """Share of base's replies to the same prompt that are liked less; as much counts half.

        Unlike a gain it isn't moved by a few replies that somebody loves or hates.
        """
        other = utility[:, :, None]
        return np.asarray(((other > self.utility) + (other == self.utility) / 2).mean(2))


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Resamples of people and prompts, the same for all tables, so that differences are paired.

    The first is no resample but everybody at every prompt: what is told as the value.
    """

    people: Int[NDArray[np.int64], "resamples people"]  # who
    prompts: Float[NDArray[np.float64], "resamples prompts"]  # which share each has

    @classmethod
    def draw(cls, num_people: int, num_prompts: int) -> Bootstrap:
        """People and prompts are drawn with replacement, each by themselves."""
        rng = np.random.default_rng(0)
        people = rng.integers(num_people, size=(RESAMPLES, num_people))
        prompts = rng.multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), RESAMPLES) / num_prompts
        everybody, every_prompt = np.arange(num_people), np.full(num_prompts, 1 / num_prompts)
        return cls(np.vstack([everybody, people]), np.vstack([every_prompt, prompts]))

    def means(self, table: Table) -> Means:
        """Each person's mean over the prompts, in every resample."""
        return np.asarray(np.take_along_axis(self.prompts @ table.T, self.people, axis=1))

    def interval(self, table: Table) -> Interval:
        """What the median person's mean over prompts is, and its 95 % interval."""
        return interval_of(self.means(table))


def interval_of(means: Means) -> Interval:
    """What the median person has, and its 95 % interval."""
    medians = np.median(means, axis=1)
    low, high = np.quantile(medians[1:], ENDS).tolist()
    return Interval(float(medians[0]), low, high)


def meet(p: Personalign, num_people: int) -> list[Member]:
    """Onboard people of independent tastes, one of each opposite pair."""
    members = []
    for seed in range(FIRST_SEED, FIRST_SEED + num_people):
        person, name = make_pair(p, seed)[seed % 2], f"person {seed}"
        profile = onboard(p, name, person, seed).profile
        members.append(Member(person, profile, served(p, profile)))
    return members


def served(p: Personalign, profile: Profile) -> Guidance:
    """What a request of somebody who answered carries."""
    guidance = p.serving.guidance(profile)
    assert guidance is not None, "people who were onboarded are known"
    return guidance


def utilities(members: Sequence[Member], prompts: Sequence[Sequence[Message]], texts: Sequence[Sequence[str]]) -> Table:
    """How much each person likes the replies written for them: a row of texts for each person.

    In standard deviations of base's own replies, those of the question bank.
    """
    return np.array(
        [
            [member.person.utility(prompt, text) for prompt, text in zip(prompts, row, strict=True)]
            for member, row in zip(members, texts, strict=True)
        ]
    )
