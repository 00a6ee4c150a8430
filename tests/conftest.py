"""Shapes in annotations are checked while the tests run; an int may stand where a float is asked for."""

from jaxtyping import install_import_hook

install_import_hook(
    ["personalign", "lab"], "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
).__enter__()
