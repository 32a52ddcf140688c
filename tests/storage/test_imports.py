"""Imports as the worker carries them out, and what becomes of those that do not get to their end."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import AbstractUser
from django.core.cache import cache
from django.utils import timezone
from PIL import Image

from apps.storage import imports, progress, sweeping, uploads
from apps.storage.index import DatabaseIndex
from apps.storage.models import Dataset, DatasetImport, DatasetVersion, ImportState, Phase, Shard
from importing import left_over, make_tar
from published import published
from trainer.dataset.manifest import Shard as PackedShard
from trainer.store import ObjectStore

ROOT = Path(__file__).parents[2]
CarryOut = Callable[..., DatasetImport]


def coloured(folder: Path, train: int, val: int) -> Path:
    """A detection dataset of many small pictures, no two alike."""
    for split, first, count in (("train", 0, train), ("val", train, val)):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for number in range(first, first + count):
            name = f"{number:06d}"
            colour = number % 256, number // 256 % 256, 128
            Image.new("RGB", (32, 32), colour).save(folder / "images" / split / f"{name}.png", compress_level=1)
            (folder / "labels" / split / f"{name}.txt").write_text(f"0 0.5 0.5 0.{number + 100000} 0.5\n")
    (folder / "data.yaml").write_text("names: [thing]\n")
    return folder


# --- how imports end ------------------------------------------------------------------------------------------------


def test_an_upload_becomes_a_version_and_nothing_is_left_of_it(
    archive: Path, carry_out: CarryOut, store: ObjectStore, data_dir: Path, trainer_user: AbstractUser
) -> None:
    imp = carry_out(archive)
    assert (imp.state, imp.tries, imp.format) == (ImportState.SUCCEEDED, 1, "yolo")
    assert imp.message.startswith("shapes v1 has 8 images.")
    version = imp.version
    assert version is not None
    assert (version.images, version.created_by) == ({"train": 6, "val": 2}, trainer_user)
    assert all(key.startswith("datasets/") for key in left_over(data_dir, store))
    assert imp.ended_at is not None
    assert (imp.phase, imp.done, imp.total) == ("recording", 8, 8)


def test_the_same_data_again_changes_nothing_and_says_so(archive: Path, carry_out: CarryOut) -> None:
    first, second = carry_out(archive), carry_out(archive)
    assert second.version == first.version
    assert second.message == "Nothing changed: shapes v1 holds the same."
    assert DatasetVersion.everything.count() == 1


def test_data_with_errors_becomes_a_version_that_tells_them(
    sample: Path, archive: Path, carry_out: CarryOut, tmp_path: Path
) -> None:
    for label in (sample / "labels" / "train").iterdir():
        label.write_text("9 0.5 0.5 0.2 0.2\n")
    imp = carry_out(Path(shutil.make_archive(str(tmp_path / "bad"), "zip", sample)))
    assert imp.state == ImportState.SUCCEEDED
    assert imp.version is not None
    assert f"It cannot be trained on: {imp.version.errors} errors." in imp.message
    assert imp.version.findings.filter(severity="error", path__startswith="labels/train").count() == 6
    assert not imp.version.trainable
    assert imp.version.dataset.latest is None


@pytest.mark.parametrize("name", ["coco8.zip", "coco8-seg.zip", "coco8-pose.zip", "dota8.zip", "imagenet10.zip"])
def test_published_datasets_are_imported_as_they_are(name: str, carry_out: CarryOut, shapes: Dataset) -> None:
    tasks = {
        "coco8-seg.zip": "instance_segmentation",
        "coco8-pose.zip": "pose_estimation",
        "dota8.zip": "oriented_detection",
        "imagenet10.zip": "image_classification",
    }
    Dataset.objects.filter(pk=shapes.pk).update(task_type=tasks.get(name, "object_detection"))
    imp = carry_out(published(name))
    assert imp.state == ImportState.SUCCEEDED, imp.message
    assert imp.version is not None
    errors = list(imp.version.findings.filter(severity="error").values_list("code", "path", "message"))
    assert imp.version.trainable, errors
    assert imp.version.dataset_images.count() == sum(imp.version.images.values()) > 0


def climbing(path: Path) -> Path:
    member = tarfile.TarInfo("../../climbed.txt")
    member.size = 3
    return make_tar(path / "climbing.tar", member)


def linking(path: Path) -> Path:
    member = tarfile.TarInfo("images/train/link.jpg")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return make_tar(path / "linking.tar", member)


def bursting(path: Path) -> Path:
    member = tarfile.TarInfo("images/train/zeros.jpg")
    member.size = 64 << 20
    plain = make_tar(path / "zeros.tar", member)
    packed = path / "bomb.tar.gz"
    with plain.open("rb") as source, packed.open("wb") as target:
        subprocess.run(["gzip", "-9"], stdin=source, stdout=target, check=True)
    return packed


def damaged(path: Path) -> Path:
    (path / "images").mkdir()
    (path / "images" / "noise.jpg").write_bytes(os.urandom(100_000))
    whole = Path(shutil.make_archive(str(path / "damaged"), "zip", path, "images"))
    whole.write_bytes(whole.read_bytes()[:60_000])
    return whole


def meaningless(path: Path) -> Path:
    member = tarfile.TarInfo("notes/readme.txt")
    member.size = 3
    return make_tar(path / "meaningless.tar", member)


@pytest.mark.parametrize("make", [climbing, linking, bursting, damaged, meaningless])
def test_what_cannot_be_imported_fails_in_words_and_leaves_nothing(
    make: Callable[[Path], Path], carry_out: CarryOut, store: ObjectStore, data_dir: Path, tmp_path: Path
) -> None:
    imp = carry_out(make(tmp_path))
    assert imp.state == ImportState.FAILED
    assert len(imp.message) > 40
    assert "Traceback" not in imp.message
    assert "platform failed" not in imp.message
    assert left_over(data_dir, store) == []
    assert not DatasetVersion.everything.exists()
    assert not (tmp_path / "climbed.txt").exists()


def test_of_many_findings_of_a_kind_some_are_kept_and_all_are_counted(
    carry_out: CarryOut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.storage.records.FINDINGS_KEPT", 30)
    folder = coloured(tmp_path / "many", 50, 2)
    for label in (folder / "labels" / "train").iterdir():
        label.write_text("7 0.5 0.5 0.2 0.2\n")
    imp = carry_out(Path(shutil.make_archive(str(tmp_path / "many"), "zip", folder)))
    assert imp.version is not None
    found = imp.version.findings.filter(severity="error", path__startswith="labels/train")
    (code,) = set(found.values_list("code", flat=True))
    assert found.exclude(image=None).count() == 30
    assert imp.version.finding_counts.get(code=code).number == 50


# --- claims, cancellation, tries ------------------------------------------------------------------------------------


def test_one_worker_carries_out_an_import(archive: Path, upload: CarryOut) -> None:
    imp = upload(archive)
    assert imports.claim(imp.pk) is not None
    assert imports.claim(imp.pk) is None
    imports.run_import(imp.pk)  # returns at once
    imp.refresh_from_db()
    assert (imp.state, imp.tries) == (ImportState.RUNNING, 1)


def test_a_cancelled_import_stops_at_its_next_step_and_leaves_nothing(
    archive: Path, upload: CarryOut, trainer_user: AbstractUser, store: ObjectStore, data_dir: Path
) -> None:
    imp = imports.claim(upload(archive).pk)
    assert imp is not None

    def cancel(phase: Phase, done: int, total: int) -> None:
        if phase == Phase.STORING:
            uploads.cancel_import(DatasetImport.objects.get(pk=imp.pk), trainer_user)

    with (
        pytest.raises(progress.ImportLostError, match="was cancelled"),
        imports.working(imp, cancel) as (scratch, tell),
    ):
        imports.import_archive(imp, archive, scratch, tell)
    imp.refresh_from_db()
    imports.tidy_up(imp)
    assert imp.state == ImportState.CANCELLED
    assert not DatasetVersion.everything.exists()
    # What it had stored is kept for a day, should it be imported again.
    assert {name.split("/")[2] for name in left_over(data_dir, store)} <= {"shards"}
    Shard.objects.update(created_at=timezone.now() - timedelta(days=2))
    sweeping.sweep()
    assert left_over(data_dir, store) == []


def test_a_worker_that_was_given_up_has_no_say_any_more(archive: Path, upload: CarryOut) -> None:
    first = imports.claim(upload(archive).pk)
    assert first is not None
    with imports.working(first) as (scratch, tell):
        DatasetImport.objects.filter(pk=first.pk).update(state=ImportState.QUEUED)
        imports.run_import(first.pk)
        with pytest.raises(progress.ImportLostError):
            imports.import_archive(first, archive, scratch, tell)
    first.refresh_from_db()
    assert (first.state, first.tries) == (ImportState.SUCCEEDED, 2)
    assert DatasetVersion.everything.count() == 1


def test_a_worker_that_was_given_up_cannot_record_a_shard_that_may_have_been_swept_away(
    archive: Path, upload: CarryOut
) -> None:
    imp = imports.claim(upload(archive).pk)
    assert imp is not None
    index = DatabaseIndex(imp)
    index.add(PackedShard("datasets/x/shards/kept.tar", "0" * 64, 10), {"1" * 64: (0, 5)})
    DatasetImport.objects.filter(pk=imp.pk).update(state=ImportState.QUEUED)
    with pytest.raises(progress.ImportLostError):
        index.add(PackedShard("datasets/x/shards/late.tar", "0" * 64, 10), {"2" * 64: (0, 5)})
    assert list(Shard.objects.values_list("key", flat=True)) == ["datasets/x/shards/kept.tar"]
    assert set(index.find(["1" * 64, "2" * 64])) == {"1" * 64}


def test_a_mistake_of_ours_ends_the_import_and_is_not_hidden(archive: Path, upload: CarryOut) -> None:
    imp = upload(archive)
    DatasetImport.objects.filter(pk=imp.pk).update(options={})  # nothing makes such a row
    with pytest.raises(KeyError):
        imports.run_import(imp.pk)
    imp.refresh_from_db()
    assert imp.state == ImportState.FAILED
    assert "The platform failed: KeyError" in imp.message


def test_a_full_disk_is_told_in_words() -> None:
    message = imports.in_words(OSError(28, "No space left on device", "/somewhere"))
    assert "is full. Free space there" in message


# --- the sweep ------------------------------------------------------------------------------------------------------


@pytest.fixture
def silent(archive: Path, upload: CarryOut) -> DatasetImport:
    """Running, and its worker was last heard of three minutes ago."""
    imp = imports.claim(upload(archive).pk)
    assert imp is not None
    imp.seen_at = timezone.now() - timedelta(minutes=3)
    imp.save()
    return imp


def test_an_import_whose_worker_died_is_queued_again_and_then_given_up(
    silent: DatasetImport, store: ObjectStore, data_dir: Path
) -> None:
    for tries in (1, 2):
        sweeping.sweep()
        silent.refresh_from_db()
        assert (silent.state, silent.tries) == (ImportState.QUEUED, tries)
        assert imports.claim(silent.pk) is not None
        DatasetImport.objects.filter(pk=silent.pk).update(seen_at=timezone.now() - timedelta(minutes=3))
    sweeping.sweep()
    silent.refresh_from_db()
    assert silent.state == ImportState.FAILED
    assert "died 3 times" in silent.message
    assert left_over(data_dir, store) == []


def test_an_import_that_gives_signs_of_life_is_left_alone(archive: Path, upload: CarryOut) -> None:
    imp = imports.claim(upload(archive).pk)
    assert imp is not None
    sweeping.sweep()
    imp.refresh_from_db()
    assert imp.state == ImportState.RUNNING


def test_a_command_that_was_killed_is_said_to_be(silent: DatasetImport) -> None:
    DatasetImport.objects.filter(pk=silent.pk).update(upload_key="")
    sweeping.sweep()
    silent.refresh_from_db()
    assert silent.state == ImportState.FAILED
    assert "Run it again" in silent.message


def test_an_abandoned_upload_is_given_up_after_a_week(
    shapes: Dataset, trainer_user: AbstractUser, store: ObjectStore, data_dir: Path
) -> None:
    imp = uploads.start_upload(dataset=shapes, filename="a.zip", size=9, by=trainer_user)
    sweeping.sweep()
    imp.refresh_from_db()
    assert imp.state == ImportState.UPLOADING
    DatasetImport.objects.filter(pk=imp.pk).update(created_at=timezone.now() - timedelta(days=8))
    sweeping.sweep()
    imp.refresh_from_db()
    assert imp.state == ImportState.CANCELLED
    assert left_over(data_dir, store) == []


def test_rows_and_folders_that_a_killed_worker_left_are_removed(
    silent: DatasetImport, store: ObjectStore, data_dir: Path, trainer_user: AbstractUser
) -> None:
    version = DatasetVersion(dataset=silent.dataset, number=0, complete=False, sha256="0" * 64, size=0)
    version.save()
    scratch = data_dir / "imports" / str(silent.pk) / "1"
    scratch.mkdir(parents=True)
    (scratch / "half").write_text("half")
    DatasetImport.objects.filter(pk=silent.pk).update(seen_at=timezone.now())
    sweeping.sweep()
    assert DatasetVersion.everything.filter(pk=version.pk).exists()
    assert scratch.exists()
    uploads.cancel_import(silent, trainer_user)
    cache.clear()
    sweeping.sweep()
    assert not DatasetVersion.everything.filter(pk=version.pk).exists()
    assert left_over(data_dir, store) == []


def test_an_import_waits_while_its_dataset_is_being_swept(
    archive: Path, upload: CarryOut, shapes: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    imp = upload(archive)
    Dataset.objects.filter(pk=shapes.pk).update(sweep_until=timezone.now() + timedelta(seconds=1.5))
    imports.run_import(imp.pk)
    imp.refresh_from_db()
    assert imp.state == ImportState.SUCCEEDED
    assert imp.ended_at is not None
    assert imp.ended_at > Dataset.objects.get(pk=shapes.pk).sweep_until  # type: ignore[operator]


# --- real processes -------------------------------------------------------------------------------------------------

SET_UP = """
import pathlib
from django.core.management import call_command
from django.contrib.auth import get_user_model
from apps.projects.models import Project
from apps.storage import uploads
from apps.storage.models import Dataset
call_command("migrate", verbosity=0)
user = get_user_model().objects.create_superuser("operator")
dataset = Dataset.objects.create(project=Project.objects.create(name="P"), name="d", task_type="object_detection")
for name in {archives!r}:
    path = pathlib.Path(name)
    imp = uploads.start_upload(dataset=dataset, filename=path.name, size=path.stat().st_size, by=user)
    with path.open("rb") as file:
        uploads.receive_part(imp, 1, file, imp.size)
    uploads.complete_upload(imp, user)
    print("IMPORT", imp.pk)
"""
RUN = "from apps.storage import imports; import uuid; imports.run_import(uuid.UUID('{pk}'))"
LOOK = """
import json
from apps.storage.models import DatasetImport, DatasetVersion
imp = DatasetImport.objects.get(pk='{pk}')
print("LOOK", json.dumps([imp.state, imp.phase, imp.tries, imp.version and imp.version.number, imp.message,
    imp.version and imp.version.dataset_images.count(), DatasetVersion.everything.count()]))
"""
SWEEP_LATER = """
from datetime import timedelta
from django.utils import timezone
from apps.storage import sweeping
from apps.storage.models import DatasetImport
DatasetImport.objects.filter(state="running").update(seen_at=timezone.now() - timedelta(minutes=3))
sweeping.sweep()
"""


class Platform:
    """A platform's database, store and folder, used by processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
        self.environ = kept | {"DATA_DIR": str(folder), "CELERY_BROKER_URL": "memory://"}

    def start(self, code: str) -> "subprocess.Popen[str]":
        command = [sys.executable, str(ROOT / "manage.py"), "shell", "-v", "0", "-c", code]
        return subprocess.Popen(
            command, env=self.environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, code: str) -> str:
        process = self.start(code)
        said = process.communicate(timeout=200)[0]
        assert process.returncode == 0, said
        return said

    def set_up(self, *archives: Path) -> list[str]:
        said = self.run(SET_UP.format(archives=[str(archive) for archive in archives]))
        return [line.split()[1] for line in said.splitlines() if line.startswith("IMPORT")]

    def look(self, pk: str) -> list[Any]:
        import json

        said = self.run(LOOK.format(pk=pk))
        line = next(line for line in said.splitlines() if line.startswith("LOOK"))
        return list(json.loads(line.removeprefix("LOOK ")))

    def phase(self, pk: str) -> str:
        """Read from the file of the database, which is quicker than a process."""
        import sqlite3

        with sqlite3.connect(self.folder / "trainyard.sqlite3") as database:
            query = "SELECT phase FROM storage_datasetimport WHERE id = ?"
            return str(database.execute(query, [pk.replace("-", "")]).fetchone()[0])


@pytest.fixture(scope="module")
def thousands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = coloured(tmp_path_factory.mktemp("thousands") / "data", 900, 100)
    return Path(shutil.make_archive(str(folder.parent / "thousands"), "tar", folder))


@pytest.mark.parametrize("phase", ["checking", "storing", "recording"])
def test_an_import_whose_worker_is_killed_is_done_by_the_next_one(phase: str, thousands: Path, tmp_path: Path) -> None:
    platform = Platform(tmp_path / "var")
    (pk,) = platform.set_up(thousands)
    worker = platform.start(RUN.format(pk=pk))
    deadline = time.monotonic() + 120
    while platform.phase(pk) != phase:
        assert worker.poll() is None, worker.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert platform.look(pk)[:3] == ["running", phase, 1]
    platform.run(SWEEP_LATER)
    assert platform.look(pk)[0] == "queued"
    platform.run(RUN.format(pk=pk))
    state, _phase, tries, number, message, images, versions = platform.look(pk)
    assert (state, tries, number, images, versions) == ("succeeded", 2, 1, 1000, 1), message
    assert not list((tmp_path / "var" / "imports").iterdir())
    assert not list((tmp_path / "var" / "store" / "uploads").rglob("*.*"))


def test_two_imports_into_one_dataset_at_once_both_get_there(thousands: Path, tmp_path: Path) -> None:
    """They share nearly all of their files, and store and number at the same time."""
    with tarfile.open(thousands) as tar:
        tar.extractall(tmp_path / "other", filter="data")
    (tmp_path / "other" / "labels" / "train" / "000007.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    other = Path(shutil.make_archive(str(tmp_path / "other"), "tar", tmp_path / "other"))
    platform = Platform(tmp_path / "var")
    pks = platform.set_up(thousands, other)
    workers = [platform.start(RUN.format(pk=pk)) for pk in pks]
    for worker in workers:
        said = worker.communicate(timeout=200)[0]
        assert worker.returncode == 0, said
    seen = [platform.look(pk) for pk in pks]
    assert [(each[0], each[5]) for each in seen] == [("succeeded", 1000)] * 2, seen
    assert sorted(each[3] for each in seen) == [1, 2]
    said = platform.run(
        "from apps.storage.models import *; from apps.storage import versions\n"
        "from apps.storage.stores import get_store\n"
        "from trainer.dataset.manifest import manifest_key, read\n"
        "old, new = DatasetVersion.objects.order_by('number')\n"
        "print('DIFF', versions.diff(old, new).counts)\n"
        "for each in (old, new):\n"
        "    with get_store().open(manifest_key(str(each.dataset_id), each.sha256)) as source:\n"
        "        header, entries = read(source)\n"
        "        assert {s.key for s in header.shards} <= set(each.shards.values_list('key', flat=True))\n"
        "        assert len(list(entries)) == each.files\n"
    )
    assert "DIFF {'added': 0, 'removed': 0, 'replaced': 0, 'relabelled': 1}" in said
