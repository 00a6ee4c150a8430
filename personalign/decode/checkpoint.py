"""Reading a checkpoint of transformers, whatever is in its folder: a frozen model and its tokenizer, or a ModelError.

It reads weights from safetensors only, runs no code that comes with a checkpoint, and builds nothing that is much
larger than the weights. Read ``load.py`` next: what a model is known by.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging
from transformers.utils.hub import cached_file

from personalign.errors import ModelError

AutoModel = type[AutoModelForCausalLM] | type[AutoModelForSequenceClassification]
LONGEST_NAME = 1000  # characters of a path or a hub id
PER_BYTE = 8  # weights that a byte of a file stands for, at most: one bit each
COUNTS = re.compile(r"(n|num|encoder|decoder)_(\w+_)?(layers?|experts?|blocks?)")  # what a config says of its modules


def read_frozen(auto: AutoModel, name: str, place: torch.device) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read a checkpoint by one of transformers' auto classes, in eval mode without gradients, and its tokenizer."""
    model, tokenizer = _read(name, partial(_read_from, auto, name, place))
    use_onednn(model)
    return model, tokenizer


def read_outline(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read a checkpoint without its weights: the model is on torch's meta device."""
    return _read(name, partial(_read_outline_from, name))


def torch_device(device: str) -> torch.device:
    """The device of that name; "auto" is a GPU where there is one.

    Raises:
        ModelError: it can't be used here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ModelError(
            f"device {device!r} can't be used here ({first_line(error)}); expected auto, cpu or cuda"
        ) from error


def _read(
    name: str, read: Callable[..., tuple[PreTrainedModel, PreTrainedTokenizerBase]]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read what is on this machine, or else on the hub."""
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise ModelError(f"found the model name {name[:80]!r}…, {len(name)} characters; expected a folder or a hub id")
    try:
        return read(local_files_only=True)
    except ModelError:
        raise
    except ImportError as error:
        raise ModelError(
            f"{name} needs a package that isn't installed ({first_line(error)}); install it with: "
            f"pip install {_package(error)}"
        ) from error
    except Exception as error:
        if Path(name).exists():
            raise ModelError(
                f"{name} isn't a model that can be loaded ({first_line(error)}); expected a folder with "
                "config.json, model.safetensors and a tokenizer"
            ) from error
    try:
        return read(local_files_only=False)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"no model {name!r} on this machine or on the hub ({first_line(error)}); expected a folder, or a hub id "
            "such as owner/name; download it first where there is no network"
        ) from error


def _package(error: ImportError) -> str:
    """The package that an error asks for: what it says after "pip install", or the module that it names."""
    advised = re.search(r"pip install (?:-U |--upgrade )?[`'\"]?([\w.-]+)", str(error))
    return advised.group(1) if advised else error.name or "what it names"


def _read_from(
    auto: AutoModel, name: str, place: torch.device, *, local_files_only: bool
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    where = {"local_files_only": local_files_only, "trust_remote_code": False}
    with progress_on_terminals():
        _check_files(auto, name, where)
        tokenizer = AutoTokenizer.from_pretrained(name, **where)
        if not isinstance(longest := tokenizer.model_max_length, int | float):
            raise ModelError(
                f"the tokenizer_config.json of {name} says model_max_length {longest!r:.80}; expected a number of "
                "tokens; mend it or leave it out"
            )
        dtype = torch.float32 if place.type == "cpu" else torch.bfloat16
        model: Any = read_whole(auto, name, name, dtype=dtype, use_safetensors=True, **where)
    model.to(place).eval().requires_grad_(requires_grad=False)
    return model, tokenizer


def _read_outline_from(name: str, *, local_files_only: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    where: dict[str, Any] = {"local_files_only": local_files_only, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(name, **where)
    build: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        model: PreTrainedModel = build(AutoConfig.from_pretrained(name, **where))
    with suppress(OSError):  # without the file it follows from the config
        model.generation_config = GenerationConfig.from_pretrained(name, **where)
    model.requires_grad_(requires_grad=False)
    return model, tokenizer


def read_whole(auto: AutoModel, name: str, folder: str, **options: object) -> PreTrainedModel:
    """Read the weights in a folder, or on the hub, as ``from_pretrained`` does.

    Raises:
        ModelError: some are missing, or have another shape.
    """
    read: Any = auto.from_pretrained
    model, report = read(folder, output_loading_info=True, **options)
    if lacking := sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])):
        raise ModelError(
            f"{name} lacks {len(lacking)} weights of a {type(model).__name__}, {lacking[0]} among them; "
            "expected a complete checkpoint of that kind"
        )
    assert isinstance(model, PreTrainedModel), "an auto class makes one"
    return model


def _check_files(auto: AutoModel, name: str, where: Mapping[str, bool]) -> None:
    """Refuse a config that describes far more than the files hold, before anything of that size is built."""
    outline, _ = PreTrainedConfig.get_config_dict(name, **where)
    files = _weight_files(name, local_files_only=where["local_files_only"])
    num_tensors = 0
    for file in files:
        with safe_open(file, framework="pt") as opened:
            num_tensors += len(opened.keys())
    for key, count in _counts(outline):
        if count > num_tensors:
            raise ModelError(f"{name} says {key} {count}, and holds {num_tensors} weights; expected one each at least")
    check_size(auto, name, AutoConfig.from_pretrained(name, **where), sum(file.stat().st_size for file in files))


def check_size(auto: AutoModel, name: str, config: PreTrainedConfig, num_bytes: int) -> None:
    """Refuse a config that describes many more numbers than there are bytes of weights."""
    with torch.device("meta"):
        build: Any = auto.from_config
        model = build(config)
    num_values = sum(p.numel() for p in model.parameters())
    if num_values > num_bytes * PER_BYTE:
        raise ModelError(
            f"{name} describes {num_values:,} numbers, and its weights are {num_bytes:,} bytes; expected a config that "
            "describes the weights beside it"
        )


def _counts(outline: object) -> Iterator[tuple[str, int]]:
    if isinstance(outline, Mapping):
        for key, value in outline.items():
            if isinstance(value, int) and COUNTS.fullmatch(str(key)):
                yield str(key), value
            yield from _counts(value)


def _weight_files(name: str, *, local_files_only: bool) -> list[Path]:
    def cached(file: str) -> Path:
        return Path(cached_file(name, file, local_files_only=local_files_only) or "")

    try:
        return [cached(SAFE_WEIGHTS_NAME)]
    except OSError as error:
        try:
            index = cached(SAFE_WEIGHTS_INDEX_NAME)
        except OSError:
            raise error from None
    return list(map(cached, sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))))


@contextmanager
def progress_on_terminals() -> Iterator[None]:
    """Keep transformers' progress bars off a stderr that isn't a terminal."""
    bars: Any = logging
    is_hidden = bars.is_progress_bar_enabled() and not sys.stderr.isatty()
    if is_hidden:
        bars.disable_progress_bar()
    try:
        yield
    finally:
        if is_hidden:
            bars.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """The first line of an error's text; other libraries add many more."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


class OneDnnLinear(nn.Linear):
    """A linear layer that oneDNN multiplies instead of MKL: in half the time on an AMD EPYC, for 1 to 512 rows."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Multiply; oneDNN's operator has no gradient and is asked for float32 on a CPU alone."""
        is_plain = input.is_cpu and input.dtype == self.weight.dtype == torch.float32
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or not is_plain:
            return super().forward(input)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001 - torch gives it no other name
            input, self.weight, self.bias, "none", [], ""
        )
        return product


def use_onednn(model: nn.Module) -> None:
    """Let a model's linear layers be multiplied by oneDNN, in place; where torch has none, all stays as it is."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear
