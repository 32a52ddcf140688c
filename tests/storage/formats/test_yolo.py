"""YOLO datasets as the tools that write them lay them out."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.storage.archives import unpack
from apps.storage.errors import NotADatasetError
from apps.storage.formats import convert, detect
from published import published
from trainer.contract.tasks import TaskType

DETECTION, SEGMENTATION = TaskType.OBJECT_DETECTION, TaskType.INSTANCE_SEGMENTATION
ORIENTED, POSE, CLASSES = TaskType.ORIENTED_DETECTION, TaskType.POSE_ESTIMATION, TaskType.IMAGE_CLASSIFICATION
LABELLED = (DETECTION, SEGMENTATION, ORIENTED, POSE)
NAMES = "names: [cat, dog]\n"
EXTRA = {POSE: "kpt_shape: [3, 3]\nflip_idx: [0, 2, 1]\n"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def close(found: list[list[float]], wanted: list[list[float]]) -> bool:
    assert len(found) == len(wanted)
    for row, want in zip(found, wanted, strict=True):
        assert row == pytest.approx(want, abs=1e-4)
    return True


@pytest.mark.parametrize(
    ("name", "task", "classes", "instances"),
    [
        ("coco8", DETECTION, 80, 30),
        ("coco8-seg", SEGMENTATION, 80, 30),
        ("coco8-pose", POSE, 1, 21),
        ("dota8", ORIENTED, 15, 133),
    ],
)
def test_published_datasets_come_in_with_all_they_hold(
    tmp_path: Path, run: Callable[..., Any], name: str, task: TaskType, classes: int, instances: int
) -> None:
    unpack(published(f"{name}.zip"), tmp_path / "unpacked")
    assert detect(tmp_path / "unpacked") == "yolo"
    result = run(tmp_path / "unpacked", task)
    assert result.is_sound()
    assert len(result.converted.description.class_names) == classes
    assert sum(len(result.rows(image)) for image in result.images) == instances
    assert sorted(image.split("/")[0] for image in result.images) == ["train"] * 4 + ["val"] * 4
    assert result.converted.notes == []
    assert result.progress[-1] == (8, 8)
    if task is POSE:
        keypoints = result.converted.description.keypoints
        assert (keypoints.count, keypoints.dimensions, keypoints.flip[:3]) == (17, 3, (0, 2, 1))


@pytest.mark.parametrize("task", LABELLED)
def test_labels_of_every_task_are_taken_over_as_they_are(
    data: Path, scene: Any, draw: Any, write: Any, run: Any, task: TaskType
) -> None:
    draw(data, "images/train/sub/a.jpg", "images/val/b.png")
    for name in ("train/sub/a", "val/b"):
        write(data / f"labels/{name}.txt", scene.label(task))
    write(data / "data.yaml", f"train: images/train\nval: images/val\n{NAMES}{EXTRA.get(task, '')}")
    result = run(data, task)
    assert result.images == {"train/sub/a.jpg", "val/b.png"}
    assert (result.folder / "labels/train/sub/a.txt").read_bytes() == (data / "labels/train/sub/a.txt").read_bytes()
    assert close(result.rows("val/b.txt"), scene.expected(task))
    assert result.converted.description.class_names == scene.names
    assert result.is_sound()


def test_pictures_are_linked_and_the_source_stays_as_it_is(data: Path, draw: Any, write: Any, run: Any) -> None:
    draw(data, "images/train/a.jpg", "images/val/b.jpg")
    write(data / "labels/train/a.txt", "0 0.5 0.5 0.1 0.1\n")
    result = run(data)
    assert os.path.samefile(result.folder / "images/train/a.jpg", data / "images/train/a.jpg")
    assert not (result.folder / "labels/val/b.txt").exists()  # without a label here is without one there
    assert sorted(p.name for p in data.rglob("*") if p.is_file()) == ["a.jpg", "a.txt", "b.jpg"]


def test_roboflow_puts_splits_first_and_points_up(data: Path, scene: Any, draw: Any, write: Any, run: Any) -> None:
    draw(data, "train/images/a.jpg", "valid/images/b.jpg", "test/images/c.jpg")
    for name in ("train/labels/a", "valid/labels/b", "test/labels/c"):
        write(data / f"{name}.txt", scene.label(DETECTION))
    write(
        data / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: ['cat', 'dog']\n",
    )
    result = run(data)
    assert result.images == {"train/a.jpg", "val/b.jpg", "test/c.jpg"}
    assert close(result.rows("test/c"), scene.expected(DETECTION))
    assert result.converted.notes == []


@pytest.mark.parametrize("path", ["../datasets/toy", "/content/drive/toy", "C:\\Users\\me\\toy", "./", "", "toy"])
def test_a_path_of_another_machine_is_understood_within_the_folder(
    data: Path, draw: Any, write: Any, run: Any, path: str
) -> None:
    draw(data, "toy/images/train2017/a.jpg", "toy/images/val2017/b.jpg")
    write(data / "toy/labels/train2017/a.txt", "1 0.5 0.5 0.1 0.1\n")
    write(data / "toy/toy.yaml", f"path: {path!r}\ntrain: images/train2017\nval: images/val2017\ntest:\n{NAMES}")
    write(data / "toy/LICENSE", "words")
    assert run(data).images == {"train/a.jpg", "val/b.jpg"}


def test_nothing_outside_the_folder_is_read(tmp_path: Path, data: Path, draw: Any, write: Any, run: Any) -> None:
    draw(tmp_path, "secret/images/train/s.jpg")
    draw(data, "images/train/a.jpg", "images/val/b.jpg")
    write(data / "labels/train/a.txt", "0 0.5 0.5 0.1 0.1\n")
    (data / "images/train/link.jpg").symlink_to(tmp_path / "secret/images/train/s.jpg")
    (data / "images/more").symlink_to(tmp_path / "secret/images", target_is_directory=True)
    write(
        data / "list.txt", f"{tmp_path}/secret/images/train/s.jpg\n../secret/images/train/s.jpg\n./images/train/a.jpg\n"
    )
    write(data / "data.yaml", f"path: {tmp_path}/secret\ntrain: list.txt\nval: [images/val]\n{NAMES}")
    result = run(data)
    assert result.images == {"train/a.jpg", "val/b.jpg"}
    assert "link_left_out" in result.codes


def test_lists_of_pictures_say_what_is_in_a_split(data: Path, draw: Any, write: Any, run: Any) -> None:
    draw(data, "images/all/a.jpg", "images/all/b.jpg", "images/all/c.jpg")
    write(data / "labels/all/a.txt", "1 0.5 0.5 0.1 0.1\n")
    write(data / "train.txt", "./images/all/a.jpg\n/mnt/data/images/all/b.jpg\n")
    write(data / "val.txt", "images/all/c.jpg\n")
    write(data / "data.yaml", f"path: ./\ntrain: train.txt\nval: val.txt\n{NAMES}")
    result = run(data)
    assert result.images == {"train/all/a.jpg", "train/all/b.jpg", "val/all/c.jpg"}
    assert result.rows("train/all/a") == [[1, 0.5, 0.5, 0.1, 0.1]]


def test_cvat_yolo_1_1_is_read(data: Path, scene: Any, draw: Any, write: Any, run: Any) -> None:
    draw(data, "obj_train_data/a.jpg", "obj_valid_data/b.jpg")
    write(data / "obj_train_data/a.txt", scene.label(DETECTION))
    write(data / "obj_valid_data/b.txt", "")
    write(data / "obj.names", "cat\ndog\n")
    write(data / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    write(data / "train.txt", "data/obj_train_data/a.jpg\n")
    write(data / "valid.txt", "data/obj_valid_data/b.jpg\n")
    result = run(data)
    assert result.images == {"train/a.jpg", "val/b.jpg"}
    assert close(result.rows("train/a"), scene.expected(DETECTION))
    assert result.converted.description.class_names == ("cat", "dog")


def test_label_studio_yolo_is_read_and_split(data: Path, scene: Any, draw: Any, write: Any, run: Any) -> None:
    for number in range(20):
        draw(data, f"images/{number:08x}-p{number}.jpg")
        write(data / f"labels/{number:08x}-p{number}.txt", scene.label(DETECTION))
    write(data / "classes.txt", "cat\ndog\n")
    write(data / "notes.json", '{"categories": [{"id": 0, "name": "cat"}], "info": {"version": "1.0"}}')
    assert detect(data) == "yolo"
    result = run(data, val_share=0.3)
    sides = [image.split("/")[0] for image in result.images]
    assert 0 < sides.count("val") < 12
    assert "split_made" in result.codes
    assert run(data, val_share=0.3).images == result.images
    assert result.is_sound()


def test_labels_beside_their_pictures_are_found(data: Path, draw: Any, write: Any, run: Any) -> None:
    draw(data, "train/a.jpg", "train/b.JPG", "val/c.jpg")
    for name in ("train/a", "train/b", "val/c"):
        write(data / f"{name}.txt", "0 0.5 0.5 0.1 0.1\n")
    result = run(data)
    assert result.images == {"train/a.jpg", "train/b.JPG", "val/c.jpg"}
    assert result.rows("train/b") == [[0, 0.5, 0.5, 0.1, 0.1]]
    assert "names_missing" in result.codes
    assert result.converted.description.class_names == ("class 0",)


def test_a_split_is_made_by_lot_of_a_dataset_with_train_alone(data: Path, draw: Any, write: Any, run: Any) -> None:
    draw(data, "images/train/a.jpg", "images/train/b.jpg")
    write(data / "labels/train/a.txt", "0 0.5 0.5 0.1 0.1\n")
    write(data / "labels/train/b.txt", "0 0.5 0.5 0.1 0.1\n")
    write(data / "data.yaml", f"path: ./\ntrain: images/train\n{NAMES}")
    result = run(data, val_share=0.0001)
    assert sorted(image.split("/")[0] for image in result.images) == ["train", "val"]
    assert "1 of 2 pictures" in result.note("split_made")
    assert all(result.rows(image) for image in result.images)
    assert result.is_sound()


def test_the_same_picture_is_on_the_same_side_whatever_it_is_called(
    data: Path, draw: Any, write: Any, run: Any
) -> None:
    for number in range(40):
        draw(data, f"{number}.jpg")
        (data / f"copy-of-{number}.jpg").write_bytes((data / f"{number}.jpg").read_bytes())
        write(data / f"{number}.txt", "")
    images = {image.split("/")[1]: image.split("/")[0] for image in run(data).images}
    assert set(images.values()) == {"train", "val"}
    assert all(images[f"{number}.jpg"] == images[f"copy-of-{number}.jpg"] for number in range(40))


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ("['cat', 2]", ("cat", "2")),
        ("{0: cat, 1: dog}", ("cat", "dog")),
        ("{1: cat, '2': dog}", ("class 0", "cat", "dog")),
    ],
)
def test_class_names_are_a_list_or_a_mapping(
    data: Path, draw: Any, write: Any, run: Any, names: str, wanted: tuple[str, ...]
) -> None:
    draw(data, "images/train/a.jpg", "images/val/b.jpg")
    write(data / "labels/train/a.txt", "0 0.5 0.5 0.1 0.1\n")
    write(data / "data.yaml", f"train: images/train\nval: images/val\nnames: {names}\n")
    result = run(data)
    assert result.converted.description.class_names == wanted
    assert ("class_unnamed" in result.codes) is ("class 0" in wanted)


def test_boxes_are_made_of_polygons_and_of_keypoints(data: Path, scene: Any, draw: Any, write: Any, run: Any) -> None:
    draw(data, "images/train/a.jpg", "images/val/b.jpg")
    write(data / "labels/train/a.txt", scene.label(SEGMENTATION) + "0 0.5 0.5 0.1 0.1\n")
    write(data / "labels/val/b.txt", scene.label(POSE))
    write(data / "data.yaml", f"train: images/train\nval: images/val\n{NAMES}{EXTRA[POSE]}")
    result = run(data)
    assert close(result.rows("train/a")[:2], scene.expected(DETECTION))
    assert result.rows("train/a")[2] == [0, 0.5, 0.5, 0.1, 0.1]
    assert close(result.rows("val/b"), scene.expected(DETECTION)[:1])
    assert result.is_sound()


def test_corners_are_made_of_polygons(data: Path, draw: Any, write: Any, run: Any) -> None:
    draw(data, "images/train/a.jpg", "images/val/b.jpg")
    octagon = "0 0.3 0.2 0.6 0.2 0.6 0.2 0.6 0.6 0.3 0.6 0.3 0.4\n"
    write(data / "labels/train/a.txt", octagon)
    result = run(data, ORIENTED)
    (row,) = result.rows("train/a")
    assert sorted(zip(row[1::2], row[2::2], strict=True)) == [(0.3, 0.2), (0.3, 0.6), (0.6, 0.2), (0.6, 0.6)]


@pytest.mark.parametrize(
    ("label", "task", "words"),
    [
        ("0 0.5 0.5 0.1 0.1\n", SEGMENTATION, "holds boxes only.*Import it for object_detection"),
        ("0 0.5 0.5 0.1 0.1\n", ORIENTED, "holds boxes only"),
        ("0 0.5 0.5 0.1 0.1\n", CLASSES, "Import it for object_detection"),
        ("0 0.5 0.5 0.1 0.1\n", POSE, "kpt_shape"),
        ("0 0.1 0.1 0.1 0.3 0.4 0.4\n", CLASSES, "holds polygons only.*instance_segmentation"),
    ],
)
def test_the_wrong_task_is_told_and_nothing_is_left(
    tmp_path: Path, data: Path, draw: Any, write: Any, label: str, task: TaskType, words: str
) -> None:
    draw(data, "images/train/a.jpg", "images/val/b.jpg")
    write(data / "labels/train/a.txt", label)
    with pytest.raises(NotADatasetError, match=words):
        convert(data, tmp_path / "out", task_type=task)
    assert not (tmp_path / "out").exists()


def test_broken_rows_are_left_for_the_check_to_name(data: Path, draw: Any, write: Any, run: Any) -> None:
    draw(data, "images/train/a.jpg", "images/val/b.jpg")
    text = "0 0.5 0.5 0.1 0.1\n\nhello\n0 0.1 0.1 0.1 0.3 nan 0.4\n9 9 9 9 9\n"
    write(data / "labels/train/a.txt", text)
    assert (run(data).folder / "labels/train/a.txt").read_text() == text


def test_labels_without_a_picture_are_counted(data: Path, draw: Any, write: Any, run: Any) -> None:
    draw(data, "images/train/a.jpg", "images/val/b.jpg")
    for name in ("train/a", "train/x", "train/y", "val/b"):
        write(data / f"labels/{name}.txt", "0 0.5 0.5 0.1 0.1\n")
    write(data / "classes.txt", "cat\n")
    assert run(data).note("label_without_image").startswith("2 label files")


def test_a_yaml_that_names_an_address_or_nonsense_is_refused(data: Path, draw: Any, write: Any, run: Any) -> None:
    draw(data, "images/train/a.jpg", "images/val/b.jpg")
    write(data / "labels/train/a.txt", "0 0.5 0.5 0.1 0.1\n")
    for yaml, words in (
        (f"train: https://example.org/a.zip\n{NAMES}", "address"),
        ("names: {a: b}\n", "class ids"),
        ("names: {0: a, 99999999: b}\n", "class ids go from 0"),
        (f"{NAMES}a: &a [x]\nb: *a\n", "cannot be read as YAML"),
        ("names: [cat\n", "cannot be read as YAML"),
    ):
        write(data / "data.yaml", yaml)
        with pytest.raises(NotADatasetError, match=words):
            run(data)
    for shape in ("[17]", "[0, 3]", "[3, 4]", "five"):
        write(data / "data.yaml", f"{NAMES}kpt_shape: {shape}\n")
        with pytest.raises(NotADatasetError, match="kpt_shape"):
            run(data, POSE)
    write(data / "data.yaml", f"{NAMES}kpt_shape: [3, 3]\nflip_idx: [0, 1, 1]\n")
    with pytest.raises(NotADatasetError, match="flip_idx"):
        run(data, POSE)


def test_a_split_that_the_yaml_names_and_the_archive_lacks_is_told(data: Path, draw: Any, write: Any, run: Any) -> None:
    draw(data, "images/train/a.jpg", "images/val/b.jpg")
    write(data / "data.yaml", f"train: images/train\nval: images/val\ntest: images/test\n{NAMES}")
    assert "images/test" in run(data).note("split_missing")


def test_pictures_of_one_name_do_not_share_a_label(data: Path, draw: Any, write: Any, run: Any) -> None:
    draw(data, "one/a.jpg", "two/images/a.jpg", "two/images/a.png", "val/b.jpg")
    write(data / "one/a.txt", "0 0.5 0.5 0.1 0.1\n")
    write(data / "two/labels/a.txt", "1 0.5 0.5 0.1 0.1\n")
    write(data / "data.yaml", f"train: [one, two/images]\nval: val\n{NAMES}")
    result = run(data)
    assert result.images == {"train/one/a.jpg", "train/two/a.jpg", "train/two/a-2.png", "val/b.jpg"}
    assert "image_renamed" in result.codes
