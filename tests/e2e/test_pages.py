"""The admin in a real browser: what an operator sees and does."""

import re
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import ConsoleMessage, Page, expect, sync_playwright

from servers.installation import Installation

pytestmark = pytest.mark.timeout(600)

# Debian's browser; the flags keep it from calling home.
CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
WIDE, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser_page(_embedded: Installation) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, "--disable-component-update"])
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


def test_a_job_made_in_the_form_is_watched_live_to_its_end(page: Page, embedded: Installation) -> None:
    page.goto(f"{embedded.url}/admin/jobs/job/add/")
    page.locator("[name=project]").select_option(embedded.project)
    page.locator("[name=dataset]").select_option(embedded.dataset)
    page.locator("[name=task_type]").select_option("object_detection")
    page.locator("[name=model_name]").select_option("yolo11n")
    for name, value in {"epochs": "2", "batch_size": "8", "image_size": "64", "name": "From the form"}.items():
        page.locator(f"[name={name}]").fill(value)
    page.locator("[name=pretrained]").select_option("never")
    page.locator("[name=hyperparameters]").fill('{"mosaic": 0, "plots": false}')
    page.get_by_role("button", name="Put in the queue").click()
    page.wait_for_url(re.compile(r"/jobs/job/(\d+/change/|$|\?)"))
    job = embedded.get("jobs", page_size=1).json()["results"][0]
    assert job["name"] == "From the form"
    page.goto(f"{embedded.url}/admin/jobs/job/{job['id']}/change/")
    page.evaluate("window.neverReloaded = true")
    expect(page.locator("main, body").first).to_contain_text("Succeeded", timeout=120_000)
    expect(page.locator("body")).to_contain_text("best.pt")
    assert page.evaluate("window.neverReloaded") is True
    assert page.locator("canvas").count() >= 2


def test_a_model_for_another_task_is_not_offered(page: Page, embedded: Installation) -> None:
    page.goto(f"{embedded.url}/admin/jobs/job/add/")
    page.locator("[name=task_type]").select_option("object_detection")
    offered = page.locator("[name=model_name] option").evaluate_all("all => all.map(o => o.value)")
    assert "yolo11n" in offered
    assert not [name for name in offered if name.endswith(("-seg", "-pose", "-obb", "-cls"))]


@pytest.mark.parametrize("path", ["jobs/job/", "jobs/job/add/", "jobs/job/1/change/", "storage/dataset/"])
def test_no_page_is_wider_than_a_phone(page: Page, embedded: Installation, path: str) -> None:
    embedded.ended(1) if embedded.get("jobs/1").status_code == 200 else embedded.ended(embedded.submit())
    page.set_viewport_size(PHONE)
    answer = page.goto(f"{embedded.url}/admin/{path}")
    assert answer is not None
    assert answer.status == 200
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_the_api_page_needs_nothing_from_elsewhere(page: Page, embedded: Installation) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{embedded.url}/api/docs")
    expect(page.locator("body")).to_contain_text("/api/v1/jobs")
    assert asked
    assert not [url for url in asked if not url.startswith((embedded.url, "data:", "blob:"))]
