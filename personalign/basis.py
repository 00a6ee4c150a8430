"""The Basis: what people share whose profiles are written in the same reward axes.

It is a folder of ``config.json``, ``model.safetensors``, ``questions.jsonl`` and a card, ``README.md``. Its id covers
what a profile's numbers depend on, so a new card, bank or successor head leaves every profile valid. Nothing here needs
torch: the head is a mapping of arrays until ``decode.successor`` makes a module of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors.numpy import save_file

from personalign.errors import BasisError, InputError, ProfileError
from personalign.messages import check_place, shown
from personalign.types import Array, Fingerprints, Gaussian, Message, Noise, Profile, Steering
from personalign.words import Axis

if TYPE_CHECKING:
    from personalign.basis_files import Config, QuestionRow

FILES = ("config.json", "model.safetensors", "questions.jsonl")
FORMAT = 2
HEAD_PREFIX = "head."
ITEMS = "items"  # the embedder of known items: each is a dimension of its own


@dataclass(frozen=True)
class Shares:
    """Of how many people nothing is personal, how many feel about few axes; the others about any (``learn.mixture``).

    Without human data they are assumed. Where nothing is all, everybody is served the prior's mean.
    """

    nothing: float = 0.1
    few: float = 0.9

    def __post_init__(self) -> None:
        if not (0 <= self.nothing <= 1 and 0 <= self.few <= 1 and self.nothing + self.few <= 1):
            raise InputError(f"found {self}; expected shares from 0 to 1 that sum to 1 at most; fit them again")

    @property
    def any(self) -> float:
        """Of how many people any axes may matter."""
        return max(0.0, 1 - self.nothing - self.few)


ASSUMED = Shares()  # where no human data went in


@dataclass(frozen=True, eq=False)
class Learnt:
    """The last r axes, which are projected from embeddings."""

    projection: Float[Array, "F r"]
    embedder: str  # "hidden", for the base model's own states, "reward:PATH", "encoder:NAME" or ITEMS
    items: tuple[str, ...] = ()  # the replies that are known, each with a row of its own


@dataclass(frozen=True, eq=False)
class BankQuestion:
    """Two replies to one prompt with their standardised features (d,), and up to two others for a pick among all.

    Sides are drawn when it is asked.
    """

    id: str
    prompt: tuple[Message, ...]
    first: str
    second: str
    first_features: Array
    second_features: Array
    others: tuple[str, ...] = ()
    other_features: tuple[Array, ...] = ()

    @property
    def replies(self) -> tuple[str, ...]:
        """All replies, the pair first."""
        return (self.first, self.second, *self.others)

    @property
    def features(self) -> Float[Array, "k d"]:
        """Of all replies."""
        return np.array([self.first_features, self.second_features, *self.other_features])


@dataclass(frozen=True, eq=False)
class Basis:
    """Shared reward axes with their standardisation, prior, answer noise, question bank and successor head."""

    model: str  # the name or path it was made for, for messages only
    fingerprints: Fingerprints
    axes: tuple[Axis, ...]
    center: Float[Array, "d"]
    scale: Float[Array, "d"]
    prior: Gaussian
    noise: Noise
    reference: Float[Array, "m d"]  # pairs like those that people will compare
    steering: Steering
    accuracy: float | None = None  # on held-out people; None where no human data went in
    bank: tuple[BankQuestion, ...] = ()
    head: Mapping[str, NDArray[np.floating]] | None = None  # float32 or float16
    learnt: Learnt | None = None
    shares: Shares = ASSUMED
    particles: Float[Array, "S d"] | None = None  # weights of made-up people with few tastes (``learn.sparse``)
    active: bool = True  # whether the axes predict people well enough to choose questions by them

    @property
    def num_axes(self) -> int:
        """The number of reward axes, d."""
        return len(self.axes)

    @property
    def named(self) -> tuple[Axis, ...]:
        """The axes that are measured in the text itself."""
        return self.axes if self.learnt is None else self.axes[: -self.learnt.projection.shape[1]]

    @cached_property
    def id(self) -> str:
        """SHA-256 over axes and their measures, prior, particles, shares, noise, reference pairs and fingerprints."""
        digest = hashlib.sha256(json.dumps(self._identity(), sort_keys=True).encode())
        for name, array in sorted(self.arrays.items()):
            digest.update(f"{name}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @cached_property
    def pool(self) -> Float[Array, "m d"]:
        """First minus second of every bank question."""
        return np.array([q.first_features - q.second_features for q in self.bank]).reshape(-1, self.num_axes)

    @cached_property
    def sums(self) -> Float[Array, "m d"]:
        """First plus second of every bank question."""
        return np.array([q.first_features + q.second_features for q in self.bank]).reshape(-1, self.num_axes)

    @cached_property
    def examples(self) -> tuple[BankQuestion | None, ...]:
        """For each axis the question whose pair differs most on it and little on the others; None without one."""
        sizes = np.abs(self.pool)
        others = np.sqrt(np.maximum((sizes**2).sum(axis=1, keepdims=True) - sizes**2, 0.0))
        clear = np.where(sizes > 0, sizes - others, -np.inf)
        places = clear.argmax(axis=0).tolist() if self.bank else []
        chosen = [self.bank[i] if sizes[i, j] > 0 else None for j, i in enumerate(places)]
        return tuple(chosen) or (None,) * self.num_axes

    def standardise(self, raw: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        """Raw axis values as φ: mean 0 and standard deviation 1 over the model's own replies."""
        return (raw - self.center) / self.scale

    def can_measure(self, replies: Sequence[str]) -> bool:
        """Whether replies are on the axes: a basis of known items has nothing else on them."""
        items = () if self.learnt is None else self.learnt.items
        return not items or {*replies} <= {*items}

    def first_profile(self, user: str) -> Profile:
        """The profile of a person who has answered nothing."""
        return Profile(user, self.id, 0, self.prior.mean, self.prior.covariance, 0, 0, self.axes)

    def check_embedder(self, embedder: str) -> None:
        """Refuse one of another kind than the learnt axes were fitted with."""
        if self.learnt is not None:
            kind, fitted = embedder.partition(":")[0], self.learnt.embedder.partition(":")[0]
            if kind != fitted:
                raise InputError(
                    f"embedder is {shown(embedder)}, expected one that begins with {fitted!r}, as the basis was fitted "
                    "with"
                )

    def check_model(self, loaded: Fingerprints) -> None:
        """Refuse a model or tokenizer that this basis wasn't made for."""
        for part in ("tokenizer", "model"):
            if getattr(loaded, part) != getattr(self.fingerprints, part):
                raise BasisError(
                    f"the basis was made for {self.model} ({part} {getattr(self.fingerprints, part)[:12]}), but the "
                    f"{part} loaded is {getattr(loaded, part)[:12]}; pass the basis of this model, or make one with: "
                    "personalign basis bootstrap"
                )

    def check_profile(self, profile: Profile) -> None:
        """Refuse a profile of another basis, of another shape, or with NaN or Inf in it."""
        d = self.num_axes
        if profile.basis_id != self.id:
            raise ProfileError(
                f"the profile belongs to basis {profile.basis_id[:12]}, this is {self.id[:12]}; "
                "open the store with the basis it was fitted on"
            )
        if profile.mean.shape != (d,) or profile.covariance.shape != (d, d):
            raise ProfileError(
                f"the profile has shapes {profile.mean.shape} and {profile.covariance.shape}, expected ({d},) and "
                f"({d}, {d}); restore the store from a backup"
            )
        if not (np.isfinite(profile.mean).all() and np.isfinite(profile.covariance).all()):
            raise ProfileError(
                "the profile holds NaN or Inf, expected finite numbers; undo the last answer, or call forget(user)"
            )

    def save(self, folder: str | Path) -> None:
        """Write the files but the card, the config last: a folder with a config is complete."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        head = {HEAD_PREFIX + name: value for name, value in (self.head or {}).items()}
        # safetensors writes memory as it is laid out: a transposed view would return as other numbers
        in_rows = {name: np.asarray(value, order="C") for name, value in (self.arrays | head).items()}
        save_file(in_rows, folder / "model.safetensors")
        with (folder / "questions.jsonl").open("w", encoding="utf-8") as lines:
            for question in self.bank:
                lines.write(json.dumps(_question_row(question), ensure_ascii=False) + "\n")
        config = self._identity() | {
            "format": FORMAT,
            "id": self.id,
            "model": self.model,
            "steering": asdict(self.steering),
            "accuracy": self.accuracy,
            "active": self.active,
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Basis:
        """Read and check a basis directory; ``BasisError`` says what is wrong with one."""
        from personalign.basis_files import BASIS, Config, QuestionRow, Version, check_arrays, check_questions

        folder = check_place("the basis", folder)
        config_path, arrays_path, questions_path = (Path(folder) / name for name in FILES)
        for path in (config_path, arrays_path, questions_path):
            if not path.is_file():
                raise BasisError(f"{folder} lacks {path.name}; expected a basis directory")
        text = BASIS.read(config_path)
        if (version := BASIS.parse(Version, text, str(config_path)).format) != FORMAT:
            raise BasisError(
                f"{folder} has format {version}, this version reads {FORMAT}; install the version that made it, or "
                "make it again with: personalign basis bootstrap"
            )
        config = BASIS.parse(Config, text, str(config_path))
        # not splitlines, which also splits at U+2028 and other marks that a reply may hold
        lines = enumerate(BASIS.read(questions_path).split(b"\n"), start=1)
        rows = [BASIS.parse(QuestionRow, line, f"{questions_path}, line {number}") for number, line in lines if line]
        check_questions(rows, len(config.axes), str(folder))
        arrays = BASIS.arrays(arrays_path)
        head = {
            name.removeprefix(HEAD_PREFIX): arrays.pop(name) for name in list(arrays) if name.startswith(HEAD_PREFIX)
        }
        check_arrays(arrays, head, config, str(folder))
        basis = _assembled(config, arrays, head, rows)
        if basis.id != config.id:
            raise BasisError(
                f"{folder} hashes to {basis.id[:12]}, its config says {config.id[:12]}; it was changed by hand"
            )
        return basis

    def _identity(self) -> dict[str, Any]:
        embedded = {} if self.learnt is None else {"embedder": self.learnt.embedder, "items": self.learnt.items}
        embedded = {name: value for name, value in embedded.items() if value}
        noise = {name: float(number) for name, number in asdict(self.noise).items()}
        if self.noise.much == Noise.much:
            del noise["much"]  # ids are what they were before there were grades
        return embedded | {
            "axes": [asdict(axis) for axis in self.axes],
            "noise": noise,
            "shares": asdict(self.shares),
            "fingerprints": asdict(self.fingerprints),
        }

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The tensors to store, without the head's."""
        projection = None if self.learnt is None else self.learnt.projection
        optional = {"projection": projection, "particles": self.particles}
        return {
            "center": self.center,
            "scale": self.scale,
            "prior.mean": self.prior.mean,
            "prior.covariance": self.prior.covariance,
            "reference": self.reference,
        } | {name: array for name, array in optional.items() if array is not None}


def _assembled(
    config: Config, arrays: Mapping[str, NDArray[Any]], head: Mapping[str, NDArray[Any]], rows: Sequence[QuestionRow]
) -> Basis:
    return Basis(
        model=config.model,
        fingerprints=Fingerprints(**config.fingerprints.model_dump()),
        axes=tuple(Axis(**axis.model_dump()) for axis in config.axes),
        center=arrays["center"],
        scale=arrays["scale"],
        prior=Gaussian(arrays["prior.mean"], arrays["prior.covariance"]),
        noise=Noise(**config.noise.model_dump()),
        reference=arrays["reference"],
        steering=Steering(**config.steering.model_dump()),
        accuracy=config.accuracy,
        bank=tuple(BankQuestion(**dict(row)) for row in rows),
        head=head or None,
        learnt=None if config.embedder is None else Learnt(arrays["projection"], config.embedder, config.items),
        shares=Shares(**config.shares.model_dump()),
        particles=arrays.get("particles"),
        active=config.active,
    )


def _question_row(question: BankQuestion) -> dict[str, Any]:
    row = dict(vars(question))
    row |= {name: _rounded(row[name]) for name in ("first_features", "second_features")}
    others = {"others": list(question.others), "other_features": [_rounded(each) for each in question.other_features]}
    return {name: value for name, value in (row | others).items() if name not in others or value}


def _rounded(features: Array) -> list[float]:
    return [round(x, 6) for x in features.tolist()]
