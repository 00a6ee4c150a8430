"""A model in a GGUF file: converted once into a folder that transformers reads fast, and kept in a cache.

Each converted folder holds a manifest of the GGUF files with its content, and of its own files, by size and time. So
opening one again reads no weights but the converted ones, and a folder that was changed or is torn is made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from pydantic import BaseModel, ValidationError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    modeling_gguf_pytorch_utils,
)

from personalign.decode.checkpoint import check_size, first_line, progress_on_terminals, read_whole
from personalign.decode.gguf_header import Header, read_header, reading
from personalign.errors import MissingExtra, ModelError
from personalign.settings import PREFIX, Settings

SUFFIX = ".gguf"
FORMAT = 1  # of a converted folder: another one is made where this changes
MANIFEST = "manifest.json"
PARTIAL = ".partial"
ENDS = ("eos", "eot", "eom")  # tokens that end a turn, as GGUF calls them
Stamp = tuple[int, int]  # a file's size, and when it was written, in nanoseconds


class Manifest(BaseModel, strict=True, extra="forbid", frozen=True):
    """What a folder was converted from, and what it holds."""

    sources: dict[str, Stamp]  # the GGUF files with this content, by path
    files: dict[str, Stamp]  # by name


def checkpoint_folder(name: str) -> str:
    """The folder that transformers reads for a model's name: a GGUF's converted one, or the name itself.

    The first process that asks for a GGUF converts it; others wait.

    Raises:
        ModelError: the GGUF is missing, cut short, or nothing that transformers reads; or the cache can't be written.
        MissingExtra: gguf isn't installed.
    """
    if not name.endswith(SUFFIX) or not name.isprintable():
        return name
    file, cache = Path(name).absolute(), Settings().cache / "gguf"
    if folder := _converted(cache, file):
        return str(folder)
    with reading(file):
        stamp = _stamp(file)  # before its header: the file may be changed while another one is converted
    header = read_header(file)
    with _alone_in(cache):
        return str(_converted(cache, file) or _convert(file, stamp, header, cache))


# ---------------------------------------------------------------- the cache


def _converted(cache: Path, file: Path) -> Path | None:
    """The whole folder that a file was converted into, if it hasn't changed since."""
    try:
        stamp = _stamp(file)
        folders = [path.parent for path in cache.glob(f"*-{FORMAT}/{MANIFEST}")]
        return next((folder for folder in folders if _sources(folder).get(str(file)) == stamp), None)
    except OSError:  # what can't be read is reported by what reads it next
        return None


def _sources(folder: Path) -> dict[str, Stamp]:
    """The files that a folder was converted from; none where it is torn or was changed."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
        is_whole = all(_stamp(folder / name) == stamp for name, stamp in manifest.files.items())
    except (OSError, ValidationError):
        return {}
    return manifest.sources if is_whole else {}


def _stamp(file: Path) -> Stamp:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


@contextmanager
def _alone_in(cache: Path) -> Iterator[None]:
    """Wait until no other process, and no other thread, converts into the cache."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = os.open(cache, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable(cache, error) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise _unusable(cache, error) from error
        yield
    finally:
        os.close(lock)  # which lets the next one in


def _unusable(cache: Path, error: Exception, need: str = "a folder that can be written") -> ModelError:
    return ModelError(
        f"the cache of converted models, {cache}, can't be used ({first_line(error)}); expected {need}; "
        f"name another one in {PREFIX}CACHE"
    )


# ---------------------------------------------------------------- the conversion


def _convert(file: Path, stamp: Stamp, header: Header, cache: Path) -> Path:
    """Convert a file, unless another one of the same content was; call this alone in the cache."""
    with reading(file):
        folder = cache / f"{_sha256(file)}-{FORMAT}"
    sources = _sources(folder)
    made = folder.with_name(folder.name + PARTIAL)
    try:
        for left in cache.glob(f"*{PARTIAL}"):  # by a process that was killed
            shutil.rmtree(left)
        if not sources:
            _check_room(cache, header)
            print(f"converting {file.name} once, into {cache}", file=sys.stderr, flush=True)  # noqa: T201 - it takes long
            with progress_on_terminals(), _bars_on_terminals():
                _write(made, *_read(file, header))
            if not file.exists() or _stamp(file) != stamp:
                raise ModelError(f"{file} was changed while it was converted; expected a file that stays; try again")
            shutil.rmtree(folder, ignore_errors=True)  # torn, or changed
            made.replace(folder)
        _note(folder, {**sources, str(file): stamp})
    except OSError as error:
        raise _unusable(cache, error) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _check_room(cache: Path, header: Header) -> None:
    if (free := shutil.disk_usage(cache).free) < header.unpacked:
        need = f"{header.unpacked / 1e9:.1f} GB of room for the converted model"
        raise _unusable(cache, OSError(f"{free / 1e9:.1f} GB are free"), need)


def _read(file: Path, header: Header) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read a GGUF as transformers does, its weights unpacked."""
    family, vocabulary = (header.metadata.get(key) for key in ("general.architecture", "tokenizer.ggml.model"))
    try:
        _check_counts(file, header)
        where = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
        config = AutoConfig.from_pretrained(file.parent, **where)
        check_size(AutoModelForCausalLM, str(file), config, header.num_bytes)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
        options = {"config": config, "dtype": torch.float32} | _unpacking()
        model = read_whole(AutoModelForCausalLM, str(file), str(file.parent), **options, **where)
        model.generation_config.eos_token_id = _end_tokens(header, model.generation_config.eos_token_id)
    except (ModelError, MissingExtra):
        raise
    except Exception as error:
        raise ModelError(
            f"{file} (architecture {family!r}, vocabulary {vocabulary!r}) isn't a model that transformers reads "
            f"({first_line(error)}); expected a GGUF such as Llama's, Qwen's or Gemma's, with its vocabulary; pass the "
            "model's own folder or hub id instead"
        ) from error
    return model, tokenizer


def _unpacking() -> dict[str, Any]:
    """What tells transformers to unpack the weights; older ones always do, and know no such option."""
    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _check_counts(file: Path, header: Header) -> None:
    """Refuse many more layers than there are tensors, before so many are built."""
    for key, count in header.metadata.items():
        if key.endswith((".block_count", ".expert_count")) and not (
            isinstance(count, int) and 0 <= count <= header.num_tensors
        ):
            raise ModelError(f"{file} says {key} {count}, and holds {header.num_tensors} tensors; expected no more")


def _end_tokens(header: Header, named: int | list[int] | None) -> list[int]:
    """The tokens that end a reply: those that transformers took over, and any others that the file names."""
    ids = [named] if isinstance(named, int) else named or []
    marked = [header.metadata.get(f"tokenizer.ggml.{end}_token_id") for end in ENDS]
    return [*dict.fromkeys([*ids, *(i for i in marked if isinstance(i, int))])]


@contextmanager
def _bars_on_terminals() -> Iterator[None]:
    """Keep the bar that transformers draws of a GGUF off a stderr that isn't a terminal; nothing else turns it off."""
    reading: Any = modeling_gguf_pytorch_utils
    bar = reading.tqdm
    reading.tqdm = partial(bar, disable=None)
    try:
        yield
    finally:
        reading.tqdm = bar


def _write(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a folder as ``save_pretrained`` does, with a manifest, all of it on the disk when this returns."""
    folder.mkdir()
    for weights in model.parameters():
        weights.data = _smallest(weights.data)
    vars(model)["hf_quantizer"] = None  # the weights are unpacked, but it would refuse to save them
    vars(model.config).pop("quantization_config", None)
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except Exception as error:  # safetensors has an error of its own for a full disk
        raise OSError(first_line(error)) from error
    files = [path for path in folder.iterdir() if path.is_file()]
    for path in files:
        _flush(path)
    (folder / MANIFEST).write_text(Manifest(sources={}, files={p.name: _stamp(p) for p in files}).model_dump_json())
    _flush(folder / MANIFEST)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _smallest(values: torch.Tensor) -> torch.Tensor:
    """The same numbers in half precision, where that changes none of them."""
    halves = (values.to(dtype) for dtype in (torch.float16, torch.bfloat16))
    return next((half for half in halves if torch.equal(half.to(values.dtype), values)), values)


def _note(folder: Path, sources: dict[str, Stamp]) -> None:
    """Write into a folder's manifest which files have its content."""
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    noted = folder / (MANIFEST + PARTIAL)
    noted.write_text(manifest.model_copy(update={"sources": sources}).model_dump_json())
    noted.replace(folder / MANIFEST)
