"""Imports into one dataset that get in each other's way, and imports after the store has lost something."""

import hashlib
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import AbstractUser
from django.utils import timezone
from PIL import Image

from apps.projects.models import Project
from apps.storage import imports, uploads, versions
from apps.storage.errors import NotADatasetError
from apps.storage.models import Dataset, DatasetImport, DatasetVersion, Phase, Shard, StoredFile
from apps.storage.services import import_source
from trainer.dataset.manifest import manifest_key, read
from trainer.store import ObjectStore

CarryOut = Callable[..., DatasetImport]


@pytest.fixture
def larger(sample: Path, tmp_path: Path) -> Path:
    """The sample with a picture more, so that some of it is stored already and some is not."""
    folder = Path(shutil.copytree(sample, tmp_path / "larger"))
    Image.new("RGB", (64, 64), "teal").save(folder / "images" / "train" / "more.png")
    (folder / "labels" / "train" / "more.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    return Path(shutil.make_archive(str(tmp_path / "larger"), "zip", folder))


def import_with(imp: DatasetImport, archive: Path, meanwhile: Callable[[], object]) -> None:
    """Carry out the import, and `meanwhile` once, after it has looked up what is stored and before it stores."""
    waiting = [meanwhile]

    def also(phase: Phase, done: int, total: int) -> None:
        if phase == Phase.STORING and waiting:
            waiting.pop()()

    claimed = imports.claim(imp.pk)
    assert claimed is not None
    with imports.working(claimed, also) as (scratch, tell):
        imports.import_archive(claimed, archive, scratch, tell)
    assert not waiting


def require_whole(version: DatasetVersion, store: ObjectStore) -> None:
    """Everything that its manifest names is in the store."""
    with store.open(manifest_key(str(version.dataset_id), version.sha256)) as source:
        header, entries = read(source)
        assert len(list(entries)) == version.files
    missing = [shard.key for shard in header.shards if not store.exists(shard.key)]
    assert missing == []


def test_a_version_keeps_all_that_its_manifest_names_where_the_same_data_was_imported_twice_at_once(
    archive: Path, larger: Path, carry_out: CarryOut, upload: CarryOut, shapes: Dataset, store: ObjectStore
) -> None:
    carry_out(archive)
    first, second = upload(larger), upload(larger)
    import_with(second, larger, lambda: imports.run_import(first.pk))
    second.refresh_from_db()
    assert second.message == "Nothing changed: shapes v2 holds the same."
    Shard.objects.update(created_at=timezone.now() - timedelta(days=2))
    assert versions.sweep_dataset(shapes)
    for version in shapes.versions.all():
        require_whole(version, store)


def test_what_the_store_has_lost_is_there_again_once_the_data_is_imported_again(
    archive: Path, larger: Path, carry_out: CarryOut, shapes: Dataset, store: ObjectStore
) -> None:
    carry_out(archive)
    carry_out(larger)
    for shard in shapes.shards.all():
        store.delete(shard.key)
    again = carry_out(larger)
    assert again.message == "Nothing changed: shapes v2 holds the same."
    older, newer = shapes.versions.order_by("number")
    require_whole(newer, store)
    for file in StoredFile.objects.select_related("shard"):
        with store.open(file.shard.key, file.offset, file.offset + file.size) as source:
            assert hashlib.sha256(source.read()).hexdigest() == file.sha256
    # The older one needs it too: its pictures are shown from there.
    Shard.objects.update(created_at=timezone.now() - timedelta(days=2))
    versions.sweep_dataset(shapes)
    DatasetVersion.everything.filter(pk=newer.pk).update(complete=False)
    versions.drop_rows(DatasetVersion.everything.filter(pk=newer.pk))
    assert versions.sweep_dataset(shapes)
    assert all(store.exists(image.file.shard.key) for image in older.dataset_images.all())


def test_data_of_which_the_store_lost_a_part_becomes_a_version_that_is_whole(
    archive: Path, larger: Path, carry_out: CarryOut, shapes: Dataset, store: ObjectStore
) -> None:
    carry_out(archive)
    store.delete(shapes.shards.get().key)
    imp = carry_out(larger)
    assert imp.version is not None
    require_whole(imp.version, store)


def test_a_dataset_stays_where_the_import_that_made_it_fails_and_somebody_else_uploads_into_it(
    project: Project, trainer_user: AbstractUser, store: ObjectStore, data_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad").mkdir()
    begun: list[DatasetImport] = []

    def tell(phase: Phase, done: int, total: int) -> None:
        if not begun:
            dataset = Dataset.objects.get(name="both")
            begun.append(uploads.start_upload(dataset=dataset, filename="good.zip", size=9, by=trainer_user))

    with pytest.raises(NotADatasetError, match="no pictures"):
        import_source(
            str(tmp_path / "bad"), project=project, name="both", task_type="object_detection", by=None, tell=tell
        )
    assert DatasetImport.objects.filter(pk=begun[0].pk, dataset__name="both").exists()
