"""The Basis: what is shared by everyone whose profiles are written in the same reward axes.

One directory: ``config.json``, ``model.safetensors``, ``questions.jsonl`` and a card, ``README.md``.
Its id covers what a profile's numbers depend on, so a new card, bank or successor head orphans nobody.
It knows nothing of torch: the head is a mapping of arrays until ``decode.rewards`` makes a module of it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from personalign.errors import BasisError, ProfileError
from personalign.types import Array, Axis, Gaussian, Message, Noise, Profile

FILES = ("config.json", "model.safetensors", "questions.jsonl")
FORMAT = 1
HEAD_PREFIX = "head."


@dataclass(frozen=True)
class Steering:
    """How strongly a profile acts, calibrated on dev prompts: β, the clip c of δ in nats, and the short list K."""

    beta: float
    clip: float
    num_candidates: int


@dataclass(frozen=True)
class Fingerprints:
    """SHA-256 of the tokenizer's content and of a sample of the model; see ``decode.load``."""

    tokenizer: str
    model: str


@dataclass(frozen=True, eq=False)
class BankQuestion:
    """Two replies to one prompt with their standardised features (d,); sides are drawn when it is asked."""

    id: str
    prompt: tuple[Message, ...]
    first: str
    second: str
    first_features: Array
    second_features: Array


@dataclass(frozen=True, eq=False)
class Basis:
    """Shared reward axes with their standardisation, prior, answer noise, question bank and successor head."""

    model: str  # the name or path it was made for, for messages only
    fingerprints: Fingerprints
    axes: tuple[Axis, ...]
    center: Float[NDArray[np.float64], "d"]
    scale: Float[NDArray[np.float64], "d"]
    prior: Gaussian
    noise: Noise
    reference: Float[NDArray[np.float64], "m d"]  # pairs that stand for what people will compare
    steering: Steering
    accuracy: float | None = None  # on held-out people; None where no human data went in
    bank: tuple[BankQuestion, ...] = ()
    head: Mapping[str, NDArray[np.floating]] | None = None  # float32 or float16
    projection: Float[NDArray[np.float64], "F r"] | None = None  # of embeddings to the last r axes, the learnt ones
    embedder: str | None = None  # what embeds: "hidden", the base model's own states, or "encoder:NAME"
    kappa: float | None = None  # how far profiles may leave the prior's mean (learn/gate.py); None: no human data
    share: float | None = None  # of the people, whom that describes
    active: bool = True  # whether the axes foresee people well enough for questions to be chosen by them

    @property
    def num_axes(self) -> int:
        """D."""
        return len(self.axes)

    @property
    def named(self) -> tuple[Axis, ...]:
        """The axes that are measured in the text itself."""
        return self.axes if self.projection is None else self.axes[: -self.projection.shape[1]]

    @cached_property
    def id(self) -> str:
        """SHA-256 over axes, standardisation, projection, prior, noise, reference pairs and fingerprints."""
        digest = hashlib.sha256(json.dumps(self._identity(), sort_keys=True).encode())
        for name, array in sorted(self.arrays.items()):
            digest.update(f"{name}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @cached_property
    def pool(self) -> Float[NDArray[np.float64], "m d"]:
        """First minus second of every bank question."""
        return np.array([q.first_features - q.second_features for q in self.bank]).reshape(-1, self.num_axes)

    def standardise(self, raw: Float[NDArray[np.float64], "*n d"]) -> Float[NDArray[np.float64], "*n d"]:
        """Raw axis values as φ: mean 0 and standard deviation 1 over the model's own replies."""
        return (raw - self.center) / self.scale

    def confidence(self, covariance: Float[NDArray[np.float64], "d d"]) -> float:
        """ρ = 1 − mean(vᵀΣ_n v) / mean(vᵀΣ₀v) on the reference pairs: 0 where nothing has been learnt, → 1."""
        return float(
            1 - _mean_variance(self.reference, covariance) / _mean_variance(self.reference, self.prior.covariance)
        )

    def first_profile(self, user: str) -> Profile:
        """The profile of a person who has answered nothing."""
        return Profile(user, self.id, 0, self.prior.mean, self.prior.covariance, 0, 0, self.axes)

    def check_model(self, found: Fingerprints) -> None:
        """Refuse a model or tokenizer that this basis wasn't made for."""
        for part in ("tokenizer", "model"):
            if getattr(found, part) != getattr(self.fingerprints, part):
                raise BasisError(
                    f"the basis was made for {self.model} ({part} {getattr(self.fingerprints, part)[:12]}), but the "
                    f"{part} loaded is {getattr(found, part)[:12]}; pass the basis of this model, or make one with: "
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
                "the profile holds NaN or Inf, expected finite numbers; undo the last answer or forget it"
            )

    def save(self, folder: Path) -> None:
        """Write the three files, the config last: where it is, all are. The card is written by who made the basis."""
        folder.mkdir(parents=True, exist_ok=True)
        head = {HEAD_PREFIX + name: value for name, value in (self.head or {}).items()}
        # safetensors writes memory as it lies: a transposed view would come back as other numbers
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
            "kappa": self.kappa,
            "share": self.share,
            "active": self.active,
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Basis:
        """Read and check a basis directory.

        Raises:
            BasisError: a file is missing, malformed or of another format, an array has the wrong shape or a value
                that isn't finite, a scale isn't above 0, two questions share an id, or the content doesn't hash to
                the id it states.
        """
        for name in FILES:
            if not (folder / name).is_file():
                raise BasisError(f"{folder} lacks {name}; expected a basis directory")
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            _check_format(config["format"], folder)
            arrays = load_file(folder / "model.safetensors")
            # not splitlines, which also splits at U+2028 and other marks that a reply may hold
            rows = (folder / "questions.jsonl").read_text(encoding="utf-8").removesuffix("\n").split("\n")
            basis, stated_id = cls._build(config, arrays, [row for row in rows if row]), str(config["id"])
        except BasisError:
            raise
        except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
            raise BasisError(
                f"{folder} isn't a readable basis ({error}); make it again with: personalign basis bootstrap"
            ) from error
        _check(basis, folder, stated_id)
        return basis

    @classmethod
    def _build(cls, config: dict[str, Any], arrays: dict[str, NDArray[Any]], rows: list[str]) -> Basis:
        return cls(
            model=config["model"],
            fingerprints=Fingerprints(**config["fingerprints"]),
            axes=tuple(Axis(**axis) for axis in config["axes"]),
            center=arrays["center"],
            scale=arrays["scale"],
            prior=Gaussian(arrays["prior.mean"], arrays["prior.covariance"]),
            noise=Noise(**config["noise"]),
            reference=arrays["reference"],
            steering=Steering(**config["steering"]),
            accuracy=config["accuracy"],
            bank=tuple(_question(json.loads(row)) for row in rows),
            head={k.removeprefix(HEAD_PREFIX): v for k, v in arrays.items() if k.startswith(HEAD_PREFIX)} or None,
            projection=arrays.get("projection"),
            embedder=config.get("embedder"),
            kappa=config.get("kappa"),
            share=config.get("share"),
            active=config.get("active", True),
        )

    def _identity(self) -> dict[str, Any]:
        embedded = {} if self.projection is None else {"embedder": self.embedder}
        return embedded | {
            "axes": [asdict(axis) for axis in self.axes],
            "noise": asdict(self.noise),
            "fingerprints": asdict(self.fingerprints),
        }

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is kept as tensors, the head aside."""
        return {
            "center": self.center,
            "scale": self.scale,
            "prior.mean": self.prior.mean,
            "prior.covariance": self.prior.covariance,
            "reference": self.reference,
        } | ({} if self.projection is None else {"projection": self.projection})

    def with_steering(self, steering: Steering) -> Basis:
        """The same basis, calibrated anew; its id stays."""
        return replace(self, steering=steering)


def _check_format(found: object, folder: Path) -> None:
    if found != FORMAT:
        raise BasisError(
            f"{folder} has format {found}, this version reads {FORMAT}; install the version that made it, or make it "
            "again with: personalign basis bootstrap"
        )


def _check(basis: Basis, folder: Path, stated_id: str) -> None:
    d, arrays = basis.num_axes, basis.arrays
    shapes = {
        "center": (d,),
        "scale": (d,),
        "prior.mean": (d,),
        "prior.covariance": (d, d),
        "reference": (len(basis.reference), d),
        "projection": (0 if basis.projection is None else len(basis.projection), d - len(basis.named)),
    }
    for name, array in arrays.items():
        if array.shape != shapes[name] or array.dtype != np.float64:
            raise BasisError(f"{folder}: {name} is {array.dtype} {array.shape}, expected float64 {shapes[name]}")
    if not len(basis.reference):
        raise BasisError(f"{folder} has no reference pairs, expected at least one; make the basis again")
    if twice := [name for name, times in Counter(q.id for q in basis.bank).items() if times > 1]:
        raise BasisError(f"{folder} has several questions {twice[0]!r}, expected an id for each; make the bank again")
    for question in basis.bank:
        if not question.first_features.shape == question.second_features.shape == (d,):
            raise BasisError(f"{folder}: question {question.id} lacks features, expected {d} of each reply")
    _check_steering(basis.steering, folder)
    _check_people(basis, folder)
    everything = arrays | dict(basis.head or {}) | {"questions": basis.pool}
    for name, array in everything.items():
        if not np.isfinite(array).all():
            raise BasisError(f"{folder}: {name} holds NaN or Inf, expected finite numbers; make the basis again")
    if not (basis.scale > 0).all():
        raise BasisError(f"{folder}: scale holds {basis.scale.min():g}, expected numbers above 0; make the basis again")
    if basis.id != stated_id:
        raise BasisError(
            f"{folder} hashes to {basis.id[:12]}, its config says {stated_id[:12]}; it was changed by hand"
        )


def _check_steering(steering: Steering, folder: Path) -> None:
    numbers = (steering.beta, steering.clip, steering.num_candidates)
    is_sound = all(isinstance(x, int | float) and np.isfinite(x) and x >= 0 for x in numbers)
    if not (is_sound and isinstance(steering.num_candidates, int) and steering.num_candidates > 0):
        raise BasisError(
            f"{folder} has {steering}, expected finite numbers ≥ 0 and a candidate at least; make the basis again"
        )


def _check_people(basis: Basis, folder: Path) -> None:
    """What was learnt from people has to be whole: a gate of two numbers, and an embedder for what is projected."""
    gate = (basis.kappa, basis.share)
    is_gate = all(x is None for x in gate) or all(isinstance(x, int | float) and 0 <= x <= 1 for x in gate)
    if not (is_gate and isinstance(basis.active, bool)):
        raise BasisError(
            f"{folder} has kappa {basis.kappa}, share {basis.share} and active {basis.active}, expected two numbers "
            "from 0 to 1 or neither, and true or false; make the basis again"
        )
    if (basis.projection is None) != (basis.embedder is None):
        raise BasisError(
            f"{folder} has the embedder {basis.embedder!r} and {'no' if basis.projection is None else 'a'} projection, "
            "expected both or neither; make the basis again"
        )


def _mean_variance(v: Array, covariance: Array) -> float:
    return float(np.einsum("md,de,me->m", v, covariance, v).mean())


def _question_row(question: BankQuestion) -> dict[str, Any]:
    return {
        "id": question.id,
        "prompt": list(question.prompt),
        "first": question.first,
        "second": question.second,
        "first_features": [round(x, 6) for x in question.first_features.tolist()],
        "second_features": [round(x, 6) for x in question.second_features.tolist()],
    }


def _question(row: dict[str, Any]) -> BankQuestion:
    return BankQuestion(
        row["id"],
        tuple(row["prompt"]),
        row["first"],
        row["second"],
        np.array(row["first_features"], dtype=np.float64),
        np.array(row["second_features"], dtype=np.float64),
    )
