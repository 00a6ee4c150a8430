"""The pages as people see or hear them: axe finds nothing to mend, on phones and desktops, in light and dark."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from personalign.service import Personalign
from tests.serve.browser.conftest import Opens
from tests.serve.browser.pages import press, start

Link = Callable[..., str]
LOOKS = [(width, scheme) for width in (390, 1280) for scheme in ("light", "dark")]
PLACES = {390: "phone", 1280: "desktop"}


def check(page: Page) -> None:
    """No violation of any rule, and nothing that is cut off at the side."""
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.fixture(params=LOOKS, ids=lambda look: f"{PLACES[look[0]]}-{look[1]}")
def look(request: pytest.FixtureRequest) -> tuple[int, str]:
    look: tuple[int, str] = request.param
    return look


@pytest.mark.slow
def test_onboarding_is_accessible(look: tuple[int, str], open_page: Opens, link: Link) -> None:
    """The first words, a question with its options, and what comes after the last."""
    page = open_page(*look).page
    user = f"seen-{look}"
    page.goto(link(user))
    page.locator("#begin").wait_for()
    check(page)
    start(page, link(user))
    press(page, "1")
    page.locator("summary", has_text="Options").click()
    check(page)
    page.get_by_role("switch", name="Let me say how much better").click()
    expect(page.locator("button.much")).to_have_count(2)
    check(page)
    page.get_by_role("switch", name="Let me say how much better").click()
    expect(page.locator("button.much")).to_have_count(0)
    while page.locator("#asking").is_visible():
        press(page, "2")
    check(page)
    page.fill("#own", "I want to rent a car")
    page.get_by_role("button", name="Write both replies").click()
    expect(page.locator("#difference .tag")).to_have_count(2)
    check(page)


@pytest.mark.slow
def test_the_own_page_is_accessible(look: tuple[int, str], open_page: Opens, link: Link, service: Personalign) -> None:
    """Axes with all their examples, a wish, the history, and the question before everything is erased."""
    user = f"looking-{look}"
    question = service.ask(user)
    assert question
    service.answer(user, question.id, "a")
    page = open_page(*look).page
    page.goto(link(user, "me"))
    page.fill("#say", "Shorter please. More purple.")
    page.keyboard.press("Enter")
    expect(page.locator("#understood li")).to_have_count(2)
    page.locator("#history summary").first.click()
    expect(page.locator("#events li").first).to_be_visible()
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    check(page)
    page.click("#erase")
    check(page)


@pytest.mark.slow
def test_the_operators_page_is_accessible(
    look: tuple[int, str], open_page: Opens, server: str, service: Personalign, operator_key: str
) -> None:
    """The door, and the board behind it."""
    service.chat("watched", [{"role": "user", "content": "Hello"}], max_tokens=2)
    page = open_page(*look).page
    page.goto(f"{server}/")
    check(page)
    page.fill("#key", operator_key)
    page.keyboard.press("Enter")
    expect(page.locator("#board")).to_be_visible()
    check(page)


@pytest.mark.slow
def test_cards_are_accessible(look: tuple[int, str], open_page: Opens, picks: str) -> None:
    """Four replies on a desktop, one of them marked as the worst, and two on a phone."""
    page = open_page(*look).page
    start(page, picks)
    if look[0] == 1280:
        page.get_by_role("button", name="Reply 1 is the worst").click()
    check(page)
