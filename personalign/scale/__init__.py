"""Everybody's profile at once, from a log of any length: read ``block``, then ``fit``."""

from importlib.util import find_spec

from personalign.errors import MissingExtra

if find_spec("pyarrow") is None:
    raise MissingExtra("pyarrow", "parquet")
