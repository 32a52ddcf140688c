"""A gallery of a hundred thousand pictures: every page is found by an index, wherever it lies."""

import random
import time
from collections.abc import Iterator
from statistics import median

import pytest
from django.contrib.auth import get_user_model
from django.core.management.color import no_style
from django.db import connection
from django.db.models import Max
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from apps.projects.models import Project
from apps.storage.models import Dataset, DatasetFinding, DatasetImage, DatasetVersion, FindingCount, ImageClass
from frozen import Picture, freeze, jpeg
from trainer.store import ObjectStore

MANY = 100_000
BOX = "0 0.5 0.5 0.5 0.5\n"
# What a person may narrow it to; class 7 is rare and only in `val`.
FILTERS = ["", "split=train", "split=val", "class=0", "class=7", "class=7&split=train", "code=box_tiny&class=3"]


@pytest.fixture
def versions(project: Project, store: ObjectStore) -> dict[int, DatasetVersion]:
    """By the number of their pictures. The larger one has others before and after it in the tables."""
    names = [f"class {number}" for number in range(8)]
    made = {}
    for size in (100, MANY, 101):
        dataset = Dataset.objects.create(project=project, name=f"{size} pictures", task_type="object_detection")
        version = freeze(dataset, [Picture("images/train/0.jpg", jpeg(), BOX)], names)
        multiply(version, size)
        version.refresh_from_db()
        made[size] = version
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return made


def multiply(version: DatasetVersion, size: int) -> None:
    """As many rows as `size` says, all of the one picture that is stored."""
    first = version.dataset_images.get()
    last = DatasetImage.objects.aggregate(last=Max("pk"))["last"]
    split = size * 9 // 10
    DatasetImage.objects.bulk_create(
        (
            DatasetImage(
                pk=last + number,
                version=version,
                path=f"images/{'train' if number < split else 'val'}/{number:06}.jpg",
                split="train" if number < split else "val",
                file_id=first.file_id,
                label_id=first.label_id,
                width=64,
                height=48,
                instances=1,
            )
            for number in range(1, size)
        ),
        batch_size=5000,
    )
    chance = random.Random(size)
    with connection.cursor() as cursor:
        for sql in connection.ops.sequence_reset_sql(no_style(), [DatasetImage]):
            cursor.execute(sql)
    ImageClass.objects.bulk_create(
        (
            ImageClass(image_id=last + number, version=version, class_id=each)
            for number in range(1, size)
            for each in ({0, chance.randrange(7)} if number < size - size // 50 else {0, 7})
        ),
        batch_size=5000,
    )
    DatasetFinding.objects.bulk_create(
        DatasetFinding(version=version, image_id=last + number, severity="warning", code="box_tiny", message="Tiny.")
        for number in range(1, size, max(size // 5000, 1))
    )
    FindingCount.objects.create(version=version, severity="warning", code="box_tiny", number=5000)
    images = {"train": split, "val": size - split}
    DatasetVersion.objects.filter(pk=version.pk).update(images=images, instances=images)


@pytest.fixture
def console(db: None) -> Client:
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("operator"))
    return client


def gallery(version: DatasetVersion, query: str) -> str:
    return reverse("admin:storage_datasetversion_gallery", args=[version.pk]) + f"?{query}"


def places(version: DatasetVersion) -> Iterator[str]:
    """The first page, the last, and one in the middle."""
    first = version.dataset_images.order_by("pk").values_list("pk", flat=True)[0]
    yield from ("", "end=1", f"after={first + sum(version.images.values()) // 2}")


def test_a_page_of_a_large_gallery_costs_what_one_of_a_small_one_costs(
    console: Client, versions: dict[int, DatasetVersion], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is asserted of times: they are printed, to be read."""
    told = []
    for query in FILTERS:
        took: dict[int, list[float]] = {size: [] for size in versions}
        for size, version in versions.items():
            for place in places(version):
                asked = gallery(version, f"{query}&{place}")
                check_queries(console, asked, plans=size == MANY)
                took[size] += [seconds(console, asked) for _ in range(3)]
        small, large = (median(took[size]) * 1000 for size in (100, MANY))
        told.append(f"{query or 'all':<24} {small:7.1f} ms of 100   {large:7.1f} ms of {MANY}   x {large / small:.2f}")
    with capsys.disabled():
        print(f"\nA page of the gallery on {connection.vendor}:", *told, sep="\n")


def check_queries(console: Client, asked: str, *, plans: bool) -> None:
    with CaptureQueriesContext(connection) as captured:
        assert console.get(asked).status_code == 200
    queries = [each["sql"] for each in captured]
    assert len(queries) <= 16, queries
    assert not [sql for sql in queries if "COUNT(" in sql]
    for sql in queries if plans else ():
        if "storage_" in sql:
            assert not any(reads_all(line) for line in explained(sql)), (asked, sql, explained(sql))


def explained(sql: str) -> list[str]:
    prefix = "EXPLAIN QUERY PLAN " if connection.vendor == "sqlite" else "EXPLAIN "
    with connection.cursor() as cursor:
        cursor.execute((prefix + sql).replace("%", "%%"), [])
        return [str(row[-1]) for row in cursor.fetchall()]


def reads_all(line: str) -> bool:
    large = ("storage_datasetimage", "storage_imageclass", "storage_datasetfinding")
    scans = ("SCAN ",) if connection.vendor == "sqlite" else ("Seq Scan on ",)
    return any(line.strip(" ->").startswith(scan + table) for scan in scans for table in large)


def seconds(console: Client, asked: str) -> float:
    before = time.perf_counter()
    console.get(asked)
    return time.perf_counter() - before
