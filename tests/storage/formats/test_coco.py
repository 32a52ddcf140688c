"""COCO files: as published, as Roboflow and CVAT write them, and as an enemy would."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as masks

from apps.storage.errors import NotADatasetError
from apps.storage.formats import detect
from rows import close
from trainer.contract.tasks import TaskType

DETECTION, SEGMENTATION = TaskType.OBJECT_DETECTION, TaskType.INSTANCE_SEGMENTATION
ORIENTED, POSE = TaskType.ORIENTED_DETECTION, TaskType.POSE_ESTIMATION
IDS = {"cat": 7, "dog": 90}  # neither from 0 nor without gaps
CATEGORIES = [{"id": 90, "name": "dog"}, {"id": 7, "name": "cat"}]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def flat(points: Any) -> list[float]:
    return [value for point in points for value in point]


def annotations_of(scene: Any, task: TaskType) -> list[dict[str, Any]]:
    if task is DETECTION:
        return [{"category_id": IDS[n], "bbox": [a, b, c - a, d - b]} for n, (a, b, c, d) in scene.boxes]
    if task is SEGMENTATION:
        return [{"category_id": IDS[n], "segmentation": [flat(points)]} for n, points in scene.polygons]
    if task is ORIENTED:  # as CVAT exports turned boxes
        return [
            {"category_id": IDS[n], "bbox": [x - w / 2, y - h / 2, w, h], "attributes": {"rotation": degrees}}
            for n, x, y, w, h, degrees in scene.turned
        ]
    a, b, c, d = scene.pose_box
    return [{"category_id": 7, "bbox": [a, b, c - a, d - b], "keypoints": flat(scene.pose), "num_keypoints": 2}]


def file_of(scene: Any, images: list[str], annotations: list[dict[str, Any]], categories: Any = CATEGORIES) -> str:
    """The annotations, for every one of the images."""
    records = [
        {"id": number, "file_name": name, "width": scene.width, "height": scene.height}
        for number, name in enumerate(images, start=1)
    ]
    told = [{"id": 0, "iscrowd": 0, "image_id": one["id"], **each} for one in records for each in annotations]
    return json.dumps({"info": {}, "images": records, "annotations": told, "categories": categories})


@pytest.mark.parametrize("task", [DETECTION, SEGMENTATION, ORIENTED, POSE])
def test_what_is_drawn_in_coco_is_what_is_trained_on(
    data: Path, scene: Any, draw: Any, write: Any, run: Any, task: TaskType
) -> None:
    draw(data, "train2017/a.jpg", "val2017/b.jpg")
    categories = CATEGORIES
    if task is POSE:
        categories = [{**CATEGORIES[1], "keypoints": list(scene.points), "skeleton": [[1, 2]]}, CATEGORIES[0]]
    kind = "person_keypoints" if task is POSE else "instances"
    for split, image in (("train", "a.jpg"), ("val", "b.jpg")):
        text = file_of(scene, [image], annotations_of(scene, task), categories)
        write(data / f"annotations/{kind}_{split}2017.json", text)
        write(data / f"annotations/captions_{split}2017.json", file_of(scene, [image], []))
    assert detect(data) == "coco"
    result = run(data, task)
    assert result.images == {"train/a.jpg", "val/b.jpg"}
    assert close(result.rows("train/a"), scene.expected(task))
    assert close(result.rows("val/b"), scene.expected(task))
    assert result.converted.description.class_names == ("cat", "dog")
    assert result.converted.notes == []
    assert result.is_sound()
    if task is POSE:
        keypoints = result.converted.description.keypoints
        assert (keypoints.count, keypoints.dimensions, keypoints.flip) == (3, 3, (0, 2, 1))


def test_roboflow_has_a_file_in_each_split_and_a_heading_among_the_classes(
    data: Path, scene: Any, draw: Any, write: Any, run: Any
) -> None:
    draw(data, "train/a.jpg", "valid/a.jpg")
    heading = [{"id": 0, "name": "animals", "supercategory": "none"}]
    named = heading + [{**one, "supercategory": "animals"} for one in CATEGORIES]
    for split in ("train", "valid"):
        text = file_of(scene, ["a.jpg"], annotations_of(scene, DETECTION), named)
        write(data / split / "_annotations.coco.json", text)
    result = run(data)
    assert result.images == {"train/a.jpg", "val/a.jpg"}
    assert result.converted.description.class_names == ("cat", "dog")
    assert close(result.rows("val/a"), scene.expected(DETECTION))


def test_one_file_without_splits_is_split_by_lot(data: Path, scene: Any, draw: Any, write: Any, run: Any) -> None:
    names = [f"{number}.jpg" for number in range(10)]
    draw(data, *(f"images/{name}" for name in names))
    write(data / "result.json", file_of(scene, [f"images/{name}" for name in names], annotations_of(scene, DETECTION)))
    result = run(data)
    assert {image.split("/")[0] for image in result.images} == {"train", "val"}
    assert "split_made" in result.codes
    assert result.is_sound()


@pytest.mark.parametrize("packed", [True, False])
def test_a_mask_becomes_its_outline(data: Path, scene: Any, draw: Any, write: Any, run: Any, packed: bool) -> None:
    image = Image.new("1", (scene.width, scene.height))
    ImageDraw.Draw(image).polygon([(30, 20), (120, 30), (90, 80), (40, 70)], fill=1)
    mask = np.asarray(image, np.uint8)
    if packed:
        rle = masks.encode(np.asfortranarray(mask))
        segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
    else:
        pixels = mask.flatten(order="F")
        edges = np.flatnonzero(np.diff(pixels)) + 1
        segmentation = {"size": list(mask.shape), "counts": np.diff([0, *edges, len(pixels)]).tolist()}
    draw(data, "a.jpg", "b.jpg")
    annotation = {"category_id": 7, "bbox": [1, 1, 2, 2], "segmentation": segmentation}
    write(data / "a.json", file_of(scene, ["a.jpg", "b.jpg"], [annotation]))
    result = run(data, SEGMENTATION)
    (row,) = result.rows(next(iter(result.images)))
    points = [(x * scene.width, y * scene.height) for x, y in zip(row[1::2], row[2::2], strict=True)]
    again = Image.new("1", (scene.width * 4, scene.height * 4))
    ImageDraw.Draw(again).polygon([(4 * x, 4 * y) for x, y in points], fill=1)
    back = np.asarray(again.resize((scene.width, scene.height), Image.Resampling.BOX), np.uint8)
    assert (mask & back).sum() / (mask | back).sum() > 0.97
    assert result.is_sound()


def test_random_masks_are_unpacked_as_pycocotools_packs_them() -> None:
    from apps.storage.formats.coco import _unpacked
    from apps.storage.formats.shapes import mask_of

    generator = random.Random(1)
    for _turn in range(200):
        height, width = generator.randint(1, 40), generator.randint(1, 40)
        mask = (np.random.default_rng(generator.randint(0, 99)).random((height, width)) < generator.random()).astype(
            np.uint8
        )
        counts = masks.encode(np.asfortranarray(mask))["counts"].decode()
        assert (mask == mask_of(_unpacked(counts), width, height).T).all()


@pytest.mark.parametrize("counts", ["", "P", "ooooooooooooo0", "\u00ff", "0lQ10", [1], [-5, 20005], ["x"], [10**30]])
def test_a_mask_that_lies_is_left_out(data: Path, scene: Any, draw: Any, write: Any, run: Any, counts: Any) -> None:
    draw(data, "a.jpg", "b.jpg")
    good = annotations_of(scene, SEGMENTATION)[0]
    bad = {"category_id": 7, "segmentation": {"size": [scene.height, scene.width], "counts": counts}}
    huge = {"category_id": 7, "segmentation": {"size": [10**6, 10**6], "counts": counts}}
    write(data / "a.json", file_of(scene, ["a.jpg", "b.jpg"], [good, bad, huge]))
    result = run(data, SEGMENTATION)
    assert all(len(result.rows(image)) == 1 for image in result.images)


def test_parts_of_one_object_are_joined_where_they_are_nearest(
    data: Path, scene: Any, draw: Any, write: Any, run: Any
) -> None:
    left, right = [10, 10, 40, 10, 40, 40, 10, 40], [50, 15, 90, 15, 90, 35, 50, 35]
    draw(data, "a.jpg", "b.jpg")
    write(data / "a.json", file_of(scene, ["a.jpg", "b.jpg"], [{"category_id": 7, "segmentation": [left, right]}]))
    result = run(data, SEGMENTATION)
    (row,) = result.rows(next(iter(result.images)))
    points = [(round(x * 200), round(y * 100)) for x, y in zip(row[1::2], row[2::2], strict=True)]
    area = sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, points[1:] + points[:1], strict=True)) / 2
    assert abs(area) == pytest.approx(900 + 800)
    assert points[1:3] == [(40, 10), (50, 15)]


def test_a_polygon_becomes_the_smallest_rectangle_around_it(
    data: Path, scene: Any, draw: Any, write: Any, run: Any
) -> None:
    corners = scene.corners(0)
    middle = [((a[0] + b[0]) / 2, (a[1] + b[1]) / 2) for a, b in zip(corners, corners[1:] + corners[:1], strict=True)]
    around = [point for pair in zip(corners, middle, strict=True) for point in pair]
    draw(data, "a.jpg", "b.jpg")
    write(data / "a.json", file_of(scene, ["a.jpg", "b.jpg"], [{"category_id": 7, "segmentation": [flat(around)]}]))
    result = run(data, ORIENTED)
    (row,) = result.rows(next(iter(result.images)))
    found = sorted(zip(row[1::2], row[2::2], strict=True))
    assert np.allclose(found, sorted((x / 200, y / 100) for x, y in corners), atol=1e-4)


def test_boxes_are_made_of_polygons(data: Path, scene: Any, draw: Any, write: Any, run: Any) -> None:
    draw(data, "a.jpg", "b.jpg")
    write(data / "a.json", file_of(scene, ["a.jpg", "b.jpg"], annotations_of(scene, SEGMENTATION)))
    result = run(data)
    assert close(result.rows(next(iter(result.images))), scene.expected(DETECTION))


@pytest.mark.parametrize(
    ("held", "task", "words"),
    [
        (DETECTION, SEGMENTATION, "holds boxes only.*Import it for object_detection"),
        (DETECTION, ORIENTED, "holds boxes only"),
        (DETECTION, POSE, "holds boxes only"),
        (SEGMENTATION, POSE, "holds polygons only.*instance_segmentation"),
    ],
)
def test_the_wrong_task_is_told(
    data: Path, scene: Any, draw: Any, write: Any, run: Any, held: TaskType, task: TaskType, words: str
) -> None:
    draw(data, "a.jpg", "b.jpg")
    write(data / "a.json", file_of(scene, ["a.jpg", "b.jpg"], annotations_of(scene, held)))
    with pytest.raises(NotADatasetError, match=words):
        run(data, task)


def test_what_has_no_area_or_reaches_out_is_counted(data: Path, scene: Any, draw: Any, write: Any, run: Any) -> None:
    boxes = [[-10, -10, 30, 30], [190, 90, 50, 50], [10, 10, 0, 5], [500, 10, 5, 5], [20, 10, 40, 40]]
    draw(data, "a.jpg", "b.jpg")
    write(data / "a.json", file_of(scene, ["a.jpg", "b.jpg"], [{"category_id": 7, "bbox": box} for box in boxes]))
    result = run(data)
    assert result.note("shape_clipped").startswith("4 objects")
    assert result.note("shape_empty").startswith("4 objects")
    assert close(
        result.rows(next(iter(result.images))),
        [[0, 0.05, 0.1, 0.1, 0.2], [0, 0.975, 0.95, 0.05, 0.1], [0, 0.2, 0.3, 0.2, 0.4]],
    )


def test_crowds_strangers_and_nonsense_are_left_out_and_counted(
    data: Path, scene: Any, draw: Any, write: Any, run: Any
) -> None:
    draw(data, "a.jpg", "b.jpg", "extra.jpg")
    odd = [
        {"category_id": 7, "bbox": [1, 2, 3, 4], "iscrowd": 1},
        {"category_id": 1234, "bbox": [1, 2, 3, 4]},
        {"category_id": 7, "bbox": [1, "x", 3, 4]},
        {"category_id": 7, "bbox": [1, 2]},
        {"image_id": 99, "category_id": 7, "bbox": [1, 2, 3, 4]},
    ]
    write(data / "a.json", file_of(scene, ["a.jpg", "b.jpg", "gone.jpg"], annotations_of(scene, DETECTION) + odd))
    result = run(data)
    assert close(result.rows(next(iter(result.images))), scene.expected(DETECTION))
    wanted = {"crowd_left_out", "class_unknown", "annotation_malformed", "annotation_orphan", "image_missing"}
    assert wanted | {"image_unlisted"} <= result.codes
    assert result.note("image_missing").endswith("First: gone.jpg.")


@pytest.mark.parametrize(
    "odd", [None, True, -1, 1e308, float("nan"), float("inf"), 10**400, "x", [], [[]], {"a": 1}, "\ud800"]
)
def test_values_of_the_wrong_kind_harm_nothing(
    data: Path, scene: Any, draw: Any, write: Any, run: Any, odd: Any
) -> None:
    draw(data, "a.jpg", "b.jpg")
    good = annotations_of(scene, SEGMENTATION)[0]
    keys = ("category_id", "bbox", "segmentation", "attributes", "keypoints", "image_id")
    told = json.loads(file_of(scene, ["a.jpg", "b.jpg"], [good] + [{**good, key: odd} for key in keys]))
    told["images"] += [{"id": odd, "file_name": odd, "width": odd, "height": odd}, odd]
    told["categories"].append({"id": 1000, "name": odd, "supercategory": odd, "keypoints": odd})
    write(data / "a.json", json.dumps(told))
    result = run(data, SEGMENTATION)
    assert len(result.images) == 2
    for image in result.images:
        rows = result.rows(image)
        assert rows[0] == pytest.approx(scene.expected(SEGMENTATION)[0], abs=1e-4)
        assert all(0 <= value <= 1 for row in rows for value in row[1:])


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "../secret.jpg", "https://example.org/x.jpg", ""])
def test_no_name_leads_out_of_the_folder(
    tmp_path: Path, data: Path, scene: Any, draw: Any, write: Any, run: Any, name: str
) -> None:
    draw(tmp_path, "secret.jpg")
    draw(data, "a.jpg", "b.jpg")
    write(data / "a.json", file_of(scene, ["a.jpg", "b.jpg", name], annotations_of(scene, DETECTION)))
    result = run(data)
    assert {image.split("/")[1] for image in result.images} == {"a.jpg", "b.jpg"}
    assert "image_missing" in result.codes


def test_names_of_other_machines_are_found_by_how_they_end(
    data: Path, scene: Any, draw: Any, write: Any, run: Any
) -> None:
    draw(data, "images/one/a.jpg", "images/two/a.jpg", "images/b c.jpg")
    names = ["C:\\data\\one\\a.jpg", "s3://bucket/two/a.jpg", "https://example.org/x/b%20c.jpg?token=1", "a.jpg"]
    write(data / "a.json", file_of(scene, names, annotations_of(scene, DETECTION)))
    result = run(data)
    assert {image.split("/", 1)[1] for image in result.images} == {"one/a.jpg", "two/a.jpg", "b c.jpg"}
    assert "image_missing" in result.codes  # which of the two is meant by a.jpg cannot be told


@pytest.mark.parametrize(
    "text",
    ['{"images": [], "annotations": [', '{"images": 5, "annotations": [], "categories": []}', "[" * 100_000],
)
def test_a_file_that_cannot_be_read_is_told(data: Path, draw: Any, write: Any, run: Any, text: str) -> None:
    draw(data, "a.jpg")
    write(data / "a.json", text)
    with pytest.raises(NotADatasetError):
        run(data)


def test_two_files_for_the_same_pictures_are_refused(data: Path, scene: Any, draw: Any, write: Any, run: Any) -> None:
    draw(data, "a.jpg")
    for name in ("first.json", "second.json"):
        write(data / name, file_of(scene, ["a.jpg"], annotations_of(scene, DETECTION)))
    with pytest.raises(NotADatasetError, match="2 annotation files"):
        run(data)


def test_sizes_that_are_not_told_are_read_from_the_pictures(
    data: Path, scene: Any, draw: Any, write: Any, run: Any
) -> None:
    draw(data, "a.jpg", "b.jpg")
    told = json.loads(file_of(scene, ["a.jpg", "b.jpg"], annotations_of(scene, DETECTION)))
    for image in told["images"]:
        del image["width"], image["height"]
    write(data / "a.json", json.dumps(told))
    result = run(data)
    assert close(result.rows(next(iter(result.images))), scene.expected(DETECTION))
