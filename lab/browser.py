"""A real Chromium, as tests, benchmarks and pictures of the pages use it: ``apt-get install chromium``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
# nothing of its own is asked for over the network
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Clicks on the first reply as soon as there is one, until the questions end; how many there were.
CLICK_AT_ONCE = """() => new Promise((resolve) => {
  let count = 0;
  const click = () => {
    if (!document.querySelector("#done").hidden) { resolve(count); return; }
    const button = document.querySelector("#asking:not([aria-busy]) #replies button.better");
    if (button) { count += 1; button.click(); }
    setTimeout(click, 1);
  };
  click();
})"""


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser that shows nothing on a screen."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def answer_at_once(page: Page, url: str) -> tuple[int, float]:
    """Open a link to onboarding and click on the first reply each time: how many questions, in how many seconds."""
    page.goto(url)
    page.locator("#begin").wait_for()
    begun = time.perf_counter()
    page.click("#begin")
    count: int = page.evaluate(CLICK_AT_ONCE)
    return count, time.perf_counter() - begun
