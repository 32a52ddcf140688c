"""What is told where the format is not known, or not the one that was named."""

from pathlib import Path
from typing import Any

import pytest

from apps.storage.errors import NotADatasetError
from apps.storage.formats import FORMATS, convert, detect
from trainer.contract.tasks import TaskType


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_what_was_found_and_what_is_understood_is_told(data: Path, draw: Any, write: Any) -> None:
    draw(data, *(f"{number:02}.jpg" for number in range(12)))
    write(data / "labels.csv", "a,b\n")
    with pytest.raises(NotADatasetError, match=r"not known\. Found: 00\.jpg.*07\.jpg and 5 more.*COCO.*Label Studio"):
        detect(data)


def test_annotations_without_pictures_are_no_dataset(data: Path, write: Any) -> None:
    write(data / "annotations.xml", "<annotations></annotations>")
    with pytest.raises(NotADatasetError, match=r"no pictures.*annotations\.xml.*with its pictures"):
        detect(data)


def test_an_empty_folder_is_no_dataset(data: Path) -> None:
    with pytest.raises(NotADatasetError, match="Found: nothing"):
        detect(data)


def test_a_format_that_was_named_must_be_the_one(tmp_path: Path, data: Path, draw: Any) -> None:
    draw(data, "train/a/1.jpg", "val/a/1.jpg")
    for name, words in (("coco", "not in the format coco"), ("excel", "no format 'excel'. Choose one of: cvat")):
        with pytest.raises(NotADatasetError, match=words):
            convert(data, tmp_path / "out", task_type=TaskType.IMAGE_CLASSIFICATION, format=name)
        assert not (tmp_path / "out").exists()
    convert(data, tmp_path / "out", task_type=TaskType.IMAGE_CLASSIFICATION, format="classification")


def test_all_formats_are_listed() -> None:
    assert sorted(FORMATS) == ["classification", "coco", "cvat", "labelstudio", "voc", "yolo"]
