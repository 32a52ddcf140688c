"""What a dataset folder must hold before it may be trained on, and what is wrong with one that does not.

    data.yaml                     names: a list, or a mapping of ids to names
    images/{train,val[,test]}/    pictures, in subfolders if wanted
    labels/{train,val[,test]}/    one .txt for each picture, of the same name and subfolder

A detection label has one row a box: class id, centre x, centre y, width, height, the last four in shares
(0 to 1) of the picture's width and height. `trainer.dataset` is where callers find all of this.
"""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from PIL import Image

DATA_YAML = "data.yaml"
REQUIRED_SPLITS = ("train", "val")
SPLITS = (*REQUIRED_SPLITS, "test")
# What Pillow, which validates, and OpenCV, which trains, both read.
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

_MOST_OF_ONE_KIND = 20  # findings of one code that a report lists before it only counts
_SMALLEST_SIDE = 10  # pixels; ultralytics drops smaller pictures
_MAX_YAML_BYTES = 1 << 20


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. `path` is relative to the dataset, `line` counts from 1."""

    severity: Literal["error", "warning"]
    code: str
    message: str
    path: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = f"{self.path}, line {self.line}" if self.line else self.path
        return f"{place}: {self.message}" if place else self.message


@dataclass
class DatasetReport:
    """What a dataset holds, by split, and what is wrong with it."""

    class_names: list[str] = field(default_factory=list)
    images: dict[str, int] = field(default_factory=dict)
    boxes: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether it can be trained on; warnings do not stand in the way."""
        return not self.errors

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]


def validate(folder: Path, task_type: str) -> DatasetReport:
    """Read the whole dataset in `folder` and report on it. Raises OSError where it cannot be read."""
    row_check = _ROW_CHECKS.get(task_type)
    if row_check is None:
        known = ", ".join(_ROW_CHECKS)
        message = f"Datasets for {task_type} cannot be checked yet. Choose one of: {known}."
        return DatasetReport(findings=[Finding("error", "task_not_supported", message)])
    return _Validation(folder, row_check).run()


def read_class_names(folder: Path) -> tuple[list[str], list[Finding]]:
    """The class names of `data.yaml`, by id, and what is wrong with that file."""
    path = folder / DATA_YAML
    if not path.is_file():
        others = sorted(other.name for suffix in ("*.yaml", "*.yml") for other in folder.glob(suffix))
        hint = f"Rename {others[0]} to it." if len(others) == 1 else "Add it, with the class names below 'names:'."
        return [], [Finding("error", "yaml_missing", f"There is no {DATA_YAML}. {hint}", DATA_YAML)]
    try:
        if path.stat().st_size > _MAX_YAML_BYTES:
            raise ValueError("it is larger than 1 MiB")
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("it is not a mapping")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        message = f"Cannot be read as YAML: {why}. Correct it; 'names: [cat, dog]' is enough."
        return [], [Finding("error", "yaml_unreadable", message, DATA_YAML)]
    return _class_names(data)


def _class_names(data: Mapping[Any, Any]) -> tuple[list[str], list[Finding]]:
    findings: list[Finding] = []

    def add(severity: Literal["error", "warning"], code: str, message: str) -> None:
        findings.append(Finding(severity, code, message, DATA_YAML))

    names = data.get("names")
    by_id: dict[Any, Any] = {}
    if isinstance(names, list):
        by_id = dict(enumerate(names))
    elif isinstance(names, dict):
        by_id = {int(key) if str(key).isdecimal() else key: name for key, name in names.items()}
    if not by_id:
        add("error", "names_missing", "'names' lists no classes. Add them, as in 'names: [cat, dog]'.")
    elif set(by_id) != set(range(len(by_id))):
        message = f"Class ids must run from 0 to {len(by_id) - 1}. Renumber 'names'."
        add("error", "names_not_contiguous", message)
        return [], findings
    for class_id, name in sorted(by_id.items()):
        # YAML reads the bare words yes, no, on, off and null as something else than words.
        if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
            message = f"The name of class {class_id} is read as {name!r}. Put it in quotes."
            add("error", "name_not_text", message)
    class_names = [str(by_id[class_id]) for class_id in range(len(by_id))]
    for name, times in Counter(class_names).items():
        if times > 1:
            add("warning", "name_repeated", f"{times} classes are called {name!r}. Give each its own name.")
    if isinstance(data.get("nc"), int) and data["nc"] != len(class_names):
        message = f"'nc' says {data['nc']} classes, but 'names' has {len(class_names)}. Correct or drop 'nc'."
        add("warning", "class_count_differs", message)
    return class_names, findings


RowCheck = Callable[[list[str], int], tuple[int | None, str, str]]
"""Fields of a label's row and number of classes -> class id, or None with a code and a message."""


def _check_box(fields: list[str], classes: int) -> tuple[int | None, str, str]:
    if len(fields) != 5:
        more = " A polygon is for segmentation: write its box." if len(fields) > 6 else ""
        want = "Write: class id, centre x, centre y, width, height."
        return None, "label_malformed", f"{len(fields)} values where a box has 5. {want}{more}"
    try:
        number, x, y, width, height = map(float, fields)
    except ValueError:
        return None, "label_malformed", f"Not numbers: {' '.join(fields)[:80]}. Write five numbers."
    if not (math.isfinite(number) and number == int(number) and 0 <= number < classes):
        where = f"{DATA_YAML} (0 to {classes - 1})"
        message = f"Class id {fields[0][:20]} is not in {where}. Correct it or add the class."
        return None, "class_out_of_range", message
    if not all(0 <= value <= 1 for value in (x, y, width, height)):
        fix = "Divide x and width by the picture's width, y and height by its height."
        return None, "coordinates_not_normalised", f"Coordinates must lie in 0 to 1. {fix}"
    if width == 0 or height == 0:
        return None, "box_empty", "The box has no width or no height. Correct it or remove the row."
    return int(number), "", ""


_ROW_CHECKS: Mapping[str, RowCheck] = {"object_detection": _check_box}


class _Validation:
    """One pass over one dataset."""

    def __init__(self, folder: Path, row_check: RowCheck) -> None:
        self._folder = folder
        self._row_check = row_check
        self._report = DatasetReport()
        self._times: Counter[tuple[Literal["error", "warning"], str]] = Counter()
        self._boxes_by_class: Counter[int] = Counter()

    def run(self) -> DatasetReport:
        report = self._report
        report.class_names, report.findings = read_class_names(self._folder)
        self._check_links()
        pictures = {split: self._split(split) for split in SPLITS if self._has(split)}
        self._compare_splits(pictures)
        unused = [name for number, name in enumerate(report.class_names) if not self._boxes_by_class[number]]
        if unused and report.boxes.get("train"):
            names = ", ".join(unused[:10]) + (f" and {len(unused) - 10} more" if len(unused) > 10 else "")
            message = f"No box in train: {names}. Label some, or drop the class."
            self._add("warning", "class_without_boxes", message)
        for (severity, code), times in self._times.items():
            if times > _MOST_OF_ONE_KIND:
                message = f"{times - _MOST_OF_ONE_KIND} more findings like this one ({code}) are not listed."
                report.findings.append(Finding(severity, code, message))
        return report

    def _has(self, split: str) -> bool:
        return split in REQUIRED_SPLITS or (self._folder / "images" / split).is_dir()

    def _split(self, split: str) -> list[Path]:
        """Check one split and return its pictures."""
        images, labels = self._folder / "images" / split, self._folder / "labels" / split
        pictures: list[Path] = []
        expected: dict[Path, Path] = {}
        boxes = 0
        for path in self._files(images):
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                message = "Not a kind of picture that is trained on. Remove or convert it."
                self._add("warning", "not_an_image", message, path)
                continue
            pictures.append(path)
            self._check_image(path)
            label = (labels / path.relative_to(images)).with_suffix(".txt")
            if label in expected:
                message = f"Shares its label with {expected[label].name}. Rename one, and its label."
                self._add("warning", "label_shared", message, path)
            elif label.is_file():
                boxes += self._check_label(label, count_classes=split == "train")
            else:
                message = "Has no label file and counts as background. Add one, or an empty one to say so."
                self._add("warning", "label_missing", message, path)
            expected[label] = path
        for path in self._files(labels):
            if path.suffix == ".txt" and path not in expected:
                message = "A label without a picture. Add the picture or remove the label."
                self._add("warning", "image_missing", message, path)
        self._report.images[split], self._report.boxes[split] = len(pictures), boxes
        if not pictures and split in REQUIRED_SPLITS:
            self._add("error", "split_empty", f"There are no pictures in images/{split}. Put some there.")
        return pictures

    def _files(self, folder: Path) -> Iterator[Path]:
        """All regular files below `folder`, in an order that does not depend on the disk."""
        for parent, folders, names in os.walk(folder):
            folders.sort()
            paths = (Path(parent, name) for name in sorted(names))
            yield from (path for path in paths if path.is_file())

    def _check_links(self) -> None:
        """Packing leaves links behind, so that the dataset would shrink on its way to the trainer."""
        for parent, folders, names in os.walk(self._folder):
            for path in (Path(parent, name) for name in sorted([*folders, *names])):
                if path.is_symlink():
                    self._add("error", "link", "A link. Put what it points to in its place.", path)

    def _check_image(self, path: Path) -> None:
        try:
            with Image.open(path) as image:
                width, height = image.size
                image.verify()
        except Exception as error:  # noqa: BLE001 - Pillow's readers raise anything on damaged bytes
            why = str(error).replace(str(path), path.name) or type(error).__name__
            message = f"Cannot be opened as a picture ({why}). Replace or remove it."
            self._add("error", "image_unreadable", message, path)
            return
        if min(width, height) < _SMALLEST_SIDE:
            least = f"{_SMALLEST_SIDE} x {_SMALLEST_SIDE}"
            message = f"Only {width} x {height} pixels. Use pictures of {least} or more."
            self._add("error", "image_too_small", message, path)
        if image.format == "JPEG" and not _ends_as_jpeg(path):  # what Pillow does not verify
            message = "Its end is missing. Copy it anew from where it came from."
            self._add("warning", "image_truncated", message, path)

    def _check_label(self, path: Path, *, count_classes: bool) -> int:
        """Check a label file and return how many of its boxes are right."""
        boxes = 0
        # Bytes that are no UTF-8 become characters that are no number, and are reported as such.
        with path.open(encoding="utf-8", errors="replace") as rows:
            for line, row in enumerate(rows, start=1):
                fields = row.split()
                if not fields:
                    continue
                class_id, code, message = self._row_check(fields, len(self._report.class_names))
                if class_id is not None:
                    boxes += 1
                    self._boxes_by_class[class_id] += count_classes
                elif code != "class_out_of_range" or self._report.class_names:  # else data.yaml is to blame
                    self._add("error", code, message, path, line)
        return boxes

    def _compare_splits(self, pictures: Mapping[str, list[Path]]) -> None:
        """Warn of pictures outside train whose bytes are also in train: they flatter the metrics."""
        others = [path for split in SPLITS if split != "train" for path in pictures.get(split, ())]
        # Only pictures of the same size can be the same, which spares reading most of them.
        sizes = {path.stat().st_size for path in pictures["train"]} & {path.stat().st_size for path in others}
        seen = {_digest(path): path for path in pictures["train"] if path.stat().st_size in sizes}
        for path in others:
            twin = seen.get(_digest(path)) if path.stat().st_size in sizes else None
            if twin:
                message = f"The same picture as {self._relative(twin)}. Keep it in one split alone."
                self._add("warning", "image_in_two_splits", message, path)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    def _add(
        self,
        severity: Literal["error", "warning"],
        code: str,
        message: str,
        path: Path | None = None,
        line: int | None = None,
    ) -> None:
        self._times[severity, code] += 1
        if self._times[severity, code] <= _MOST_OF_ONE_KIND:
            where = self._relative(path) if path else None
            self._report.findings.append(Finding(severity, code, message, where, line))


def _ends_as_jpeg(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-2, os.SEEK_END)
        return file.read() == b"\xff\xd9"


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
