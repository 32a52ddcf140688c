"""CVAT for images 1.1, as its documentation describes the file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.storage.errors import NotADatasetError
from apps.storage.formats import detect
from rows import close
from trainer.contract.tasks import TaskType

DETECTION, SEGMENTATION = TaskType.OBJECT_DETECTION, TaskType.INSTANCE_SEGMENTATION
ORIENTED, POSE, CLASSES = TaskType.ORIENTED_DETECTION, TaskType.POSE_ESTIMATION, TaskType.IMAGE_CLASSIFICATION
LABELS = "<label><name>cat</name><type>any</type></label><label><name>dog</name><type>any</type></label>"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def points_of(points: Any) -> str:
    return ";".join(f"{x:.4f},{y:.4f}" for x, y in points)


def shapes_of(scene: Any, task: TaskType) -> str:
    if task is DETECTION:
        return "".join(
            f'<box label="{n}" source="manual" occluded="0" xtl="{a}" ytl="{b}" xbr="{c}" ybr="{d}" z_order="0"></box>'
            for n, (a, b, c, d) in scene.boxes
        )
    if task is SEGMENTATION:
        return "".join(
            f'<polygon label="{n}" source="manual" occluded="0" points="{points_of(points)}" z_order="0">'
            '<attribute name="colour">red</attribute></polygon>'
            for n, points in scene.polygons
        )
    if task is ORIENTED:
        return "".join(
            f'<box label="{n}" xtl="{x - w / 2}" ytl="{y - h / 2}" xbr="{x + w / 2}" ybr="{y + h / 2}"'
            f"{f' rotation={chr(34)}{degrees}{chr(34)}' if degrees else ''}></box>"
            for n, x, y, w, h, degrees in scene.turned
        )
    points = "".join(
        f'<points label="{name}" outside="{int(v == 0)}" occluded="{int(v == 1)}" points="{x},{y}"></points>'
        for name, (x, y, v) in reversed(list(zip(scene.points, scene.pose, strict=True)))
    )
    return f'<skeleton label="cat" source="manual" z_order="0">{points}</skeleton>'


def file_of(scene: Any, images: dict[str, str], labels: str = LABELS, attributes: str = "") -> str:
    size = f'width="{scene.width}" height="{scene.height}"'
    told = "".join(
        f'<image id="{number}" name="{name}" {attributes} {size}>{shapes}</image>'
        for number, (name, shapes) in enumerate(images.items())
    )
    meta = f"<meta><task><id>4</id><size>2</size><mode>annotation</mode><labels>{labels}</labels></task></meta>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{meta}{told}</annotations>'


@pytest.mark.parametrize("task", [DETECTION, SEGMENTATION, ORIENTED, POSE])
def test_what_is_drawn_in_cvat_is_what_is_trained_on(
    data: Path, scene: Any, draw: Any, write: Any, run: Any, task: TaskType
) -> None:
    draw(data, "images/a.jpg", "images/sub/b.jpg")
    labels = LABELS
    if task is POSE:
        labels += "".join(
            f"<label><name>{name}</name><type>points</type><parent>cat</parent></label>" for name in scene.points
        )
    shapes = shapes_of(scene, task)
    write(data / "annotations.xml", file_of(scene, {"a.jpg": shapes, "sub/b.jpg": shapes}, labels))
    assert detect(data) == "cvat"
    result = run(data, task)
    wanted = scene.expected(task)
    if task is POSE:  # the box is the one around the points that are seen
        wanted[0][1:5] = [35 / 200, 30 / 100, 10 / 200, 20 / 100]
        keypoints = result.converted.description.keypoints
        assert (keypoints.count, keypoints.dimensions, keypoints.flip) == (3, 3, (0, 2, 1))
    assert {image.split("/", 1)[1] for image in result.images} == {"a.jpg", "sub/b.jpg"}
    assert all(close(result.rows(image), wanted) for image in result.images)
    assert result.converted.description.class_names == ("cat", "dog")
    assert result.codes == {"split_made"}
    assert result.is_sound()


def test_subsets_of_a_project_are_its_splits(data: Path, scene: Any, draw: Any, write: Any, run: Any) -> None:
    draw(data, "images/Train/a.jpg", "images/Validation/a.jpg")
    one = file_of(scene, {"a.jpg": shapes_of(scene, DETECTION)}, attributes='subset="Train" task_id="1"')
    other = file_of(scene, {"a.jpg": ""}, attributes='subset="Validation" task_id="2"')
    image = other[other.index("<image") :]
    write(data / "annotations.xml", one.replace("</annotations>", image))
    result = run(data)
    assert result.images == {"train/a.jpg", "val/a.jpg"}
    assert close(result.rows("train/a"), scene.expected(DETECTION))
    assert result.rows("val/a") == []


def test_masks_become_outlines(data: Path, scene: Any, draw: Any, write: Any, run: Any) -> None:
    draw(data, "images/a.jpg", "images/b.jpg")
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 5:25] = 1
    pixels = mask.flatten()
    runs = np.diff([0, *(np.flatnonzero(np.diff(pixels)) + 1), len(pixels)])
    shape = (
        f'<mask label="dog" source="manual" occluded="0" rle="{", ".join(map(str, runs))}" left="100" top="40" '
        'width="30" height="20" z_order="0"></mask>'
    )
    bad = shape.replace('width="30"', 'width="31"')
    write(data / "annotations.xml", file_of(scene, {"a.jpg": shape, "b.jpg": shape + bad}))
    result = run(data, SEGMENTATION)
    for image in result.images:
        (row,) = result.rows(image)
        assert row[0] == 1
        assert (min(row[1::2]), max(row[1::2])) == pytest.approx((105 / 200, 125 / 200))
        assert (min(row[2::2]), max(row[2::2])) == pytest.approx((45 / 100, 55 / 100))
    assert "annotation_malformed" in result.codes


def test_tags_are_classes(data: Path, scene: Any, draw: Any, write: Any, run: Any) -> None:
    draw(data, *(f"images/{number}.jpg" for number in range(9)))
    tagged = {f"{n}.jpg": f'<tag label="{("cat", "a/b")[n % 2]}" source="manual"></tag>' for n in range(8)}
    twice = '<tag label="cat"></tag><tag label="dog"></tag>'
    write(data / "annotations.xml", file_of(scene, tagged | {"8.jpg": twice}))
    result = run(data, CLASSES)
    assert len(result.images) == 8
    assert {image.split("/")[1] for image in result.images} == {"cat", "a_b"}
    assert result.note("image_without_class").startswith("1 pictures")


def test_points_are_keypoints_too(data: Path, scene: Any, draw: Any, write: Any, run: Any) -> None:
    draw(data, "images/a.jpg", "images/b.jpg")
    shape = f'<points label="cat" points="{points_of([(20, 10), (60, 50), (40, 40)])}"></points>'
    write(data / "annotations.xml", file_of(scene, {"a.jpg": shape, "b.jpg": shape}))
    result = run(data, POSE)
    row = [0, 0.2, 0.3, 0.2, 0.4, 0.1, 0.1, 2, 0.3, 0.5, 2, 0.2, 0.4, 2]
    assert all(close(result.rows(image), [row]) for image in result.images)
    assert result.converted.description.keypoints.flip == ()


def test_lines_ellipses_and_cuboids_are_counted(data: Path, scene: Any, draw: Any, write: Any, run: Any) -> None:
    draw(data, "images/a.jpg", "images/b.jpg")
    odd = '<polyline label="cat" points="1,1;2,2"/><ellipse label="cat" cx="1" cy="1" rx="1" ry="1"/>'
    odd += '<cuboid label="cat"/>'
    shapes = odd + shapes_of(scene, DETECTION)
    write(data / "annotations.xml", file_of(scene, {"a.jpg": shapes, "b.jpg": shapes, "gone.jpg": ""}))
    result = run(data)
    assert {"polyline_left_out", "ellipse_left_out", "cuboid_left_out", "image_missing"} <= result.codes


def test_a_video_is_refused_in_words(data: Path, draw: Any, write: Any, run: Any) -> None:
    draw(data, "images/frame_000000.jpg")
    track = '<track id="0" label="car"><box frame="0" xtl="1" ytl="1" xbr="2" ybr="2" outside="0"></box></track>'
    write(data / "annotations.xml", f"<annotations><version>1.1</version>{track}</annotations>")
    with pytest.raises(NotADatasetError, match=r"export of a video.*CVAT for images"):
        run(data)


@pytest.mark.parametrize(
    ("held", "task", "words"),
    [
        (DETECTION, SEGMENTATION, "holds boxes only"),
        (DETECTION, ORIENTED, "holds boxes only"),
        (POSE, SEGMENTATION, "holds keypoints only.*Import it for pose_estimation"),
        (SEGMENTATION, POSE, "holds polygons only"),
        (DETECTION, CLASSES, "holds boxes only"),
    ],
)
def test_the_wrong_task_is_told(
    data: Path, scene: Any, draw: Any, write: Any, run: Any, held: TaskType, task: TaskType, words: str
) -> None:
    draw(data, "images/a.jpg", "images/b.jpg")
    shapes = shapes_of(scene, held)
    write(data / "annotations.xml", file_of(scene, {"a.jpg": shapes, "b.jpg": shapes}))
    with pytest.raises(NotADatasetError, match=words):
        run(data, task)


def test_entities_are_refused(data: Path, draw: Any, write: Any, run: Any) -> None:
    draw(data, "images/a.jpg")
    lots = "".join(f'<!ENTITY x{n + 1} "{f"&x{n};" * 10}">' for n in range(9))
    write(
        data / "annotations.xml", f'<!DOCTYPE a [<!ENTITY x0 "ha">{lots}]><annotations><meta>&x9;</meta></annotations>'
    )
    with pytest.raises(NotADatasetError, match="cannot be read as XML"):
        run(data)


def test_no_name_leads_out_of_the_folder(
    tmp_path: Path, data: Path, scene: Any, draw: Any, write: Any, run: Any
) -> None:
    draw(tmp_path, "secret.jpg")
    draw(data, "images/a.jpg", "images/b.jpg")
    shapes = shapes_of(scene, DETECTION)
    names = {"a.jpg": shapes, "b.jpg": shapes, "../../secret.jpg": shapes, str(tmp_path / "secret.jpg"): shapes}
    write(data / "annotations.xml", file_of(scene, names))
    result = run(data)
    assert {image.split("/")[1] for image in result.images} == {"a.jpg", "b.jpg"}
    assert result.note("image_missing").startswith("2 ")
