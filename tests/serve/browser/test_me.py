"""The page where people see and correct what is known of them, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from personalign.service import Personalign
from tests.serve.browser.conftest import Opens

Link = Callable[..., str]


def test_a_slider_sets_and_is_shown_as_set(page: Page, link: Link, service: Personalign) -> None:
    """What a person sets is stored, told apart from what was learnt, and taken back by a button."""
    page.goto(link("setter", "me"))
    row = page.locator('.axis[data-axis="length"]')
    expect(row.locator(".tag")).to_have_text("open")
    row.get_by_role("slider").focus()
    page.keyboard.press("End")
    expect(row.locator(".tag")).to_have_text("set by you")
    expect(row.get_by_role("slider")).to_have_attribute("aria-valuetext", "100 % towards longer replies, set by you")
    assert [(one.axis, one.position, one.kind) for one in service.profile("setter").stated] == [("length", 1.0, "set")]
    expect(page.locator("#tastes")).to_contain_text("longer replies")
    row.get_by_role("button", name="Back to what was learnt").click()
    expect(row.locator(".tag")).to_have_text("open")
    assert service.profile("setter").stated == ()


def test_two_sliders_moved_at_once_are_both_set(page: Page, link: Link, service: Personalign) -> None:
    """What the server answers about one slider never takes back the move of another."""
    page.goto(link("hasty", "me"))
    rows = [page.locator(".axis").nth(place) for place in (0, 1, 2)]
    for row in rows:
        row.get_by_role("slider").press("End")
        page.wait_for_timeout(200)
    for row in rows:
        expect(row.locator(".tag")).to_have_text("set by you")
        expect(row.get_by_role("slider")).to_have_value("1")
    assert len(service.profile("hasty").stated) == 3


def test_a_wish_says_what_was_understood(page: Page, link: Link, service: Personalign) -> None:
    """A wish shows what was understood and what wasn't, and can be taken back."""
    page.goto(link("wisher", "me"))
    page.fill("#say", "Shorter please. More purple.")
    page.keyboard.press("Enter")
    expect(page.locator("#understood li").first).to_contain_text("shorter replies, as you said: “Shorter please”")
    expect(page.locator("#understood li").last).to_contain_text("Not understood: “More purple")
    expect(page.locator('.axis[data-axis="length"] .tag')).to_contain_text("you said")
    page.locator("#understood").get_by_role("button", name="Take back").click()
    expect(page.locator("#understood")).to_contain_text("Taken back.")
    assert service.profile("wisher").stated == ()


def test_every_axis_has_a_bar_a_slider_and_an_example(page: Page, link: Link, service: Personalign) -> None:
    """All axes are there, in words and as a picture that says its numbers."""
    page.goto(link("reader", "me"))
    page.locator("#more-words").click()
    num_axes = service.basis.num_axes
    expect(page.locator(".axis")).to_have_count(num_axes)
    assert page.locator(".axis").get_by_role("slider").count() == num_axes
    assert page.locator(".axis").get_by_role("img").count() == num_axes
    first = page.locator(".axis").first
    first.locator("summary").click()
    expect(first.locator(".pair .end")).to_have_count(2)


def test_a_pause_is_kept(page: Page, link: Link, service: Personalign) -> None:
    """Switched off, replies are everybody's until it is switched on again."""
    page.goto(link("resting", "me"))
    switch = page.get_by_role("switch", name="Write replies for me")
    switch.click()
    expect(page.locator("#state")).to_contain_text("Paused")
    assert service.profile("resting").is_paused
    switch.click()
    expect(page.locator("#state")).not_to_contain_text("Paused")
    assert not service.profile("resting").is_paused


def test_the_history_marks_what_was_taken_back(page: Page, link: Link, service: Personalign) -> None:
    """Answers and statements are listed, the newest first, and one that was taken back says so."""
    question = service.ask("historian")
    assert question
    service.answer("historian", question.id, "b")
    service.undo("historian")
    service.set("historian", length=-1)
    page.goto(link("historian", "me"))
    page.locator("#history summary").first.click()
    events = page.locator("#events > li")
    expect(events).to_have_count(2)
    expect(events.first).to_contain_text("shorter replies, as you set it")
    expect(events.last).to_contain_text("Reply 2 better (taken back)")


def test_everything_is_downloaded(page: Page, link: Link, service: Personalign) -> None:
    """The file holds what ``export`` says."""
    service.set("owner", length=-1)
    page.goto(link("owner", "me"))
    with page.expect_download() as waiting:
        page.click("#export")
    assert waiting.value.suggested_filename == "personalign-my-data.json"
    content = json.loads(Path(waiting.value.path()).read_text(encoding="utf-8"))
    assert content == json.loads(json.dumps(service.export("owner")))


def test_everything_is_erased_once_the_word_is_typed(page: Page, link: Link, service: Personalign) -> None:
    """Nothing is erased before the word is typed, and nothing is left behind it."""
    service.set("leaver", length=-1)
    page.goto(link("leaver", "me"))
    page.click("#erase")
    page.fill("#erase-word", "ease")
    expect(page.locator("#erase-really")).to_be_disabled()
    page.keyboard.press("Enter")
    assert service.is_known("leaver")
    page.fill("#erase-word", "Erase")
    page.click("#erase-really")
    expect(page.locator("#gone")).to_be_visible()
    expect(page.locator("#profile")).to_be_hidden()
    assert not service.is_known("leaver")
    assert page.evaluate("sessionStorage.length") == 0


def test_a_link_to_oneself_works_until_it_expires(open_page: Opens, link: Link) -> None:
    """It opens the page in one browser after another."""
    address = link("returner", "me")
    for _ in range(2):
        page = open_page().page
        page.goto(address)
        expect(page.locator(".axis").first).to_be_visible()
        assert "#" not in page.url


def test_a_session_that_ended_is_told_in_words(page: Page, link: Link) -> None:
    """A token that isn't accepted any more leads to a sentence, not to an empty page."""
    page.goto(link("sleeper", "me"))
    expect(page.locator(".axis").first).to_be_visible()
    page.evaluate("sessionStorage.setItem('personalign.token', 'x')")
    page.reload()
    expect(page.locator("#notice")).to_have_text(
        "Your session has ended. Ask for a new link; nothing that you did is lost."
    )
