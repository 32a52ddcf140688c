from collections.abc import Iterator

import pytest
from playwright.sync_api import ConsoleMessage, Page, sync_playwright

from servers.browser import CHROMIUM, FLAGS, WIDE
from servers.installation import Installation


@pytest.fixture(scope="module")
def _embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with Installation(tmp_path_factory.mktemp("embedded")).running() as installation:
        yield installation


@pytest.fixture
def embedded(_embedded: Installation) -> Installation:
    """The embedded default, running: SQLite, a folder, the broker that needs no server."""
    if not _embedded.answers():  # a test that failed while it was stopped must not fail the others
        _embedded.start()
    return _embedded


@pytest.fixture(scope="module")
def browser_page(_embedded: Installation) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_context(viewport=WIDE, locale="en").new_page()
        page.set_default_timeout(30_000)
        yield page
        browser.close()


@pytest.fixture
def problems(browser_page: Page) -> Iterator[list[str]]:
    """What the browser complained of while a test ran; nothing is expected."""
    found: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error":
            found.append(message.text)

    browser_page.on("console", on_console)
    browser_page.on("pageerror", lambda error: found.append(str(error)))
    yield found
    browser_page.remove_listener("console", on_console)
    assert found == []


@pytest.fixture
def page(browser_page: Page, embedded: Installation, problems: list[str]) -> Page:
    """Logged in as the admin."""
    browser_page.set_viewport_size(WIDE)
    browser_page.goto(f"{embedded.url}/admin/")
    if "/login/" in browser_page.url:
        browser_page.get_by_label("Username").fill("admin")
        browser_page.get_by_label("Password").fill((embedded.folder / "secrets" / "admin-password").read_text())
        browser_page.get_by_role("button", name="Log in").click()
        browser_page.wait_for_url(f"{embedded.url}/admin/")
    return browser_page
