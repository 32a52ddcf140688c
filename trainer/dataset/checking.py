"""Checking one picture together with its label. Nothing here knows of other pictures, so that threads can share it."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from trainer.contract.tasks import TaskType
from trainer.dataset.findings import Finding, Severity
from trainer.dataset.images import check_picture
from trainer.dataset.labels import Instance, RowError, outline_area, parse_row, rows_of
from trainer.dataset.layout import Description
from trainer.dataset.statistics import Tally
from trainer.dataset.walking import Candidate

MOST_FINDINGS = 1_000  # in one label file; more say nothing new and would fill the memory
_READ_AT_ONCE = 64 << 20  # bytes; larger pictures are read as a stream, once for the digest and once for the decoder
_LARGEST_LABEL = 8 << 20  # bytes; read, numbers take thirty times as much
_TINY = 2  # pixels
_GIANT = 0.95  # of the picture's area
_FLAT = 1e-9  # of the picture's area
_OUTLINED = (TaskType.INSTANCE_SEGMENTATION, TaskType.ORIENTED_DETECTION)


@dataclass(slots=True)
class Checked:
    """What is known of a picture once it and its label were read. The digest is empty where it could not be read."""

    candidate: Candidate
    size: int = 0
    sha256: str = ""
    width: int = 0
    height: int = 0
    label_sha256: str | None = None
    tally: Tally = field(default_factory=Tally)
    labelled: bool = True  # False for classification, where the folder is the label
    looks_like: TaskType | None = None  # the task that a row refused for its length may have been made for
    findings: list[Finding] = field(default_factory=list)

    def add(self, severity: Severity, code: str, message: str, path: str, line: int | None = None) -> None:
        self.findings.append(Finding(severity, code, message, path, line))


def check(folder: Path, candidate: Candidate, description: Description) -> Checked:
    checked = Checked(candidate)
    try:
        _check_picture(folder / candidate.path, checked)
    except OSError as error:
        message = f"Cannot be read: {error.strerror or error}. Correct its rights, or copy it anew."
        checked.add("error", "file_unreadable", message, candidate.path)
    if description.task_type is TaskType.IMAGE_CLASSIFICATION:
        checked.labelled = False
        return checked
    if candidate.label is None:
        message = "Has no label file and counts as background. Add one, or an empty one to say so."
        checked.add("warning", "label_missing", message, candidate.path)
        return checked
    try:
        _check_label(folder / candidate.label, checked, description)
    except OSError as error:
        message = f"Cannot be read: {error.strerror or error}. Correct its rights, or copy it anew."
        checked.add("error", "file_unreadable", message, candidate.label)
    return checked


def _check_picture(path: Path, checked: Checked) -> None:
    checked.size = path.stat().st_size
    if checked.size <= _READ_AT_ONCE:
        data = path.read_bytes()
        checked.size = len(data)
        checked.sha256 = hashlib.sha256(data).hexdigest()
        picture = check_picture(data, path.suffix)
    else:
        with path.open("rb") as file:
            checked.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        picture = check_picture(path, path.suffix)
    checked.width, checked.height = picture.width, picture.height
    for severity, code, message in picture.problems:
        checked.add(severity, code, message, checked.candidate.path)


def _check_label(path: Path, checked: Checked, description: Description) -> None:
    label = checked.candidate.label or ""
    size = path.stat().st_size
    if size > _LARGEST_LABEL:
        with path.open("rb") as file:
            checked.label_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        message = f"A label of {size >> 20} MiB. Write one row an object, with fewer points."
        checked.add("error", "label_too_large", message, label)
        return
    data = path.read_bytes()
    checked.label_sha256 = hashlib.sha256(data).hexdigest()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = "Has bytes that are no UTF-8 text, and the trainer would drop the picture. Save it as plain text."
        checked.add("error", "label_not_text", message, label, line)
        return
    if not _check_rows(text, label, checked, description):
        message = "No object: the picture counts as background. If it shows any, label them."
        checked.add("warning", "label_empty", message, label)


def _check_rows(text: str, label: str, checked: Checked, description: Description) -> int:
    """The number of rows. Stops where a file has more findings than anybody reads."""
    seen: dict[Instance, int] = {}
    rows = 0
    for rows, (line, row) in enumerate(rows_of(text), start=1):  # noqa: B007 - it is counted here and used below
        if len(checked.findings) >= MOST_FINDINGS:
            message = f"More than {MOST_FINDINGS} findings in this file: the rows from here on were not checked."
            checked.add("error", "label_given_up", message, label, line)
            break
        try:
            instance = parse_row(row, description)
        except RowError as error:
            checked.looks_like = checked.looks_like or error.looks_like
            checked.add("error", error.code, str(error), label, line)
            continue
        first = seen.setdefault(instance, line)
        if first != line:
            message = f"The same row as line {first}; the trainer reads it once. Remove it."
            checked.add("warning", "row_repeated", message, label, line)
            continue
        checked.tally.add(instance, checked.width, checked.height)
        _check_instance(instance, label, line, checked, outlined=description.task_type in _OUTLINED)
    return rows


def _check_instance(instance: Instance, label: str, line: int, checked: Checked, *, outlined: bool) -> None:
    """What can be trained on and is probably not meant."""
    if instance.reaches_out(outline=outlined):
        message = "Reaches out of the picture, where it is cut off. Correct it if it was not meant."
        checked.add("warning", "outside_image", message, label, line)
    if outlined and outline_area(instance.points) < _FLAT:
        message = "Encloses no area: its points lie on a line, or its sides cross. Correct it or remove the row."
        checked.add("warning", "outline_flat", message, label, line)
    width, height = instance.box[2] * checked.width, instance.box[3] * checked.height
    if checked.width and min(width, height) < _TINY:
        message = f"Only {width:.1f} x {height:.1f} pixels, too small to be learnt. Correct it or remove the row."
        checked.add("warning", "box_tiny", message, label, line)
    if instance.area > _GIANT:
        message = f"Covers more than {_GIANT:.0%} of the picture. Draw it around the object, if it was not meant."
        checked.add("warning", "box_giant", message, label, line)
