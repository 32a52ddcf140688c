"""Datasets: what validation finds, that packing is reproducible, that fetching is safe and done once."""

import hashlib
import io
import os
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from PIL import Image

from apps.storage.sample import draw_sample
from trainer.dataset import (
    DatasetCorruptError,
    DatasetError,
    DatasetInvalidError,
    Finding,
    PackedDataset,
    archive_key,
    fetch,
    pack,
    validate,
    write_ultralytics_yaml,
)
from trainer.store import LocalStoreSettings, ObjectMissingError, ObjectStore, open_store

SHARED_DATA = Path(__file__).parents[2].parent / "shared" / "data"
KEY = archive_key("3f", "0" * 64)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A right dataset of eight and four pictures, for a test to break."""
    folder = tmp_path / "dataset"
    draw_sample(folder, train=8, val=4, size=32)
    return folder


def found(folder: Path) -> dict[str, Finding]:
    """The findings by their code; of several with one code, the first."""
    report = validate(folder, "object_detection")
    return {finding.code: finding for finding in reversed(report.findings)}


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def link(member: tarfile.TarInfo, kind: bytes, target: str) -> None:
    member.type, member.linkname = kind, target


class TestValidation:
    def test_a_right_dataset_is_ok_and_counted(self, dataset: Path) -> None:
        report = validate(dataset, "object_detection")
        rows = [label.read_text().splitlines() for label in sorted((dataset / "labels/train").iterdir())]
        assert report.ok
        assert report.findings == []
        assert report.class_names == ["circle", "square", "triangle"]
        assert report.images == {"train": 8, "val": 4}
        assert report.boxes["train"] == sum(map(len, rows))

    def test_a_public_dataset_passes_once_its_description_is_renamed(self, tmp_path: Path) -> None:
        archive = SHARED_DATA / "coco8.zip"
        if not archive.exists():
            pytest.skip(f"{archive} is not there")
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(tmp_path)  # noqa: S202 - a file of our own choice
        folder = tmp_path / "coco8"
        assert "Rename coco8.yaml" in found(folder)["yaml_missing"].message
        (folder / "coco8.yaml").rename(folder / "data.yaml")
        report = validate(folder, "object_detection")
        assert report.ok
        assert report.images == {"train": 4, "val": 4}
        assert len(report.class_names) == 80
        assert {finding.code for finding in report.findings} <= {"class_without_boxes", "label_missing"}

    def test_a_third_split_and_subfolders_are_read(self, dataset: Path) -> None:
        for kind, suffix in (("images", "jpg"), ("labels", "txt")):
            (dataset / kind / "test" / "night").mkdir(parents=True)
            source = dataset / kind / "val" / f"sample-0000.{suffix}"
            source.rename(dataset / kind / "test" / "night" / source.name)
        report = validate(dataset, "object_detection")
        assert report.ok
        assert report.images == {"train": 8, "val": 3, "test": 1}

    def test_a_task_that_is_not_supported_is_refused_in_words(self, dataset: Path) -> None:
        report = validate(dataset, "pose_estimation")
        assert not report.ok
        assert "pose_estimation" in report.errors[0].message
        assert "object_detection" in report.errors[0].message

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("names: [a, b", "yaml_unreadable"),
            ("- a\n- b\n", "yaml_unreadable"),
            ("\x00", "yaml_unreadable"),
            ("nc: 3\n", "names_missing"),
            ("names: []\n", "names_missing"),
            ("names: circle\n", "names_missing"),
            ("names: {0: a, 2: b, 3: c}\n", "names_not_contiguous"),
            ("names: {circle: 0, square: 1}\n", "names_not_contiguous"),
            ("names: [a, no, c]\n", "name_not_text"),
            ("names: [a, ~, c]\n", "name_not_text"),
            ("names: [a, '', c]\n", "name_not_text"),
        ],
    )
    def test_a_wrong_description_is_an_error(self, dataset: Path, text: str, code: str) -> None:
        (dataset / "data.yaml").write_text(text)
        assert found(dataset)[code].severity == "error"
        assert found(dataset)[code].path == "data.yaml"

    @pytest.mark.parametrize(
        "text",
        [
            "path: /somewhere/else\ntrain: x\nval: y\nnames: [a, b, c]\n",
            "names: {2: c, 0: a, 1: b}\n",
            "names: {'0': a, '1': b, '2': c}\n",
        ],
    )
    def test_names_may_be_a_list_or_a_mapping_and_paths_do_not_matter(self, dataset: Path, text: str) -> None:
        (dataset / "data.yaml").write_text(text)
        report = validate(dataset, "object_detection")
        assert report.ok
        assert report.class_names == ["a", "b", "c"]

    def test_a_count_of_classes_that_differs_is_a_warning(self, dataset: Path) -> None:
        (dataset / "data.yaml").write_text("names: [a, b, b]\nnc: 5\n")
        assert found(dataset)["class_count_differs"].severity == "warning"
        assert found(dataset)["name_repeated"].severity == "warning"

    @pytest.mark.parametrize("split", ["train", "val"])
    def test_both_splits_are_needed(self, dataset: Path, split: str) -> None:
        shutil.rmtree(dataset / "images" / split)
        finding = found(dataset)["split_empty"]
        assert finding.severity == "error"
        assert f"images/{split}" in finding.message

    @pytest.mark.parametrize(
        ("row", "code"),
        [
            ("0 0.5 0.5 0.2", "label_malformed"),
            ("0 0.5 0.5 0.2 0.2 0.9", "label_malformed"),
            ("0 0.1 0.1 0.2 0.1 0.2 0.2", "label_malformed"),
            ("circle 0.5 0.5 0.2 0.2", "label_malformed"),
            ("3 0.5 0.5 0.2 0.2", "class_out_of_range"),
            ("-1 0.5 0.5 0.2 0.2", "class_out_of_range"),
            ("0.5 0.5 0.5 0.2 0.2", "class_out_of_range"),
            ("nan 0.5 0.5 0.2 0.2", "class_out_of_range"),
            ("0 64 64 20 20", "coordinates_not_normalised"),
            ("0 -0.1 0.5 0.2 0.2", "coordinates_not_normalised"),
            ("0 nan 0.5 0.2 0.2", "coordinates_not_normalised"),
            ("0 0.5 0.5 0 0.2", "box_empty"),
        ],
    )
    def test_a_wrong_row_is_an_error_with_its_line(self, dataset: Path, row: str, code: str) -> None:
        label = dataset / "labels/train/sample-0003.txt"
        label.write_text(f"0 0.5 0.5 0.2 0.2\n\n{row}\n")
        finding = found(dataset)[code]
        assert (finding.severity, finding.path, finding.line) == ("error", "labels/train/sample-0003.txt", 3)
        assert str(finding).startswith("labels/train/sample-0003.txt, line 3: ")

    def test_a_label_that_is_no_text_is_an_error(self, dataset: Path) -> None:
        (dataset / "labels/train/sample-0003.txt").write_bytes(b"\xff\xfe\x00\x81")
        assert found(dataset)["label_malformed"].line == 1

    def test_an_empty_label_says_background_and_a_missing_one_is_a_warning(self, dataset: Path) -> None:
        (dataset / "labels/train/sample-0000.txt").write_text("")
        assert validate(dataset, "object_detection").findings == []
        (dataset / "labels/train/sample-0000.txt").unlink()
        assert found(dataset)["label_missing"].severity == "warning"
        assert found(dataset)["label_missing"].path == "images/train/sample-0000.jpg"

    def test_a_label_without_a_picture_is_a_warning(self, dataset: Path) -> None:
        (dataset / "images/val/sample-0001.jpg").unlink()
        assert found(dataset)["image_missing"].severity == "warning"
        assert found(dataset)["image_missing"].path == "labels/val/sample-0001.txt"

    def test_two_pictures_of_one_label_are_a_warning(self, dataset: Path) -> None:
        Image.new("RGB", (32, 32)).save(dataset / "images/train/sample-0000.png")
        assert found(dataset)["label_shared"].severity == "warning"

    def test_bytes_that_are_no_picture_are_an_error(self, dataset: Path) -> None:
        (dataset / "images/train/sample-0002.jpg").write_bytes(b"GIF? no.")
        finding = found(dataset)["image_unreadable"]
        assert (finding.severity, finding.path) == ("error", "images/train/sample-0002.jpg")
        assert str(dataset) not in finding.message

    def test_a_picture_too_small_to_train_on_is_an_error(self, dataset: Path) -> None:
        Image.new("RGB", (9, 64)).save(dataset / "images/train/sample-0002.jpg")
        assert found(dataset)["image_too_small"].severity == "error"

    def test_a_picture_cut_short_is_a_warning(self, dataset: Path) -> None:
        picture = dataset / "images/train/sample-0002.jpg"
        picture.write_bytes(picture.read_bytes()[:-100])
        assert found(dataset)["image_truncated"].severity == "warning"

    def test_a_file_of_another_kind_is_a_warning(self, dataset: Path) -> None:
        (dataset / "images/train/notes.docx").write_bytes(b"notes")
        assert found(dataset)["not_an_image"].severity == "warning"

    def test_the_same_picture_in_train_and_val_is_a_warning(self, dataset: Path) -> None:
        shutil.copy(dataset / "images/train/sample-0004.jpg", dataset / "images/val/sample-0001.jpg")
        finding = found(dataset)["image_in_two_splits"]
        assert (finding.severity, finding.path) == ("warning", "images/val/sample-0001.jpg")
        assert "images/train/sample-0004.jpg" in finding.message

    def test_a_link_is_an_error_because_packing_leaves_it_behind(self, dataset: Path) -> None:
        (dataset / "images/train/linked.jpg").symlink_to(dataset / "images/train/sample-0000.jpg")
        assert found(dataset)["link"].path == "images/train/linked.jpg"

    def test_a_class_that_no_box_shows_is_a_warning(self, dataset: Path) -> None:
        (dataset / "data.yaml").write_text("names: [circle, square, triangle, hexagon]\n")
        assert "hexagon" in found(dataset)["class_without_boxes"].message

    def test_many_findings_of_one_kind_are_counted_and_not_listed(self, dataset: Path) -> None:
        (dataset / "labels/train/sample-0000.txt").write_text("9 0.5 0.5 0.2 0.2\n" * 500)
        report = validate(dataset, "object_detection")
        wrong = [finding for finding in report.errors if finding.code == "class_out_of_range"]
        assert len(wrong) == 21
        assert "480 more" in wrong[-1].message

    def test_a_folder_that_is_not_there_has_errors_and_no_traceback(self, tmp_path: Path) -> None:
        assert set(found(tmp_path / "nowhere")) == {"yaml_missing", "split_empty"}

    def test_the_error_says_the_first_findings_in_words(self, dataset: Path) -> None:
        (dataset / "labels/train/sample-0000.txt").write_text("9 0.5 0.5 0.2 0.2\n" * 7)
        error = DatasetInvalidError(validate(dataset, "object_detection"))
        assert "labels/train/sample-0000.txt, line 1: Class id 9" in str(error)
        assert str(error).endswith("And 2 more.")


class TestPacking:
    def test_the_same_files_give_the_same_bytes(self, dataset: Path, tmp_path: Path) -> None:
        other = tmp_path / "moved"
        shutil.copytree(dataset, other)
        for path in sorted(other.rglob("*"), reverse=True):
            path.chmod(0o700)
            path.touch()
        (other / "labels" / "train.cache").write_bytes(b"of ultralytics")
        (other / "link.jpg").symlink_to(other / "data.yaml")
        first, second = pack(dataset, tmp_path / "a.tar"), pack(other, tmp_path / "b.tar")
        data = (tmp_path / "a.tar").read_bytes()
        assert first == second == PackedDataset(len(data), hashlib.sha256(data).hexdigest())
        assert data == (tmp_path / "b.tar").read_bytes()

    def test_names_of_any_script_and_length_are_kept(self, dataset: Path, tmp_path: Path) -> None:
        name = "그림-" + "x" * 150 + ".jpg"
        (dataset / "images/train/sample-0000.jpg").rename(dataset / "images/train" / name)
        pack(dataset, tmp_path / "a.tar")
        with tarfile.open(tmp_path / "a.tar") as tar:
            names = tar.getnames()
        assert f"images/train/{name}" in names
        assert names == sorted(content(dataset))

    def test_an_archive_inside_its_own_folder_is_refused(self, dataset: Path) -> None:
        with pytest.raises(DatasetError, match="pack itself"):
            pack(dataset, dataset / "data.tar")

    def test_the_key_names_dataset_and_version(self) -> None:
        assert archive_key("0b1c", "9f86") == "datasets/0b1c/9f86.tar"


class TestFetching:
    @pytest.fixture
    def packed(self, store: ObjectStore, dataset: Path, tmp_path: Path) -> PackedDataset:
        packed = pack(dataset, tmp_path / "data.tar")
        store.put_file(KEY, tmp_path / "data.tar")
        return packed

    def test_what_was_packed_comes_back(
        self, store: ObjectStore, packed: PackedDataset, dataset: Path, tmp_path: Path
    ) -> None:
        steps: list[tuple[int, int]] = []
        folder = fetch(store, KEY, packed.sha256, tmp_path / "cache", lambda *step: steps.append(step))
        assert folder == tmp_path / "cache" / "datasets" / packed.sha256
        assert content(folder) == content(dataset)
        assert steps[-1] == (packed.size, packed.size)
        assert [path.name for path in folder.parent.iterdir()] == [packed.sha256]

    def test_a_cached_dataset_needs_no_store(self, store: ObjectStore, packed: PackedDataset, tmp_path: Path) -> None:
        first = fetch(store, KEY, packed.sha256, tmp_path)
        store.delete(KEY)
        assert fetch(store, KEY, packed.sha256, tmp_path) == first

    def test_an_archive_that_is_missing_is_named(self, store: ObjectStore, tmp_path: Path) -> None:
        with pytest.raises(ObjectMissingError, match=r"3f/0{64}\.tar"):
            fetch(store, KEY, "0" * 64, tmp_path)
        assert list(tmp_path.rglob(".fetching-*")) == []


class TestFetchingSafely:
    """What does not depend on the kind of store."""

    @pytest.fixture
    def local(self, tmp_path: Path) -> ObjectStore:
        return open_store(LocalStoreSettings(tmp_path / "local"))

    def put(self, store: ObjectStore, data: bytes) -> str:
        store.put_bytes(KEY, data)
        return hashlib.sha256(data).hexdigest()

    def refused(self, store: ObjectStore, sha256: str, cache: Path) -> str:
        with pytest.raises(DatasetCorruptError) as caught:
            fetch(store, KEY, sha256, cache)
        assert list((cache / "datasets").iterdir()) == []
        return str(caught.value)

    def test_one_changed_byte_is_noticed(self, local: ObjectStore, dataset: Path, tmp_path: Path) -> None:
        packed = pack(dataset, tmp_path / "data.tar")
        data = bytearray((tmp_path / "data.tar").read_bytes())
        data[-1] ^= 1  # padding, which no extraction looks at
        self.put(local, bytes(data))
        assert packed.sha256 in self.refused(local, packed.sha256, tmp_path / "cache")

    @pytest.mark.parametrize("part", [0, 100, 5_000])
    def test_an_archive_cut_short_is_noticed(
        self, local: ObjectStore, dataset: Path, tmp_path: Path, part: int
    ) -> None:
        packed = pack(dataset, tmp_path / "data.tar")
        self.put(local, (tmp_path / "data.tar").read_bytes()[:part])
        self.refused(local, packed.sha256, tmp_path / "cache")

    def test_bytes_that_are_no_archive_are_noticed(self, local: ObjectStore, tmp_path: Path) -> None:
        sha256 = self.put(local, b"<html>not what you wanted</html>" * 100)
        assert "not an archive" in self.refused(local, sha256, tmp_path / "cache")

    @pytest.mark.parametrize(
        "change",
        [
            lambda member: setattr(member, "name", "../outside.txt"),
            lambda member: setattr(member, "name", "images/../../outside.txt"),
            lambda member: setattr(member, "name", "/tmp/outside.txt"),
            lambda member: setattr(member, "name", "..\\outside.txt"),
            lambda member: link(member, tarfile.SYMTYPE, "data.yaml"),
            lambda member: link(member, tarfile.SYMTYPE, "/etc"),
            lambda member: link(member, tarfile.LNKTYPE, "data.yaml"),
            lambda member: setattr(member, "type", tarfile.FIFOTYPE),
            lambda member: setattr(member, "type", tarfile.CHRTYPE),
            lambda member: setattr(member, "pax_headers", {"GNU.sparse.size": str(1 << 40), "GNU.sparse.map": "0,0"}),
        ],
    )
    def test_a_hostile_member_is_refused_even_with_the_right_digest(
        self, local: ObjectStore, tmp_path: Path, change: Callable[[tarfile.TarInfo], object]
    ) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name in ("data.yaml", "images/train/a.txt"):
                member = tarfile.TarInfo(name)
                if name != "data.yaml":
                    change(member)
                tar.addfile(member)
        sha256 = self.put(local, buffer.getvalue())
        assert "refused" in self.refused(local, sha256, tmp_path / "deep" / "cache")
        assert list(tmp_path.rglob("outside.txt")) == []

    def test_the_slower_of_two_fetches_takes_the_faster_ones_folder(
        self, local: ObjectStore, dataset: Path, tmp_path: Path
    ) -> None:
        packed = pack(dataset, tmp_path / "data.tar")
        local.put_file(KEY, tmp_path / "data.tar")
        faster: list[Path] = []

        def overtake(done: int, total: int) -> None:
            if not faster:
                faster.append(fetch(local, KEY, packed.sha256, tmp_path / "cache"))
                (faster[0] / "proof").touch()

        slower = fetch(local, KEY, packed.sha256, tmp_path / "cache", overtake)
        assert [slower] == faster
        assert (slower / "proof").exists()
        assert [path.name for path in slower.parent.iterdir()] == [packed.sha256]

    def test_many_fetches_at_once_end_in_one_folder(self, local: ObjectStore, dataset: Path, tmp_path: Path) -> None:
        packed = pack(dataset, tmp_path / "data.tar")
        local.put_file(KEY, tmp_path / "data.tar")
        with ThreadPoolExecutor(6) as pool:
            folders = set(pool.map(lambda _: fetch(local, KEY, packed.sha256, tmp_path / "cache"), range(12)))
        assert len(folders) == 1
        assert content(folders.pop()) == content(dataset)

    @pytest.mark.parametrize("sha256", ["", "../../outside", "A" * 64, "0" * 63])
    def test_only_a_digest_names_a_folder(self, local: ObjectStore, tmp_path: Path, sha256: str) -> None:
        with pytest.raises(DatasetError, match="no SHA-256"):
            fetch(local, KEY, sha256, tmp_path)

    def test_a_cache_that_cannot_be_written_is_named(self, local: ObjectStore, tmp_path: Path) -> None:
        sha256 = self.put(local, b"")
        (tmp_path / "file").touch()
        with pytest.raises(DatasetError, match="dataset cache"):
            fetch(local, KEY, sha256, tmp_path / "file")

    def test_what_killed_fetches_left_is_removed_after_a_day(
        self, local: ObjectStore, dataset: Path, tmp_path: Path
    ) -> None:
        packed = pack(dataset, tmp_path / "data.tar")
        local.put_file(KEY, tmp_path / "data.tar")
        home = tmp_path / "cache" / "datasets"
        old, young = home / ".fetching-old", home / ".fetching-young"
        for folder in (old, young):
            (folder / "images").mkdir(parents=True)
        two_days_ago = time.time() - 2 * 24 * 3600
        os.utime(old, (two_days_ago, two_days_ago))
        fetch(local, KEY, packed.sha256, tmp_path / "cache")
        assert sorted(path.name for path in home.iterdir()) == [".fetching-young", packed.sha256]


class TestUltralyticsYaml:
    def test_it_points_to_the_folder_and_keeps_only_the_names(self, dataset: Path, tmp_path: Path) -> None:
        names = ["yes", "1", "a: b", "'quoted' \"twice\"", "고양이"]
        (dataset / "data.yaml").write_text(yaml.safe_dump({"names": names, "download": "print('run me')"}))
        path = write_ultralytics_yaml(dataset, tmp_path / "work" / "data.yaml")
        assert yaml.safe_load(path.read_text(encoding="utf-8")) == {
            "path": str(dataset.resolve()),
            "train": "images/train",
            "val": "images/val",
            "names": dict(enumerate(names)),
        }

    def test_names_that_cannot_be_read_are_an_error(self, dataset: Path, tmp_path: Path) -> None:
        (dataset / "data.yaml").unlink()
        with pytest.raises(DatasetInvalidError, match=r"There is no data\.yaml"):
            write_ultralytics_yaml(dataset, tmp_path / "data.yaml")
        assert not (tmp_path / "data.yaml").exists()
