"""A browser for all tests of this folder, and pages in it that fail a test by what they let happen.

Without Chromium these tests skip themselves: ``apt-get install chromium``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from lab.browser import CHROMIUM, browsing
from personalign.serve.access import Door
from personalign.serve.policy import Policy
from personalign.service import Personalign
from tests.serve.browser.bases import rewritten, with_picks
from tests.serve.browser.pages import Watched
from tests.serve.running import serving

Opens = Callable[..., Watched]
PATIENCE_MS = 30_000  # of a machine that does much else


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} isn't there: apt-get install chromium")
    expect.set_options(timeout=PATIENCE_MS)
    with browsing() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Opens]:
    """Open pages, each in a profile of its own; no error, dialog or violation of the policy may come up on them."""
    contexts: list[BrowserContext] = []
    opened: list[Watched] = []

    def open_one(width: int = 1280, scheme: str = "light") -> Watched:
        size = {"width": width, "height": 844}
        contexts.append(browser.new_context(viewport=size, color_scheme=scheme, accept_downloads=True))
        contexts[-1].set_default_timeout(PATIENCE_MS)
        opened.append(Watched(contexts[-1].new_page()))
        return opened[-1]

    yield open_one
    faults = [fault for watched in opened for fault in watched.faults()]
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def page(open_page: Opens) -> Page:
    return open_page().page


@pytest.fixture
def link(service: Personalign, server: str) -> Callable[..., str]:
    """The address of a person's page, as a backend gets it."""
    door = Door(service)
    return lambda user, page="onboard", seconds=60.0: f"{server}/{page}#{door.link(user, page, seconds)}"


@pytest.fixture(scope="package")
def picking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Personalign]:
    """A service whose questions have four replies."""
    folder = tmp_path_factory.mktemp("picking")
    basis = rewritten(folder / "basis", with_picks)
    with Personalign.open(f"sqlite:///{folder / 'p.db'}", model="tiny", basis=str(basis)) as service:
        yield service


@pytest.fixture
def picks(picking: Personalign, request: pytest.FixtureRequest) -> Iterator[str]:
    """A link to questions with four replies, for a person of the test's name."""
    with serving(picking, Policy()) as address:
        yield f"{address}/onboard#{Door(picking).link(request.node.name, 'onboard', 60)}"
