"""The pages as files: their headers, and that nothing in them is inline or becomes markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from lab.wheel import NEEDED
from personalign.errors import InputError
from personalign.serve.pages import FILES
from personalign.serve.policy import Policy
from personalign.service import Personalign
from tests.serve.running import serving

PAGES = ("/", "/me", "/onboard")
UNUSABLE = [
    {"frame_ancestors": ("https://shop.example; script-src *",)},
    {"frame_ancestors": "https://shop.example"},
    {"frame_ancestors": (7,)},
    {"in_flight": 0},
    {"max_tokens": 1.5},
    {"drain_s": -1},
    {"token_s": float("nan")},
]
SCRIPTS = sorted(FILES.glob("*.js"))
MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|srcdoc|\.style\b|https?://"
)
NAMESPACE = '"http://www.w3.org/2000/svg"'


@pytest.mark.parametrize("wrong", UNUSABLE, ids=lambda wrong: str(*wrong.items()))
def test_a_policy_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    """Also where the server is embedded: what ends up in a header is an origin, and a limit is a number."""
    with pytest.raises(InputError, match=f"{next(iter(wrong))} .*expected"):
        Policy(**wrong)


class Reader(HTMLParser):
    """What a page asks for, and what of it is inline."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self._tag = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        self.inline += [name for name, _ in attrs if name == "style" or name.startswith("on")]
        self.addresses += [value for name, value in attrs if name in {"src", "href"} and value]

    def handle_data(self, data: str) -> None:
        if self._tag in {"script", "style"} and data.strip():
            self.inline.append(data)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_says_what_it_may_do(path: str, server: str) -> None:
    """Only this server's own files run, nobody frames the page, and nothing of it is kept."""
    answer = httpx.get(server + path)
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert policy.pop("default-src") == policy.pop("frame-ancestors") == policy.pop("base-uri") == "'none'"
    assert policy.pop("form-action") == policy.pop("trusted-types") == "'none'"
    assert policy.pop("require-trusted-types-for") == "'script'"
    assert policy == dict.fromkeys(("script-src", "style-src", "connect-src", "img-src"), "'self'")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"


def test_people_s_pages_may_be_framed_by_the_sites_of_the_policy(service: Personalign) -> None:
    """The list holds for people's pages; the operator's page is never framed."""
    policy = Policy(frame_ancestors=("https://shop.example", "https://help.example"))
    with serving(service, policy) as address:
        ends = {path: httpx.get(address + path).headers["content-security-policy"].split("; ")[-1] for path in PAGES}
    framed = "frame-ancestors https://shop.example https://help.example"
    assert ends == {"/": "frame-ancestors 'none'", "/me": framed, "/onboard": framed}


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_nothing_inline_and_asks_for_files_that_are_there(path: str, server: str) -> None:
    """Scripts and styles are files of this server."""
    page = Reader(httpx.get(server + path).text)
    assert page.inline == []
    answers = {address: httpx.get(urljoin(server + path, address)) for address in page.addresses}
    assert {address: answer.status_code for address, answer in answers.items()} == dict.fromkeys(page.addresses, 200)
    assert all(urljoin(server + path, address).startswith(server) for address in page.addresses)


def test_the_reader_of_these_tests_finds_what_is_inline() -> None:
    """The control: a script, a style and a handler are found."""
    text = (
        '<script>x()</script><p onclick="x()" style="color: red">x</p><style>p {}</style><script src="a.js"></script>'
    )
    assert len(Reader(text).inline) == 4


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_sets_texts_alone(path: Path) -> None:
    """No script turns a text into markup, a style or a script, or asks for another site."""
    assert MARKUP.findall(path.read_text(encoding="utf-8").replace(NAMESPACE, "")) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [("page.css", "text/css"), ("api.js", "text/javascript"), ("mark.svg", "image/svg+xml")],
)
def test_files_have_their_types(name: str, kind: str, server: str) -> None:
    """Each file is served as what it is, and a changed one is used at once."""
    answer = httpx.get(f"{server}/static/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].partition(";")[0] == kind
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("ends", ["bytes=0-4", "bytes=99999999-", "bytes=5-2", "lines=1"])
def test_a_part_of_a_file_is_the_whole_of_it(ends: str, server: str) -> None:
    """Whatever range is asked for, even one that isn't there."""
    whole, part = (httpx.get(f"{server}/static/page.css", headers=headers) for headers in ({}, {"range": ends}))
    assert (part.status_code, part.content) == (200, whole.content)


@pytest.mark.parametrize("name", ["me.html", "x.js", "", ".", "%2e%2e%2fpages.py", "..%2fpages.py", "api.js%00"])
def test_nothing_else_is_served(name: str, server: str) -> None:
    """What isn't a file of the pages is answered as not there."""
    answer = httpx.get(f"{server}/static/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"


def test_the_wheel_is_checked_for_the_pages() -> None:
    """The list of what a wheel must have names every page."""
    assert {f"personalign/serve/static/{path.name}" for path in FILES.glob("*.html")} <= set(NEEDED)
