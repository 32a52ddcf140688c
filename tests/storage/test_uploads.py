"""Uploads in parts: begun, gone on with, completed, given up."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import AbstractUser

from apps.storage import imports, uploads
from apps.storage.errors import InvalidUploadError, NotPermittedError, WrongStateError
from apps.storage.models import Dataset, DatasetImport, ImportState
from importing import left_over, send
from trainer.store import LocalStoreSettings, ObjectStore, StoredObject, StoreError
from trainer.store_local import LocalStore

SIZE = 40 << 20  # three parts


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.zip"
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    return path


@pytest.fixture
def begun(shapes: Dataset, trainer_user: AbstractUser, store: ObjectStore, data_dir: Path) -> DatasetImport:
    return uploads.start_upload(dataset=shapes, filename="large.zip", size=SIZE, by=trainer_user)


def test_an_upload_that_was_broken_off_goes_on_where_the_store_says(
    begun: DatasetImport, large: Path, shapes: Dataset, trainer_user: AbstractUser, store: ObjectStore
) -> None:
    send(begun, large, range(2, 3))
    found = uploads.resumable(shapes, "large.zip", SIZE, trainer_user)  # in another browser
    assert found == begun
    assert uploads.part_count(found) == 3
    assert [(part.number, part.size) for part in uploads.parts(found)] == [(2, 16 << 20)]
    with pytest.raises(InvalidUploadError, match="2 of 3 parts are not there yet: 1, 3"):
        uploads.complete_upload(found, trainer_user)
    for number in (1, 3):
        send(found, large, range(number, number + 1))
    assert uploads.complete_upload(found, trainer_user).state == ImportState.QUEUED
    with store.open(found.upload_key) as source:
        assert source.read() == large.read_bytes()


def test_only_the_same_file_of_the_same_person_is_gone_on_with(
    begun: DatasetImport, shapes: Dataset, trainer_user: AbstractUser, manager: AbstractUser
) -> None:
    assert uploads.resumable(shapes, "large.zip", SIZE, manager) is None
    assert uploads.resumable(shapes, "large.zip", SIZE + 1, trainer_user) is None
    assert uploads.resumable(shapes, "other.zip", SIZE, trainer_user) is None
    uploads.cancel_import(begun, trainer_user)
    assert uploads.resumable(shapes, "large.zip", SIZE, trainer_user) is None


def test_completing_twice_is_completing_once(
    begun: DatasetImport, large: Path, trainer_user: AbstractUser, store: ObjectStore
) -> None:
    send(begun, large)
    store.complete_upload(begun.upload_key, begun.upload_id)  # by a process that died before it wrote that down
    assert uploads.complete_upload(begun, trainer_user).state == ImportState.QUEUED
    assert uploads.complete_upload(begun, trainer_user).state == ImportState.QUEUED


def test_a_name_that_no_disk_takes_is_refused_before_the_upload(shapes: Dataset, trainer_user: AbstractUser) -> None:
    with pytest.raises(InvalidUploadError, match="at most 255 bytes"):
        uploads.start_upload(dataset=shapes, filename="図" * 100 + ".zip", size=9, by=trainer_user)


class LateStore(LocalStore):
    """Joins the parts of an upload, as a service may, although it is aborted while it does so."""

    def __init__(self, root: Path, meanwhile: Callable[[], object]) -> None:
        super().__init__(LocalStoreSettings(root))
        self._meanwhile = meanwhile

    def complete_upload(self, key: str, upload_id: str) -> StoredObject:
        joined = super().complete_upload(key, upload_id)
        with self.open(key) as source:
            data = source.read()
        self.delete(key)
        self._meanwhile()
        self.put_bytes(key, data)
        return joined


def test_nothing_is_left_of_an_upload_that_is_cancelled_while_the_store_completes_it(
    begun: DatasetImport,
    large: Path,
    trainer_user: AbstractUser,
    store: ObjectStore,
    data_dir: Path,
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send(begun, large)
    root = Path(settings.STORE_ENVIRONMENT["LOCAL_STORAGE_ROOT"])
    late = LateStore(root, lambda: uploads.cancel_import(begun, trainer_user))
    monkeypatch.setattr(uploads, "get_store", lambda: late)
    completed = DatasetImport.objects.get(pk=begun.pk)
    assert uploads.complete_upload(completed, trainer_user).state == ImportState.CANCELLED
    assert left_over(data_dir, store) == []


def test_a_part_that_ends_early_or_is_too_long_is_refused_and_can_be_sent_again(
    begun: DatasetImport, large: Path
) -> None:
    with pytest.raises(StoreError, match="ended after 3 of"):
        uploads.receive_part(begun, 1, io.BytesIO(b"abc"), 16 << 20)
    for size in (3, (16 << 20) + 1):
        with pytest.raises(InvalidUploadError, match="Part 1 has 16777216 bytes"):
            uploads.receive_part(begun, 1, io.BytesIO(b"abc"), size)
    for number in (0, 4, -1):
        with pytest.raises(InvalidUploadError, match="numbered from 1 to 3"):
            uploads.receive_part(begun, number, io.BytesIO(b""), 0)
    assert uploads.parts(begun) == []
    send(begun, large)
    assert len(uploads.parts(begun)) == 3


def test_a_cancelled_upload_leaves_nothing_and_takes_nothing(
    begun: DatasetImport, large: Path, trainer_user: AbstractUser, store: ObjectStore, data_dir: Path
) -> None:
    send(begun, large, range(1, 3))
    uploads.cancel_import(begun, trainer_user)
    assert (begun.state, begun.message) == (ImportState.CANCELLED, "Cancelled by trainer.")
    assert left_over(data_dir, store) == []
    with pytest.raises(WrongStateError, match="is not being uploaded: it is cancelled"):
        send(begun, large, range(3, 4))
    with pytest.raises(WrongStateError):
        uploads.complete_upload(begun, trainer_user)
    with pytest.raises(WrongStateError, match="has ended: it is cancelled"):
        uploads.cancel_import(begun, trainer_user)


def test_a_part_that_arrives_after_the_cancellation_is_refused(
    begun: DatasetImport, large: Path, trainer_user: AbstractUser, store: ObjectStore, data_dir: Path
) -> None:
    """The request had looked before; the store knows the upload no more."""
    uploads.cancel_import(DatasetImport.objects.get(pk=begun.pk), trainer_user)
    with pytest.raises(WrongStateError, match="is over"):
        send(begun, large, range(1, 2))
    assert left_over(data_dir, store) == []


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"filename": "data.exe"}, "filename"),
        ({"filename": ""}, "filename"),
        ({"filename": "a\nb.zip"}, "filename"),
        ({"filename": "x" * 300 + ".zip"}, "filename"),
        ({"size": 0}, "size"),
        ({"size": -5}, "size"),
        ({"size": 6 << 40}, "size"),
        ({"options": {"format": "runes"}}, "format"),
        ({"options": {"val_share": 1.5}}, "val_share"),
        ({"options": {"val_share": "half"}}, "val_share"),
        ({"options": {"split": 1}}, "split"),
    ],
)
def test_what_cannot_be_uploaded_is_refused_by_field(
    asked: dict[str, Any], field: str, shapes: Dataset, trainer_user: AbstractUser, store: ObjectStore
) -> None:
    with pytest.raises(InvalidUploadError) as caught:
        uploads.start_upload(**{"dataset": shapes, "filename": "a.zip", "size": 10, "by": trainer_user, **asked})
    assert set(caught.value.problems) == {field}
    assert not DatasetImport.objects.exists()
    assert list(store.list_uploads()) == []


def test_a_file_is_known_by_its_name_and_not_by_the_folder_it_was_in(
    shapes: Dataset, trainer_user: AbstractUser, store: ObjectStore
) -> None:
    for name in ("C:\\photos\\a.zip", "../../photos/a.zip"):
        assert uploads.start_upload(dataset=shapes, filename=name, size=9, by=trainer_user).source == "a.zip"


@pytest.mark.parametrize(
    ("who", "may"), [("viewer", False), ("stranger", False), ("manager", True), ("operator", True)]
)
def test_uploading_takes_the_right_to_train(
    who: str, may: bool, begun: DatasetImport, shapes: Dataset, request: pytest.FixtureRequest
) -> None:
    person = request.getfixturevalue(who)
    if may:
        uploads.start_upload(dataset=shapes, filename="a.zip", size=9, by=person)
        uploads.cancel_import(begun, person)
        return
    with pytest.raises(NotPermittedError):
        uploads.start_upload(dataset=shapes, filename="a.zip", size=9, by=person)
    with pytest.raises(NotPermittedError):
        uploads.complete_upload(begun, person)
    with pytest.raises(NotPermittedError):
        uploads.cancel_import(begun, person)
    assert DatasetImport.objects.get().state == ImportState.UPLOADING


def test_a_store_that_begins_no_upload_leaves_no_row(
    shapes: Dataset, trainer_user: AbstractUser, store: ObjectStore, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    (tmp_path / "store").write_text("a file where the folder should be")
    with pytest.raises(StoreError):
        uploads.start_upload(dataset=shapes, filename="a.zip", size=9, by=trainer_user)
    assert not DatasetImport.objects.exists()


def test_parts_go_straight_to_a_store_that_has_a_server(
    archive: Path, shapes: Dataset, trainer_user: AbstractUser, s3_store: ObjectStore, data_dir: Path
) -> None:
    size = archive.stat().st_size
    imp = uploads.start_upload(dataset=shapes, filename=archive.name, size=size, by=trainer_user)
    urls = uploads.part_urls(imp, [1], base_url="http://platform")
    assert "platform" not in urls[1]
    assert httpx.put(urls[1], content=archive.read_bytes()).status_code == 200
    assert [(part.number, part.size) for part in uploads.parts(imp)] == [(1, size)]
    uploads.complete_upload(imp, trainer_user)
    imports.run_import(imp.pk)
    imp.refresh_from_db()
    assert imp.state == ImportState.SUCCEEDED, imp.message
    assert imp.version is not None
    assert imp.version.images == {"train": 6, "val": 2}
    assert {stored.key.split("/")[0] for stored in s3_store.list()} == {"datasets"}
    assert list(s3_store.list_uploads()) == []


def test_parts_go_through_the_platform_where_the_store_is_a_folder(begun: DatasetImport) -> None:
    urls = uploads.part_urls(begun, [1, 3], base_url="https://platform.test/")
    assert urls == {n: f"https://platform.test/api/v1/imports/{begun.pk}/parts/{n}" for n in (1, 3)}
    with pytest.raises(InvalidUploadError):
        uploads.part_urls(begun, [4], base_url="")
