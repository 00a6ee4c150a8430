"""Settings from the environment, which no other module reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from platformdirs import user_cache_dir
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from personalign.errors import InputError

PREFIX = "PERSONALIGN_"


def wants_traces() -> bool:
    """Whether OpenTelemetry's own variables say where traces go."""
    return any(name.startswith("OTEL_EXPORTER_OTLP") for name in os.environ)


def has_cluster() -> bool:
    """Whether Ray's own variable names a cluster."""
    return bool(os.environ.get("RAY_ADDRESS"))


def environment(changes: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that is started from here, with some variables of its own."""
    return {**os.environ, **changes}


def set_environment(changes: Mapping[str, str]) -> None:
    """Set variables of this process, for libraries that read them when they are imported."""
    os.environ.update(changes)


class Settings(BaseSettings):
    """Defaults of the command line; each is a variable that begins with PERSONALIGN_."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    store: str = "sqlite:///profiles.db"
    data: Path | None = None
    model: str = "tiny"
    basis: Path | None = None
    device: str = "auto"
    reward: str | None = None
    embedder: str | None = None
    half_life_days: float | None = None
    pinned: dict[str, float] = {}  # as JSON: {"length": 0}
    shadow: bool = False
    vllm: bool = False  # whether vLLM's model classes are made to hand over hidden states
    cache: Path = Path(user_cache_dir("personalign"))  # of models that were converted from GGUF

    def __init__(self) -> None:
        try:
            super().__init__()
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{PREFIX}{name.upper()} holds {first['input']!r}: {first['msg'].lower()}") from error
        except SettingsError as error:  # only a mapping raises it
            raise InputError(
                f'{PREFIX}PINNED isn\'t JSON; expected axes and weights, such as {{"length": 0}}'
            ) from error
