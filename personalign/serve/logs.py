"""The log: a line of JSON for each request and for what else happens, without texts and without people's ids.

A route is named by its template, because paths hold ids. What other packages say, and the words of errors, may hold
anything, so only where they come from is written.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from traceback import extract_tb
from typing import Any, Literal

from starlette.types import Scope

Format = Literal["json", "text"]
SPEAKERS = ("personalign", "uvicorn")  # whose messages hold neither texts nor ids
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def place(error: BaseException) -> str:
    """An error's kind and where it was raised, without its words."""
    frames = extract_tb(error.__traceback__)
    where = f" at {_short(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def request_fields(scope: Scope, status: int, seconds: float) -> dict[str, Any]:
    """What is written of a request."""
    state = scope.get("state", {})
    fields = {
        "request_id": state.get("request_id"),
        "method": scope["method"] if scope["method"] in METHODS else "OTHER",
        "route": getattr(scope.get("route"), "path", "unknown"),
        "status": status,
        "seconds": round(seconds, 4),
    }
    return fields | ({"tokens": state["tokens"]} if "tokens" in state else {})


def start(form: Format) -> None:
    """Let everything that is logged in this process go to stderr in this form."""
    handler = logging.StreamHandler()
    handler.setFormatter(Lines(form))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for speaker in SPEAKERS:
        logging.getLogger(speaker).setLevel(logging.INFO)


class Lines(logging.Formatter):
    """A record as one line."""

    def __init__(self, form: Format = "json") -> None:
        super().__init__()
        self._form = form

    def format(self, record: logging.LogRecord) -> str:
        """Write what is known of a record and safe to be written."""
        fields: dict[str, Any] = getattr(record, "fields", {})
        row: dict[str, Any] = {
            "time": _moment(record.created),
            "level": record.levelname.lower(),
            "message": _message(record),
        }
        if record.exc_info and record.exc_info[1]:
            row["error"] = place(record.exc_info[1])
        if self._form == "json":
            return json.dumps(row | fields, ensure_ascii=True)
        facts = [f"{name}={value}" for name, value in fields.items()]
        return " ".join([*row.values(), *facts])


def _message(record: logging.LogRecord) -> str:
    is_known = record.name.partition(".")[0] in SPEAKERS
    return record.getMessage().strip() if is_known else f"{record.name} at {_short(record.pathname)}:{record.lineno}"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _short(path: str) -> str:
    return "/".join(path.replace("\\", "/").split("/")[-2:])
