"""Pascal VOC, in its own folders and flat, by pixels from 1 and by positions from 0."""

import math
from pathlib import Path
from typing import Any

import pytest

from apps.storage.errors import NotADatasetError
from apps.storage.formats import detect
from rows import close
from trainer.contract.tasks import TaskType

DETECTION, ORIENTED = TaskType.OBJECT_DETECTION, TaskType.ORIENTED_DETECTION


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def annotation(scene: Any, filename: str, *, first: int = 1, boxes: Any = None, size: bool = True) -> str:
    """Pixels count from `first`; where that is 1, the last one is part of the box."""
    objects = "".join(
        f"<object><name>{label}</name><pose>Left</pose><truncated>0</truncated><difficult>1</difficult>"
        f"<bndbox><xmin>{a + first}</xmin><ymin>{b + first}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox>"
        f"<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
        "</object>"
        for label, (a, b, c, d) in (scene.boxes if boxes is None else boxes)
    )
    told = f"<size><width>{scene.width}</width><height>{scene.height}</height><depth>3</depth></size>" if size else ""
    return (
        f"<annotation><folder>VOC2012</folder><filename>{filename}</filename>{told}<segmented>0</segmented>{objects}"
        "</annotation>"
    )


def test_the_folders_of_the_challenge_are_read(data: Path, scene: Any, draw: Any, write: Any, run: Any) -> None:
    root = data / "VOCdevkit/VOC2012"
    draw(root, "JPEGImages/a.jpg", "JPEGImages/b.jpg", "JPEGImages/c.jpg")
    for name in "abc":
        write(root / f"Annotations/{name}.xml", annotation(scene, f"{name}.jpg"))
    write(root / "ImageSets/Main/train.txt", "a\n")
    write(root / "ImageSets/Main/val.txt", "b\n")
    write(root / "ImageSets/Main/test.txt", "c\n")
    write(root / "ImageSets/Main/cat_train.txt", "a  1\nb -1\n")
    assert detect(data) == "voc"
    result = run(data)
    assert result.images == {"train/a.jpg", "val/b.jpg", "test/c.jpg"}
    assert close(result.rows("train/a"), scene.expected(DETECTION))
    assert result.converted.description.class_names == ("cat", "dog")
    assert result.converted.notes == []
    assert result.is_sound()


def test_positions_from_0_are_told_by_the_whole_dataset(
    data: Path, scene: Any, draw: Any, write: Any, run: Any
) -> None:
    draw(data, "train/a.jpg", "valid/b.jpg")
    write(data / "train/a.xml", annotation(scene, "a.jpg", first=0))
    write(data / "valid/b.xml", annotation(scene, "b.jpg", first=0, boxes=[("cat", (0.5, 0, 20, 20.25))]))
    result = run(data)
    assert close(result.rows("train/a"), scene.expected(DETECTION))
    assert result.images == {"train/a.jpg", "val/b.jpg"}


def test_a_size_that_is_missing_is_read_from_the_picture(
    data: Path, scene: Any, draw: Any, write: Any, run: Any
) -> None:
    draw(data, "train/a.png", "val/b.png")
    write(data / "train/a.xml", annotation(scene, "a.png", size=False))
    write(data / "val/b.xml", annotation(scene, "b.png", size=False))
    assert close(run(data).rows("val/b"), scene.expected(DETECTION))


def test_turned_boxes_are_read(data: Path, scene: Any, draw: Any, write: Any, run: Any) -> None:
    draw(data, "train/a.jpg", "val/b.jpg")
    objects = "".join(
        f"<object><type>robndbox</type><name>{label}</name><robndbox><cx>{x}</cx><cy>{y}</cy><w>{w}</w><h>{h}</h>"
        f"<angle>{math.radians(degrees)}</angle></robndbox></object>"
        for label, x, y, w, h, degrees in scene.turned
    )
    for name in ("train/a", "val/b"):
        write(data / f"{name}.xml", f"<annotation><filename>x.jpg</filename>{objects}</annotation>")
    assert close(run(data, ORIENTED).rows("train/a"), scene.expected(ORIENTED))


def test_boxes_are_of_use_for_detection_alone(data: Path, scene: Any, draw: Any, write: Any, run: Any) -> None:
    draw(data, "a.jpg", "b.jpg")
    for name in "ab":
        write(data / f"{name}.xml", annotation(scene, f"{name}.jpg"))
    for task in TaskType:
        if task is not DETECTION:
            with pytest.raises(NotADatasetError, match="holds boxes only"):
                run(data, task)


def test_entities_and_document_types_are_refused(data: Path, draw: Any, write: Any, run: Any) -> None:
    draw(data, "a.jpg")
    bomb = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><filename>&x;</filename></annotation>'
    write(data / "a.xml", bomb.replace("<annotation>", "<annotation>\n"))
    with pytest.raises(NotADatasetError, match="cannot be read as XML"):
        run(data)


def test_a_name_in_the_xml_leads_nowhere_else(
    tmp_path: Path, data: Path, scene: Any, draw: Any, write: Any, run: Any
) -> None:
    draw(tmp_path, "secret.jpg")
    draw(data, "a.jpg", "b.jpg")
    for name in "ab":
        write(data / f"{name}.xml", annotation(scene, "../secret.jpg"))
    write(data / "c.xml", annotation(scene, "../secret.jpg"))
    result = run(data)
    assert {image.split("/")[1] for image in result.images} == {"a.jpg", "b.jpg"}
    assert "image_missing" in result.codes


def test_broken_boxes_are_left_out_and_counted(data: Path, scene: Any, draw: Any, write: Any, run: Any) -> None:
    draw(data, "a.jpg", "b.jpg", "c.jpg")
    broken = "<object><name>cat</name></object><object><name>cat</name><bndbox><xmin>x</xmin></bndbox></object>"
    for name in "ab":
        write(data / f"{name}.xml", annotation(scene, f"{name}.jpg").replace("</annotation>", f"{broken}</annotation>"))
    result = run(data)
    assert result.note("annotation_malformed").startswith("4 objects")
    assert result.note("image_unlisted").startswith("1 picture")
    assert result.is_sound()
