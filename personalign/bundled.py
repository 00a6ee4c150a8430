"""The folder of the bundled model, and what a model's name stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from personalign.errors import BasisError
from personalign.messages import check_place
from personalign.options import check_list

Place = str | Path
TINY = Path(__file__).parent / "zoo" / "tiny"


@dataclass(frozen=True)
class Source:
    """What to load, and where: the model that a name stands for, what comes with it, and what is used beside it."""

    model: str  # a path or a hub id
    basis: Path
    small: str | None  # the anti-expert, which the experts are adapters of; None: the model itself
    experts: dict[str, Path]
    reward: str | None  # of the rule "args"
    embedder: str | None  # the operator's, in place of the one that the basis names
    device: str


def locate(
    model: Place,
    basis: Place | None = None,
    experts: Mapping[str, Place] | Sequence[Place] = (),
    reward: Place | None = None,
    embedder: str | None = None,
    device: str = "auto",
) -> Source:
    """Resolve "tiny", a path or a hub id; the rest is as ``Personalign.open`` says.

    Raises:
        InputError: an argument isn't a name or a path.
        BasisError: the model isn't the bundled one and no basis was named.
    """
    model, device = check_place("model", model), check_place("device", device)
    basis, reward, embedder = _optional("basis", basis), _optional("reward", reward), _optional("embedder", embedder)
    folders = _experts(experts)
    if model == "tiny":
        bundled = {folder.name: folder for folder in sorted((TINY / "experts").glob("*")) if folder.is_dir()}
        small, basis = str(TINY / "small"), basis or str(TINY / "basis")
        return Source(str(TINY / "base"), Path(basis), small, bundled | folders, reward, embedder, device)
    if basis is None:
        raise BasisError(
            f"no basis was named for the model {model!r}, and only 'tiny' has a bundled one; pass basis=PATH, or make "
            f"one with: personalign basis bootstrap --model {model} --prompts FILE"
        )
    return Source(_absolute(model), Path(basis), None, folders, reward, embedder, device)


def _optional(name: str, place: Place | None) -> str | None:
    return None if place is None else _absolute(check_place(name, place))


def _absolute(name: str) -> str:
    """A folder, whatever folder the process goes to before it is loaded; a hub id stays."""
    kind, colon, folder = name.rpartition(":")  # of an embedder
    return f"{kind}{colon}{Path(folder).absolute()}" if Path(folder).exists() else name


def _experts(folders: Mapping[str, Place] | Sequence[Place]) -> dict[str, Path]:
    """Adapter folders by the experts' names."""
    if not isinstance(folders, Mapping):
        folders = {Path(check_place("experts", folder)).name: folder for folder in check_list("experts", folders)}
    paths = {name: Path(_absolute(check_place("experts", folder))) for name, folder in folders.items()}
    return {check_place("experts", name): path for name, path in paths.items()}
