"""Settings from the environment; nothing else in the package reads it."""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Defaults of the command line: each is a variable with PERSONALIGN_ in front."""

    model_config = SettingsConfigDict(env_prefix="PERSONALIGN_", frozen=True)

    store: str = "sqlite:///profiles.db"
    data: Path = Path("../shared/data")
    model: str = "tiny"
    device: str = "auto"
    reward: str | None = None
    half_life_days: float | None = None
