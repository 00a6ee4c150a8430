"""What people and models write stays text, and pages are shown only where they may be."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote

import pytest
from playwright.sync_api import Browser, Page, expect

from personalign.serve.access import Door
from personalign.serve.policy import Policy
from personalign.service import Personalign
from tests.serve.browser.bases import rewritten
from tests.serve.browser.conftest import PATIENCE_MS, Opens
from tests.serve.browser.pages import press, start
from tests.serve.browser.payloads import payloads
from tests.serve.running import serving

RATE = "100000/minute"


def hostile(number: int, row: dict[str, Any]) -> dict[str, Any]:
    """A question whose texts are payloads, no two of which are the same."""
    texts = payloads()
    prompt, first, second = (f"{texts[(3 * number + i) % len(texts)]} {number}" for i in range(3))
    return row | {"prompt": [{"role": "user", "content": prompt}], "first": first, "second": second}


@pytest.fixture(scope="module")
def hostile_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Personalign]:
    """A service whose bank of questions, and whose history of a person, are payloads."""
    folder = tmp_path_factory.mktemp("hostile")
    basis = rewritten(folder / "basis", hostile)
    with Personalign.open(f"sqlite:///{folder / 'p.db'}", model="tiny", basis=str(basis)) as service:
        yield service


def count_runs(page: Page) -> list[str]:
    """Let payloads count how often they run."""
    runs: list[str] = []
    page.expose_function("ran", lambda: runs.append("ran"))
    return runs


def test_the_payloads_run_where_texts_become_markup(browser: Browser) -> None:
    """The control: on a page that sets innerHTML most of them run."""
    page = browser.new_page()
    runs = count_runs(page)
    for payload in payloads():
        page.evaluate("(text) => { document.body.innerHTML = text; }", payload)
    ends = time.monotonic() + PATIENCE_MS / 1000
    while len(runs) <= 30 and time.monotonic() < ends:
        page.wait_for_timeout(100)
    page.close()
    assert len(payloads()) == 100
    assert len(runs) > 30


@pytest.mark.slow
def test_payloads_stay_text(open_page: Opens, hostile_service: Personalign) -> None:
    """A hundred payloads in prompts, replies, ids and wishes run nothing, open nothing and break no policy."""
    service, watched = hostile_service, open_page()
    page, door = watched.page, Door(service)
    runs, user = count_runs(page), payloads()[0]
    for number, payload in enumerate(payloads()):
        prompt = [{"role": "user", "content": payload}]
        service.feedback(user, prompt, f"{payload} {number}", payload, "thumbs")
    key = service.keys.create("operator", payloads()[1])[1]
    with serving(service, Policy(rate=RATE)) as address:
        start(page, f"{address}/onboard#{door.link(user, 'onboard', 60)}")
        while page.locator("#asking").is_visible():
            press(page, "1")
        page.goto(f"{address}/me#{door.link(user, 'me', 60)}")
        expect(page.locator(".axis").first).to_be_visible()
        for payload in payloads():
            page.fill("#say", payload)
            page.keyboard.press("Enter")
            expect(page.locator("#say")).to_have_value("")
        page.locator("#history summary").first.click()
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        expect(page.locator("#events")).to_contain_text(payloads()[0])
        page.goto(f"{address}/#{payloads()[0]}")
        page.fill("#key", key)
        page.keyboard.press("Enter")
        expect(page.locator("#board")).to_be_visible()
        faults = watched.faults()
    assert (runs, faults) == ([], [])


class Shop(BaseHTTPRequestHandler):
    """Another site, whose only page shows the address behind its question mark in a frame."""

    def do_GET(self) -> None:
        address = unquote(self.path.partition("?")[2])
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(f'<iframe src="{address}"></iframe>'.encode())

    def log_message(self, *_: object) -> None:
        """Nobody reads a log of it."""


@pytest.fixture
def shop() -> Iterator[str]:
    """Its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_a_frame_is_filled_only_where_the_policy_names_its_site(
    browser: Browser, open_page: Opens, service: Personalign, server: str, shop: str
) -> None:
    """A site on the list shows the page in a frame, where it works; on any other the frame stays empty."""
    with serving(service, Policy(frame_ancestors=(shop,))) as address:
        page = open_page().page
        link = f"{address}/onboard#{Door(service).link('framed', 'onboard', 60)}"
        page.goto(f"{shop}/?{quote(link)}")
        framed = page.frame_locator("iframe")
        framed.locator("#begin").click()
        expect(framed.locator("#replies .card").first).to_be_visible()
        page.goto("about:blank")
    other = browser.new_page()
    other.goto(f"{shop}/?{server}/onboard")
    expect(other.frame_locator("iframe").locator("main")).to_have_count(0)
    other.close()
