"""The page of operators, in a real browser."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from personalign.service import Personalign


def test_operators_see_people_and_replies(page: Page, server: str, service: Personalign, operator_key: str) -> None:
    """Behind the key stand the numbers, which are looked at again and again, and leaving forgets the key."""
    service.set("counted", length=-1)
    page.clock.install()
    page.goto(f"{server}/")
    page.fill("#key", operator_key)
    page.keyboard.press("Enter")
    expect(page.locator("#numbers .panel").first).to_contain_text(f"People{service.vitals.num_people}")
    with page.expect_response("**/v1/operator/summary"):
        page.clock.run_for(5000)
    page.reload()
    expect(page.locator("#board")).to_be_visible()
    page.click("#leave")
    expect(page.locator("#door")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_key_of_another_kind_is_told_in_words(page: Page, server: str, backend_key: str) -> None:
    """A key that may not look, or that nobody knows, shows nothing but why."""
    page.goto(f"{server}/")
    for key, words in ((backend_key, "expected the key of an operator"), ("pa_unknown", "This key isn't known")):
        page.fill("#key", key)
        page.keyboard.press("Enter")
        expect(page.locator("#notice")).to_contain_text(words)
        expect(page.locator("#board")).to_be_hidden()
