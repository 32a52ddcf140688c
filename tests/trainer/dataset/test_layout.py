"""The layout: its description is read with suspicion and written so that it comes back; pictures are found in order."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from drawing import draw
from trainer.contract.tasks import TaskType
from trainer.dataset.findings import Finding
from trainer.dataset.layout import (
    Description,
    Keypoints,
    images_of,
    label_path_of,
    read_description,
    write_description,
    write_ultralytics_data,
)

POSE = Description(TaskType.POSE_ESTIMATION, ("person",), Keypoints(3, 2, (0, 2, 1)))
ODD_NAMES = ("yes", "1", "null", "a: b", "'quoted' \"twice\"", "고양이", "- x", "#", "{}", " spaced ", "é\u0301")


def read(folder: Path, text: str | bytes, task: str | None = "object_detection") -> dict[str, Finding]:
    (folder / "data.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    return {finding.code: finding for finding in read_description(folder, task)[1]}


class TestDescription:
    @pytest.mark.parametrize(
        "description",
        [
            Description(TaskType.OBJECT_DETECTION, ODD_NAMES),
            Description(TaskType.IMAGE_CLASSIFICATION, ("a",)),
            Description(TaskType.POSE_ESTIMATION, ("person",), Keypoints(17, 3)),
            POSE,
        ],
    )
    def test_what_is_written_is_read_again(self, tmp_path: Path, description: Description) -> None:
        write_description(tmp_path, description)
        assert read_description(tmp_path) == (description, [])

    def test_writing_replaces_a_link_and_not_what_it_points_to(self, tmp_path: Path) -> None:
        (tmp_path / "precious").write_text("keep")
        (tmp_path / "data.yaml").symlink_to(tmp_path / "precious")
        write_description(tmp_path, POSE)
        assert (tmp_path / "precious").read_text() == "keep"
        assert read_description(tmp_path)[0] == POSE

    def test_where_the_file_names_no_task_the_callers_counts(self, tmp_path: Path) -> None:
        (tmp_path / "data.yaml").write_text("names: [a, b]\n")
        assert read_description(tmp_path, "object_detection")[0] == Description(TaskType.OBJECT_DETECTION, ("a", "b"))
        description, findings = read_description(tmp_path)
        assert description is None
        assert [finding.code for finding in findings] == ["task_unknown"]

    def test_the_files_own_task_comes_first(self, tmp_path: Path) -> None:
        write_description(tmp_path, POSE)
        assert read_description(tmp_path, "object_detection")[0] == POSE

    @pytest.mark.parametrize("task", ["detect", "1", "[object_detection]", "''"])
    def test_a_task_that_does_not_exist_is_an_error(self, tmp_path: Path, task: str) -> None:
        assert "object_detection" in read(tmp_path, f"task_type: {task}\nnames: [a]\n")["task_unknown"].message

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("names: [a, b", "yaml_unreadable"),
            ("- a\n- b\n", "yaml_unreadable"),
            ("", "yaml_unreadable"),
            ("\x00", "yaml_unreadable"),
            (b"names: [\xff\xfe]", "yaml_unreadable"),
            ("names: !!python/object/apply:os.system [exit]", "yaml_unreadable"),
            ("nc: 3\n", "names_missing"),
            ("names: []\n", "names_missing"),
            ("names: circle\n", "names_missing"),
            ("names: {0: a, 2: b, 3: c}\n", "names_not_contiguous"),
            ("names: {circle: 0, square: 1}\n", "names_not_contiguous"),
            ("names: {0: a, '0': b}\n", "names_not_contiguous"),
            ("names: {'٠': a}\n", "names_not_contiguous"),
            ("names: {0.5: a}\n", "names_not_contiguous"),
            ("names: {[0]: a}\n", "yaml_unreadable"),
            ("names: [a, no, c]\n", "name_not_text"),
            ("names: [a, ~, c]\n", "name_not_text"),
            ("names: [a, '', c]\n", "name_not_text"),
            ("names: [a, [b], c]\n", "name_not_text"),
            ('names: ["a\\nb"]\n', "name_not_text"),
            (f"names: [{'a' * 201}]\n", "name_not_text"),
        ],
    )
    def test_a_wrong_description_is_an_error(self, tmp_path: Path, text: str | bytes, code: str) -> None:
        finding = read(tmp_path, text)[code]
        assert (finding.severity, finding.path) == ("error", "data.yaml")
        assert read_description(tmp_path, "object_detection")[0] is None

    @pytest.mark.parametrize(
        "text",
        [
            "path: /somewhere/else\ntrain: x\nval: y\nnames: [a, b, c]\n",
            "names: {2: c, 0: a, 1: b}\n",
            "names: {'0': a, '1': b, '2': c}\n",
            "\ufeffnames: [a, b, c]\r\n",
            "names: [a, b, c]\nkpt_shape: nonsense\n",
        ],
    )
    def test_names_may_be_a_list_or_a_mapping_and_paths_do_not_matter(self, tmp_path: Path, text: str) -> None:
        assert read(tmp_path, text) == {}
        description = read_description(tmp_path, "object_detection")[0]
        assert description == Description(TaskType.OBJECT_DETECTION, ("a", "b", "c"))

    def test_a_count_that_differs_and_a_name_given_twice_are_warnings(self, tmp_path: Path) -> None:
        found = read(tmp_path, "names: [a, b, b]\nnc: 5\n")
        assert {finding.severity for finding in found.values()} == {"warning"}
        assert set(found) == {"class_count_differs", "name_repeated"}

    def test_a_file_of_another_name_is_pointed_out(self, tmp_path: Path) -> None:
        (tmp_path / "coco8.yaml").write_text("names: [a]\n")
        _description, findings = read_description(tmp_path)
        assert "Rename coco8.yaml" in findings[0].message

    def test_a_folder_of_that_name_is_no_description(self, tmp_path: Path) -> None:
        (tmp_path / "data.yaml").mkdir()
        assert read_description(tmp_path)[1][0].code == "yaml_missing"


class TestHostileYaml:
    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("names: [" + "a, " * 400_000 + "]", "larger than 1 MiB"),
            ("names: &a [x]\nmore: *a\n", "by reference"),
            ("a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nnames: [*c,*c]\n", "by reference"),
            ("names: &n\n  - *n\n", "by reference"),
            ("names: " + "[" * 100_000, "nested"),
            ("names: " + "{a: " * 500 + "}" * 500, "nested"),
            ("nc: " + "9" * 100_000 + "\nnames: [a]", "characters"),
            ("nc: " + ":".join(["59"] * 100_000) + "\nnames: [a]", "characters"),
            ("names: [2001-99-99]", "month"),
        ],
    )
    def test_what_would_take_memory_or_time_is_refused_in_words(self, tmp_path: Path, text: str, why: str) -> None:
        finding = read(tmp_path, text)["yaml_unreadable"]
        assert why in finding.message
        assert len(finding.message) < 500


class TestKeypoints:
    @pytest.mark.parametrize(
        "shape",
        ["", "17", "[17]", "[17, 4]", "[0, 3]", "[x, 3]", "[17.0, 3]", "[true, 3]", "[1000000000, 3]", "{17: 3}"],
    )
    def test_a_pose_dataset_must_say_how_many(self, tmp_path: Path, shape: str) -> None:
        found = read(tmp_path, f"names: [person]\nkpt_shape: {shape}\n", "pose_estimation")
        assert found["keypoints_missing"].severity == "error"

    @pytest.mark.parametrize("flip", ["[0]", "[0, 0]", "[0, 2]", "[-1, 0]", "[0, '1']", "{0: 1}", "01"])
    def test_mirror_images_must_name_each_keypoint_once(self, tmp_path: Path, flip: str) -> None:
        text = f"names: [person]\nkpt_shape: [2, 3]\nflip_idx: {flip}\n"
        assert read(tmp_path, text, "pose_estimation")["keypoints_flip"].severity == "error"


class TestUltralyticsData:
    def test_it_points_to_the_folder_and_takes_nothing_over_from_the_datasets_own_file(self, tmp_path: Path) -> None:
        folder = draw(tmp_path / "dataset")
        (folder / "data.yaml").write_text("download: print('run me')\nnames: [x]\n")
        description = Description(TaskType.OBJECT_DETECTION, ODD_NAMES)
        destination = tmp_path / "work" / "data.yaml"
        assert write_ultralytics_data(folder, description, destination) == str(destination)
        assert yaml.safe_load(destination.read_text(encoding="utf-8")) == {
            "path": str(folder.resolve()),
            "train": "images/train",
            "val": "images/val",
            "names": dict(enumerate(ODD_NAMES)),
        }

    def test_test_images_and_keypoints_are_named_where_there_are_any(self, tmp_path: Path) -> None:
        (tmp_path / "images" / "test").mkdir(parents=True)
        written = yaml.safe_load(Path(write_ultralytics_data(tmp_path, POSE, tmp_path / "out.yaml")).read_text())
        assert written["test"] == "images/test"
        assert (written["kpt_shape"], written["flip_idx"]) == ([3, 2], [0, 2, 1])

    def test_for_classification_it_is_the_folder_of_the_splits(self, tmp_path: Path) -> None:
        description = Description(TaskType.IMAGE_CLASSIFICATION, ("a", "b"))
        destination = tmp_path / "out.yaml"
        assert write_ultralytics_data(tmp_path, description, destination) == str(tmp_path.resolve() / "images")
        assert not destination.exists()


class TestImages:
    def test_they_come_in_the_order_of_full_paths_at_any_depth(self, tmp_path: Path) -> None:
        names = ["a.jpg", "a-b.jpg", "a/z.jpg", "a/b/c.png", "a0.jpg", "Z.JPEG", "é.webp", "b.tif", "a.b/c.bmp"]
        for name in names:
            path = tmp_path / "images" / "train" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        found = list(images_of(tmp_path, "train"))
        assert found == sorted(f"images/train/{name}" for name in names)

    def test_a_folder_deeper_than_python_recurses_is_walked(self, tmp_path: Path) -> None:
        depth = 1_200
        here = os.getcwd()
        try:
            os.chdir(tmp_path)
            for name in ("images", "train", *["d"] * depth):
                os.mkdir(name)
                os.chdir(name)
            Path("x.jpg").touch()
            found = list(images_of(tmp_path, "train"))
        finally:
            os.chdir(here)
            subprocess.run(["rm", "-rf", tmp_path / "images"], check=True)  # pytest's own way recurses
        assert found == [f"images/train/{'d/' * depth}x.jpg"]

    def test_links_hidden_files_and_other_kinds_are_left_out(self, tmp_path: Path) -> None:
        train = tmp_path / "images" / "train"
        train.mkdir(parents=True)
        (train / "a.jpg").touch()
        (train / "b.jpg").symlink_to(train / "a.jpg")
        (train / "more").symlink_to(tmp_path)
        (train / "._a.jpg").touch()
        (train / "notes.txt").touch()
        (train / "folder.jpg").mkdir()
        os.mkfifo(train / "pipe.jpg")
        (train / os.fsdecode(b"\xff.jpg")).touch()
        assert list(images_of(tmp_path, "train")) == ["images/train/a.jpg"]

    def test_a_split_that_is_a_link_or_missing_has_none(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "a.jpg").touch()
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / "train").symlink_to(tmp_path / "elsewhere")
        assert list(images_of(tmp_path, "train")) == []
        assert list(images_of(tmp_path, "val")) == []

    @pytest.mark.parametrize(
        ("image", "label"),
        [
            ("images/train/a/b.jpg", "labels/train/a/b.txt"),
            ("images/val/a.b.c.PNG", "labels/val/a.b.c.txt"),
            ("images/train/images/a.jpg", "labels/train/images/a.txt"),
        ],
    )
    def test_a_label_lies_beside_its_picture(self, image: str, label: str) -> None:
        assert label_path_of(image) == label
