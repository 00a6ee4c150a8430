"""``llms.txt`` leads language models to the pages: in the form of llmstxt.org, and nothing is missing or elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "llms.txt").read_text("utf-8")


def links(text: str) -> dict[str, str]:
    """Each link's target, with what is said of it."""
    return dict(re.findall(r"^- \[[^\]]+\]\(([^)]+)\): (.+)$", text, re.MULTILINE))


def lost(text: str) -> set[str]:
    """Links that lead nowhere, and pages that no link leads to."""
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")}
    return {target for target in links(text) if not (ROOT / target).exists()} | (pages - links(text).keys())


def test_every_page_is_linked_and_every_link_leads_somewhere() -> None:
    """A link to nowhere, and a page without a link, are caught (the control)."""
    assert lost(TEXT) == set()
    assert lost(TEXT.replace("docs/tour.md", "docs/detour.md")) == {"docs/tour.md", "docs/detour.md"}


def test_it_has_the_form_that_is_agreed_on() -> None:
    """A title, a summary as a quote, and sections that are lists of links with a line about each."""
    head, *sections = re.split(r"^## .+\n\n", TEXT, flags=re.MULTILINE)
    title, quote = head.split("\n\n")[:2]
    assert (title, quote[:2]) == ("# personalign", "> ")
    assert "\n" not in quote
    lines = [line for section in sections for line in section.splitlines() if line]
    assert len(lines) == len(links(TEXT)) > 10
