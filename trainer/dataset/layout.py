"""The one layout that every dataset is brought into, whatever it was published as.

    data.yaml                               the description: task, class names, keypoints
    images/{train,val[,test]}/…             pictures, in subfolders if wanted
    labels/{train,val[,test]}/….txt         one for each picture, of the same subfolder and name

Image classification has no labels: the first folder below a split is the class, and class ids follow the sorted
names. All other labels have one row an object, in shares (0 to 1) of the picture's width and height:

    object_detection        class  centre-x centre-y width height
    instance_segmentation   class  x1 y1 x2 y2 x3 y3 …                              three points or more
    oriented_detection      class  x1 y1 x2 y2 x3 y3 x4 y4                          corners in order
    pose_estimation         class  centre-x centre-y width height  x y [visible] …  as many as `keypoints` says
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

import yaml

from trainer.contract.tasks import TaskType
from trainer.dataset import safe_yaml
from trainer.dataset.findings import Finding, Severity

DATA_YAML = "data.yaml"
IMAGES, LABELS = "images", "labels"
REQUIRED_SPLITS = ("train", "val")
SPLITS = (*REQUIRED_SPLITS, "test")
# What Pillow, which validates, and OpenCV, which trains, both read.
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

_LONGEST_NAME = 200
_MOST_KEYPOINTS = 1_000


@dataclass(frozen=True)
class Keypoints:
    """The keypoints of one object: how many, whether a third value tells their visibility (dimensions 2 or 3).

    `flip` has, for each keypoint, the index of its mirror image; empty turns mirroring off.
    """

    count: int
    dimensions: int
    flip: tuple[int, ...] = ()


@dataclass(frozen=True)
class Description:
    """What a dataset says of itself: everything the trainer must know besides the files."""

    task_type: TaskType
    class_names: tuple[str, ...]
    keypoints: Keypoints | None = None

    def to_json(self) -> dict[str, Any]:
        points = self.keypoints
        return {
            "task_type": str(self.task_type),
            "class_names": list(self.class_names),
            "keypoints": points and {"count": points.count, "dimensions": points.dimensions, "flip": list(points.flip)},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Description":
        points = data["keypoints"]
        keypoints = Keypoints(points["count"], points["dimensions"], tuple(points["flip"])) if points else None
        return cls(TaskType(data["task_type"]), tuple(data["class_names"]), keypoints)


@dataclass(frozen=True)
class ImageRecord:
    """What the check of one picture and its label learnt. Paths are relative to the dataset, with slashes.

    `width` and `height` are pixels as trained on (EXIF orientation applied), 0 where the picture cannot be opened.
    `class_ids` are the distinct classes in it, ascending. `codes` are those of its findings.
    """

    path: str
    split: str
    width: int
    height: int
    size: int
    sha256: str
    label_path: str | None
    label_sha256: str | None
    instances: int
    class_ids: tuple[int, ...]
    codes: tuple[str, ...]


def label_path_of(image_path: str) -> str:
    """`images/train/a/b.jpg` → `labels/train/a/b.txt`."""
    parts = PurePosixPath(image_path).with_suffix(".txt").parts
    return PurePosixPath(LABELS, *parts[1:]).as_posix()


def has_labels(task_type: str) -> bool:
    return task_type != TaskType.IMAGE_CLASSIFICATION


def images_of(folder: Path, split: str) -> Iterator[str]:
    """The paths of a split's pictures, relative to `folder` with slashes, in ascending order.

    Links, hidden files and what cannot be written as UTF-8 are left out. Holds the names of one folder at a time (and
    of those above it). A split that is not there has none.
    """
    pending = [] if (folder / IMAGES).is_symlink() else [f"{IMAGES}/{split}/"]
    while pending:
        path = pending.pop()
        if path.endswith("/"):
            pending.extend(path + name for name in reversed(names_in(folder / path)))
        elif is_image(path):
            yield path


def names_in(folder: Path) -> list[str]:
    """The files and folders in `folder`, ready to be walked in the order of full paths; folders end with a slash.

    The slash takes part in the order, as it does in whole paths: `a-b.jpg` < `a.jpg` < `a/…`. Links, hidden names and
    names that are not UTF-8 are left out, and so are devices and pipes. Empty where there is no such folder.
    """
    try:
        if folder.is_symlink():
            return []
        with os.scandir(folder) as entries:
            return sorted(filter(None, map(_plain_name, entries)))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _plain_name(entry: "os.DirEntry[str]") -> str | None:
    if entry.name.startswith(".") or not is_utf8(entry.name):
        return None
    if entry.is_file(follow_symlinks=False):
        return entry.name
    return f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else None


def is_image(path: str) -> bool:
    """Whether a file is a picture, going by its name."""
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES


def is_utf8(name: str) -> bool:
    """Python keeps bytes of a file name that are no UTF-8 as surrogates, which no database and no JSON takes."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def has_controls(name: str) -> bool:
    """Whether a name has line breaks, tabs or other characters that nobody sees."""
    return not name.isprintable() and any(character < " " or "\x7f" <= character < "\xa0" for character in name)


def write_description(folder: Path, description: Description) -> None:
    """Write `data.yaml`, replacing the one there is."""
    content: dict[str, Any] = {
        "task_type": str(description.task_type),
        "names": dict(enumerate(description.class_names)),
        **_keypoints_as_yaml(description.keypoints),
    }
    path = folder / DATA_YAML
    path.unlink(missing_ok=True)  # were it a link, its target would be written to
    _write_yaml(path, content)


def write_ultralytics_data(folder: Path, description: Description, destination: Path) -> str:
    """What ultralytics takes as `data`; for all tasks with labels, a file that is written to `destination`.

    It names the folder in full, so `destination` may lie anywhere. For classification it is the folder of the splits.
    """
    if not has_labels(description.task_type):
        return str((folder / IMAGES).resolve())
    content: dict[str, Any] = {
        "path": str(folder.resolve()),
        **{split: f"{IMAGES}/{split}" for split in SPLITS if (folder / IMAGES / split).is_dir()},
        "names": dict(enumerate(description.class_names)),
        **_keypoints_as_yaml(description.keypoints),
    }
    destination.parent.mkdir(parents=True, exist_ok=True)
    _write_yaml(destination, content)
    return str(destination)


def _keypoints_as_yaml(keypoints: Keypoints | None) -> dict[str, Any]:
    if keypoints is None:
        return {}
    flip = {"flip_idx": list(keypoints.flip)} if keypoints.flip else {}
    return {"kpt_shape": [keypoints.count, keypoints.dimensions], **flip}


def _write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def read_description(folder: Path, task_type: str | None = None) -> tuple[Description | None, list[Finding]]:
    """What `data.yaml` says, and what is wrong with it; None where an error keeps it from being understood.

    `task_type` counts where the file names no task.
    """
    try:
        if not (folder / DATA_YAML).is_file():
            return None, [_no_description(folder)]
        data = safe_yaml.read_mapping(folder / DATA_YAML)
    except (ValueError, OSError) as error:
        message = f"Cannot be read as YAML: {error}. Correct it; 'names: [cat, dog]' is enough."
        return None, [Finding("error", "yaml_unreadable", message, DATA_YAML)]
    findings: list[Finding] = []
    task = _task(data.get("task_type", task_type), findings)
    names = _class_names(data, findings)
    keypoints = _keypoints(data, findings) if task is TaskType.POSE_ESTIMATION else None
    if task is None or any(finding.severity == "error" for finding in findings):
        return None, findings
    return Description(task, names, keypoints), findings


def _no_description(folder: Path) -> Finding:
    others = sorted(other.name for suffix in ("*.yaml", "*.yml") for other in folder.glob(suffix))
    hint = f"Rename {others[0]} to it." if len(others) == 1 else "Add it, with the class names below 'names:'."
    return Finding("error", "yaml_missing", f"There is no {DATA_YAML}. {hint}", DATA_YAML)


def _task(task_type: object, findings: list[Finding]) -> TaskType | None:
    try:
        return TaskType(str(task_type))
    except ValueError:
        said = "names no task" if task_type is None else f"names the task {str(task_type)[:40]!r}, which is unknown"
        message = f"It {said}. Write 'task_type:' with one of: {', '.join(TaskType)}."
        findings.append(Finding("error", "task_unknown", message, DATA_YAML))
        return None


def _class_names(data: Mapping[Any, Any], findings: list[Finding]) -> tuple[str, ...]:
    def add(severity: Severity, code: str, message: str) -> None:
        findings.append(Finding(severity, code, message, DATA_YAML))

    names = data.get("names")
    by_id: dict[Any, Any] = {}
    if isinstance(names, list):
        by_id = dict(enumerate(names))
    elif isinstance(names, Mapping):
        by_id = {int(key) if _is_id(key) else key: name for key, name in names.items()}
        if len(by_id) < len(names):
            add("error", "names_not_contiguous", "'names' gives a class id twice. Renumber it.")
    if not by_id:
        add("error", "names_missing", "'names' lists no classes. Add them, as in 'names: [cat, dog]'.")
    elif set(by_id) != set(range(len(by_id))):
        message = f"Class ids must run from 0 to {len(by_id) - 1}. Renumber 'names'."
        add("error", "names_not_contiguous", message)
        return ()
    for class_id in range(len(by_id)):
        # YAML reads the bare words yes, no, on, off and null as something else than words.
        name = by_id[class_id]
        if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
            add("error", "name_not_text", f"The name of class {class_id} is read as {name!r:.80}. Put it in quotes.")
        elif has_controls(str(name)) or len(str(name)) > _LONGEST_NAME:
            message = (
                f"The name of class {class_id} has line breaks, or more than {_LONGEST_NAME} characters. Shorten it."
            )
            add("error", "name_not_text", message)
    class_names = tuple(str(by_id[class_id]) for class_id in range(len(by_id)))
    for name, times in Counter(class_names).items():
        if times > 1:
            add("warning", "name_repeated", f"{times} classes are called {name!r}. Give each its own name.")
    if isinstance(data.get("nc"), int) and data["nc"] != len(class_names):
        message = f"'nc' says {data['nc']} classes, but 'names' has {len(class_names)}. Correct or drop 'nc'."
        add("warning", "class_count_differs", message)
    return class_names


def _is_id(key: object) -> bool:
    return str(key).isascii() and str(key).isdecimal() and not isinstance(key, bool)


def _keypoints(data: Mapping[Any, Any], findings: list[Finding]) -> Keypoints | None:
    def wrong(code: str, message: str) -> None:
        findings.append(Finding("error", code, message, DATA_YAML))

    shape, flip = data.get("kpt_shape"), data.get("flip_idx") or []
    if not _are_integers(shape, length=2) or not 1 <= shape[0] <= _MOST_KEYPOINTS or shape[1] not in (2, 3):
        message = "'kpt_shape' must be [number of keypoints, 2 or 3], as in 'kpt_shape: [17, 3]': 3 with visibility."
        wrong("keypoints_missing", f"{message} Add or correct it.")
        return None
    if flip and (not _are_integers(flip, length=shape[0]) or sorted(flip) != list(range(shape[0]))):
        message = f"'flip_idx' must name each of the {shape[0]} keypoints once, from 0 to {shape[0] - 1}."
        wrong("keypoints_flip", f"{message} Correct it, or drop it to train without mirroring.")
        return None
    return Keypoints(shape[0], shape[1], tuple(flip))


def _are_integers(value: Any, *, length: int) -> TypeGuard[list[int]]:
    return isinstance(value, list) and len(value) == length and all(type(number) is int for number in value)
