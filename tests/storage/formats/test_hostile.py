"""Annotations that no tool writes and anybody can: refused in words, or read as far as they can be."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from apps.storage.errors import NotADatasetError
from apps.storage.formats import convert
from trainer.contract.tasks import TaskType
from trainer.dataset.validation import validate

BOX = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20]}
DETECTION = TaskType.OBJECT_DETECTION


def coco(file_name: str = "a.png", category: object = 1, class_name: str = "x") -> str:
    images = [
        {"id": 1, "file_name": "b.png", "width": 64, "height": 64},
        {"id": 2, "file_name": file_name, "width": 64, "height": 64},
    ]
    categories = [{"id": category, "name": class_name}]
    return json.dumps({"images": images, "annotations": [BOX], "categories": categories})


def label_studio(name: str) -> str:
    point = {"type": "keypointlabels", "value": {"x": 1, "y": 1, "keypointlabels": [name]}}
    return json.dumps([{"data": {"image": "a.png"}, "annotations": [{"result": [point]}]}])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "labels").mkdir(parents=True)
    for name, colour in (("a.png", "red"), ("b.png", "teal")):
        Image.new("RGB", (64, 64), colour).save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "task"),
    [
        ("address.json", coco("http://[abc/a.png"), DETECTION),
        ("halves.json", coco("\ud800/none.png"), DETECTION),
        ("nul.json", coco("\0none.png"), DETECTION),
        ("long.json", coco("x" * 5000 + ".png"), DETECTION),
        ("class.json", coco(class_name="x\0y"), DETECTION),
        ("points.json", label_studio("point " + "1" * 5000), TaskType.POSE_ESTIMATION),
    ],
)
def test_what_it_says_can_be_kept_by_any_database(
    name: str, content: str, task: TaskType, pictures: Path, tmp_path: Path
) -> None:
    (pictures / name).write_text(content)
    converted = convert(pictures, tmp_path / "out", task_type=task)
    said: list[Any] = [each for note in converted.notes for each in (note.message, note.path or "")]
    for text in (*said, *converted.description.class_names):
        assert "\0" not in text
        text.encode()
    assert all(len(note.path or "") <= 1000 for note in converted.notes)


def test_ids_that_are_no_numbers_of_this_world_are_refused_in_words(pictures: Path, tmp_path: Path) -> None:
    (pictures / "a.json").write_text(coco(category="1" * 5000))
    with pytest.raises(NotADatasetError, match="whose id is no number"):
        convert(pictures, tmp_path / "out", task_type=DETECTION)
    (pictures / "a.json").unlink()
    (pictures / "data.yaml").write_text("names: {.inf: x}\n")
    with pytest.raises(NotADatasetError, match="are to be class ids"):
        convert(pictures, tmp_path / "out", task_type=DETECTION)


def test_a_class_id_beyond_all_databases_is_an_error_where_the_names_are_broken_too(
    pictures: Path, tmp_path: Path
) -> None:
    (pictures / "a.txt").write_text("99999999999999999999999 0.5 0.5 0.1 0.1\n")
    (pictures / "data.yaml").write_text(f"names: ['{'x' * 300}']\n")
    convert(pictures, tmp_path / "out", task_type=DETECTION)
    ids: set[int] = set()
    report = validate(tmp_path / "out", DETECTION, on_image=lambda image: ids.update(image.class_ids))
    assert report.counts["error", "class_out_of_range"] == 1
    assert ids == set()
