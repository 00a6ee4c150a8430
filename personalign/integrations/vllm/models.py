"""Any model class of vLLM, made to hand over what enters its output layer; a plug-in registers them under their names.

The plug-in is loaded by every vLLM in this environment, and does nothing unless PERSONALIGN_VLLM says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import vllm
from torch import Tensor, nn
from vllm import ModelRegistry

from personalign.errors import ModelError
from personalign.integrations.vllm.passage import passage, read_subject
from personalign.integrations.vllm.people import People
from personalign.settings import Settings


def register() -> None:
    """Let every architecture that vLLM knows be one that hands over its hidden states; none is imported for it."""
    if Settings().vllm:
        for architecture in architectures():
            # vLLM keeps what it found out about a class under its name, also for the next version
            ModelRegistry.register_model(architecture, f"{__name__}:{architecture}@{vllm.__version__}")


@cache
def architectures() -> dict[str, Any]:
    """Those of vLLM itself, as they were before ``register``."""
    return dict(ModelRegistry.models)


@cache
def __getattr__(name: str) -> type[nn.Module]:
    """The class of an architecture, once vLLM asks for it as an attribute of this module."""
    architecture = name.partition("@")[0]
    if architecture not in architectures():
        raise AttributeError(name)
    original: type[nn.Module] = architectures()[architecture].load_model_cls()
    return listening(original) if hasattr(original, "compute_logits") else original


def listening(original: type[nn.Module]) -> type[nn.Module]:
    """A model class that does the same, and tells the processor of the same process what it reads."""

    class Listening(original):  # type: ignore[valid-type, misc]
        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:  # noqa: ANN401 - vLLM's
            super().__init__(vllm_config=vllm_config, prefix=prefix)
            self.personalign_checkpoint = vllm_config.model_config.model

        def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> Any:  # noqa: ANN401 - vLLM's
            loaded = super().load_weights(weights)
            people = People.open()
            passage().subject = read_subject(people.basis, self.personalign_checkpoint, output_embedding(self))
            people.close()
            return loaded

        def compute_logits(self, hidden_states: Tensor, *args: Any, **named: Any) -> Any:  # noqa: ANN401 - vLLM's
            passage().put(hidden_states)
            return super().compute_logits(hidden_states, *args, **named)

    Listening.__name__ = Listening.__qualname__ = original.__name__
    Listening.__doc__ = original.__doc__
    return Listening


def output_embedding(model: nn.Module) -> Tensor:
    """The weight of a model's output layer, right after it was loaded.

    Raises:
        ModelError: there is none that can be read.
    """
    layers = [module for name, module in model.named_modules(remove_duplicate=False) if name.endswith("lm_head")]
    weight = getattr(layers[-1], "weight", None) if layers else None
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.ndim != 2:
        raise ModelError(
            f"vLLM's {type(model).__name__} has no output layer lm_head with a matrix of floating-point numbers; "
            "expected one; serve this model without a quantised output layer"
        )
    return weight.detach()
