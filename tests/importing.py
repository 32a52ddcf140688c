"""What tests of uploads and imports do again and again."""

import io
import tarfile
from pathlib import Path

from apps.storage import uploads
from apps.storage.models import DatasetImport
from trainer.store import ObjectStore


def send(imp: DatasetImport, path: Path, numbers: range | None = None) -> None:
    """Send these parts of the file, or all, through the platform."""
    assert imp.part_size is not None
    with path.open("rb") as file:
        for number in numbers or range(1, uploads.part_count(imp) + 1):
            file.seek((number - 1) * imp.part_size)
            data = file.read(imp.part_size)
            uploads.receive_part(imp, number, io.BytesIO(data), len(data))


def left_over(data_dir: Path, store: ObjectStore) -> list[str]:
    """What lies in the store and in the folder of imports."""
    files = [str(path) for path in (data_dir / "imports").rglob("*") if path.is_file()]
    return files + [stored.key for stored in store.list()] + [each.key for each in store.list_uploads()]


def make_tar(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return path
