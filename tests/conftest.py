"""Shapes in annotations are checked while the tests run; an int may stand where a float is asked for.

The door, from ``service.py`` to ``options.py``, is left out: there callers' mistakes are refused by the code itself.
"""

from jaxtyping import install_import_hook

INSIDE = ("basis", "decode", "demo", "integrations", "learn", "replies", "shift", "store", "train", "types")

install_import_hook(
    [*(f"personalign.{part}" for part in INSIDE), "lab"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
).__enter__()
