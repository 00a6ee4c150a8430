"""What has to hold of the installed vLLM, read in its source without importing it: names, and the order of steps.

``personalign vllm check`` looks here first: a processor that is called in another way may run and steer nobody.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from personalign.errors import MissingExtra

Kind = Literal["takes", "has", "does"]
PROCESSOR, LATER = "v1/sample/logits_processor/interface.py", "v1/worker/gpu/sample/logits_processor/interface.py"
REGISTRY = "model_executor/models/registry.py"


@dataclass(frozen=True)
class Contract:
    """A promise that our code relies on, and where vLLM keeps it.

    A function "takes" exactly these arguments, a class "has" at least these fields, and code "does" use these names,
    one after the other.
    """

    promise: str
    file: str
    place: str  # such as Class.method; "" is the whole file
    kind: Kind
    names: tuple[str, ...]


CONTRACTS: Sequence[Contract] = (
    Contract(
        "V1 makes a processor",
        PROCESSOR,
        "LogitsProcessor.__init__",
        "takes",
        ("vllm_config", "device", "is_pin_memory"),
    ),
    Contract("V1 asks who may come", PROCESSOR, "LogitsProcessor.validate_params", "takes", ("sampling_params",)),
    Contract("V1 tells of its batch", PROCESSOR, "LogitsProcessor.update_state", "takes", ("batch_update",)),
    Contract("V1 says who went, came and moved", PROCESSOR, "BatchUpdate", "has", ("removed", "added", "moved")),
    Contract("V1 hands over logits", PROCESSOR, "LogitsProcessor.apply", "takes", ("logits",)),
    Contract(
        "V1 penalises after the processors, which is made up for",
        "v1/sample/sampler.py",
        "Sampler.apply_logits_processors",
        "does",
        ("non_argmax_invariant", "apply_penalties"),
    ),
    Contract(
        "V1 computes logits of the rows it samples",
        "v1/worker/gpu_model_runner.py",
        "GPUModelRunner.execute_model",
        "does",
        ("logits_indices", "compute_logits"),
    ),
    Contract("V2 makes a processor", LATER, "LogitsProcessor.__init__", "takes", ("vllm_config", "req_states")),
    Contract("V2 asks who may come", LATER, "LogitsProcessor.validate_params", "takes", ("sampling_params",)),
    Contract("V2 tells who came", LATER, "LogitsProcessor.add_request", "takes", ("req_idx", "sampling_params")),
    Contract("V2 hands over logits", LATER, "LogitsProcessor.apply", "takes", ("logits", "ctx")),
    Contract(
        "V2 says whose rows they are", LATER, "LogitsContext", "has", ("idx_mapping_np", "seq_lens_upper_bound_np")
    ),
    Contract("V2 keeps lengths of prompts", LATER, "LogitsProcRequestState", "has", ("device", "prompt_len")),
    Contract(
        "V2 penalises before the processors",
        "v1/worker/gpu/sample/sampler.py",
        "Sampler.__init__",
        "does",
        ("penalties_state", "custom_logits_processors"),
    ),
    Contract(
        "V2 computes logits of the rows it samples",
        "v1/worker/gpu/model_runner.py",
        "GPUModelRunner.sample",
        "does",
        ("logits_indices", "compute_logits", "sampler"),
    ),
    Contract(
        "models can be registered", REGISTRY, "_ModelRegistry.register_model", "takes", ("model_arch", "model_cls")
    ),
    Contract("registered models can be loaded", REGISTRY, "_LazyRegisteredModel.load_model_cls", "takes", ()),
    Contract("plug-ins are loaded", "plugins/__init__.py", "", "does", ("vllm.general_plugins",)),
    Contract(
        "requests carry arguments and penalties",
        "sampling_params.py",
        "SamplingParams",
        "has",
        ("repetition_penalty", "presence_penalty", "frequency_penalty", "extra_args"),
    ),
    Contract(
        "chats carry arguments",
        "entrypoints/openai/chat_completion/protocol.py",
        "ChatCompletionRequest",
        "has",
        ("vllm_xargs",),
    ),
    Contract(
        "completions carry arguments",
        "entrypoints/openai/completion/protocol.py",
        "CompletionRequest",
        "has",
        ("vllm_xargs",),
    ),
)


def installed() -> Path:
    """The folder of the installed vLLM, which isn't imported.

    Raises:
        MissingExtra: there is none.
    """
    spec = find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("vllm", "vllm")
    return Path(spec.submodule_search_locations[0])


def broken(folder: Path) -> list[str]:
    """What doesn't hold of a vLLM in this folder: each contract with what was found, or nothing."""
    return [f"{contract.promise}: {failing}" for contract in CONTRACTS if (failing := fault(contract, folder))]


def fault(contract: Contract, folder: Path) -> str | None:
    """What doesn't hold of one contract, or None."""
    where = f"{contract.file} {contract.place}".strip()
    try:
        node = _find(ast.parse((folder / contract.file).read_text(encoding="utf-8")), contract.place)
    except (OSError, SyntaxError):
        node = None
    if node is None:
        return f"{where} isn't there"
    names = list(KINDS[contract.kind](node))
    is_kept = names == list(contract.names) if contract.kind == "takes" else _holds(contract, names)
    if is_kept:
        return None
    shown = [name for name in names if name in contract.names] if contract.kind == "does" else names
    return f"{where} {contract.kind} {', '.join(shown) or 'nothing'}; expected {', '.join(contract.names) or 'nothing'}"


def _holds(contract: Contract, names: list[str]) -> bool:
    if not set(contract.names) <= set(names):
        return False
    places = [names.index(name) for name in contract.names]
    return contract.kind == "has" or places == sorted(places)


def _find(tree: ast.AST, place: str) -> ast.AST | None:
    """The class or function of this name."""
    for name in filter(None, place.split(".")):
        named = (node for node in ast.iter_child_nodes(tree) if getattr(node, "name", None) == name)
        inner = next(named, None)
        if inner is None:
            return None
        tree = inner
    return tree


def _arguments(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef):
        arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        yield from (one.arg for one in arguments if one.arg not in {"self", "cls"})


def _fields(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            yield child.target.id


def _uses(node: ast.AST) -> list[str]:
    """Names, attributes and texts in the order of the source."""
    uses = []
    for child in ast.walk(node):
        kind = {ast.Name: "id", ast.Attribute: "attr", ast.Constant: "value"}.get(type(child))
        if kind is not None and isinstance(child, ast.expr):
            end = (child.end_lineno, child.end_col_offset)  # of an attribute its name is last
            uses.append((end, str(getattr(child, kind))))
    return [name for _, name in sorted(uses)]


KINDS = {"takes": _arguments, "has": _fields, "does": _uses}
