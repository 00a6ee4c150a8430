"""The pages of people and operators, and the files they are made of; they call the same routes as any other client.

A page holds no data: it is the same for everybody, and its scripts ask for what belongs to whoever opened it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from fastapi import APIRouter, Request
from fastapi.responses import Response

from personalign.serve.failures import Refusal

FILES = Path(__file__).with_name("static")
TYPES: Mapping[str, str] = MappingProxyType({".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"})
# Nothing but this server's own files runs, and no script may turn a text into markup.
SOURCES = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'; frame-ancestors "
)
NOBODY = "'none'"
SAFE: Mapping[str, str] = MappingProxyType({"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"})

router = APIRouter(include_in_schema=False)


@router.get("/onboard")
def onboard(request: Request) -> Response:
    """The page that asks a person which reply is better."""
    return _page("onboard.html", _frames(request))


@router.get("/me")
def me(request: Request) -> Response:
    """The page where a person sees, corrects and erases what is known of them."""
    return _page("me.html", _frames(request))


@router.get("/")
def operator() -> Response:
    """The page of operators, which no other page may show: it holds their key."""
    return _page("operator.html", NOBODY)


@router.get("/static/{name}")
def static(name: str) -> Response:
    """A style, script or picture of the pages; a changed one is used at once."""
    path = next((path for path in FILES.iterdir() if path.name == name and path.suffix in TYPES), None)
    if path is None:
        raise Refusal(404, "there is no such file")
    return _whole(path, TYPES[path.suffix], {"Cache-Control": "no-cache"})


def _frames(request: Request) -> str:
    """Who may show a person's page in a frame."""
    return " ".join(request.app.state.policy.frame_ancestors) or NOBODY


def _page(name: str, frames: str) -> Response:
    headers = {"Content-Security-Policy": SOURCES + frames, "Cache-Control": "no-store"}
    return _whole(FILES / name, "text/html", headers)


def _whole(path: Path, media_type: str, headers: Mapping[str, str]) -> Response:
    """The whole of a file, whatever range of it is asked for: a range that isn't there has errors of its own shape."""
    return Response(path.read_bytes(), media_type=media_type, headers={**SAFE, **headers})
