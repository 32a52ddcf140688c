"""Freezing a folder as a version of a dataset."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import AbstractUser

from apps.projects.models import Project
from apps.storage.errors import NoSuchDatasetError, NotADatasetError, SourceError
from apps.storage.models import Dataset, DatasetImport, DatasetVersion, ImmutableError, ImportState, Phase
from apps.storage.sample import CLASS_NAMES
from apps.storage.selectors import datasets_of, find_dataset
from apps.storage.services import import_folder, import_source
from trainer.dataset.manifest import manifest_key, read
from trainer.store import ObjectStore, StoreError

Import = Callable[..., DatasetVersion]


@pytest.fixture
def freeze(project: Project, trainer_user: AbstractUser, store: ObjectStore) -> Import:
    def run(folder: Path, **otherwise: Any) -> DatasetVersion:
        asked = {"project": project, "name": "shapes", "task_type": "object_detection", "by": trainer_user}
        return import_folder(folder, **{**asked, **otherwise})

    return run


def nothing_was_written() -> bool:
    return not Dataset.objects.exists() and not DatasetVersion.objects.exists()


def test_a_folder_becomes_version_one_with_rows_shards_and_a_manifest(
    sample: Path, freeze: Import, store: ObjectStore, trainer_user: AbstractUser
) -> None:
    version = DatasetVersion.objects.get(pk=freeze(sample).pk)
    assert (version.number, version.dataset.name, version.created_by) == (1, "shapes", trainer_user)
    assert version.class_names == list(CLASS_NAMES)
    assert version.images == {"train": 6, "val": 2}
    assert version.instances.keys() == {"train", "val"}
    assert all(version.instances.values())
    assert (version.trainable, version.errors, version.files) == (True, 0, 16)
    images = list(version.dataset_images.select_related("file", "label"))
    assert [image.path for image in images] == sorted(image.path for image in images)
    assert {(image.width, image.height) for image in images} == {(64, 64)}
    assert sum(image.instances for image in images) == sum(version.instances.values())
    assert set(version.shards.all()) == {image.file.shard for image in images}
    with store.open(manifest_key(str(version.dataset_id), version.sha256)) as source:
        header, entries = read(source)
        assert header.sha256 == version.sha256
        assert len(list(entries)) == version.files


def test_the_bytes_of_a_row_are_those_of_its_file(sample: Path, freeze: Import, store: ObjectStore) -> None:
    for image in freeze(sample).dataset_images.select_related("file__shard", "label__shard"):
        label = sample / "labels" / Path(image.path).relative_to("images").with_suffix(".txt")
        for file, path in ((image.file, sample / image.path), (image.label, label)):
            assert file is not None
            with store.open(file.shard.key, file.offset, file.offset + file.size) as source:
                assert source.read() == path.read_bytes()


def test_the_classes_of_an_image_can_be_asked_for(sample: Path, freeze: Import) -> None:
    version = freeze(sample)
    image = version.dataset_images.order_by("?").first()
    assert image is not None
    label = sample / "labels" / Path(image.path).relative_to("images").with_suffix(".txt")
    expected = {int(line.split()[0]) for line in label.read_text().splitlines()}
    assert set(image.classes.values_list("class_id", flat=True)) == expected


def test_the_same_content_again_is_the_same_version(sample: Path, freeze: Import, tmp_path: Path) -> None:
    first = freeze(sample)
    for path in sample.rglob("*"):
        path.touch()
    again = freeze(Path(shutil.copytree(sample, tmp_path / "elsewhere")))
    assert again == first
    assert DatasetVersion.objects.count() == 1


def test_changed_content_is_the_next_version_and_leaves_the_first_as_it_was(
    sample: Path, freeze: Import, store: ObjectStore
) -> None:
    first = freeze(sample)
    (sample / "labels" / "train" / "sample-0000.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    second = freeze(sample)
    assert (first.number, second.number) == (1, 2)
    assert first.sha256 != second.sha256
    assert second.dataset == first.dataset
    assert second.dataset.latest == second
    for version in (first, second):
        assert store.exists(manifest_key(str(version.dataset_id), version.sha256))


def test_going_back_to_earlier_content_is_a_version_of_its_own(sample: Path, freeze: Import) -> None:
    label = sample / "labels" / "train" / "sample-0000.txt"
    before = label.read_text()
    freeze(sample)
    label.write_text("0 0.5 0.5 0.2 0.2\n")
    freeze(sample)
    label.write_text(before)
    third = freeze(sample)
    assert third.number == 3
    assert third.sha256 == DatasetVersion.objects.get(number=1).sha256


def test_each_name_and_each_project_counts_for_itself(sample: Path, freeze: Import) -> None:
    other = Project.objects.create(name="Other")
    assert {freeze(sample).number, freeze(sample, name="more").number, freeze(sample, project=other).number} == {1}
    assert Dataset.objects.count() == 3


def spoil_label(folder: Path) -> None:
    (folder / "labels" / "train" / "sample-0000.txt").write_text("9 0.5 0.5 0.2 0.2\n")


def spoil_picture(folder: Path) -> None:
    (folder / "images" / "train" / "sample-0001.jpg").write_bytes(b"no picture")


@pytest.mark.parametrize(("spoil", "named"), [(spoil_label, "sample-0000.txt"), (spoil_picture, "sample-0001.jpg")])
def test_a_folder_with_errors_is_refused_with_them_named_and_kept_to_be_looked_at(
    spoil: Callable[[Path], None], named: str, sample: Path, freeze: Import
) -> None:
    spoil(sample)
    with pytest.raises(NotADatasetError, match="cannot be trained on") as caught:
        freeze(sample)
    assert named in str(caught.value)
    version = DatasetVersion.objects.get()
    assert (version.trainable, version.errors, version.dataset.latest) == (False, 1, None)
    finding = version.findings.get(severity="error")
    assert named in finding.path
    assert finding.image is not None
    assert version.finding_counts.get(severity="error").number == 1


def test_what_is_not_there_is_refused_and_nothing_is_written(sample: Path, freeze: Import, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere is no folder"):
        freeze(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotADatasetError):
        freeze(tmp_path / "empty")
    assert nothing_was_written()
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_pictures_without_a_split_are_split_and_the_version_says_so(sample: Path, freeze: Import) -> None:
    shutil.rmtree(sample / "images" / "val")
    shutil.rmtree(sample / "labels" / "val")
    version = freeze(sample)
    assert set(version.images) == {"train", "val"}
    assert sum(version.images.values()) == 6
    assert version.warnings >= 1


def test_errors_in_a_later_import_leave_what_is_trained_on_as_it_was(sample: Path, freeze: Import) -> None:
    first = freeze(sample)
    spoil_label(sample)
    with pytest.raises(NotADatasetError):
        freeze(sample)
    assert [version.number for version in DatasetVersion.objects.all()] == [2, 1]
    assert first.dataset.latest == first


def test_a_name_belongs_to_one_task(sample: Path, freeze: Import, project: Project) -> None:
    Dataset.objects.create(project=project, name="shapes", task_type="pose_estimation")
    with pytest.raises(NotADatasetError, match="shapes is a dataset for pose_estimation"):
        freeze(sample)
    assert not DatasetVersion.objects.exists()


def test_a_store_that_takes_nothing_leaves_nothing_in_the_database(
    sample: Path, freeze: Import, store: ObjectStore, tmp_path: Path
) -> None:
    """Not an empty dataset either: it would be offered, and no job could be made with it."""
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    (tmp_path / "store").write_text("a file where the folder should be")
    with pytest.raises(StoreError):
        freeze(sample)
    assert nothing_was_written()


def test_a_version_is_never_changed(sample: Path, freeze: Import) -> None:
    version = freeze(sample)
    version.class_names = ["other"]
    with pytest.raises(ImmutableError, match="import the data again"):
        version.save()
    with pytest.raises(ImmutableError):
        DatasetVersion.objects.get(pk=version.pk).save(update_fields=["sha256"])
    assert DatasetVersion.objects.get(pk=version.pk).class_names == list(CLASS_NAMES)


def test_a_version_that_a_job_was_trained_on_cannot_be_deleted(make_job: Any, dataset: Dataset) -> None:
    job = make_job()
    for each in (job.dataset_version, dataset):
        with pytest.raises(Exception, match="protected foreign keys"):
            each.delete()
    job.dataset_version.refresh_from_db()


def test_files_that_did_not_change_are_stored_once(sample: Path, freeze: Import, store: ObjectStore) -> None:
    first = freeze(sample)
    before = {stored.key: stored.size for stored in store.list(f"datasets/{first.dataset_id}/shards")}
    (sample / "labels" / "train" / "sample-0000.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    second = freeze(sample)
    after = {stored.key: stored.size for stored in store.list(f"datasets/{first.dataset_id}/shards")}
    added = {key: size for key, size in after.items() if key not in before}
    assert before.items() <= after.items()
    assert sum(added.values()) < 16_384  # one label and the tar around it
    assert set(second.shards.values_list("key", flat=True)) == set(after)


def test_nobody_sees_a_version_before_all_of_it_is_there(
    sample: Path, freeze: Import, project: Project, viewer: AbstractUser
) -> None:
    seen: list[int] = []

    def look(phase: Phase, done: int, total: int) -> None:
        if phase == Phase.RECORDING and done == total:
            assert DatasetVersion.everything.get().dataset_images.count() == total
            seen.append(DatasetVersion.objects.count())
            seen.append(datasets_of(viewer).get().versions.count())

    import_source(str(sample), project=project, name="shapes", task_type="object_detection", by=None, tell=look)
    assert seen
    assert not any(seen)
    assert DatasetVersion.objects.get().number == 1


def test_an_import_that_is_interrupted_leaves_no_rows_and_goes_on_with_what_was_stored(
    sample: Path, project: Project, store: ObjectStore
) -> None:
    asked: dict[str, Any] = {"project": project, "name": "shapes", "task_type": "object_detection", "by": None}

    def interrupt(phase: Phase, done: int, total: int) -> None:
        if phase == Phase.RECORDING and done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_source(str(sample), **asked, tell=interrupt)
    assert not DatasetVersion.everything.exists()
    assert DatasetImport.objects.get().state == ImportState.CANCELLED
    shards = {stored.key for stored in store.list(f"datasets/{Dataset.objects.get().pk}/shards")}
    version = import_source(str(sample), **asked).version
    assert {shard.key for shard in version.shards.all()} == shards
    assert version.number == 1


# --- finding ----------------------------------------------------------------------------------------------------


def test_a_dataset_is_found_by_name_or_id_in_its_project_alone(project: Project, dataset: Dataset) -> None:
    assert find_dataset(project, dataset.name) == find_dataset(project, str(dataset.pk)) == dataset
    other = Project.objects.create(name="Other")
    for wanted in (dataset.name, str(dataset.pk)):
        with pytest.raises(NoSuchDatasetError, match="it has: none yet"):
            find_dataset(other, wanted)
    with pytest.raises(NoSuchDatasetError, match="shelf photos"):
        find_dataset(project, "shelf fotos")


@pytest.mark.parametrize(
    ("who", "sees"),
    [("viewer", True), ("trainer_user", True), ("manager", True), ("operator", True), ("stranger", False)],
)
def test_datasets_are_seen_by_members_and_operators(
    who: str, sees: bool, request: pytest.FixtureRequest, dataset: Dataset
) -> None:
    assert datasets_of(request.getfixturevalue(who)).exists() is sees
