"""The bundled model ``tiny``: its weights, its basis, and the script that made them."""

from __future__ import annotations

from pathlib import Path

TINY = Path(__file__).parent / "tiny"
