"""YOLO: a text file for each picture, one row an object, and a YAML that says where they are and what the classes are.

Read as ultralytics publishes datasets, as Roboflow, CVAT (both of its YOLO exports) and Label Studio export them, and
as folders of pictures with text files beside them. Rows that suit the task are taken over as they are, broken ones
too: the check that follows names their file and line.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apps.storage.errors import NotADatasetError
from apps.storage.formats.shapes import OutsideError, Shape, row_of
from apps.storage.formats.tree import Tree, is_image, parts_of, split_of_path, split_of_word, unreadable
from apps.storage.formats.writing import Converted, Notes, Progress, Writer, wrong_task
from trainer.contract.tasks import TaskType
from trainer.dataset.layout import LABELS, Keypoints
from trainer.dataset.safe_yaml import read_mapping

NAME = "yolo"
_MOST_CLASSES = 10_000
_MOST_ENTRIES = 1_000  # of a split
_NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt", "predefined_classes.txt")
_LISTS = ("train.txt", "val.txt", "valid.txt", "validation.txt", "test.txt")
_KEYS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


@dataclass
class _Yaml:
    """What the dataset's YAML says, and where it lies."""

    name: str = ""
    data: Mapping[Any, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        return self.name.rpartition("/")[0]


def looks_like(tree: Tree) -> bool:
    """Whether text files of the pictures' names are there, or a YAML that describes such a dataset."""
    return any(_label_of(tree, image) for image in tree.images) or bool(_find_yaml(tree).data)


def convert(tree: Tree, target: Path, task: TaskType, *, val_share: float, progress: Progress) -> Converted:
    described = _find_yaml(tree, strict=True)
    notes = Notes()
    listed = _listed(tree, described, notes)
    writer = Writer(
        tree, target, task, splits={split for split in listed.values() if split}, val_share=val_share, progress=progress
    )
    notes.absorb(writer.notes)
    writer.notes = notes
    keypoints = _keypoints(described, task)
    kinds: Counter[str] = Counter()
    labels = set()
    for image, split in listed.items():
        label = _label_of(tree, image)
        content = None
        if label is not None:
            labels.add(label)
            content = _content(tree, label, task, keypoints, kinds)
        writer.picture(image, split, content)
    _refuse_wrong_task(kinds, task, keypoints)
    _note_orphans(tree, labels, notes)
    return writer.finish(NAME, _class_names(tree, described, labels, notes), keypoints if _is_pose(task) else None)


def _is_pose(task: TaskType) -> bool:
    return task is TaskType.POSE_ESTIMATION


# --- the description ---


def _find_yaml(tree: Tree, *, strict: bool = False) -> _Yaml:
    """The YAML nearest to the root that has class names or splits; `data.yaml` before others beside it.

    Where there is none, `strict` raises for one that could not be read.
    """
    unread: NotADatasetError | None = None
    names = tree.of_suffix(".yaml", ".yml")
    for name in sorted(names, key=lambda name: (name.count("/"), not name.endswith("data.yaml"), name)):
        try:
            data = read_mapping(tree.path(name))
        except ValueError as error:
            unread = unread or unreadable(name, "YAML", error)
            continue
        if "names" in data or ("nc" in data and "train" in data):
            return _Yaml(name, data)
    if strict and unread is not None:
        raise unread
    return _Yaml()


def _class_names(tree: Tree, described: _Yaml, labels: set[str], notes: Notes) -> list[str]:
    names = described.data.get("names")
    if isinstance(names, list) and names:
        return [str(name) for name in names]
    if isinstance(names, Mapping) and names:
        return _of_mapping(names, described.name, notes)
    for name in tree.files:
        if name.rpartition("/")[2].lower() in _NAME_FILES or name.endswith(".names"):
            lines = [line.strip() for line in tree.text(name).splitlines()]
            if found := [line for line in lines if line]:
                return found
    return _made_up(tree, labels, notes)


def _of_mapping(names: Mapping[Any, Any], where: str, notes: Notes) -> list[str]:
    try:
        by_id = {int(key): str(name) for key, name in names.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise NotADatasetError(f"{where}: the keys below 'names' are to be class ids: 0, 1, 2, and so on.") from error
    if min(by_id) < 0 or max(by_id) >= _MOST_CLASSES:
        raise NotADatasetError(f"{where}: class ids go from 0 to {_MOST_CLASSES - 1:,}. Renumber those below 'names'.")
    for missing in sorted(set(range(max(by_id) + 1)) - set(by_id)):
        by_id[missing] = f"class {missing}"
        notes.add("class_unnamed", "{n} class ids have no name below 'names', and were named by their number.", where)
    return [by_id[number] for number in range(len(by_id))]


def _made_up(tree: Tree, labels: set[str], notes: Notes) -> list[str]:
    """Names for a dataset that has none: its ids."""
    ids = {int(match[1]) for label in labels for match in re.finditer(r"(?m)^\s*(\d{1,5})\s", tree.text(label))}
    number = max(ids, default=0) + 1
    if number > _MOST_CLASSES:
        raise NotADatasetError(f"Class id {number - 1:,} is too large. Add a data.yaml with the class names.")
    notes.add(
        "names_missing", "No class names were found; classes were named by their ids. Add a data.yaml with names."
    )
    return [f"class {number}" for number in range(number)]


def _keypoints(described: _Yaml, task: TaskType) -> Keypoints | None:
    shape = described.data.get("kpt_shape")
    if shape is None:
        if _is_pose(task):
            raise NotADatasetError(
                "No YAML of the dataset has 'kpt_shape', which says how many keypoints an object has. Add it, as in "
                "'kpt_shape: [17, 3]', or import the dataset for object_detection."
            )
        return None
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(n) is int for n in shape)):
        raise NotADatasetError(f"{described.name}: 'kpt_shape' is to be two numbers, as in [17, 3].")
    count, dimensions = shape
    if not 1 <= count <= 1000 or dimensions not in {2, 3}:
        raise NotADatasetError(f"{described.name}: 'kpt_shape' is to be [keypoints, 2 or 3], and is {shape}.")
    flip = described.data.get("flip_idx") or []
    if not (isinstance(flip, list) and (not flip or sorted(map(str, flip)) == sorted(map(str, range(count))))):
        raise NotADatasetError(f"{described.name}: 'flip_idx' is to name each of the {count} keypoints once.")
    return Keypoints(count, dimensions, tuple(flip))


# --- pictures and splits ---


def _listed(tree: Tree, described: _Yaml, notes: Notes) -> dict[str, str | None]:
    """The pictures and their splits: as the YAML says, else as lists or folders are named."""
    found: dict[str, str | None] = {}
    for split, keys in _KEYS.items():
        value = next((described.data[key] for key in keys if described.data.get(key)), None)
        entries = value if isinstance(value, list) else [value] if value else []
        if len(entries) > _MOST_ENTRIES:
            raise NotADatasetError(
                f"'{split}' of {described.name} has {len(entries):,} entries. Put them in a text file."
            )
        for entry in entries:
            images = _images_of_entry(tree, described, str(entry))
            if images is None:
                notes.add("split_missing", f"'{split}' of {described.name} names nothing in the archive: {entry}.")
            for image in images or []:
                found.setdefault(image, split)
    if found and set(found.values()) != {"test"}:
        return _with_unnamed(tree, found, notes)
    by_folder: dict[str, str | None] = {image: split_of_path(image) for image in tree.images if split_of_path(image)}
    chosen = _by_lists(tree) or by_folder
    if not chosen:
        return dict.fromkeys(tree.images)
    for image in sorted(set(tree.images) - set(chosen)):
        notes.add("image_unlisted", "{n} pictures are in no split and were left out.", image)
    return chosen


def _with_unnamed(tree: Tree, found: dict[str, str | None], notes: Notes) -> dict[str, str | None]:
    """Pictures that the YAML leaves out belong to the split whose folder they are in, if it has none yet."""
    taken = set(found.values())
    for image in tree.images:
        split = split_of_path(image)
        if image not in found and split and split not in taken:
            found[image] = split
        elif image not in found:
            notes.add("image_unlisted", "{n} pictures are in no split of the YAML and were left out.", image)
    return found


def _images_of_entry(tree: Tree, described: _Yaml, entry: str) -> list[str] | None:
    """The pictures of one entry of a split: a folder, a picture, or a list of pictures."""
    if re.match(r"[a-z][a-z0-9+.-]*://", entry, re.IGNORECASE):
        raise NotADatasetError(f"{described.name} names an address, {entry[:200]}. Put the pictures into the archive.")
    base = parts_of(str(described.data.get("path") or ""))
    parts = parts_of(entry)
    for name in _endings([*base, *parts], described.folder, at_least=len(parts)) + _endings(parts, described.folder):
        if name in tree and is_image(name):
            return [name]
        if name in tree and name.endswith(".txt"):
            return list(_read_list(tree, name))
        if name in tree.folders or name == "":
            prefix = f"{name}/" if name else ""
            return [image for image in tree.images if image.startswith(prefix)]
    return None


def _endings(parts: list[str], folder: str, at_least: int = 1) -> list[str]:
    """Where a path of another machine may be here: its endings, the longest first, beside the YAML or at the root."""
    if not parts:
        return [folder]
    endings = ["/".join(parts[start:]) for start in range(len(parts) - max(at_least, 1) + 1)]
    return [name for ending in endings for name in (f"{folder}/{ending}" if folder else ending, ending)]


def _read_list(tree: Tree, name: str) -> Iterator[str]:
    folder = name.rpartition("/")[0]
    for line in tree.text(name).splitlines():
        if line.strip() and (image := tree.image(line.strip(), folder)):
            yield image


def _by_lists(tree: Tree) -> dict[str, str | None]:
    """Splits by files such as `train.txt`, each a list of pictures."""
    found: dict[str, str | None] = {}
    for name in tree.files:
        if name.rpartition("/")[2] in _LISTS:
            split = split_of_word(name.rpartition("/")[2].removesuffix(".txt"))
            found |= dict.fromkeys(_read_list(tree, name), split)
    return found


# --- labels ---


def _label_of(tree: Tree, image: str) -> str | None:
    """The text file of a picture: where `labels` stands for `images` in its path, beside it, or below `labels`."""
    stem = image.rpartition(".")[0]
    parts = stem.split("/")
    candidates = []
    for at in reversed(range(len(parts) - 1)):
        if parts[at].lower() in {"images", "jpegimages"}:
            candidates.append("/".join([*parts[:at], LABELS, *parts[at + 1 :]]))
            break
    candidates += [stem, f"{LABELS}/{stem}", "/".join([*parts[:-1], LABELS, parts[-1]]), f"{LABELS}/{parts[-1]}"]
    if len(parts) > 1:
        candidates.append("/".join([*parts[:-2], LABELS, parts[-1]]))
    return next((f"{name}.txt" for name in candidates if f"{name}.txt" in tree), None)


def _content(tree: Tree, label: str, task: TaskType, keypoints: Keypoints | None, kinds: Counter[str]) -> bytes | str:
    """The label for the task. What suits it, or cannot be understood, is taken over as it is, line by line."""
    lines, rows = tree.text(label).splitlines(), []
    for line in lines:
        kind = _kind_of(line.split(), keypoints)
        if kind:
            kinds[kind] += 1
        rows.append(_row_for(line, kind, task))
    return tree.path(label).read_bytes() if rows == lines else "".join(f"{row}\n" for row in rows)


def _kind_of(fields: list[str], keypoints: Keypoints | None) -> str | None:
    """What a row draws, told by its length; None for what is no row."""
    if keypoints and len(fields) == 5 + keypoints.count * keypoints.dimensions:
        return "keypoints"
    if len(fields) in {5, 6}:
        return "boxes"
    if len(fields) == 9:
        return "rotated boxes"
    return "polygons" if len(fields) >= 7 and len(fields) % 2 == 1 else None


def _row_for(line: str, kind: str | None, task: TaskType) -> str:
    """The row for the task, where one can be made of this kind; else the row itself, for the check to refuse."""
    fields = line.split()
    if task is TaskType.OBJECT_DETECTION and kind == "keypoints":
        return " ".join(fields[:5])
    derives = {TaskType.OBJECT_DETECTION: {"polygons", "rotated boxes"}, TaskType.ORIENTED_DETECTION: {"polygons"}}
    if kind not in derives.get(task, set()):
        return line
    try:
        values = [float(value) for value in fields[1:]]
        polygon = list(zip(values[::2], values[1::2], strict=True))
        row = row_of(Shape("", polygons=(polygon,)), task, 1, 1)
    except (ValueError, OutsideError):
        return line
    return line if row is None else " ".join([fields[0], *(f"{value:.6f}" for value in row.values)])


def _refuse_wrong_task(kinds: Counter[str], task: TaskType, keypoints: Keypoints | None) -> None:
    suits = {
        TaskType.OBJECT_DETECTION: {"boxes", "rotated boxes", "polygons", "keypoints"},
        TaskType.INSTANCE_SEGMENTATION: {"polygons", "rotated boxes"},  # an outline of four points has as many fields
        TaskType.ORIENTED_DETECTION: {"polygons", "rotated boxes"},
        TaskType.POSE_ESTIMATION: {"keypoints"},
        TaskType.IMAGE_CLASSIFICATION: set[str](),
    }[task]
    held = [kind for kind, _number in kinds.most_common()]
    if held and not suits & set(held):
        raise wrong_task(held, task)
    if task is TaskType.IMAGE_CLASSIFICATION:
        raise NotADatasetError(
            "The dataset has label files, and image_classification takes a folder of pictures for each class. Import "
            "it for the task that it is labelled for."
        )


def _note_orphans(tree: Tree, labels: set[str], notes: Notes) -> None:
    """Labels that no picture was found for."""
    folders = {label.rpartition("/")[0] for label in labels}
    for name in tree.of_suffix(".txt"):
        folder, _slash, base = name.rpartition("/")
        if name in labels or base.lower() in {*_NAME_FILES, *_LISTS} or folder not in folders or not folder:
            continue
        notes.add("label_without_image", "{n} label files belong to no picture and were left out.", name)
