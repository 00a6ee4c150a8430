"""Settings from the environment; nothing else in the package reads it."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from personalign.errors import InputError


class Settings(BaseSettings):
    """Defaults of the command line: each is a variable with PERSONALIGN_ in front."""

    model_config = SettingsConfigDict(env_prefix="PERSONALIGN_", frozen=True)

    store: str = "sqlite:///profiles.db"
    data: Path = Path("../shared/data")
    model: str = "tiny"
    device: str = "auto"


def read_settings() -> Settings:
    """Read the environment; InputError names the variable that can't be used."""
    try:
        return Settings()
    except ValidationError as error:
        names = ", ".join(f"PERSONALIGN_{str(problem['loc'][0]).upper()}" for problem in error.errors())
        raise InputError(f"{names} can't be used; correct or unset it") from error
