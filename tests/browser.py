"""A headless Chromium for tests of pages, which notes what they ask for and reaches nothing but this machine."""

import shutil
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
HERE = {"", "127.0.0.1", "localhost"}  # the first is that of file:, data: and blob:
ARGUMENTS = (
    "--disable-gpu",
    "--disable-quic",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


@dataclass
class Window:
    """A page in a browser profile of its own.

    Attributes:
        page: a `playwright.sync_api.Page`.
        requests: every address that was asked for, in order, whether or not it could be reached.
        errors: what the page wrote to the console as an error, and what it raised.
    """

    page: object
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def requests_elsewhere(self) -> list[str]:
        """The addresses on other machines that were asked for."""
        return [url for url in self.requests if (urlsplit(url).hostname or "") not in HERE]


@pytest.fixture(scope="session")
def browser():
    """A `playwright.sync_api.Browser`; tests that need it are skipped where no Chromium is installed."""
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.skip(f"no browser is installed: none of {', '.join(NAMES)} is on the path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=list(ARGUMENTS))
        yield running
        running.close()


@pytest.fixture
def open_window(browser):
    """Return a function that opens a new window; it takes the settings of `playwright.sync_api.Browser.new_context`.

    `open_window(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)` is a phone.
    """
    contexts = []

    def open_(**settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        window = Window(context.new_page())
        context.on("request", lambda request: window.requests.append(request.url))
        context.on("weberror", lambda error: window.errors.append(str(error.error)))
        context.on("console", lambda said: window.errors.append(said.text) if said.type == "error" else None)
        return window

    yield open_
    for context in contexts:
        context.close()


@pytest.fixture
def window(open_window):
    """One window of the size of a desk screen."""
    return open_window()
