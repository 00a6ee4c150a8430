"""The page that asks people, in a real browser."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Request, Route, expect

from lab.browser import answer_at_once
from personalign.service import Personalign
from tests.serve.browser.conftest import Opens
from tests.serve.browser.pages import number, press, start

Link = Callable[..., str]


@pytest.mark.slow
def test_ten_questions_are_over_at_once_for_who_clicks_at_once(page: Page, link: Link, service: Personalign) -> None:
    """A script that clicks at once is through all questions, and each click is an answer."""
    count, seconds = answer_at_once(page, link("clicker"))
    print(f"page.onboarding_s {seconds:.2f} ({count} questions)")  # noqa: T201 - read by whoever runs it
    assert service.profile("clicker").answers == count == service.stop_rule.max_questions
    expect(page.locator("#tastes li").first).to_be_visible()


@pytest.mark.slow
def test_onboarding_needs_no_mouse(page: Page, link: Link, service: Personalign) -> None:
    """From the first page to the last the keyboard is enough."""
    page.goto(link("typist"))
    page.locator("#begin").wait_for()
    while page.evaluate("document.activeElement.id") != "begin":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("#replies .card").first.wait_for()
    for key in "1212120121":
        press(page, key)
    expect(page.locator("#done")).to_be_visible()
    choices = [event.choice for event in service.history("typist")]
    assert choices == ["a", "b", "a", "tie", "b", "a", "b", "a", "b", "a"]


def test_a_link_to_onboarding_works_once_and_leaves_the_address(open_page: Opens, link: Link) -> None:
    """The link opens the page for one person once; the address and a reload hold nothing of it."""
    address, first, second = link("once"), open_page().page, open_page().page
    start(first, address)
    assert "#" not in first.url
    second.goto(address)
    expect(second.locator("#notice")).to_contain_text("This link was used already; ask for a new one.")
    expect(second.locator("#start")).to_be_hidden()


def test_an_expired_link_is_told_in_words(page: Page, link: Link) -> None:
    """Whoever comes late is told so, and what to do."""
    page.goto(link("late", seconds=-1.0))
    expect(page.locator("#notice")).to_have_text("This link has expired; ask for a new one.")


def test_without_a_link_the_page_says_how_to_get_in(page: Page, server: str) -> None:
    """Nobody gets in by the bare address."""
    page.goto(f"{server}/onboard")
    expect(page.locator("#notice")).to_contain_text("Open this page by the link that you were sent")


def test_a_reload_goes_on(page: Page, link: Link) -> None:
    """After a reload the same question is open."""
    start(page, link("again"))
    press(page, "1")
    before = number(page), page.locator("#replies").inner_text()
    page.reload()
    page.locator("#replies .card").first.wait_for()
    assert (number(page), page.locator("#replies").inner_text()) == before


def test_an_answer_is_told_and_taken_back(page: Page, link: Link, service: Personalign) -> None:
    """The page says what an answer changed, and opens its question again."""
    start(page, link("fickle"))
    replies = page.locator("#replies").inner_text()
    press(page, "2")
    expect(page.locator("#changes")).to_contain_text("Noted. Towards")
    expect(page.locator("#changes-list li").first).to_be_visible()
    page.click("#undo")
    expect(page.locator("#changes")).to_contain_text("Taken back.")
    expect(page.locator("#count")).to_contain_text("Question 1 of")
    assert page.locator("#replies").inner_text() == replies
    assert service.profile("fickle").answers == 0


def test_degrees_are_told_by_buttons_and_by_pressing_twice(page: Page, link: Link, service: Personalign) -> None:
    """Whoever switches it on says "much better" by a button or by two presses, and "better" by one."""
    page.clock.install()
    start(page, link("exact"))
    page.locator("summary", has_text="Options").click()
    page.get_by_role("switch", name="Let me say how much better").click()
    page.get_by_role("button", name="Reply 1 is much better").click()
    expect(page.locator("#count")).to_contain_text("Question 2 of")
    page.clock.pause_at(time.time() + 3600)  # a slow machine may take long between two presses
    page.keyboard.press("2")
    press(page, "2")
    page.clock.resume()
    press(page, "1")
    assert [event.choice for event in service.history("exact")] == ["a+", "b++", "a++"]


def test_a_reply_may_be_skipped_or_none_be_good(page: Page, link: Link, service: Personalign) -> None:
    """What isn't a preference can be said, too."""
    start(page, link("picky"))
    for place, name in enumerate(("About the same", "Neither is good", "Skip"), 2):
        page.get_by_role("button", name=name).click()
        expect(page.locator("#count")).to_contain_text(f"Question {place} of")
    assert [event.choice for event in service.history("picky")] == ["skip", "neither", "tie"]


def test_an_answer_whose_acknowledgement_is_lost_counts_once(page: Page, link: Link, service: Personalign) -> None:
    """Tried again by the person, a request has the same key, and the server counts it once."""
    keys: list[str | None] = []

    def lose(route: Route, request: Request) -> None:
        keys.append(request.headers.get("idempotency-key"))
        if len(keys) == 1:
            route.fetch()  # it arrives, and its answer doesn't
            route.abort()
        else:
            route.continue_()

    page.route("**/v1/people/me/answers", lose)
    start(page, link("unlucky"))
    page.keyboard.press("1")
    expect(page.locator("#notice")).to_contain_text("The server can't be reached")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#count")).to_contain_text("Question 2 of")
    expect(page.locator("#notice")).to_be_hidden()
    assert keys[0]
    assert keys == [keys[0]] * 2
    assert service.profile("unlucky").answers == 1


def test_the_difference_is_told_after_a_blind_choice(page: Page, link: Link, service: Personalign) -> None:
    """Of two replies to the person's own prompt nothing says which is personal until they choose."""
    service.set("blind", length=-1)
    question = service.ask("blind")
    assert question
    service.answer("blind", question.id, "a")
    service.stop_rule, rule = type(service.stop_rule)(max_questions=1), service.stop_rule
    try:
        page.goto(link("blind"))
        page.fill("#own", "I want to rent a car")
        page.get_by_role("switch", name="Don't tell me which is which").click()
        page.get_by_role("button", name="Write both replies").click()
        page.locator("#difference .card button").first.wait_for()
    finally:
        service.stop_rule = rule
    assert page.locator("#difference .tag").count() == 0
    page.locator("#difference .card button").first.click()
    expect(page.locator("#difference .tag")).to_have_count(2)
    expect(page.locator("#difference [role=status]")).to_contain_text("You chose the reply with")


def test_of_four_replies_the_best_is_chosen_and_the_worst_is_marked(
    page: Page, picks: str, picking: Personalign, request: pytest.FixtureRequest
) -> None:
    """Both by buttons, and both by keys; a mark is taken back by a second press."""
    start(page, picks)
    expect(page.locator("#replies .card")).to_have_count(4)
    worst = page.get_by_role("button", name="Reply 2 is the worst")
    worst.click()
    worst.click()
    page.get_by_role("button", name="Reply 1 is the worst").click()
    expect(page.locator("button.worst[aria-pressed=true]")).to_have_count(1)
    page.get_by_role("button", name="Reply 3 is the best").click()
    expect(page.locator("#count")).to_contain_text("Question 2 of")
    while page.locator("#replies .card").count() < 4:  # picks and pairs take turns
        press(page, "1")
    page.keyboard.press("Shift+Digit2")
    press(page, "1")
    picked = [event.choice for event in picking.history(request.node.name) if ">" in event.choice]
    assert picked == ["a>b", "c>a"]


def test_a_phone_shows_two_replies(open_page: Opens, picks: str) -> None:
    """Four replies would be too much to read there."""
    page = open_page(390).page
    start(page, picks)
    expect(page.locator("#replies .card")).to_have_count(2)
