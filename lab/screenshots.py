"""Pictures of the pages, taken in a real browser: ``python -m lab.screenshots``.

SmolLM2 asks; the operator's page shows a day of the toy, whose people, replies and trial are made here. The font is
Inter where it is installed: ``apt-get install chromium fonts-inter``.
"""

from __future__ import annotations

import io
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import pi, sin
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize

from lab.browser import browsing
from personalign.serve.access import Door
from personalign.serve.app import create_app
from personalign.serve.trend import BUCKET_S, NUM_BUCKETS, Trend
from personalign.service import Personalign
from personalign.types import Message

FOLDER = Path(__file__).parents[1] / "docs" / "img"
PHONE, DESKTOP, TALL = (390, 844), (1280, 880), (1280, 1180)
SCALE = 1.5
NUM_COLOURS = 200  # of a picture: few, so that it is small
SHORT = 520  # characters of all replies to a question that fits into a picture
NUM_PEOPLE, NUM_TOKENS = 48, 24
EVERY = 4  # buckets: replies end in each of these
REQUESTS = (
    "I'd like to rent a car please.",
    "Can you find me a place to eat tonight?",
    "I want to listen to some music.",
)


def take() -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory() as folder, browsing() as browser:
        with Personalign.open(f"sqlite:///{folder}/asked.db", model="smollm2") as p:
            _take_people(p, browser)
        with Personalign.open(f"sqlite:///{folder}/run.db", model="tiny") as p:
            _take_operator(p, browser)


def _take_people(p: Personalign, browser: Browser) -> None:
    door = Door(p)
    with _serving(create_app(p)) as address:
        for name, size in (("onboard-phone", PHONE), ("onboard-desktop", DESKTOP)):
            page = _page(browser, size)
            page.goto(f"{address}/onboard#{door.link(name, 'onboard', 600)}")
            page.click("#begin")
            _answer(page, until_short=True)
            _take(page, name)
        _answer(page, until_short=False)
        page.set_viewport_size(ViewportSize(width=TALL[0], height=TALL[1]))
        page.goto(f"{address}/me")
        page.fill("#say", "No bullet points please.")
        page.click("#say-form button")
        page.locator("#understood li").first.wait_for()
        page.locator(".axis").nth(1).get_by_role("slider").press("ArrowRight")
        page.locator(".axis.is-set").wait_for()
        page.click("h1")
        _take(page, "me-desktop")


def _answer(page: Page, *, until_short: bool) -> None:
    """Choose the shortest reply each time, until the questions end, or one after the second is short."""
    for number in range(100):
        page.locator("#asking:not([aria-busy]), #done").locator("visible=true").wait_for()
        if page.locator("#done").is_visible():
            return
        lengths = [len(text) for text in page.locator("#replies .prose").all_inner_texts()]
        if until_short and number >= 2 and sum(lengths) < SHORT:
            return
        page.locator("#replies button.better").nth(lengths.index(min(lengths))).click()


def _take_operator(p: Personalign, browser: Browser) -> None:
    app, key = create_app(p), p.keys.create("operator", "pictures")[1]
    _live_a_day(p, app)
    _try_out(p)
    with _serving(app) as address:
        page = _page(browser, TALL)
        page.goto(address)
        page.fill("#key", key)
        page.keyboard.press("Enter")
        page.locator("#board").wait_for()
        _take(page, "operator-desktop")


def _live_a_day(p: Personalign, app: FastAPI) -> None:
    """Let people ask over 24 hours, as many as the hour has."""
    people = [f"person {i}" for i in range(NUM_PEOPLE)]
    for i, user in enumerate(people):
        p.set(user, length=(-1) ** i * (0.3 + 0.7 * i / NUM_PEOPLE))
    now = time.time()
    clock = [now]
    app.state.meters.trend = Trend(lambda: clock[0])
    for ago in range(NUM_BUCKETS - EVERY, -1, -EVERY):
        clock[0] = now - ago * BUCKET_S
        count = round(9 + 7 * sin(2 * pi * (0.6 - ago / NUM_BUCKETS)))
        users = ["guest", *(people[(7 * ago + i) % NUM_PEOPLE] for i in range(count))]
        texts = [REQUESTS[(ago + i) % len(REQUESTS)] for i in range(count + 1)]
        for reply in p.chat_many(users, [_messages(text) for text in texts], max_tokens=NUM_TOKENS):
            app.state.meters.note_reply(reply, None, 0.1)
    clock[0] = now


def _try_out(p: Personalign) -> None:
    """A trial in which everybody chooses the reply whose length they like, but for one choice in five."""
    p.trials.start(["plain", "personal"])
    for i in range(NUM_PEOPLE):
        user = f"person {i}"
        for text in REQUESTS[:2]:
            question = p.trial(user, _messages(text), max_tokens=NUM_TOKENS)
            a_is_longer = len(question.a) >= len(question.b)
            p.answer(user, question.id, "a" if a_is_longer == (i % 2 == 0) ^ (i % 5 == 0) else "b")


def _messages(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def _page(browser: Browser, size: tuple[int, int]) -> Page:
    viewport, is_phone = ViewportSize(width=size[0], height=size[1]), size == PHONE
    return browser.new_page(
        viewport=viewport, device_scale_factor=SCALE, is_mobile=is_phone, has_touch=is_phone, reduced_motion="reduce"
    )


def _take(page: Page, name: str) -> None:
    """Take what is seen, in few colours."""
    page.mouse.move(0, 0)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(NUM_COLOURS, dither=Image.Dither.NONE).save(FOLDER / f"{name}.png", optimize=True)


@contextmanager
def _serving(app: FastAPI) -> Iterator[str]:
    """Serve on a free port, whose address comes back; who connects too early waits."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


if __name__ == "__main__":
    take()
