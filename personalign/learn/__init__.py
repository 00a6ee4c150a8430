"""The learning core: answers to profiles, and which question to ask next; numpy, no model needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from personalign.learn.ask import acquire
from personalign.learn.fit import fit, fit_many, predict
from personalign.types import Gaussian, Noise

if TYPE_CHECKING:
    from personalign.learn.factors import Factors, factorise

__all__ = ["Factors", "Gaussian", "Noise", "acquire", "factorise", "fit", "fit_many", "predict"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a class and a function
    if name not in {"Factors", "factorise"}:
        raise AttributeError(f"module 'personalign.learn' has no attribute {name!r}")
    from personalign.learn import factors  # climbs with scipy.optimize, which only making a basis needs

    return getattr(factors, name)
