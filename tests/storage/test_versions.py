"""Versions side by side, and versions that go."""

import csv
import io
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import AbstractUser
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.jobs.errors import InvalidJobError
from apps.projects.models import Project
from apps.storage import sweeping, versions
from apps.storage.errors import NotPermittedError, VersionInUseError
from apps.storage.findings import findings_csv
from apps.storage.models import (
    Dataset,
    DatasetFinding,
    DatasetImage,
    DatasetImport,
    DatasetVersion,
    FindingCount,
    ImageClass,
    ImportState,
    Shard,
    StoredFile,
)
from apps.storage.services import import_source
from published import published
from trainer.store import ObjectStore

Import = Callable[..., DatasetVersion]


@pytest.fixture
def freeze(project: Project, store: ObjectStore, data_dir: Path) -> Import:
    def run(folder: Path, **otherwise: Any) -> DatasetVersion:
        asked = {"project": project, "name": "shapes", "task_type": "object_detection", "by": None}
        return import_source(str(folder), **{**asked, **otherwise}).version

    return run


@pytest.fixture
def big(shapes: Dataset) -> Callable[..., DatasetVersion]:
    """Makes the rows of a version of many images, with nothing in the store."""
    shard = Shard.objects.create(dataset=shapes, key="shard", sha256="0" * 64, size=1)
    files: dict[str, StoredFile] = {}

    def file(name: str) -> StoredFile:
        if name not in files:
            files[name] = StoredFile.objects.create(shard=shard, dataset=shapes, sha256=name, offset=0, size=1)
        return files[name]

    def make(number: int, images: dict[str, tuple[str, str | None]], **fields: Any) -> DatasetVersion:
        version = DatasetVersion.objects.create(dataset=shapes, number=number, sha256=f"{number:064}", size=1, **fields)
        DatasetImage.objects.bulk_create(
            DatasetImage(version=version, path=path, split="train", file=file(its), label=label and file(label))
            for path, (its, label) in sorted(images.items())
        )
        version.shards.add(shard)
        return version

    return make


# --- diff -----------------------------------------------------------------------------------------------------------


def test_a_diff_tells_what_was_added_removed_replaced_and_relabelled(big: Callable[..., DatasetVersion]) -> None:
    same = {f"images/train/{n:05}.jpg": ("picture", "label") for n in range(3000)}
    before = {"a": ("p1", "l1"), "b": ("p1", "l1"), "c": ("p1", None), "d": ("p1", "l1"), "e": ("p1", "l1")}
    after = {"b": ("p2", "l1"), "c": ("p1", "l1"), "d": ("p1", None), "e": ("p2", "l2"), "f": ("p1", "l1")}
    old = big(1, same | before, class_names=["cat", "dog"])
    new = big(2, same | after, class_names=["cat", "hound", "cow"])
    with CaptureQueriesContext(
        connection,
    ) as queries:
        found = versions.diff(old, new)
    assert len(queries) <= 5
    assert found.counts == {"added": 1, "removed": 1, "replaced": 2, "relabelled": 3}
    paths = {change: [image.path for image in found.images(change)] for change in versions.CHANGES}
    assert paths == {"added": ["f"], "removed": ["a"], "replaced": ["b", "e"], "relabelled": ["c", "d", "e"]}
    assert [(each.class_id, each.old, each.new) for each in found.classes] == [(1, "dog", "hound"), (2, None, "cow")]
    assert set(versions.diff(new, new).counts.values()) == {0}


def test_versions_of_two_datasets_are_not_compared(dataset: Dataset, big: Callable[..., DatasetVersion]) -> None:
    with pytest.raises(ValueError, match="two datasets"):
        versions.diff(big(1, {}), dataset.versions.get())


def test_a_picture_that_moved_to_the_folder_of_another_class_is_relabelled(freeze: Import, tmp_path: Path) -> None:
    shutil.unpack_archive(published("imagenet10.zip"), tmp_path)
    folder = tmp_path / "imagenet10"
    asked = {"name": "ten", "task_type": "image_classification"}
    old = freeze(folder, **asked)
    one, other = sorted((folder / "train").iterdir())[:2]
    picture = next(one.iterdir())
    picture.rename(other / f"moved-{picture.name}")
    found = versions.diff(old, freeze(folder, **asked))
    assert found.counts == {"added": 0, "removed": 0, "replaced": 0, "relabelled": 1}
    assert found.images("relabelled").get().path.endswith(f"moved-{picture.name}")


# --- deleting -------------------------------------------------------------------------------------------------------


def age(dataset: Dataset) -> None:
    Shard.objects.filter(dataset=dataset).update(created_at=timezone.now() - timedelta(days=2))


def test_a_deleted_version_takes_what_is_its_own_and_leaves_what_is_shared(
    sample: Path, freeze: Import, manager: AbstractUser, store: ObjectStore
) -> None:
    first = freeze(sample)
    (sample / "labels" / "train" / "sample-0000.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    second = freeze(sample)
    age(first.dataset)
    versions.delete_version(first, manager)
    assert list(first.dataset.versions.all()) == [second]
    kept = {stored.key for stored in store.list()}
    assert kept == {
        *second.shards.values_list("key", flat=True),
        f"datasets/{first.dataset_id}/versions/{second.sha256}.jsonl.gz",
    }
    assert DatasetImage.objects.count() == 8
    for image in second.dataset_images.select_related("file__shard"):
        with store.open(image.file.shard.key, image.file.offset, image.file.offset + image.file.size) as source:
            assert source.read() == (sample / image.path).read_bytes()
    versions.delete_version(second, manager)
    assert list(store.list()) == []
    for model in (DatasetVersion, DatasetImage, ImageClass, DatasetFinding, FindingCount, Shard, StoredFile):
        assert not model._base_manager.exists(), model


def test_a_manifest_stays_while_another_version_holds_the_same(
    sample: Path, freeze: Import, manager: AbstractUser, store: ObjectStore
) -> None:
    label = sample / "labels" / "train" / "sample-0000.txt"
    before = label.read_text()
    first = freeze(sample)
    label.write_text("0 0.5 0.5 0.2 0.2\n")
    freeze(sample)
    label.write_text(before)
    third = freeze(sample)
    age(first.dataset)
    versions.delete_version(first, manager)
    assert third.sha256 == first.sha256
    assert store.exists(f"datasets/{third.dataset_id}/versions/{third.sha256}.jsonl.gz")
    assert all(store.exists(shard.key) for shard in third.shards.all())


def test_a_number_is_never_given_twice(sample: Path, freeze: Import, manager: AbstractUser) -> None:
    first = freeze(sample)
    versions.delete_version(first, manager)
    assert freeze(sample).number == 2


def test_what_was_stored_today_is_kept_for_a_while_and_swept_later(
    sample: Path, freeze: Import, manager: AbstractUser, store: ObjectStore
) -> None:
    version = freeze(sample)
    versions.delete_version(version, manager)
    assert [stored.key.split("/")[2] for stored in store.list()] == ["shards"]
    age(version.dataset)
    sweeping.sweep()
    assert list(store.list()) == []


def test_nothing_is_deleted_from_the_store_while_an_import_runs(
    sample: Path, freeze: Import, manager: AbstractUser, store: ObjectStore
) -> None:
    version = freeze(sample)
    age(version.dataset)
    running = DatasetImport.objects.create(
        dataset=version.dataset, source="a.zip", state=ImportState.RUNNING, seen_at=timezone.now()
    )
    before = {stored.key for stored in store.list()}
    versions.delete_version(version, manager)
    sweeping.sweep()
    assert {stored.key for stored in store.list()} == before
    DatasetImport.objects.filter(pk=running.pk).update(state=ImportState.CANCELLED)
    sweeping.sweep()
    assert list(store.list()) == []


def test_objects_that_no_row_knows_are_deleted(sample: Path, freeze: Import, store: ObjectStore) -> None:
    """A worker was killed between storing a shard and writing that down."""
    version = freeze(sample)
    known = {stored.key for stored in store.list()}
    store.put_bytes(f"datasets/{version.dataset_id}/shards/lost.tar", b"lost")
    assert versions.sweep_dataset(version.dataset)
    assert {stored.key for stored in store.list()} == known


def test_a_version_that_jobs_use_is_kept_and_they_are_named(
    make_job: Any, dataset: Dataset, manager: AbstractUser
) -> None:
    job = make_job()
    with pytest.raises(VersionInUseError, match=rf"jobs were trained on it \({job.pk}\)"):
        versions.delete_version(job.dataset_version, manager)
    assert dataset.latest == job.dataset_version


def test_no_job_is_made_on_a_version_that_is_being_deleted(
    make_job: Any, dataset: Dataset, manager: AbstractUser
) -> None:
    version = dataset.versions.get()  # as a request that came first has it in its hands
    DatasetVersion.everything.filter(pk=version.pk).update(complete=False)
    with pytest.raises(InvalidJobError, match="deleted just now"):
        make_job(dataset=version)


@pytest.mark.parametrize("who", ["viewer", "trainer_user", "stranger"])
def test_deleting_takes_the_right_to_manage(who: str, dataset: Dataset, request: pytest.FixtureRequest) -> None:
    with pytest.raises(NotPermittedError):
        versions.delete_version(dataset.versions.get(), request.getfixturevalue(who))
    assert dataset.versions.exists()


def test_thousands_of_rows_go_in_few_queries(
    big: Callable[..., DatasetVersion], manager: AbstractUser, store: ObjectStore
) -> None:
    version = big(1, {f"images/train/{n:05}.jpg": ("picture", "label") for n in range(5000)})
    with CaptureQueriesContext(connection) as queries:
        versions.delete_version(version, manager)
    assert len(queries) < 100
    assert not DatasetImage.objects.exists()


def test_a_version_of_thousands_of_images_is_recorded_in_few_queries(freeze: Import, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    for split, count in (("train", 4500), ("val", 500)):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for number in range(count):
            name = f"{split}-{number:05}"
            picture = b"P6 16 16 255\n" + f"{name:16}".encode() * 48
            (folder / "images" / split / f"{name}.bmp").write_bytes(bitmap(picture[-768:]))
            (folder / "labels" / split / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (folder / "data.yaml").write_text("names: [thing]\n")
    with CaptureQueriesContext(connection) as queries:
        version = freeze(folder)
    assert version.images == {"train": 4500, "val": 500}
    assert version.dataset_images.count() == 5000
    assert ImageClass.objects.filter(version=version, class_id=0).count() == 5000
    inserts = [query for query in queries.captured_queries if query["sql"].startswith("INSERT")]
    assert len(inserts) < 250


def bitmap(pixels: bytes) -> bytes:
    """A BMP of 16 x 16 pixels."""
    size = 54 + len(pixels)
    header = b"BM" + size.to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    fields = (40, 4), (16, 4), (16, 4), (1, 2), (24, 2), (0, 4), (len(pixels), 4), (2835, 4), (2835, 4), (0, 4), (0, 4)
    return header + b"".join(value.to_bytes(width, "little") for value, width in fields) + pixels


# --- findings -------------------------------------------------------------------------------------------------------


def test_a_table_of_findings_is_safe_in_a_spreadsheet_and_tells_what_it_leaves_out(dataset: Dataset) -> None:
    version = dataset.versions.get()
    hostile = ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1", 'say "hi", twice\nand more']
    for number, message in enumerate(hostile):
        DatasetFinding.objects.create(
            version=version, severity="error", code="bad", message=message, path=f"={number}.txt", line=number
        )
    DatasetFinding.objects.create(version=version, severity="warning", code="odd", message="fine")
    FindingCount.objects.create(version=version, severity="error", code="bad", number=1000)
    FindingCount.objects.create(version=version, severity="warning", code="odd", number=1)
    rows = list(csv.reader(io.StringIO("".join(findings_csv(version)), newline="")))
    assert rows[0] == ["severity", "kind", "file", "line", "message"]
    assert [row[4] for row in rows[1:7]] == [f"'{text}" for text in hostile[:5]] + [hostile[5]]
    assert rows[1][:4] == ["error", "bad", "'=0.txt", "0"]
    assert rows[-1] == ["error", "bad", "", "", "… and 994 more of this kind, which were counted and not kept"]
    only = list(csv.reader(io.StringIO("".join(findings_csv(version, severity="warning")))))
    assert [row[1] for row in only] == ["kind", "odd"]
