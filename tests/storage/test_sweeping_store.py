"""What the sweep removes of things that were being stored when their process was killed."""

import io
import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import AbstractUser

from apps.storage import sweeping, uploads
from apps.storage.models import Dataset
from trainer.store import ObjectStore

TWO_DAYS = timedelta(days=2)


@pytest.fixture
def incoming(store: ObjectStore, settings: Any, data_dir: Path) -> Path:
    return Path(settings.STORE_ENVIRONMENT["LOCAL_STORAGE_ROOT"]) / ".incoming"


def age(incoming: Path, upload_id: str) -> None:
    about = incoming / upload_id / "upload.json"
    said = json.loads(about.read_text())
    about.write_text(json.dumps(said | {"started_at": (datetime.now(UTC) - TWO_DAYS).isoformat()}))


def test_uploads_that_nobody_knows_go_after_a_day_whoever_began_them(
    shapes: Dataset, trainer_user: AbstractUser, store: ObjectStore, incoming: Path
) -> None:
    mine = uploads.start_upload(dataset=shapes, filename="a.zip", size=9, by=trainer_user)
    killed = [store.start_upload(key) for key in ("uploads/x/archive", "datasets/d/shards/a.tar", "projects/p/last.pt")]
    for upload_id in (mine.upload_id, *killed):
        age(incoming, upload_id)
    young = store.start_upload("projects/p/best.pt")
    sweeping.sweep()
    assert {pending.upload_id for pending in store.list_uploads()} == {mine.upload_id, young}


def test_files_that_were_half_written_go_after_a_day(db: None, store: ObjectStore, incoming: Path) -> None:
    store.put_bytes("datasets/d/whole", b"whole")
    upload_id = store.start_upload("projects/p/last.pt")
    store.put_part("projects/p/last.pt", upload_id, 1, io.BytesIO(b"part"), 4)
    half, young = incoming / ".half.part", incoming / ".young.part"
    aborted = incoming / f".{'0' * 32}.part"
    aborted.mkdir()
    for path in (half, young, aborted / "00001"):
        path.write_bytes(b"half")
    then = time.time() - TWO_DAYS.total_seconds()
    for path in (half, aborted):
        os.utime(path, (then, then))
    sweeping.sweep()
    assert sorted(path.name for path in incoming.iterdir()) == sorted([young.name, upload_id])
    assert store.exists("datasets/d/whole")
