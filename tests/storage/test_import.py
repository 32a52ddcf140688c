"""Freezing a folder as a version of a dataset."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import AbstractUser

from apps.projects.models import Project
from apps.storage.errors import NoSuchDatasetError, NotADatasetError
from apps.storage.models import Dataset, DatasetVersion, ImmutableError
from apps.storage.sample import CLASS_NAMES, draw_sample
from apps.storage.selectors import datasets_of, find_dataset
from apps.storage.services import import_folder
from trainer.dataset import archive_key, fetch
from trainer.store import ObjectStore, StoreError

Import = Callable[..., DatasetVersion]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    draw_sample(folder, train=6, val=2, size=64)
    return folder


@pytest.fixture
def sample(drawn: Path, tmp_path: Path) -> Path:
    """A small dataset that a test may change."""
    return Path(shutil.copytree(drawn, tmp_path / "sample"))


@pytest.fixture
def freeze(project: Project, trainer_user: AbstractUser, store: ObjectStore) -> Import:
    def run(folder: Path, **otherwise: Any) -> DatasetVersion:
        asked = {"project": project, "name": "shapes", "task_type": "object_detection", "by": trainer_user}
        return import_folder(folder, **{**asked, **otherwise})

    return run


def nothing_was_written() -> bool:
    return not Dataset.objects.exists() and not DatasetVersion.objects.exists()


def test_a_folder_becomes_version_one_with_its_archive_in_the_store(
    sample: Path, freeze: Import, store: ObjectStore, trainer_user: AbstractUser
) -> None:
    version = DatasetVersion.objects.get(pk=freeze(sample).pk)
    assert (version.number, version.dataset.name, version.created_by) == (1, "shapes", trainer_user)
    assert version.class_names == list(CLASS_NAMES)
    assert version.images == {"train": 6, "val": 2}
    assert version.boxes.keys() == {"train", "val"}
    assert all(version.boxes.values())
    stored = store.stat(archive_key(str(version.dataset_id), version.sha256))
    assert stored is not None
    assert stored.size == version.size


def test_what_a_trainer_fetches_is_what_was_frozen(
    sample: Path, freeze: Import, store: ObjectStore, tmp_path: Path
) -> None:
    version = freeze(sample)
    key = archive_key(str(version.dataset_id), version.sha256)
    folder = fetch(store, key, version.sha256, tmp_path / "cache")

    def files(root: Path) -> dict[str, bytes]:
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    assert files(sample).items() <= files(folder).items()


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
    assert store.stat(archive_key(str(first.dataset_id), first.sha256)) is not None


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


def drop_names(folder: Path) -> None:
    (folder / "data.yaml").unlink()


def drop_validation(folder: Path) -> None:
    shutil.rmtree(folder / "images" / "val")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (spoil_label, "sample-0000.txt"),
        (spoil_picture, "sample-0001.jpg"),
        (drop_names, "data.yaml"),
        (drop_validation, "val"),
        (shutil.rmtree, "sample"),
    ],
)
def test_a_folder_with_errors_is_refused_with_them_named_and_nothing_is_written(
    spoil: Callable[[Path], None], named: str, sample: Path, freeze: Import, tmp_path: Path
) -> None:
    spoil(sample)
    with pytest.raises(NotADatasetError, match="cannot be trained on") as caught:
        freeze(sample)
    assert named in str(caught.value)
    assert nothing_was_written()
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


def test_errors_in_a_later_import_leave_the_versions_before_as_they_were(sample: Path, freeze: Import) -> None:
    first = freeze(sample)
    spoil_label(sample)
    with pytest.raises(NotADatasetError):
        freeze(sample)
    assert list(DatasetVersion.objects.all()) == [first]


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


@pytest.mark.django_db(transaction=True)
def test_two_imports_that_take_the_same_number_get_one_each(sample: Path, freeze: Import) -> None:
    """The later one finds its number taken and takes the next."""
    from apps.storage.services import _number_and_save

    first = freeze(sample)
    raced = DatasetVersion(dataset=first.dataset, sha256="b" * 64, size=1)
    taken = threading.Event()

    class Racing(Dataset):
        class Meta:
            proxy = True
            app_label = "storage"

        @property
        def latest(self) -> DatasetVersion | None:
            found = super().latest
            if not taken.is_set():  # between looking and saving, somebody else saves
                taken.set()
                DatasetVersion.objects.create(dataset_id=self.pk, number=2, sha256="c" * 64, size=1)
            return found

    raced.dataset = Racing.objects.get(pk=first.dataset.pk)
    assert _number_and_save(raced).number == 3


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
