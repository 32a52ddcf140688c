"""Datasets in the admin: who sees what, and what the pages show of a version."""

import io
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import AbstractUser
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from PIL import Image

from apps.projects.models import Membership, Project
from apps.storage.admin import thumbnails
from apps.storage.models import (
    Dataset,
    DatasetFinding,
    DatasetImage,
    DatasetImport,
    DatasetVersion,
    FindingCount,
    ImportState,
    StoredFile,
)
from frozen import Picture, freeze, jpeg
from trainer.dataset.layout import Keypoints
from trainer.store import ObjectStore

SignIn = Callable[[AbstractUser], Client]
BOX = "0 0.5 0.5 0.5 0.5\n"
HOSTILE = '<script>alert("x")</script>'


@pytest.fixture
def shelf(project: Project, store: ObjectStore, settings: Any, tmp_path: Path) -> Dataset:
    """An empty dataset whose pictures go into a store and a cache of the test's own."""
    settings.DATA_DIR = tmp_path
    return Dataset.objects.create(project=project, name="shelf", task_type="object_detection")


@pytest.fixture
def version(shelf: Dataset) -> DatasetVersion:
    """Sixty pictures to train with and four to validate; every tenth has a can, and a warning."""
    train = [
        Picture(
            f"images/train/{number:03}.jpg",
            jpeg(64, 48, f"#{number:02x}4080"),
            BOX if number % 10 else BOX + "1 0.2 0.2 0.1 0.1\n",
            () if number % 10 else ("box_tiny",),
        )
        for number in range(60)
    ]
    val = [Picture(f"images/val/{number}.jpg", jpeg(64, 48, f"#40{number:02x}80"), BOX) for number in range(4)]
    return freeze(shelf, [*train, *val], ["box", "can"])


def address(name: str, *args: Any) -> str:
    return reverse(f"admin:storage_datasetversion_{name}", args=args)


def body(response: HttpResponse) -> str:
    return response.content.decode()


def shown(client: Client, version: DatasetVersion, query: str = "") -> list[str]:
    tiles = client.get(f"{address('gallery', version.pk)}?{query}").context["tiles"]
    return [tile.image.path for tile in tiles]


def addresses(version: DatasetVersion) -> list[str]:
    """All that shows something of a version."""
    image = version.dataset_images.first()
    assert image is not None
    return [
        *(address(name, version.pk) for name in ("change", "gallery", "compare", "csv")),
        address("image", version.pk, image.pk),
        address("small", version.pk, image.pk, 320),
        address("original", version.pk, image.pk),
        reverse("admin:storage_dataset_change", args=[version.dataset_id]),
        reverse("admin:storage_dataset_live", args=[version.dataset_id]),
    ]


# --- who may ----------------------------------------------------------------------------------------------------------


def test_whoever_may_view_sees_every_page_of_a_version(
    sign_in: SignIn, viewer: AbstractUser, version: DatasetVersion
) -> None:
    client = sign_in(viewer)
    for each in addresses(version):
        assert client.get(each).status_code == 200, each


def test_to_a_stranger_there_is_no_version_and_no_picture(
    sign_in: SignIn, stranger: AbstractUser, version: DatasetVersion
) -> None:
    client = sign_in(stranger)
    for each in addresses(version):
        assert client.get(each).status_code == 404, each
    assert client.post(address("remove", version.pk)).status_code == 404
    assert DatasetVersion.objects.filter(pk=version.pk).exists()


def test_a_picture_is_found_below_its_own_version_alone(console: Client, shelf: Dataset) -> None:
    first = freeze(shelf, [Picture("images/train/a.jpg", jpeg(), BOX)], ["box"])
    second = freeze(shelf, [Picture("images/train/a.jpg", jpeg(), BOX)], ["box"])
    image = second.dataset_images.get()
    assert console.get(address("small", first.pk, image.pk, 320)).status_code == 404
    assert console.get(address("small", second.pk, image.pk, 320)).status_code == 200
    assert console.get(address("small", second.pk, image.pk, 321)).status_code == 404


def test_who_may_only_view_is_offered_no_import_and_no_deletion(
    sign_in: SignIn, viewer: AbstractUser, trainer_user: AbstractUser, version: DatasetVersion
) -> None:
    page = reverse("admin:storage_dataset_change", args=[version.dataset_id])
    client = sign_in(viewer)
    assert "data-imports" not in body(client.get(page))
    assert client.get(reverse("admin:storage_dataset_add")).status_code == 403
    assert "Train on it" not in body(client.get(address("change", version.pk)))
    assert client.post(address("remove", version.pk)).status_code == 403
    trainer = sign_in(trainer_user)
    assert "data-imports" in body(trainer.get(page))
    assert "Train on it" in body(trainer.get(address("change", version.pk)))
    assert trainer.post(address("remove", version.pk)).status_code == 403


def test_who_may_train_adds_a_dataset_in_an_own_project_and_no_other(
    sign_in: SignIn, trainer_user: AbstractUser, project: Project
) -> None:
    client, add = sign_in(trainer_user), reverse("admin:storage_dataset_add")
    other = Project.objects.create(name="Other")
    asked = {"name": "tins", "project": project.pk, "task_type": "pose_estimation"}
    refused = client.post(add, {**asked, "project": other.pk})
    assert refused.status_code == 200
    assert not other.datasets.exists()
    made = client.post(add, asked)
    dataset = project.datasets.get(name="tins")
    assert made["Location"] == reverse("admin:storage_dataset_change", args=[dataset.pk])
    assert "No data yet" in body(client.get(made["Location"]))


def test_who_manages_may_rename_and_nobody_changes_the_task(
    sign_in: SignIn, manager: AbstractUser, trainer_user: AbstractUser, shelf: Dataset
) -> None:
    page = reverse("admin:storage_dataset_change", args=[shelf.pk]) + "?rename"
    assert sign_in(trainer_user).post(page, {"name": "mine"}).status_code == 403
    sign_in(manager).post(page, {"name": "new name", "task_type": "pose_estimation"})
    shelf.refresh_from_db()
    assert (shelf.name, shelf.task_type) == ("new name", "object_detection")


# --- the list and the page of a dataset -------------------------------------------------------------------------------


def test_the_list_tells_of_the_newest_version_and_of_the_import_that_runs(
    console: Client, version: DatasetVersion
) -> None:
    DatasetImport.objects.create(
        dataset=version.dataset, source="more.zip", state=ImportState.RUNNING, phase="checking", done=3, total=12
    )
    page = body(console.get(reverse("admin:storage_dataset_changelist")))
    assert "64: train 60, val 4" in page
    assert "6 warnings" in page
    assert "Checking 25%" in page


def test_the_page_tells_why_an_import_failed_and_where_one_ended(console: Client, version: DatasetVersion) -> None:
    rows = version.dataset.imports
    rows.create(source="bad.zip", state=ImportState.FAILED, message=f"No pictures in it. {HOSTILE}")
    rows.create(source="good.zip", state=ImportState.SUCCEEDED, version=version)
    page = body(console.get(reverse("admin:storage_dataset_change", args=[version.dataset_id])))
    assert "No pictures in it." in page
    assert HOSTILE not in page
    assert "Imported as v1" in page
    assert address("change", version.pk) in page


def test_an_import_whose_version_has_errors_does_not_look_good(console: Client, shelf: Dataset) -> None:
    version = freeze(shelf, [Picture("images/train/a.jpg", jpeg(), BOX, ("bad_row",))], ["box"])
    shelf.imports.create(source="a.zip", state=ImportState.SUCCEEDED, version=version, message="Nothing changed.")
    response = console.get(reverse("admin:storage_dataset_change", args=[shelf.pk]))
    (line,) = response.context["news"]
    assert (line.edge, line.sentence) == ("lost", "Imported as v1, with errors")
    assert f'{address("change", version.pk)}#findings"><b>See the 1 error' in body(response)
    assert "ty-edge-succeeded" not in body(response)
    assert "Imported, with errors" in body(response)


def test_the_newest_import_alone_is_news_and_not_once_its_version_is_gone(
    console: Client, version: DatasetVersion
) -> None:
    rows, page = version.dataset.imports, reverse("admin:storage_dataset_change", args=[version.dataset_id])
    for name in ("first.zip", "second.zip"):
        rows.create(source=name, state=ImportState.FAILED, message="No pictures in it.")
    assert [line.imp.source for line in console.get(page).context["news"]] == ["second.zip"]
    rows.create(source="gone.zip", state=ImportState.SUCCEEDED, message="shelf v7 has 8 images.")
    response = console.get(page)
    assert response.context["news"] == []
    assert "has 8 images" not in body(response)
    assert "its version was deleted since then" in body(response)
    good = rows.create(source="good.zip", state=ImportState.SUCCEEDED, version=version, ended_at=timezone.now())
    assert [line.imp.source for line in console.get(page).context["news"]] == ["good.zip"]
    rows.filter(pk=good.pk).update(ended_at=timezone.now() - timedelta(hours=1))
    assert console.get(page).context["news"] == []


def test_the_way_to_training_names_the_version_where_it_is_not_the_newest(
    console: Client, version: DatasetVersion
) -> None:
    pages = [
        reverse("admin:storage_dataset_changelist"),
        reverse("admin:storage_dataset_change", args=[version.dataset_id]),
    ]
    form = f"{reverse('admin:jobs_job_add')}?project={version.dataset.project_id}&amp;dataset={version.dataset_id}"
    for each in pages:
        assert f'{form}">Train on it' in body(console.get(each))
    assert f'{form}&amp;version=1">Train on it' in body(console.get(address("change", version.pk)))
    freeze(version.dataset, [Picture("images/train/a.jpg", jpeg(), BOX, ("bad_row",))], ["box"])
    for each in pages:
        assert f'{form}&amp;version=1">Train on v1' in body(console.get(each))


def test_the_way_back_has_the_name_as_it_was_typed(console: Client, version: DatasetVersion) -> None:
    dataset = reverse("admin:storage_dataset_change", args=[version.dataset_id])
    for each in (dataset, address("change", version.pk), address("gallery", version.pk)):
        heading = re.search(r"<h1.*?</h1>", body(console.get(each)), re.DOTALL)
        assert heading is not None
        links = re.findall(r'<a href="([^"]*)">([^<]*)</a>', heading[0])
        assert links[:2] == [(reverse("admin:storage_dataset_changelist"), "Datasets"), (dataset, "shelf")]
        assert links[2:] == ([] if each == dataset else [(address("change", version.pk), "v1")])


# --- the first page of a version --------------------------------------------------------------------------------------


def test_findings_are_counted_by_kind_and_the_first_are_listed(console: Client, shelf: Dataset) -> None:
    pictures = [
        Picture(f"images/train/{n}.jpg", jpeg(colour=f"#{n:02x}0000"), BOX, ("bad_row", "box_tiny")) for n in range(7)
    ]
    version = freeze(shelf, pictures, ["box"])
    page = console.get(address("change", version.pk))
    kinds = [(kind.count.code, kind.count.number, len(kind.first), kind.more) for kind in page.context["kinds"]]
    assert kinds == [("bad_row", 7, 5, 2), ("box_tiny", 7, 5, 2)]
    assert "images/train/0.jpg, line 1" in body(page)
    assert "7 errors have to be mended" in body(page)
    assert "<h3>Bad row</h3>" in body(page)
    assert re.findall(r'<details class="ty-finding ty-finding-(\w+)" id="[^"]*"( open)?', body(page)) == [
        ("error", " open"),
        ("warning", ""),
    ]
    assert "Train on it" not in body(page)
    table = b"".join(console.get(address("csv", version.pk) + "?code=bad_row").streaming_content).decode()
    assert table.count("bad_row") == 2 * 7  # in its column and in its message
    assert "box_tiny" not in table


def test_histograms_have_the_numbers_of_the_statistics(console: Client, version: DatasetVersion) -> None:
    charts = {chart.id: chart for chart in console.get(address("change", version.pk)).context["histograms"]}
    assert [(row.label, row.number) for row in charts["classes"].first] == [("box", "64"), ("can", "6")]
    assert [(part.split, part.width) for part in charts["classes"].first[0].parts] == [("train", 93.75), ("val", 6.25)]
    assert [(row.label, row.number) for row in charts["sizes"].first] == [("64 × 48", "64")]
    assert [(row.label, row.number) for row in charts["per-image"].first] == [("1", "58"), ("2", "6")]


def test_of_many_classes_the_first_are_shown_and_the_others_when_asked_for(console: Client, shelf: Dataset) -> None:
    rows = "".join(f"{class_id} 0.5 0.5 0.5 0.5\n" for class_id in range(80))
    names = [f"class {class_id}" for class_id in range(82)]
    version = freeze(shelf, [Picture("images/train/a.jpg", jpeg(), rows)], names)
    response = console.get(address("change", version.pk))
    classes = response.context["histograms"][0]
    assert (len(classes.first), len(classes.rest)) == (15, 65)
    assert "Show 65 more" in body(response)
    assert "2 classes never occur: class 80, class 81" in body(response)


def test_a_version_names_the_jobs_that_use_it_and_is_not_deleted_under_them(
    console: Client, version: DatasetVersion, make_job: Any
) -> None:
    job = make_job(dataset=version.dataset)
    page = body(console.get(address("change", version.pk)))
    assert job.get_absolute_url() in page
    assert "Delete the version" not in page
    told = console.post(address("remove", version.pk), follow=True)
    assert "cannot be deleted" in body(told)
    assert DatasetVersion.objects.filter(pk=version.pk).exists()


def test_a_version_that_no_job_uses_is_deleted_by_whoever_manages(
    sign_in: SignIn, manager: AbstractUser, version: DatasetVersion
) -> None:
    client = sign_in(manager)
    assert "Delete the version" in body(client.get(address("change", version.pk)))
    told = client.post(address("remove", version.pk), follow=True)
    assert "shelf v1 is deleted." in body(told)
    assert not DatasetVersion.objects.filter(pk=version.pk).exists()
    assert client.get(address("gallery", version.pk)).status_code == 404


# --- the gallery ------------------------------------------------------------------------------------------------------


def walk(client: Client, version: DatasetVersion, query: str, onward: str) -> list[list[str]]:
    """The paths on each page, as `onward` leads from one to the next."""
    pages, url = [], f"{address('gallery', version.pk)}?{query}"
    while True:
        context = client.get(url).context
        pages.append([tile.image.path for tile in context["tiles"]])
        if not context[onward]:
            return pages
        url = f"{address('gallery', version.pk)}?{context[onward]}"


@pytest.mark.parametrize(
    "query", ["", "split=train", "class=0", "class=0&split=train", "code=box_tiny", "code=box_tiny&class=1"]
)
def test_pages_show_every_picture_once_in_order_and_the_same_backwards(
    console: Client, version: DatasetVersion, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.storage.admin.gallery.PAGE", 5)
    pages = walk(console, version, query, "after")
    paths = [path for page in pages for path in page]
    wanted = version.dataset_images.all()
    if "split" in query:
        wanted = wanted.filter(split="train")
    if "code" in query:
        wanted = wanted.filter(findings__code="box_tiny")
    assert paths == [*wanted.values_list("path", flat=True)]
    backwards = walk(console, version, f"{query}&end=1", "before")
    assert sorted(path for page in backwards for path in page) == sorted(paths)
    assert backwards[0][-1] == paths[-1]


def test_the_gallery_is_narrowed_by_class_split_and_finding(console: Client, version: DatasetVersion) -> None:
    cans = [f"images/train/{number:03}.jpg" for number in range(0, 60, 10)]
    assert shown(console, version, "class=1") == cans
    assert shown(console, version, "code=box_tiny") == cans
    assert shown(console, version, "split=val") == [f"images/val/{number}.jpg" for number in range(4)]
    assert shown(console, version, "split=val&class=1") == []
    assert shown(console, version, "split=train&class=1&code=box_tiny") == cans


def test_the_gallery_offers_what_there_are_pictures_of(console: Client, shelf: Dataset) -> None:
    version = freeze(
        shelf,
        [Picture("images/train/a.jpg", jpeg(), BOX + "2 0.5 0.5 0.5 0.5\n", ("box_tiny",))],
        ["box", "can", "tin"],
    )
    told = {"version": version, "severity": "warning", "code": "class_unused"}
    DatasetFinding.objects.create(**told, message="Nothing is labelled as can.")
    FindingCount.objects.create(**told, number=1)
    response = console.get(address("gallery", version.pk))
    assert response.context["codes"] == [("box_tiny", "Box tiny", "1")]
    assert response.context["classes"] == [(0, "box (1)"), (2, "tin (1)")]
    assert response.context["found"] == "1 image"
    assert '<span class="ty-split">train</span>' in body(response)
    response = console.get(address("gallery", version.pk) + "?code=box_tiny&class=1")
    assert response.context["classes"] == [(0, "box (1)"), (1, "can"), (2, "tin (1)")]
    response = console.get(address("gallery", version.pk) + "?code=box_tiny")
    assert response.context["found"] == "1 finding of this kind"


@pytest.mark.parametrize(
    "query", ["class=-1", "class=99999999999999999999", "after=x", "split=%00", "code='", "before=0", "class=²"]
)
def test_nonsense_in_the_address_is_no_fault(console: Client, version: DatasetVersion, query: str) -> None:
    assert console.get(f"{address('gallery', version.pk)}?{query}").status_code == 200


def test_neighbours_follow_the_filter(console: Client, version: DatasetVersion) -> None:
    images = [*version.dataset_images.filter(classes__class_id=1)]
    context = console.get(address("image", version.pk, images[1].pk) + "?class=1").context
    assert (context["before"], context["after"]) == (images[0].pk, images[2].pk)
    context = console.get(address("image", version.pk, images[-1].pk) + "?class=1").context
    assert (context["before"], context["after"]) == (images[-2].pk, None)


def test_another_versions_pictures_are_never_shown(console: Client, shelf: Dataset, version: DatasetVersion) -> None:
    other = freeze(shelf, [Picture("images/train/new.jpg", jpeg(), BOX)], ["box", "can"])
    assert shown(console, other) == ["images/train/new.jpg"]
    assert "images/train/new.jpg" not in shown(console, version, "end=1")


POSE = "0 0.5 0.5 0.5 0.5 0.25 0.25 2 0.75 0.75 0\n"
DRAWN = {
    "object_detection": (BOX, ["M80.0 60.0L240.0 60.0L240.0 180.0L80.0 180.0Z"], []),
    "instance_segmentation": ("0 0.1 0.1 0.9 0.1 0.5 0.5\n", ["M32.0 24.0L288.0 24.0L160.0 120.0Z"], []),
    "oriented_detection": (
        "0 0.5 0.25 0.75 0.5 0.5 0.75 0.25 0.5\n",
        ["M160.0 60.0L240.0 120.0L160.0 180.0L80.0 120.0Z"],
        [],
    ),
    "pose_estimation": (POSE, ["M80.0 60.0L240.0 60.0L240.0 180.0L80.0 180.0Z"], ["M80.0 60.0h0"]),
}


@pytest.mark.parametrize("task", DRAWN)
def test_labels_are_drawn_where_they_lie(console: Client, shelf: Dataset, task: str) -> None:
    label, outlines, dots = DRAWN[task]
    Dataset.objects.filter(pk=shelf.pk).update(task_type=task)
    shelf.refresh_from_db()
    keypoints = Keypoints(2, 3) if task == "pose_estimation" else None
    version = freeze(shelf, [Picture("images/train/a.jpg", jpeg(640, 480), label)], ["box"], keypoints)
    drawn = str(console.get(address("gallery", version.pk)).context["tiles"][0].overlay)
    assert 'viewBox="0 0 320.0 240.0"' in drawn
    assert re.findall(r'class="ty-outline" d="([^"]*)"', drawn) == outlines
    assert re.findall(r'class="ty-dots" d="([^"]*)"', drawn) == dots
    assert ">box</text>" in drawn


def test_of_classification_the_class_is_shown_and_nothing_is_drawn(console: Client, shelf: Dataset) -> None:
    Dataset.objects.filter(pk=shelf.pk).update(task_type="image_classification")
    shelf.refresh_from_db()
    version = freeze(shelf, [Picture(f"images/train/{name}/1.jpg", jpeg()) for name in ("cat", "dog")], ["cat", "dog"])
    tiles = console.get(address("gallery", version.pk)).context["tiles"]
    assert [chip.name for tile in tiles for chip in tile.chips] == ["cat", "dog"]
    assert not any(tile.overlay for tile in tiles)
    assert shown(console, version, "class=1") == ["images/train/dog/1.jpg"]


def test_names_of_classes_and_files_are_text_wherever_they_stand(console: Client, shelf: Dataset) -> None:
    path = 'images/train/"><img src=x onerror=alert(1)>.jpg'
    version = freeze(shelf, [Picture(path, jpeg(), BOX, ("box_tiny",))], [HOSTILE])
    freeze(shelf, [Picture(path, jpeg(colour="red"), BOX + BOX)], [HOSTILE + "2"])
    for each in addresses(version):
        response = console.get(each)
        if not response["Content-Type"].startswith("text/html"):
            continue
        assert HOSTILE not in body(response), each
        assert "<img src=x" not in body(response), each


def test_labels_of_a_page_are_read_in_few_requests(
    console: Client, version: DatasetVersion, monkeypatch: pytest.MonkeyPatch, store: ObjectStore
) -> None:
    opened: list[str] = []
    original = type(store).open

    def counted(self: ObjectStore, key: str, *args: Any, **kwargs: Any) -> Any:
        opened.append(key)
        return original(self, key, *args, **kwargs)

    monkeypatch.setattr(type(store), "open", counted)
    assert len(shown(console, version)) == 48
    assert len(opened) == 1


def test_a_store_that_lost_the_labels_is_told_of_and_the_pictures_stay(
    console: Client, version: DatasetVersion, store: ObjectStore
) -> None:
    shard = StoredFile.objects.filter(dataset=version.dataset)[0].shard
    store.delete(shard.key)
    response = console.get(address("gallery", version.pk))
    assert "The labels cannot be shown" in body(response)
    assert len(response.context["tiles"]) == 48


# --- pictures ---------------------------------------------------------------------------------------------------------


def only_image(shelf: Dataset, data: bytes, name: str = "a.jpg") -> DatasetImage:
    version = freeze(shelf, [Picture(f"images/train/{name}", data, BOX)], ["box"])
    return version.dataset_images.get()


def small(client: Client, image: DatasetImage, **headers: str) -> HttpResponse:
    return client.get(address("small", image.version_id, image.pk, 320), headers=headers)


def test_a_thumbnail_is_small_kept_and_not_sent_twice(console: Client, shelf: Dataset, store: ObjectStore) -> None:
    image = only_image(shelf, jpeg(1000, 500))
    first = small(console, image)
    assert first["Content-Type"] == "image/jpeg"
    assert Image.open(io.BytesIO(first.content)).size == (320, 160)
    assert first["Cache-Control"] == "private, immutable, max-age=31536000"
    assert small(console, image, if_none_match=first["ETag"]).status_code == 304
    store.delete(image.file.shard.key)
    assert small(console, image).content == first.content


def test_a_thumbnail_is_upright(console: Client, shelf: Dataset) -> None:
    picture, target = Image.new("RGB", (400, 200)), io.BytesIO()
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(target, "JPEG", exif=exif)
    response = small(console, only_image(shelf, target.getvalue()))
    assert Image.open(io.BytesIO(response.content)).size == (160, 320)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "I", "F"])
def test_a_picture_of_any_colours_has_a_thumbnail(console: Client, shelf: Dataset, mode: str) -> None:
    target = io.BytesIO()
    suffix = "tif" if mode in ("CMYK", "F", "I", "I;16") else "png"
    Image.new(mode, (400, 300)).save(target, "TIFF" if suffix == "tif" else "PNG")
    response = small(console, only_image(shelf, target.getvalue(), f"a.{suffix}"))
    assert response["Content-Type"] == "image/jpeg"
    assert Image.open(io.BytesIO(response.content)).size == (320, 240)


@pytest.mark.parametrize(
    "data",
    [b"", b"no picture", jpeg(300, 300)[:400], b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"GIF89a" + b"0" * 99],
)
def test_a_picture_that_cannot_be_read_is_stood_in_for(console: Client, shelf: Dataset, data: bytes) -> None:
    response = small(console, only_image(shelf, data))
    assert response.status_code == 200
    assert response["Content-Type"] == "image/svg+xml"
    assert any(words in body(response) for words in ("No picture that can be read", "Damaged or cut short"))


def test_a_decompression_bomb_is_not_decoded(console: Client, shelf: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    response = small(console, only_image(shelf, jpeg(250, 200)))
    assert "Too large to be shown" in body(response)
    response = small(console, only_image(shelf, jpeg(200, 200)))
    assert response["Content-Type"] == "image/jpeg"


def test_a_picture_that_the_store_lost_is_asked_for_again_later(
    console: Client, shelf: Dataset, store: ObjectStore
) -> None:
    image = only_image(shelf, jpeg())
    store.delete(image.file.shard.key)
    response = small(console, image)
    assert "The store does not deliver it" in body(response)
    assert response["Cache-Control"] == "no-store"
    assert console.get(address("original", image.version_id, image.pk)).status_code == 404


def test_the_file_itself_comes_as_what_it_is_and_as_nothing_else(console: Client, shelf: Dataset) -> None:
    data = jpeg()
    image = only_image(shelf, data)
    response = console.get(address("original", image.version_id, image.pk))
    assert b"".join(response.streaming_content) == data
    assert response["Content-Type"] == "image/jpeg"
    assert response["X-Content-Type-Options"] == "nosniff"
    page = only_image(shelf, b"<script>alert(1)</script>", "page.html")
    response = console.get(address("original", page.version_id, page.pk))
    assert response["Content-Type"] == "application/octet-stream"
    assert response["Content-Disposition"].startswith("attachment")


def test_thumbnails_are_let_go_of_when_they_are_many(settings: Any, tmp_path: Path) -> None:
    settings.DATA_DIR = tmp_path
    for number in range(10):
        thumbnails.keep(f"{number:064x}", 320, b"x" * 100)
    thumbnails.tidy(1000)
    assert thumbnails.kept(f"{0:064x}", 320) is not None
    thumbnails.tidy(500)
    assert sum(thumbnails.kept(f"{number:064x}", 320) is not None for number in range(10)) == 4


# --- two versions -----------------------------------------------------------------------------------------------------


@pytest.fixture
def changed(shelf: Dataset) -> DatasetVersion:
    """The second version: one picture each was added, removed, replaced and labelled anew; a class has a new name."""

    def picture(name: str, colour: str = "blue", label: str = BOX) -> Picture:
        return Picture(f"images/train/{name}.jpg", jpeg(colour=colour), label)

    freeze(shelf, [picture("same"), picture("removed"), picture("replaced"), picture("labelled")], ["box", "can"])
    now = [picture("same"), picture("added"), picture("replaced", "red"), picture("labelled", label=BOX + BOX)]
    return freeze(shelf, now, ["box", "tin"])


@pytest.mark.parametrize(
    ("change", "name"),
    [("added", "added"), ("removed", "removed"), ("replaced", "replaced"), ("relabelled", "labelled")],
)
def test_two_versions_are_compared(console: Client, changed: DatasetVersion, change: str, name: str) -> None:
    response = console.get(f"{address('compare', changed.pk)}?with=1&change={change}")
    assert [(kind, number) for kind, _label, number in response.context["kinds"]] == [
        ("added", 1),
        ("removed", 1),
        ("replaced", 1),
        ("relabelled", 1),
    ]
    assert [each["tile"].name for each in response.context["tiles"]] == [f"{name}.jpg"]
    both = response.context["tiles"][0]["was"]
    assert (both is None) == (change in ("added", "removed"))
    if change == "relabelled":
        assert str(both.overlay).count("Z") == 1
        assert str(response.context["tiles"][0]["tile"].overlay).count("Z") == 2
    assert "tin" in body(response)


def test_the_only_version_has_nothing_to_be_compared_with(console: Client, version: DatasetVersion) -> None:
    assert "nothing to compare it with" in body(console.get(address("compare", version.pk)))
    assert console.get(f"{address('compare', version.pk)}?with=7&change=nonsense").status_code == 200


def test_of_a_version_that_there_is_not_the_others_are_offered(console: Client, changed: DatasetVersion) -> None:
    for number in ("99", "99999999999"):
        page = body(console.get(f"{address('compare', changed.pk)}?with={number}"))
        assert f"shelf has no other version {number}." in page
        assert 'href="?with=1"' in page


def test_a_member_who_lost_the_membership_sees_nothing_any_more(
    sign_in: SignIn, viewer: AbstractUser, version: DatasetVersion
) -> None:
    client = sign_in(viewer)
    image = version.dataset_images.all()[0]
    assert small(client, image).status_code == 200
    Membership.objects.filter(user=viewer).delete()
    assert small(client, image, if_none_match="*").status_code == 404
