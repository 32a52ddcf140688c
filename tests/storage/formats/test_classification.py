"""Folders of pictures, one for each class."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.storage.archives import unpack
from apps.storage.errors import NotADatasetError
from apps.storage.formats import detect
from published import published
from trainer.contract.tasks import TaskType

TASK = TaskType.IMAGE_CLASSIFICATION


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_the_published_dataset_comes_in(tmp_path: Path, run: Callable[..., Any]) -> None:
    unpack(published("imagenet10.zip"), tmp_path / "unpacked")
    assert detect(tmp_path / "unpacked") == "classification"
    result = run(tmp_path / "unpacked", TASK)
    names = result.converted.description.class_names
    assert len(names) == 10
    assert names == tuple(sorted(names))
    assert "train/cock/n01514668_23019.JPEG" in result.images
    assert len(result.images) == 20
    assert result.converted.notes == []
    assert result.is_sound()


def test_splits_may_be_called_otherwise(data: Path, draw: Any, run: Any) -> None:
    draw(data, "root/train/b/1.jpg", "root/train/a/x/2.jpg", "root/valid/a/3.jpg", "root/valid/b/4.jpg")
    draw(data, "root/test/b/5.jpg")
    result = run(data, TASK)
    assert result.images == {"train/b/1.jpg", "train/a/x/2.jpg", "val/a/3.jpg", "val/b/4.jpg", "test/b/5.jpg"}
    assert result.converted.description.class_names == ("a", "b")
    assert result.is_sound()


def test_without_splits_every_class_gets_pictures_on_both_sides(data: Path, draw: Any, run: Any) -> None:
    for name in ("n01440764", "n01443537", "tabby cat"):
        draw(data, *(f"{name}/{number}.JPEG" for number in range(6)))
    draw(data, "rare/only.jpg")
    result = run(data, TASK, val_share=0.1)
    for name in ("n01440764", "n01443537", "tabby cat"):
        sides = [image.split("/")[0] for image in result.images if f"/{name}/" in image]
        assert set(sides) == {"train", "val"}
    assert "train/rare/only.jpg" in result.images
    assert "split_made" in result.codes
    assert result.is_sound()


def test_pictures_outside_of_classes_are_counted(data: Path, draw: Any, run: Any) -> None:
    draw(data, "train/a/1.jpg", "train/loose.jpg", "val/a/2.jpg", "cover.jpg")
    result = run(data, TASK)
    assert result.note("image_without_class").startswith("2 pictures")
    assert result.images == {"train/a/1.jpg", "val/a/2.jpg"}


@pytest.mark.parametrize("task", [task for task in TaskType if task is not TASK])
def test_it_is_of_use_for_no_other_task(data: Path, draw: Any, run: Any, task: TaskType) -> None:
    draw(data, "train/a/1.jpg", "val/a/2.jpg")
    with pytest.raises(NotADatasetError, match="Import it for image_classification"):
        run(data, task)
