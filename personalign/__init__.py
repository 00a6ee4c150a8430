"""personalign: a reward function for every user of a chatbot, learnt from about ten A/B answers.

Start with ``Personalign.open``. Names are imported on first use, so that ``import personalign`` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from personalign.basis import Basis
    from personalign.learn.rank import Ranking
    from personalign.messages import Feedback, Message
    from personalign.options import Options
    from personalign.service import Personalign
    from personalign.types import Gaussian, Noise, Profile, Question, Reply

_HOMES = {
    "Basis": "basis",
    "Feedback": "messages",
    "Gaussian": "types",
    "Message": "messages",
    "Noise": "types",
    "Options": "options",
    "Personalign": "service",
    "Profile": "types",
    "Question": "types",
    "Ranking": "learn.rank",
    "Reply": "types",
}
__all__ = [
    "Basis",
    "Feedback",
    "Gaussian",
    "Message",
    "Noise",
    "Options",
    "Personalign",
    "Profile",
    "Question",
    "Ranking",
    "Reply",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in _HOMES:
        raise AttributeError(f"module 'personalign' has no attribute {name!r}")
    return getattr(import_module(f"personalign.{_HOMES[name]}"), name)
