"""A LoRA's folder, read and checked against the model it is for before PEFT sees it, and its life on that model.

Only plain LoRAs are read: low-rank matrices beside weights that stay as they are. PEFT would load other kinds, too, and
some of them alter the model under every other adapter. Read ``experts.py`` next: what such an adapter is used for.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from pydantic import ConfigDict, Field
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from personalign.artefact import Door, Schema
from personalign.decode.checkpoint import first_line
from personalign.errors import ModelError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DOOR = Door(ModelError, "expected a plain LoRA, as PEFT saves one, with names of modules and no patterns")
BASE_ADAPTER = "__base__"  # PEFT's name for "no adapter" in a mixed batch
FLOATS = ("F16", "BF16", "F32", "F64")
PREFIX = "base_model.model."  # of every name in a saved adapter
# What a configuration says of other things than the function it computes.
INERT = frozenset({
    "auto_mapping", "base_model_name_or_path", "inference_mode", "megatron_core", "peft_version", "qalora_group_size",
    "revision",
})  # fmt: skip

# Letters, digits and dots: PEFT makes regular expressions of these, and some of those never end.
ModuleName = Annotated[str, Field(pattern=r"^\w+(\.\w+)*$", max_length=200)]
ModuleNames = Annotated[list[ModuleName], Field(max_length=1000)]
Rank = Annotated[int, Field(ge=1, le=65536)]


class _Config(Schema):
    """The fields of ``adapter_config.json`` that a plain LoRA may set."""

    model_config = ConfigDict(extra="allow")  # the others are looked at by name

    peft_type: Literal["LORA"]
    task_type: Literal["CAUSAL_LM", "FEATURE_EXTRACTION"] | None = None
    r: Rank
    lora_alpha: float
    target_modules: Annotated[ModuleNames, Field(min_length=1)]
    exclude_modules: ModuleNames | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: ModuleNames | ModuleName | None = None
    rank_pattern: dict[ModuleName, Rank] = Field(default={})
    alpha_pattern: dict[ModuleName, float] = Field(default={})
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    fan_in_fan_out: bool = False
    bias: Literal["none", "all", "lora_only"] = "none"
    lora_bias: bool = False
    use_rslora: bool = False
    init_lora_weights: bool | str = True


@dataclass(frozen=True, eq=False)
class Lora:
    """A plain LoRA that fits a model: its configuration, and its weights by their saved names."""

    config: LoraConfig
    weights: dict[str, Tensor]


def read_lora(folder: Path, model: PreTrainedModel) -> Lora:
    """Read a LoRA's folder; refuse what isn't a plain LoRA, or doesn't fit the model, which stays as it is."""
    config = _config(folder / CONFIG)
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} lacks {WEIGHTS}; expected a PEFT adapter saved as safetensors")
    name = type(model).__name__
    try:
        expected = _expected_shapes(config, model)
    except Exception as error:
        raise ModelError(f"{folder} doesn't fit a {name} ({first_line(error)}); expected a LoRA tuned on it") from error
    weights = _weights(folder / WEIGHTS, expected, model)
    return Lora(config, weights)


def _config(file: Path) -> LoraConfig:
    config = DOOR.parse(_Config, DOOR.read(file), str(file))
    if config.init_lora_weights not in (True, False, "gaussian", "orthogonal"):
        raise ModelError(
            f"{file} sets init_lora_weights to {config.init_lora_weights!r:.80}, which alters the model under the "
            "adapter; expected true or false; save it as a plain LoRA with PEFT's "
            "save_pretrained(…, path_initial_model_for_weight_conversion=…)"
        )
    for field, value in (config.model_extra or {}).items():
        if value and field not in INERT:
            raise ModelError(
                f"{file} isn't a plain LoRA's: it sets {field:.80} to {value!r:.80}, which can't be served beside "
                f"the untuned model; expected a LoRA of linear and embedding layers; train it without {field:.80}"
            )
    served = config.model_dump(exclude={*(config.model_extra or {}), "peft_type", "init_lora_weights"})
    return LoraConfig(**served, inference_mode=True)


def _expected_shapes(config: LoraConfig, model: PreTrainedModel) -> dict[str, list[int]]:
    """Names and shapes of the weights that a configuration makes of a model, by trying it on one without weights."""
    with torch.device("meta"), _quiet():
        hollow = type(model)(model.config)
        adapted = get_peft_model(hollow, deepcopy(config), low_cpu_mem_usage=True)
        state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    if foreign := [name for name in state if ".lora_" not in name]:
        raise ValueError(f"it holds the model's own {foreign[0]}, and not only what is added to it")
    return {name: list(value.shape) for name, value in state.items()}


def _weights(file: Path, expected: Mapping[str, list[int]], model: PreTrainedModel) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
            held = {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}
            copies = held.keys() - expected.keys()
            _check_header(file, held, expected, copies)
            _check_copies({name: opened.get_tensor(name) for name in copies}, file, model)
            weights = {name: opened.get_tensor(name) for name in expected}
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{file} can't be read ({first_line(error)}); expected a PEFT adapter saved as safetensors"
        ) from error
    if broken := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise ModelError(f"{file} holds NaN or Inf in {broken[0]}, expected finite numbers; train the adapter again")
    return weights


def _check_header(
    file: Path,
    held: Mapping[str, tuple[str, list[int]]],
    expected: Mapping[str, list[int]],
    copies: set[str],
) -> None:
    foreign = sorted(name for name in copies if ".lora_" in name)
    for name in [*sorted(expected.keys() - held.keys()), *foreign]:
        fault = "holds the unknown" if name in held else "lacks the"
        raise ModelError(f"{file} doesn't fit: it {fault} weight {name}; expected a whole LoRA tuned on this model")
    for name, (dtype, shape) in held.items():
        if dtype not in FLOATS or (name in expected and shape != expected[name]):
            raise ModelError(
                f"{file} doesn't fit: {name} is {dtype} {shape}, expected {expected.get(name, shape)} of "
                f"{', '.join(FLOATS)}; use the model it was tuned on, or train it again"
            )


def _check_copies(copies: Mapping[str, Tensor], file: Path, model: PreTrainedModel) -> None:
    """PEFT saves embeddings beside a LoRA of them: they may be there, as long as they are the model's."""
    weights = {name.replace(".base_layer.", "."): value for name, value in model.state_dict().items()} if copies else {}
    for name, value in copies.items():
        same = weights.get(name.removeprefix(PREFIX).replace(".base_layer.", "."))
        if same is None or same.shape != value.shape or not torch.equal(value.to(same), same):
            raise ModelError(
                f"{file} doesn't fit: it brings {name}, which isn't the model's own weight; expected nothing but a "
                "LoRA; train it on this model, and with save_embedding_layers=False"
            )


def attach(lora: Lora, name: str, model: PreTrainedModel, peft: PeftModel | None) -> PeftModel:
    """Hang a LoRA on its model, beside those of ``peft``; where the untuned model would change, take it off again."""
    before = _probe(model)
    try:
        with _quiet():
            if peft is None:
                peft = get_peft_model(model, lora.config, adapter_name=name)
            else:
                peft.add_adapter(name, lora.config)
        set_peft_model_state_dict(peft, lora.weights, adapter_name=name)
        tuner: Any = peft.base_model
        tuner.set_adapter([], inference_mode=True)
        peft.eval().requires_grad_(requires_grad=False)
        if not torch.equal(_probe(model), before):
            raise ValueError("the untuned model gives other logits beside it")  # noqa: TRY301 - one way out
    except Exception as error:
        _detach(model, name, peft)
        raise ModelError(f"the adapter {name!r} can't be served ({first_line(error)}); train a plain LoRA") from error
    return peft


@torch.no_grad()
def _probe(model: PreTrainedModel) -> Tensor:
    ids = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return logits


def _detach(model: PreTrainedModel, name: str, peft: PeftModel | None) -> None:
    """Delete an adapter, whole or half attached; the last one leaves the model as it was without any."""
    for path, layer in [(path, module) for path, module in model.named_modules() if isinstance(module, LoraLayer)]:
        layer.delete_adapter(name)
        if not layer.lora_A and not layer.lora_embedding_A:
            model.set_submodule(path, layer.get_base_layer())
    configs: dict[str, LoraConfig] = getattr(model, "peft_config", {})
    configs.pop(name, None)
    if peft is not None and configs:
        peft.active_adapter = next(iter(configs))  # the name of one that is gone would fail every pass
    elif hasattr(model, "peft_config"):
        del model.peft_config


def check_name(name: str) -> None:
    """Refuse a folder's name by which PEFT can't call an adapter."""
    is_taken = name == BASE_ADAPTER or any(hasattr(kind(), name) for kind in (nn.ModuleDict, nn.ParameterDict))
    if is_taken or name in "lora_" or "lora_" in name or not re.fullmatch(r"[\w-]+", name):
        raise ModelError(
            f"an adapter can't be called {name!r:.80}; expected letters, digits, - and _, and no word of PEFT's; "
            "rename the folder"
        )


def with_lora(decoder: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """Put a fresh LoRA on a decoder, in place; it starts as no change at all."""
    with _quiet():
        return get_peft_model(decoder, config)


def merged(lora: PeftModel) -> PreTrainedModel:
    """Add a LoRA to the weights under it, in place, and freeze the decoder."""
    decoder = lora.merge_and_unload(safe_merge=True)
    assert isinstance(decoder, PreTrainedModel), "what the LoRA was put on"
    module: nn.Module = decoder  # whose methods are typed
    module.eval().requires_grad_(requires_grad=False)
    return decoder


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():  # peft 0.21 asks for an attribute that transformers 5.23 has renamed,
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        # and finds out for itself which way round GPT-2 keeps its matrices;
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)
        # an expert may tune tied embeddings: it is never merged, which is what peft warns of
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`", category=UserWarning)
        yield
