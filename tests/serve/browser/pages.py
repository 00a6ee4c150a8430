"""What tests do on pages, and what they watch meanwhile."""

from __future__ import annotations

from playwright.sync_api import ConsoleMessage, Dialog, Error, Page

POLICY = ("Content Security Policy", "TrustedHTML", "TrustedScript")
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective));
"""


class Watched:
    """A page, and whatever happens on it that shouldn't."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._faults: list[str] = []
        page.add_init_script(WATCH)
        page.on("pageerror", self._fail)
        page.on("dialog", self._dismiss)
        page.on("console", self._read)

    def faults(self) -> list[str]:
        """What happened so far."""
        violations: list[str] = self.page.evaluate("window.violations ?? []")
        return [*self._faults, *violations]

    def _fail(self, error: Error) -> None:
        self._faults.append(f"error: {error}")

    def _dismiss(self, dialog: Dialog) -> None:
        self._faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _read(self, message: ConsoleMessage) -> None:
        if any(name in message.text for name in POLICY):
            self._faults.append(message.text)


def start(page: Page, url: str) -> None:
    """Open a link to onboarding, and go to the first question."""
    page.goto(url)
    page.locator("#begin").click()
    page.locator("#replies .card").first.wait_for()


def number(page: Page) -> str:
    """Which question is shown."""
    return page.locator("#count").inner_text()


def press(page: Page, key: str) -> None:
    """Answer by a key, and wait for what comes next."""
    before = number(page)
    page.keyboard.press(key)
    page.wait_for_function(NEXT, arg=before)


NEXT = """(before) => !document.querySelector("#done").hidden
  || (document.querySelector("#count").textContent !== before && !document.querySelector("#asking").ariaBusy)"""
