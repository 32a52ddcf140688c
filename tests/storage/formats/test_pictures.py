"""What becomes of the pictures themselves, whatever the format."""

import io
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from apps.storage.formats.writing import jpeg_end
from trainer.contract.tasks import TaskType


def jpeg(exif: bytes = b"") -> bytes:
    picture, target = Image.frombytes("RGB", (64, 64), random.Random(0).randbytes(64 * 64 * 3)), io.BytesIO()
    picture.save(target, "JPEG", exif=exif)
    return target.getvalue()


def test_bytes_after_the_end_of_a_jpeg_are_cut_off_and_counted(tmp_path: Path, run: Any) -> None:
    good = jpeg()
    for split in ("train", "val"):
        folder = tmp_path / "data" / split / "thing"
        folder.mkdir(parents=True)
        (folder / "whole.jpg").write_bytes(good)
        (folder / "more.jpg").write_bytes(good + b"made by a camera" * 40)
    result = run(tmp_path / "data", TaskType.IMAGE_CLASSIFICATION)
    (note,) = result.converted.notes
    assert note.code == "image_tail_cut"
    assert note.message.startswith("2 JPEGs")
    stored = {path.name: path.read_bytes() for path in (result.folder / "images").rglob("*.jpg")}
    assert stored == {"whole.jpg": good, "more.jpg": good}


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\x89PNG no jpeg \xff\xd9 at all", jpeg()])
def test_other_files_are_taken_as_they_are(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    assert jpeg_end(tmp_path / "file") is None


def test_a_picture_that_was_cut_short_is_not_cut_down_to_its_thumbnail(tmp_path: Path) -> None:
    thumbnail = b"Exif\x00\x00" + b"\xff\xd8 a thumbnail \xff\xd9"
    (tmp_path / "file").write_bytes(jpeg(thumbnail)[:-500])
    assert jpeg_end(tmp_path / "file") is None
