"""Datasets in a real browser: an archive is dropped, watched on its way, and looked at."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from published import published
from servers.browser import PHONE
from servers.installation import Installation

pytestmark = pytest.mark.timeout(600)


def make_dataset(page: Page, embedded: Installation, name: str, task: str = "object_detection") -> None:
    """Through the form, as a person does; ends on the dataset's page."""
    page.goto(f"{embedded.url}/admin/storage/dataset/add/")
    page.locator("[name=name]").fill(name)
    page.locator("[name=project]").select_option(embedded.project)
    page.locator("[name=task_type]").select_option(task)
    page.get_by_role("button", name="Add the dataset").click()
    page.wait_for_url(re.compile(r"/storage/dataset/[0-9a-f-]{36}/change/"))


def look_at_the_version(page: Page) -> None:
    page.get_by_role("link", name=re.compile("Look at v")).click(timeout=120_000)
    page.wait_for_url(re.compile(r"/storage/datasetversion/\d+/change/"))


def test_an_archive_chosen_in_the_browser_becomes_a_version_whose_pictures_are_shown(
    page: Page, embedded: Installation
) -> None:
    make_dataset(page, embedded, "from the browser")
    expect(page.locator("body")).to_contain_text("No data yet")
    page.evaluate("window.neverReloaded = true")
    page.locator("input[type=file]").set_input_files(published("coco8.zip"))
    expect(page.locator("#part-news")).to_contain_text("Imported as v1", timeout=120_000)
    assert page.evaluate("window.neverReloaded") is True
    look_at_the_version(page)
    expect(page.locator("body")).to_contain_text("8: train 4, val 4")
    page.get_by_role("link", name="Gallery", exact=True).click()
    expect(page.locator(".ty-tile")).to_have_count(8)
    expect(page.locator(".ty-tile .ty-overlay .ty-outline").first).to_be_attached()
    loaded = "all => all.every(image => image.complete && image.naturalWidth > 0)"
    page.locator(".ty-tile img").last.scroll_into_view_if_needed()
    page.wait_for_function(f"({loaded})([...document.querySelectorAll('.ty-tile img')])")
    page.locator(".ty-tile a").first.click()
    page.wait_for_url(re.compile(r"/images/\d+/"))
    first = page.url
    page.keyboard.press("ArrowRight")
    page.wait_for_url(lambda url: url != first)
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(first)
    page.get_by_label("Labels", exact=True).uncheck()
    expect(page.locator(".ty-overlay")).to_be_hidden()
    page.get_by_label("Labels", exact=True).check()


def test_a_file_that_is_no_dataset_is_refused_in_words(page: Page, embedded: Installation, tmp_path: Path) -> None:
    make_dataset(page, embedded, "no data in it")
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"this is not an archive")
    page.locator("input[type=file]").set_input_files(broken)
    expect(page.locator("#part-news .ty-edge-failed")).to_contain_text("broken.zip", timeout=120_000)
    expect(page.locator("#part-versions")).to_contain_text("No data yet")


@pytest.fixture
def held(page: Page) -> Iterator[list[Route]]:
    """Parts that were sent and got no answer yet, as on a slow network."""
    waiting: list[Route] = []
    page.route(re.compile(r"/parts/\d+$"), lambda route: waiting.append(route))
    yield waiting
    page.unroute_all(behavior="ignoreErrors")


def test_an_upload_goes_on_after_the_page_was_closed(page: Page, embedded: Installation, held: list[Route]) -> None:
    make_dataset(page, embedded, "closed half-way")
    address = page.url
    page.locator("input[type=file]").set_input_files(published("coco8.zip"))
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Go on")).to_be_focused()
    page.unroute_all(behavior="ignoreErrors")
    page.goto(address)
    expect(page.locator("#part-unfinished")).to_contain_text("The upload of coco8.zip")
    page.locator("input[type=file]").set_input_files(published("coco8.zip"))
    expect(page.locator("#part-news")).to_contain_text("Imported as v1", timeout=120_000)
    expect(page.locator("#part-imports tbody tr")).to_have_count(1)  # the upload that was begun, and no other


def test_no_page_of_a_dataset_is_wider_than_a_phone(page: Page, embedded: Installation) -> None:
    dataset = embedded.dataset
    page.goto(f"{embedded.url}/admin/storage/dataset/{dataset}/change/")
    version = page.locator("#part-versions tbody a").first.get_attribute("href")
    assert version is not None
    below = version.removesuffix("change/")
    page.set_viewport_size(PHONE)
    for path in (f"/admin/storage/dataset/{dataset}/change/", version, f"{below}gallery/", f"{below}compare/"):
        answer = page.goto(f"{embedded.url}{path}")
        assert answer is not None
        assert answer.status == 200
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
