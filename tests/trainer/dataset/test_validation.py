"""What the check of a whole dataset finds, tells and counts."""

import json
import os
import random
import shutil
import socket
import zipfile
from pathlib import Path, PurePosixPath

import pytest
import yaml

from drawing import NAMES, ROWS, description_for, draw, picture
from published import published
from trainer.contract.tasks import TaskType
from trainer.dataset.errors import DatasetInvalidError
from trainer.dataset.findings import LISTED_OF_ONE_KIND, Finding
from trainer.dataset.layout import Description, ImageRecord, Keypoints, images_of, write_description
from trainer.dataset.validation import validate

TASKS = list(TaskType)
FEW_PICTURES = {"class_without_objects", "class_not_in_train", "class_not_in_val"}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A right dataset of three and two pictures for detection, for a test to break."""
    return draw(tmp_path / "dataset")


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """A right dataset for classification: three and two pictures of each of two classes."""
    return draw(tmp_path / "classes", TaskType.IMAGE_CLASSIFICATION)


def found(folder: Path, task: str | None = None) -> dict[str, Finding]:
    """The findings by their code; of several with one code, the first."""
    return {finding.code: finding for finding in reversed(validate(folder, task).findings)}


class TestRightDatasets:
    @pytest.mark.parametrize("task", TASKS)
    def test_each_task_is_ok_and_counted(self, tmp_path: Path, task: TaskType) -> None:
        report = validate(draw(tmp_path / "d", task), task)
        per_image = 2 if task is TaskType.IMAGE_CLASSIFICATION else 1
        assert report.findings == []
        assert report.ok
        assert report.class_names == list(NAMES)
        assert report.images == {"train": 3 * per_image, "val": 2 * per_image}
        assert report.instances == {"train": 6, "val": 4}

    def test_the_task_may_be_left_to_the_description_or_to_the_caller(self, dataset: Path) -> None:
        assert validate(dataset).ok
        (dataset / "data.yaml").write_text("names: [cat, dog]\n")
        assert validate(dataset, "object_detection").ok
        assert found(dataset)["task_unknown"].severity == "error"

    def test_classification_needs_no_description(self, classes: Path) -> None:
        (classes / "data.yaml").unlink()
        report = validate(classes, "image_classification")
        assert (report.ok, report.class_names) == (True, list(NAMES))

    def test_a_third_split_and_subfolders_are_read(self, dataset: Path) -> None:
        for kind, suffix in (("images", "jpg"), ("labels", "txt")):
            (dataset / kind / "test" / "night").mkdir(parents=True)
            (dataset / kind / "val" / f"0.{suffix}").rename(dataset / kind / "test" / "night" / f"0.{suffix}")
        report = validate(dataset)
        assert report.findings == []
        assert report.images == {"train": 3, "val": 1, "test": 1}

    def test_labels_may_have_a_byte_order_mark_and_any_line_ends(self, dataset: Path) -> None:
        rows = "\r\n".join(ROWS[TaskType.OBJECT_DETECTION])
        (dataset / "labels/train/0.txt").write_bytes(b"\xef\xbb\xbf" + rows.encode() + b"\r\n\r\n\t\n")
        (dataset / "labels/train/1.txt").write_bytes(rows.replace("\r\n", "\r").replace(" ", "\t").encode())
        report = validate(dataset)
        assert report.findings == []
        assert report.instances["train"] == 6


class TestPublishedDatasets:
    @pytest.mark.parametrize(
        ("name", "task", "warnings"),
        [
            ("coco8", TaskType.OBJECT_DETECTION, FEW_PICTURES),
            ("coco8-seg", TaskType.INSTANCE_SEGMENTATION, FEW_PICTURES),
            ("coco8-pose", TaskType.POSE_ESTIMATION, set()),
            ("dota8", TaskType.ORIENTED_DETECTION, {*FEW_PICTURES, "outside_image", "classes_imbalanced"}),
            ("imagenet10", TaskType.IMAGE_CLASSIFICATION, set()),
        ],
    )
    def test_they_have_no_errors(self, tmp_path: Path, name: str, task: TaskType, warnings: set[str]) -> None:
        folder = unpacked(published(f"{name}.zip"), tmp_path, task)
        report = validate(folder, task)
        assert {code for _severity, code in report.counts} == warnings
        assert report.ok
        per_split = 10 if name == "imagenet10" else 4
        assert report.images == {"train": per_split, "val": per_split}


def unpacked(archive: Path, folder: Path, task: TaskType) -> Path:
    """A published dataset, brought into the layout by hand."""
    names: tuple[str, ...] = ()
    keypoints = None
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.namelist():
            inner = PurePosixPath(*PurePosixPath(member).parts[1:])
            if inner.parts[:1] in {("train",), ("val",)}:
                inner = PurePosixPath("images", inner)
            if inner.suffix == ".yaml":
                data = yaml.safe_load(zipped.read(member))
                names = tuple(data["names"].values())
                keypoints = Keypoints(*data["kpt_shape"], tuple(data["flip_idx"])) if "kpt_shape" in data else None
            elif not member.endswith("/"):
                (folder / inner).parent.mkdir(parents=True, exist_ok=True)
                (folder / inner).write_bytes(zipped.read(member))
    write_description(folder, Description(task, names or tuple(sorted(os.listdir(folder / "images/train"))), keypoints))
    return folder


class TestWrongTask:
    @pytest.mark.parametrize("task", TASKS)
    @pytest.mark.parametrize("wanted", TASKS)
    def test_a_dataset_for_another_task_is_an_error(self, tmp_path: Path, task: TaskType, wanted: TaskType) -> None:
        folder = draw(tmp_path / "d", task)
        if task is wanted:
            assert validate(folder, wanted).ok
        else:
            finding = found(folder, wanted)["wrong_task"]
            assert finding.severity == "error"
            assert task in finding.message
            assert wanted in finding.message

    def test_labels_of_another_task_than_the_description_says_are_recognised(self, tmp_path: Path) -> None:
        folder = draw(tmp_path / "d", TaskType.ORIENTED_DETECTION)
        write_description(folder, description_for(TaskType.OBJECT_DETECTION))
        assert TaskType.ORIENTED_DETECTION in found(folder)["wrong_task"].message
        assert found(folder)["label_malformed"].line == 1

    def test_one_wrong_row_does_not_make_it_another_task(self, dataset: Path) -> None:
        with (dataset / "labels/train/0.txt").open("a") as label:
            label.write(ROWS[TaskType.ORIENTED_DETECTION][0])
        assert set(found(dataset)) == {"label_malformed"}


class TestSplits:
    @pytest.mark.parametrize("task", TASKS)
    @pytest.mark.parametrize("split", ["train", "val"])
    def test_both_are_needed(self, tmp_path: Path, task: TaskType, split: str) -> None:
        folder = draw(tmp_path / "d", task)
        shutil.rmtree(folder / "images" / split)
        report = validate(folder, task)
        finding = next(finding for finding in report.errors if finding.code == "split_empty")
        assert f"images/{split}" in finding.message
        assert report.images[split] == 0

    def test_an_empty_third_one_is_a_warning(self, dataset: Path) -> None:
        (dataset / "images/test").mkdir()
        assert found(dataset)["split_empty"].severity == "warning"

    def test_folders_of_other_names_are_pointed_out(self, dataset: Path) -> None:
        (dataset / "images/val").rename(dataset / "images/valid")
        assert found(dataset)["outside_splits"].path == "images/valid"
        assert found(dataset)["split_empty"].severity == "error"

    def test_a_folder_that_is_not_there_has_errors_and_no_traceback(self, tmp_path: Path) -> None:
        assert set(found(tmp_path / "nowhere", "object_detection")) == {"yaml_missing", "split_empty"}
        assert set(found(tmp_path / "nowhere")) == {"yaml_missing", "task_unknown"}
        assert set(found(tmp_path / "nowhere", "image_classification")) == {"split_empty"}

    def test_a_file_in_place_of_the_folders_has_errors_and_no_traceback(self, tmp_path: Path) -> None:
        (tmp_path / "images").write_text("")
        assert {"split_empty"} <= set(found(tmp_path, "object_detection"))


class TestLabels:
    def test_a_wrong_row_is_an_error_with_its_line(self, dataset: Path) -> None:
        (dataset / "labels/train/1.txt").write_text("0 0.5 0.5 0.2 0.2\n\nnonsense\n")
        finding = found(dataset)["label_malformed"]
        assert (finding.severity, finding.path, finding.line) == ("error", "labels/train/1.txt", 3)
        assert str(finding).startswith("labels/train/1.txt, line 3: ")

    @pytest.mark.parametrize(
        "data", [b"0 0.5 0.5 0.2 0.2\n\xff\xfe\x00\x81", "0 0.5 0.5 0.2 0.2\n\x80".encode("utf-16")]
    )
    def test_bytes_that_are_no_text_are_an_error(self, dataset: Path, data: bytes) -> None:
        (dataset / "labels/train/1.txt").write_bytes(data)
        assert found(dataset)["label_not_text"].severity == "error"

    def test_an_empty_label_and_a_missing_one_are_backgrounds_and_warnings(self, dataset: Path) -> None:
        (dataset / "labels/train/0.txt").write_text("\n")
        (dataset / "labels/train/1.txt").unlink()
        report = validate(dataset)
        assert report.ok
        assert report.statistics["backgrounds"] == {"train": 2, "val": 0}
        assert found(dataset)["label_empty"].path == "labels/train/0.txt"
        assert found(dataset)["label_missing"].path == "images/train/1.jpg"

    def test_a_label_without_a_picture_is_a_warning_in_any_folder(self, dataset: Path) -> None:
        (dataset / "images/val/1.jpg").unlink()
        (dataset / "labels/val/more/deep").mkdir(parents=True)
        (dataset / "labels/val/more/deep/x.txt").write_text("")
        report = validate(dataset)
        assert report.counts == {("warning", "image_missing"): 2}
        assert {finding.path for finding in report.findings} == {"labels/val/1.txt", "labels/val/more/deep/x.txt"}

    def test_a_folder_in_place_of_a_label_is_an_error(self, dataset: Path) -> None:
        (dataset / "labels/train/0.txt").unlink()
        (dataset / "labels/train/0.txt").mkdir()
        assert found(dataset)["label_not_a_file"].path == "labels/train/0.txt"

    def test_a_label_in_capital_letters_is_an_error_because_it_is_not_read(self, dataset: Path) -> None:
        (dataset / "labels/train/0.txt").rename(dataset / "labels/train/0.TXT")
        assert set(found(dataset)) == {"label_suffix", "label_missing"}

    def test_a_row_given_twice_counts_once_and_is_a_warning(self, dataset: Path) -> None:
        (dataset / "labels/train/0.txt").write_text("0 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.2 0.2\n0  .5 5e-1 0.20 0.2\n")
        assert found(dataset)["row_repeated"].line == 3
        assert validate(dataset).instances["train"] == 6

    def test_sizes_that_nobody_means_are_warnings(self, dataset: Path) -> None:
        rows = ["0 0.5 0.5 0.03 0.5", "0 0.5 0.5 0.04 0.5", "0 0.5 0.5 1 0.96", "0 0.05 0.5 0.2 0.2"]
        (dataset / "labels/train/0.txt").write_text("\n".join(rows))  # of 64 x 48 pixels
        findings = {finding.code: finding.line for finding in validate(dataset).findings}
        assert findings == {"box_tiny": 1, "box_giant": 3, "outside_image": 4}

    def test_an_outline_without_area_is_a_warning(self, tmp_path: Path) -> None:
        folder = draw(tmp_path / "d", TaskType.INSTANCE_SEGMENTATION)
        with (folder / "labels/train/0.txt").open("a") as label:
            label.write("0 0.1 0.1 0.5 0.5 0.9 0.9\n")
        assert (found(folder)["outline_flat"].severity, found(folder)["outline_flat"].line) == ("warning", 3)

    def test_a_label_of_nothing_but_nonsense_is_given_up(self, dataset: Path) -> None:
        (dataset / "labels/train/0.txt").write_text("x\n" * 200_000)
        told: list[Finding] = []
        report = validate(dataset, on_finding=told.append)
        assert report.counts[("error", "label_malformed")] == 1_000
        assert told[1_000].code == "label_given_up"
        assert told[1_000].line == 1_001

    def test_a_label_of_absurd_size_is_not_read(self, dataset: Path) -> None:
        with (dataset / "labels/train/0.txt").open("wb") as label:
            label.truncate(100 << 20)
        assert "100 MiB" in found(dataset)["label_too_large"].message

    def test_labels_without_any_object_are_an_error_in_train_and_a_warning_in_val(self, dataset: Path) -> None:
        for label in (dataset / "labels/val").iterdir():
            label.write_text("")
        assert found(dataset)["nothing_labelled"].severity == "warning"
        for label in (dataset / "labels/train").iterdir():
            label.write_text("")
        assert found(dataset)["nothing_labelled"].severity == "error"


class TestPlacesAndNames:
    def test_a_link_is_an_error_and_what_it_points_to_is_not_read(self, dataset: Path, tmp_path: Path) -> None:
        outside = draw(tmp_path / "outside")
        (outside / "images/train/secret.jpg").write_bytes(b"secret")
        (dataset / "images/train/linked.jpg").symlink_to(outside / "images/train/secret.jpg")
        (dataset / "images/train/more").symlink_to(outside / "images/train")
        (dataset / "labels/train/1.txt").unlink()
        (dataset / "labels/train/1.txt").symlink_to(outside / "labels/train/1.txt")
        (dataset / "images/test").symlink_to(outside / "images/val")
        report = validate(dataset)
        assert {finding.path for finding in report.errors} == {
            "images/test",
            "images/train/linked.jpg",
            "images/train/more",
            "labels/train/1.txt",
        }
        assert {finding.code for finding in report.errors} == {"link"}
        assert report.images == {"train": 3, "val": 2}

    @pytest.mark.parametrize("kind", ["images", "labels"])
    def test_whole_folders_that_are_links_are_not_followed(self, dataset: Path, tmp_path: Path, kind: str) -> None:
        (dataset / kind).rename(tmp_path / "elsewhere")
        (dataset / kind).symlink_to(tmp_path / "elsewhere")
        report = validate(dataset)
        assert found(dataset)["link"].path == kind
        assert sum(report.instances.values()) == 0

    def test_two_pictures_of_one_label_are_a_warning(self, dataset: Path) -> None:
        (dataset / "images/train/0.png").write_bytes(picture(99, kind="PNG"))
        assert set(found(dataset)) == {"label_shared"}

    @pytest.mark.parametrize(("first", "second"), [("a.jpg", "A.jpg"), ("é.jpg", "e\u0301.jpg"), ("ß.jpg", "SS.jpg")])
    def test_names_that_some_disks_take_for_one_are_an_error(self, dataset: Path, first: str, second: str) -> None:
        for seed, name in enumerate((first, second)):
            (dataset / "images/train" / name).write_bytes(picture(90 + seed))
        assert found(dataset)["name_differs_in_case"].severity == "error"

    def test_folders_that_differ_in_case_are_an_error(self, classes: Path) -> None:
        shutil.copytree(classes / "images/train/cat", classes / "images/train/Cat")
        assert found(classes)["name_differs_in_case"].path == "images/train/cat"

    def test_a_name_that_is_no_utf8_is_an_error_that_can_be_shown(self, dataset: Path) -> None:
        (dataset / "images/train" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(picture(90))
        records: list[ImageRecord] = []
        report = validate(dataset, on_image=records.append)
        assert report.errors[0].code == "name_not_utf8"
        assert report.errors[0].path == "images/train/caf\\udce9.jpg"
        assert len(records) == 5

    def test_a_name_with_a_line_break_is_an_error_and_one_with_a_narrow_space_is_not(self, dataset: Path) -> None:
        (dataset / "images/train/3\u202fpm 그림.jpg").write_bytes(picture(90))
        assert set(found(dataset)) == {"label_missing"}
        (dataset / "images/train/a\nb.jpg").write_bytes(picture(91))
        assert found(dataset)["name_not_printable"].severity == "error"

    def test_a_path_too_long_for_the_platform_is_an_error(self, dataset: Path) -> None:
        deep = dataset / "images/train" / "/".join(["d" * 200] * 5)
        deep.mkdir(parents=True)
        (deep / "a.jpg").write_bytes(picture(90))
        assert found(dataset)["path_too_long"].severity == "error"

    def test_pipes_and_sockets_are_errors_and_nothing_waits_for_them(self, dataset: Path) -> None:
        os.mkfifo(dataset / "images/train/pipe.jpg")
        with socket.socket(socket.AF_UNIX) as listener:
            here = Path.cwd()
            os.chdir(dataset / "images/train")  # a socket's path may have 108 bytes
            try:
                listener.bind("socket.jpg")
            finally:
                os.chdir(here)
            assert validate(dataset).counts == {("error", "not_a_file"): 2}

    @pytest.mark.parametrize(
        ("name", "severity", "code"),
        [
            ("notes.docx", "warning", "not_an_image"),
            ("moving.gif", "warning", "not_an_image"),
            (".hidden.jpg", "warning", "hidden_file"),
            ("0.npy", "error", "array_beside_image"),
            ("phone.HEIC", "error", "image_kind_unsupported"),
        ],
    )
    def test_files_of_other_kinds_are_found(self, dataset: Path, name: str, severity: str, code: str) -> None:
        (dataset / "images/train" / name).write_bytes(b"anything")
        assert [(found.severity, found.code) for found in validate(dataset).findings] == [(severity, code)]

    def test_a_subfolder_called_images_is_an_error_because_its_labels_are_not_found(self, dataset: Path) -> None:
        for kind, name in (("images", "0.jpg"), ("labels", "0.txt")):
            (dataset / kind / "train/images").mkdir()
            (dataset / kind / "train" / name).rename(dataset / kind / "train/images" / name)
        assert found(dataset)["folder_named_images"].path == "images/train/images"

    def test_files_that_vanish_while_they_are_checked_are_errors(self, dataset: Path) -> None:
        def vanish(record: ImageRecord) -> None:
            (dataset / "images/train/2.jpg").unlink(missing_ok=True)
            (dataset / "labels/train/1.txt").unlink(missing_ok=True)

        records: list[ImageRecord] = []
        told: list[Finding] = []
        validate(
            dataset, on_image=lambda record: [vanish(record), records.append(record)], on_finding=told.append, workers=1
        )
        assert [(finding.code, finding.path) for finding in told] == [
            ("file_unreadable", "labels/train/1.txt"),
            ("file_unreadable", "images/train/2.jpg"),
        ]
        assert [record.sha256 == "" for record in records] == [False, False, True, False, False]


class TestDuplicates:
    def test_across_splits(self, dataset: Path) -> None:
        shutil.copy(dataset / "images/train/2.jpg", dataset / "images/val/1.jpg")
        copy, original = validate(dataset).findings
        assert {(finding.severity, finding.code) for finding in (copy, original)} == {
            ("warning", "image_in_two_splits")
        }
        assert (copy.path, original.path) == ("images/val/1.jpg", "images/train/2.jpg")
        assert "images/train/2.jpg" in copy.message
        assert "images/val/1.jpg" in original.message

    def test_within_a_split(self, dataset: Path) -> None:
        shutil.copy(dataset / "images/train/2.jpg", dataset / "images/train/1.jpg")
        assert set(found(dataset)) == {"image_repeated"}

    def test_in_two_classes(self, classes: Path) -> None:
        shutil.copy(classes / "images/train/cat/0.jpg", classes / "images/train/dog/0.jpg")
        assert set(found(classes)) == {"image_in_two_classes"}


class TestClassFolders:
    def test_a_class_that_is_not_in_train_is_an_error(self, classes: Path) -> None:
        (classes / "images/val/dog").rename(classes / "images/val/wolf")
        findings = found(classes)
        assert (findings["class_not_in_train"].severity, findings["class_not_in_train"].path) == (
            "error",
            "images/val/wolf",
        )
        assert "dog" in findings["class_not_in_val"].message

    @pytest.mark.parametrize("split", ["train", "val"])
    def test_a_class_without_pictures_is_an_error_for_its_folder_is_not_kept(self, classes: Path, split: str) -> None:
        (classes / "images" / split / "empty").mkdir()
        assert found(classes)["class_empty"].path == f"images/{split}/empty"

    def test_names_that_differ_from_the_folders_are_an_error(self, classes: Path) -> None:
        write_description(classes, description_for(TaskType.IMAGE_CLASSIFICATION, ("cat", "bird")))
        assert "bird, dog" in found(classes)["class_names_differ"].message
        write_description(classes, description_for(TaskType.IMAGE_CLASSIFICATION, ("dog", "cat")))
        assert "order" in found(classes)["class_names_differ"].message

    def test_a_picture_in_no_class_is_a_warning_and_is_not_counted_for_one(self, classes: Path) -> None:
        (classes / "images/train/stray.jpg").write_bytes(picture(90))
        records: list[ImageRecord] = []
        report = validate(classes, on_image=records.append)
        assert report.counts == {("warning", "image_outside_class"): 1}
        assert report.instances["train"] == 6
        assert [record.class_ids for record in records if "stray" in record.path] == [()]

    def test_pictures_in_subfolders_belong_to_their_class(self, classes: Path) -> None:
        (classes / "images/train/dog/more").mkdir()
        (classes / "images/train/dog/0.jpg").rename(classes / "images/train/dog/more/0.jpg")
        assert validate(classes).findings == []

    def test_one_class_alone_is_a_warning_and_a_hidden_one_an_error(self, classes: Path) -> None:
        for split in ("train", "val"):
            (classes / "images" / split / "dog").rename(classes / "images" / split / ".dog")
        (classes / "data.yaml").unlink()
        findings = found(classes, "image_classification")
        assert {code: finding.severity for code, finding in findings.items()} == {
            "hidden_file": "error",
            "one_class": "warning",
        }


class TestBalance:
    def test_a_class_without_any_object_is_a_warning(self, dataset: Path) -> None:
        write_description(dataset, description_for(TaskType.OBJECT_DETECTION, ("cat", "dog", "hexagon")))
        assert "hexagon" in found(dataset)["class_without_objects"].message

    def test_a_class_in_one_split_alone_is_a_warning(self, dataset: Path) -> None:
        for label in (dataset / "labels/train").iterdir():
            label.write_text("0 0.5 0.5 0.2 0.2\n")
        assert "dog" in found(dataset)["class_not_in_train"].message
        for label in (dataset / "labels/val").iterdir():
            label.write_text("1 0.5 0.5 0.2 0.2\n")
        assert "cat" in found(dataset)["class_not_in_val"].message

    def test_a_hundredfold_imbalance_is_a_warning(self, dataset: Path) -> None:
        for label in (dataset / "labels/train").iterdir():
            label.write_text("".join(f"0 0.{100 + i} 0.5 0.1 0.1\n" for i in range(100)))
        (dataset / "labels/train/0.txt").write_text("1 0.5 0.5 0.2 0.2\n")
        assert found(dataset)["classes_imbalanced"].message.startswith("In train, cat occurs 200 times and dog 1:")


class TestTelling:
    @pytest.mark.parametrize("workers", [1, 4])
    def test_pictures_come_in_the_order_of_paths_with_their_findings_after_them(
        self, tmp_path: Path, workers: int
    ) -> None:
        folder = draw(tmp_path / "d", train=60, val=30)
        shutil.copytree(folder / "images/val", folder / "images/test/sub")
        (folder / "labels/train/7.txt").write_text("nonsense\n9 0.5 0.5 0.1 0.1\n")
        (folder / "images/train/9.jpg").write_bytes(b"no picture")
        order: list[str] = []
        records: list[ImageRecord] = []
        steps: list[tuple[int, int]] = []
        validate(
            folder,
            on_image=lambda record: [records.append(record), order.append(record.path)],
            on_finding=lambda finding: order.append(f"{finding.code} {finding.path}"),
            progress=lambda done, total: steps.append((done, total)),
            workers=workers,
        )
        paths = [record.path for record in records]
        assert paths == sorted(paths)
        assert paths == [path for split in ("test", "train", "val") for path in images_of(folder, split)]
        position = order.index("images/train/7.jpg")
        assert order[position + 1 : position + 3] == [
            "label_malformed labels/train/7.txt",
            "class_out_of_range labels/train/7.txt",
        ]
        assert steps == [(number, 120) for number in range(1, 121)]

    def test_a_record_says_what_is_in_a_picture(self, dataset: Path) -> None:
        (dataset / "labels/train/0.txt").write_text("1 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.2 0.3\nx\nx\n")
        records: list[ImageRecord] = []
        validate(dataset, on_image=records.append)
        first = records[0]
        assert (first.path, first.split, first.width, first.height) == ("images/train/0.jpg", "train", 64, 48)
        assert first.size == (dataset / first.path).stat().st_size
        assert len(first.sha256) == 64
        assert (first.label_path, first.instances, first.class_ids) == ("labels/train/0.txt", 2, (1,))
        assert first.codes == ("label_malformed",)

    def test_workers_make_no_difference_to_what_is_found(self, tmp_path: Path) -> None:
        folder = broken_at_random(draw(tmp_path / "d", train=40, val=20), seed=1)
        first, second = validate(folder, workers=1), validate(folder, workers=5)
        assert first == second
        assert not first.ok

    def test_what_a_listener_raises_ends_the_check(self, tmp_path: Path) -> None:
        folder = draw(tmp_path / "d", train=40)

        def stop(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            validate(folder, progress=stop, workers=3)

    def test_of_many_findings_the_first_are_listed_and_all_are_counted_and_told(self, dataset: Path) -> None:
        (dataset / "labels/train/0.txt").write_text("9 0.5 0.5 0.2 0.2\n" * 500)
        told: list[Finding] = []
        report = validate(dataset, on_finding=told.append)
        assert report.counts == {("error", "class_out_of_range"): 500}
        assert report.total("error") == len(told) == 500
        assert len(report.errors) == LISTED_OF_ONE_KIND

    def test_the_error_says_the_first_findings_in_words(self, dataset: Path) -> None:
        (dataset / "labels/train/0.txt").write_text("9 0.5 0.5 0.2 0.2\n" * 7)
        error = str(DatasetInvalidError.of(validate(dataset)))
        assert "labels/train/0.txt, line 1: Class id 9" in error
        assert error.endswith("And 2 more.")

    def test_a_report_can_be_written_as_json_and_small(self, dataset: Path) -> None:
        assert len(json.dumps(validate(dataset).statistics)) < 2_000


def broken_at_random(folder: Path, seed: int) -> Path:
    """Bytes of pictures and labels changed, cut off and put in."""
    rng = random.Random(seed)
    for path in sorted(folder.rglob("*.*")):
        if path.is_file() and path.name != "data.yaml" and rng.random() < 0.7:
            data = bytearray(path.read_bytes())
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(len(data))
                match rng.randrange(3):
                    case 0:
                        data[at] = rng.randrange(256)
                    case 1:
                        del data[at : at + rng.randrange(1, 40)]
                    case _:
                        data[at:at] = rng.choice([b"\x00", b"\xff\xd9", b" nan ", b"\n", rng.randbytes(9)])
                data = data or bytearray(b"\x00")
            path.write_bytes(data)
    return folder


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("task", TASKS)
def test_no_damage_ends_a_check(tmp_path: Path, task: TaskType, seed: int) -> None:
    folder = broken_at_random(draw(tmp_path / "d", task, train=8, val=4), seed)
    records: list[ImageRecord] = []
    report = validate(folder, task, on_image=records.append)
    assert sum(report.images.values()) == len(records) == (24 if task is TaskType.IMAGE_CLASSIFICATION else 12)
    assert report.total("error") > 0
    json.dumps(report.statistics, allow_nan=False)
