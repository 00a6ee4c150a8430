"""The learning core is cheap to import: what only the making of a basis needs is loaded when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from personalign import learn

LIST_LOADED = """
import sys
import personalign.learn, personalign.learn.served, personalign.learn.ask, personalign.basis
heavy = ("scipy.optimize", "sklearn", "torch", "pydantic")
print([name for name in heavy if name in sys.modules])
personalign.learn.factorise
print("scipy.optimize" in sys.modules)
"""


def test_heavy_modules_wait_until_they_are_needed() -> None:
    """Neither an optimiser nor a schema is loaded with the core; the control: asking for ``factorise`` loads one."""
    loaded = subprocess.run([sys.executable, "-c", LIST_LOADED], capture_output=True, text=True, check=True)
    assert loaded.stdout.split("\n")[:2] == ["[]", "True"]


def test_every_name_is_there() -> None:
    """All that is promised can be had, and nothing else."""
    assert all(getattr(learn, name) for name in learn.__all__)
    with pytest.raises(AttributeError, match="'magic'"):
        _ = learn.magic
