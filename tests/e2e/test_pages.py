"""The admin in a real browser: what an operator sees and does."""

import re

import pytest
from playwright.sync_api import Page, expect

from servers.browser import PHONE
from servers.installation import Installation

pytestmark = pytest.mark.timeout(600)


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


def test_only_models_for_the_chosen_task_are_offered(page: Page, embedded: Installation) -> None:
    page.goto(f"{embedded.url}/admin/jobs/job/add/")
    page.locator("[name=task_type]").select_option("object_detection")
    page.locator("[name=model_name]").select_option("yolo11s")
    page.locator("[name=task_type]").select_option("instance_segmentation")
    assert page.locator("[name=model_name]").input_value() == "yolo11s-seg"
    offered = page.locator("[name=model_name] option:not([disabled])").evaluate_all("all => all.map(o => o.value)")
    assert len(offered) > 1
    assert all(name.endswith("-seg") for name in offered)


def test_choosing_a_dataset_chooses_its_task(page: Page, embedded: Installation) -> None:
    page.goto(f"{embedded.url}/admin/jobs/job/add/")
    page.locator("[name=task_type]").select_option("pose_estimation")
    shapes = page.locator("[name=dataset] option", has_text="shapes").first.get_attribute("value")
    page.locator("[name=dataset]").select_option(shapes)
    assert page.locator("[name=task_type]").input_value() == "object_detection"
    assert "-" not in page.locator("[name=model_name]").input_value()


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
