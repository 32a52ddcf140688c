"""Label Studio's JSON and JSON_MIN, as its documentation describes them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from apps.storage.errors import NotADatasetError
from apps.storage.formats import detect
from rows import close
from trainer.contract.tasks import TaskType

DETECTION, SEGMENTATION = TaskType.OBJECT_DETECTION, TaskType.INSTANCE_SEGMENTATION
ORIENTED, POSE, CLASSES = TaskType.ORIENTED_DETECTION, TaskType.POSE_ESTIMATION, TaskType.IMAGE_CLASSIFICATION
DRAWN = (DETECTION, SEGMENTATION, ORIENTED, POSE)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def values_of(scene: Any, task: TaskType) -> list[tuple[str, dict[str, Any]]]:
    """Type and value of each result; positions are percent, boxes turn about their upper left corner."""

    def box(label: str, left: float, top: float, width: float, height: float, degrees: float = 0) -> dict[str, Any]:
        across, down = scene.width / 100, scene.height / 100
        sides = {"x": left / across, "y": top / down, "width": width / across, "height": height / down}
        return {**sides, "rotation": degrees, "rectanglelabels": [label]}

    if task is DETECTION:
        return [("rectanglelabels", box(n, a, b, c - a, d - b)) for n, (a, b, c, d) in scene.boxes]
    if task is SEGMENTATION:
        return [
            ("polygonlabels", {"points": [[x / 2, y] for x, y in points], "closed": True, "polygonlabels": [n]})
            for n, points in scene.polygons
        ]
    if task is ORIENTED:
        return [
            ("rectanglelabels", box(n, *scene.corners(at)[0], w, h, degrees))
            for at, (n, _x, _y, w, h, degrees) in enumerate(scene.turned)
        ]
    a, b, c, d = scene.pose_box
    found = [("rectanglelabels", box("cat", a, b, c - a, d - b))]
    for name, (x, y, v) in zip(scene.points, scene.pose, strict=True):
        if v:
            found.append(("keypointlabels", {"x": x / 2, "y": y, "width": 0.3, "keypointlabels": [name]}))
    return found


def results_of(scene: Any, task: TaskType) -> list[dict[str, Any]]:
    common = {"original_width": scene.width, "original_height": scene.height, "image_rotation": 0, "to_name": "image"}
    return [
        {"id": f"r{number}", "type": kind, "from_name": "label", "origin": "manual", "value": value, **common}
        for number, (kind, value) in enumerate(values_of(scene, task))
    ]


def task_of(address: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    return {"id": 1, "data": {"image": address}, "annotations": list(annotations), "predictions": [], "meta": {}}


def done(results: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"id": 1, "result": results, "was_cancelled": False, "ground_truth": False, "lead_time": 3.1, **more}


def adjusted(scene: Any, task: TaskType) -> list[list[float]]:
    """What is wanted where points are named and all seen: Label Studio's are in the order of their names."""
    wanted: list[list[float]] = scene.expected(task)
    if task is POSE:
        by_name = {name: list(point) for name, point in zip(scene.points, scene.pose, strict=True) if point[2]}
        values = [[x / 200, y / 100, 2] for x, y, _v in (by_name[name] for name in sorted(by_name))]
        wanted = [wanted[0][:5] + [value for point in values for value in point]]
    return wanted


@pytest.mark.parametrize("task", DRAWN)
def test_what_is_drawn_in_label_studio_is_what_is_trained_on(
    data: Path, scene: Any, draw: Any, write: Any, run: Any, task: TaskType
) -> None:
    draw(data, "images/a.jpg", "images/b.jpg")
    tasks = [task_of(f"/data/upload/3/0a1b2c3d-{name}.jpg", done(results_of(scene, task))) for name in "ab"]
    write(data / "project-3-at-2026-01-01.json", json.dumps(tasks))
    assert detect(data) == "labelstudio"
    result = run(data, task)
    assert {image.split("/")[1] for image in result.images} == {"a.jpg", "b.jpg"}
    assert all(close(result.rows(image), adjusted(scene, task)) for image in result.images)
    assert result.converted.description.class_names == (("cat",) if task is POSE else ("cat", "dog"))
    assert result.codes == {"split_made"}
    assert result.is_sound()


@pytest.mark.parametrize("task", DRAWN)
def test_the_short_export_says_the_same(
    data: Path, scene: Any, draw: Any, write: Any, run: Any, task: TaskType
) -> None:
    draw(data, "0a1b2c3d-a.jpg", "0a1b2c3d-b.jpg")
    size = {"original_width": scene.width, "original_height": scene.height}
    tasks = []
    for name in "ab":
        labels: dict[str, list[Any]] = {}
        for kind, value in values_of(scene, task):
            labels.setdefault(kind.removesuffix("labels"), []).append({**value, **size})
        image = f"/data/upload/3/0a1b2c3d-{name}.jpg"
        tasks.append({"image": image, "id": 1, **labels, "annotator": 1, "annotation_id": 2, "lead_time": 4.2})
    write(data / "result.json", json.dumps(tasks))
    assert detect(data) == "labelstudio"
    result = run(data, task)
    assert all(close(result.rows(image), adjusted(scene, task)) for image in result.images)


@pytest.mark.parametrize("short", [True, False])
def test_choices_are_classes(data: Path, draw: Any, write: Any, run: Any, short: bool) -> None:
    draw(data, *(f"{number}.jpg" for number in range(8)))
    tasks = []
    for number in range(8):
        choice = ("cat", "dog")[number % 2]
        result = {"id": "x", "type": "choices", "from_name": "choice", "value": {"choices": [choice]}}
        long = task_of(f"/data/upload/1/{number}.jpg", done([result]))
        tasks.append({"image": f"/{number}.jpg", "choice": choice, "annotation_id": 1} if short else long)
    write(data / "result.json", json.dumps(tasks))
    result = run(data, CLASSES)
    assert {image.split("/")[1] for image in result.images} == {"cat", "dog"}
    assert len(result.images) == 8
    assert result.is_sound()


def test_boxes_whose_labels_are_apart_are_read(data: Path, scene: Any, draw: Any, write: Any, run: Any) -> None:
    draw(data, "a.jpg", "b.jpg")
    results = []
    for result in results_of(scene, DETECTION):
        labels = result["value"].pop("rectanglelabels")
        results.append({**result, "type": "rectangle"})
        results.append({**result, "type": "labels", "value": {**result["value"], "labels": labels}})
    write(data / "x.json", json.dumps([task_of("a.jpg", done(results)), task_of("b.jpg", done(results))]))
    result = run(data)
    assert all(close(result.rows(image), scene.expected(DETECTION)) for image in result.images)


def test_the_annotation_that_counts_is_the_truth_or_the_newest(
    data: Path, scene: Any, draw: Any, write: Any, run: Any
) -> None:
    good, bad = results_of(scene, DETECTION), results_of(scene, DETECTION)[:1]
    draw(data, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    tasks = [
        task_of(
            "a.jpg",
            done(bad, updated_at="2026-01-01T00:00:00Z"),
            done(good, updated_at="2026-03-01T00:00:00Z"),
            done(bad, updated_at="2026-02-01T00:00:00Z"),
        ),
        task_of("b.jpg", done(good, ground_truth=True, updated_at="2025"), done(bad, updated_at="2026")),
        task_of("c.jpg", done(good, updated_at="2025"), done(bad, was_cancelled=True, updated_at="2026")),
        task_of("d.jpg", done(bad, was_cancelled=True)) | {"predictions": [done(bad)]},
    ]
    write(data / "x.json", json.dumps(tasks))
    result = run(data)
    assert {image.split("/")[1] for image in result.images} == {"a.jpg", "b.jpg", "c.jpg"}
    assert all(close(result.rows(image), scene.expected(DETECTION)) for image in result.images)
    assert result.note("task_unlabelled").startswith("1 tasks")


@pytest.mark.parametrize(
    "address",
    [
        "/data/upload/1/0a1b2c3d-my%20cat.jpg",
        "/data/local-files/?d=pictures/my%20cat.jpg",
        "s3://bucket/some/key/my cat.jpg",
        "https://example.org/x/my%20cat.jpg?X-Amz-Signature=00",
    ],
)
def test_a_picture_is_found_by_the_end_of_its_address(
    data: Path, scene: Any, draw: Any, write: Any, run: Any, address: str
) -> None:
    draw(data, "images/my cat.jpg", "images/other.jpg")
    write(data / "x.json", json.dumps([task_of(address, done(results_of(scene, DETECTION)))]))
    result = run(data)
    assert result.images == {"train/my cat.jpg"}
    assert "image_unlisted" in result.codes


def test_keypoints_hang_on_their_box(data: Path, scene: Any, draw: Any, write: Any, run: Any) -> None:
    draw(data, "a.jpg", "b.jpg")
    common = {"original_width": 200, "original_height": 100}
    box = {"x": 10, "y": 10, "width": 20, "height": 40, "rotation": 0, "rectanglelabels": ["cat"]}
    point = {"x": 12, "y": 20, "width": 1}
    results = [
        {"id": "one", "value": box, **common},
        {"id": "two", "value": {**box, "x": 11}, **common},
        {"id": "k1", "parentID": "two", "value": {**point, "keypointlabels": ["p10"]}, **common},
        {"id": "k2", "parentID": "two", "value": {**point, "x": 14, "keypointlabels": ["p9"]}, **common},
        {"id": "k3", "value": {**point, "keypointlabels": ["p9"]}, **common},  # in both, so in neither
    ]
    write(data / "x.json", json.dumps([task_of(f"{name}.jpg", done(results)) for name in "ab"]))
    result = run(data, POSE)
    for image in result.images:
        (row,) = result.rows(image)
        assert row == pytest.approx([0, 0.21, 0.3, 0.2, 0.4, 0.14, 0.2, 2, 0.12, 0.2, 2])
    assert result.note("keypoint_loose").startswith("2 keypoints")
    assert "shape_left_out" in result.codes


def test_brushes_are_counted_and_nonsense_too(data: Path, scene: Any, draw: Any, write: Any, run: Any) -> None:
    draw(data, "a.jpg", "b.jpg")
    odd = [
        {"id": "x", "type": "brushlabels", "value": {"format": "rle", "rle": [1], "brushlabels": ["cat"]}},
        {"id": "y", "value": {"x": "left", "y": 0, "width": 1, "height": 1, "rectanglelabels": ["cat"]}},
        {"id": "z", "value": {"points": [[1]], "polygonlabels": ["cat"]}},
        {"id": "r", "type": "relation"},
    ]
    tasks = [task_of(f"{name}.jpg", done(results_of(scene, DETECTION) + odd)) for name in "ab"]
    write(data / "x.json", json.dumps(tasks))
    result = run(data)
    assert {"brush_left_out", "annotation_malformed"} <= result.codes
    assert all(close(result.rows(image), scene.expected(DETECTION)) for image in result.images)


@pytest.mark.parametrize(
    ("held", "task", "words"),
    [
        (DETECTION, SEGMENTATION, "holds boxes only"),
        (DETECTION, ORIENTED, "holds boxes only"),
        (DETECTION, POSE, "holds boxes only"),
        (DETECTION, CLASSES, "holds boxes only"),
        (SEGMENTATION, CLASSES, "holds polygons only"),
    ],
)
def test_the_wrong_task_is_told(
    data: Path, scene: Any, draw: Any, write: Any, run: Any, held: TaskType, task: TaskType, words: str
) -> None:
    draw(data, "a.jpg", "b.jpg")
    write(data / "x.json", json.dumps([task_of(f"{name}.jpg", done(results_of(scene, held))) for name in "ab"]))
    with pytest.raises(NotADatasetError, match=words):
        run(data, task)


def test_no_address_leads_out_of_the_folder(
    tmp_path: Path, data: Path, scene: Any, draw: Any, write: Any, run: Any
) -> None:
    draw(tmp_path, "secret.jpg")
    draw(data, "a.jpg", "b.jpg")
    addresses = [
        "a.jpg",
        "b.jpg",
        "../secret.jpg",
        "/data/local-files/?d=../secret.jpg",
        f"file://{tmp_path}/secret.jpg",
    ]
    tasks = [task_of(address, done(results_of(scene, DETECTION))) for address in addresses]
    write(data / "x.json", json.dumps([*tasks, task_of("data:image/png;base64,AAAA.png", done([]))]))
    result = run(data)
    assert {image.split("/")[1] for image in result.images} == {"a.jpg", "b.jpg"}
    assert result.note("image_missing").startswith("4 ")
    assert math.isclose(sum(len(result.rows(image)) for image in result.images), 4)
