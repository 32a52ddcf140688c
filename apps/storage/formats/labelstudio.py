"""Label Studio: its JSON and JSON_MIN exports, together with the pictures.

Of several annotations of a task the one marked as ground truth counts, else the newest; cancelled ones and predictions
do not. Positions are percent of the picture. A picture is found by the end of its address, with or without the eight
characters that Label Studio puts before an uploaded file's name.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.storage.errors import NotADatasetError
from apps.storage.formats.shapes import Keypoint, Shape, turned_box
from apps.storage.formats.tree import Tree, is_image, parts_of, read_json, size_of, split_of_path
from apps.storage.formats.writing import Converted, Notes, Progress, Writer, flip_of, folder_name
from trainer.contract.tasks import TaskType
from trainer.dataset.layout import Keypoints

NAME = "labelstudio"
_PEEK = 1 << 16
_LABELS = ("rectanglelabels", "polygonlabels", "keypointlabels", "labels", "brushlabels", "ellipselabels")
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")
_MIN_KEYS = (b'"annotation_id"', b'"annotator"', b'"lead_time"')

Result = Mapping[str, Any]


@dataclass
class _Task:
    """A picture's address and what was drawn on it; `results` is None where nobody has labelled it."""

    address: str
    results: list[Result] | None


def looks_like(tree: Tree) -> bool:
    return bool(_files(tree))


def convert(tree: Tree, target: Path, task: TaskType, *, val_share: float, progress: Progress) -> Converted:
    tasks = [found for name in _files(tree) for found in _tasks(tree, name)]
    bare = _without_prefixes(tree)
    found = {position: image for position, one in enumerate(tasks) if (image := _image_of(tree, one.address, bare))}
    splits = {split for image in found.values() if (split := split_of_path(image))}
    writer = Writer(tree, target, task, splits=splits, val_share=val_share, progress=progress)
    names, points = _names(tasks, task)
    ids = {name: number for number, name in enumerate(names)}
    used: set[str] = set()
    for position, one in enumerate(tasks):
        image = found.get(position)
        if _usable(one, image, used, writer.notes) and image and one.results is not None:
            used.add(image)
            _write(writer, image, one.results, ids, points)
    left = len(set(tree.images) - used)
    if left:
        writer.notes.add("image_unlisted", "{n} pictures are in no labelled task and were left out.", number=left)
    if task is TaskType.IMAGE_CLASSIFICATION:
        return writer.finish(NAME, sorted({folder_name(name) for name in names}))
    keypoints = Keypoints(max(len(points), 1), 3, flip_of(points)) if task is TaskType.POSE_ESTIMATION else None
    return writer.finish(NAME, names, keypoints)


def _usable(task: _Task, image: str | None, used: set[str], notes: Notes) -> bool:
    if image is None:
        what = "{n} annotated pictures are not in the archive and were left out."
        notes.add("image_missing", what, task.address[-200:])
    elif task.results is None:
        notes.add("task_unlabelled", "{n} tasks without an annotation were left out.", image)
    elif image in used:
        notes.add("image_listed_twice", "{n} pictures are in two tasks; the first counts.", image)
    else:
        return True
    return False


def _write(writer: Writer, image: str, results: list[Result], ids: dict[str, int], points: Sequence[str]) -> None:
    split = split_of_path(image)
    size = _size(results) or writer.tree.size_of_image(image) or (1.0, 1.0)
    label = writer.label_of(image, size, _shapes(results, size, points, writer, image), ids, len(points))
    if writer.task is TaskType.IMAGE_CLASSIFICATION:
        chosen = [choice for result in results for choice in _choices(result)]
        if len(chosen) == 1:
            writer.classified(image, split, folder_name(chosen[0]), _UPLOADED.sub("", image.rpartition("/")[2]))
        else:
            what = "{n} pictures without a choice, or with several, were left out."
            writer.notes.add("image_without_class", what, image)
    else:
        writer.picture(image, split, label)


# --- files and tasks ---


def _files(tree: Tree) -> list[str]:
    found = []
    for name in tree.of_suffix(".json"):
        with tree.open(name) as file:
            head = file.read(_PEEK)
        listed = head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
        full = b'"data"' in head and (b'"annotations"' in head or b'"completions"' in head or b'"result"' in head)
        if listed and (full or any(key in head for key in _MIN_KEYS) or b'"original_width"' in head):
            found.append(name)
    return found


def _tasks(tree: Tree, name: str) -> Iterator[_Task]:
    for entry in read_json(tree, name, "export"):
        if not isinstance(entry, dict):
            raise NotADatasetError(f"{name} is no export of Label Studio: it is to be a list of tasks.")
        data = entry.get("data")
        if isinstance(data, dict):
            annotations = entry.get("annotations") or entry.get("completions")
            yield _Task(_address(data), _chosen(annotations if isinstance(annotations, list) else []))
        else:
            yield _Task(_address(entry), list(_of_short(entry)))


def _address(data: Mapping[str, Any]) -> str:
    """The value that names a picture: `image`, or else the first that ends like one."""
    texts = [data.get("image"), data.get("img"), *data.values()]
    named = [text for text in texts if isinstance(text, str)]
    return next((text for text in named if is_image(parts_of(text)[-1] if parts_of(text) else "")), "")


def _chosen(annotations: Sequence[Any]) -> list[Result] | None:
    """The results of the annotation that counts."""
    kept = [one for one in annotations if isinstance(one, dict) and not one.get("was_cancelled")]
    if not kept:
        return None
    best = max(
        enumerate(kept),
        key=lambda pair: (
            bool(pair[1].get("ground_truth")),
            str(pair[1].get("updated_at") or pair[1].get("created_at") or ""),
            pair[0],
        ),
    )[1]
    results = best.get("result")
    return [result for result in results if isinstance(result, dict)] if isinstance(results, list) else []


def _of_short(entry: Mapping[str, Any]) -> Iterator[Result]:
    """The results of a JSON_MIN task, in the form of the long one."""
    for key, values in entry.items():
        if isinstance(values, str) and key in {"choice", "choices", "class", "label"}:
            yield {"type": "choices", "value": {"choices": [values]}}
        for value in [values] if isinstance(values, dict) else values if isinstance(values, list) else []:
            if isinstance(value, dict) and (any(kind in value for kind in (*_LABELS, "choices"))):
                yield {"value": value, **{size: value.get(size) for size in ("original_width", "original_height")}}


def _without_prefixes(tree: Tree) -> dict[str, list[str]]:
    """The pictures by their names as they were before they were uploaded."""
    found: dict[str, list[str]] = {}
    for image in tree.images:
        found.setdefault(_UPLOADED.sub("", image.rpartition("/")[2]), []).append(image)
    return found


def _image_of(tree: Tree, address: str, bare: Mapping[str, list[str]]) -> str | None:
    parts = parts_of(address)
    if not parts or address.startswith("data:"):
        return None
    if found := tree.image(address):
        return found
    alike = bare.get(_UPLOADED.sub("", parts[-1]), [])
    return alike[0] if len(alike) == 1 else None


# --- results ---


def _names(tasks: list[_Task], task: TaskType) -> tuple[list[str], list[str]]:
    """Class names and names of keypoints, sorted: the export does not have the order of the labelling interface."""
    classes, points = set[str](), set[str]()
    for one in tasks:
        for result in one.results or []:
            label = _label(result)
            if task is TaskType.IMAGE_CLASSIFICATION:
                classes.update(_choices(result))
            elif label and "keypointlabels" in result.get("value", {}):
                points.add(label)
            elif label:
                classes.add(label)
    if task is TaskType.POSE_ESTIMATION and points and not classes:
        classes = {"object"}
    return sorted(classes), sorted(points, key=_natural) if task is TaskType.POSE_ESTIMATION else []


def _natural(name: str) -> list[tuple[int, str]]:
    """`point 10` comes after `point 9`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d{1,18})", name)]


def _choices(result: Result) -> list[str]:
    value = result.get("value")
    choices = value.get("choices") if isinstance(value, dict) else None
    return [str(choice) for choice in choices] if isinstance(choices, list) else []


def _label(result: Result) -> str | None:
    value = result.get("value")
    if not isinstance(value, dict):
        return None
    labels = next((value[key] for key in _LABELS if value.get(key)), None)
    return (str(labels[0]) if isinstance(labels, list) and labels else "") or None


def _size(results: list[Result]) -> tuple[float, float] | None:
    for result in results:
        width, height = result.get("original_width"), result.get("original_height")
        if size := size_of(width, height):
            return size
    return None


def _shapes(
    results: list[Result], size: tuple[float, float], points: Sequence[str], writer: Writer, image: str
) -> Iterator[Shape]:
    groups: dict[object, dict[str, Keypoint]] = {}
    drawn: dict[object, Shape] = {}
    for position, result in enumerate(results):
        label = _label(result)
        if label is None:
            continue
        try:
            value = result["value"]
            if "keypointlabels" in value:
                x, y = float(value["x"]) * size[0] / 100, float(value["y"]) * size[1] / 100
                groups.setdefault(result.get("parentID"), {})[label] = (x, y, 2)
            elif shape := _shape(label, value, size):
                drawn[result.get("id", position)] = shape
            else:
                what = "{n} brush strokes and ellipses were left out: export them as polygons, or as COCO."
                writer.notes.add("brush_left_out", what, image)
        except (TypeError, ValueError, KeyError, OverflowError):
            writer.notes.add("annotation_malformed", "{n} regions cannot be understood and were left out.", image)
    yield from _with_keypoints(drawn, groups, points, writer, image) if points else drawn.values()
    if groups and not points:
        yield from (Shape("", keypoints=tuple(group.values())) for group in groups.values())


def _with_keypoints(
    drawn: dict[object, Shape],
    groups: dict[object, dict[str, Keypoint]],
    points: Sequence[str],
    writer: Writer,
    image: str,
) -> Iterator[Shape]:
    """Boxes with the keypoints that hang on them; those that hang on none belong to the box around them."""
    loose = groups.pop(None, {})
    for name, (x, y, visible) in loose.items():
        around = [key for key, shape in drawn.items() if _contains(shape, x, y)]
        if len(around) == 1:
            groups.setdefault(around[0], {}).setdefault(name, (x, y, visible))
        elif not drawn:
            groups.setdefault(None, {})[name] = (x, y, visible)
        else:
            writer.notes.add("keypoint_loose", "{n} keypoints lie in no box, or in several, and were left out.", image)
    for key, group in groups.items():
        ordered = tuple(group.get(name, (0.0, 0.0, 0)) for name in points)
        box = drawn.pop(key, None)
        label = box.label if box else "object"
        yield Shape(label, box=box.bounds() if box else None, keypoints=ordered)
    yield from drawn.values()


def _contains(shape: Shape, x: float, y: float) -> bool:
    left, top, right, bottom = shape.bounds() or (0, 0, 0, 0)
    return left <= x <= right and top <= y <= bottom


def _shape(label: str, value: Mapping[str, Any], size: tuple[float, float]) -> Shape | None:
    across, down = size[0] / 100, size[1] / 100
    if isinstance(value.get("points"), list):
        return Shape(label, polygons=([(float(x) * across, float(y) * down) for x, y in value["points"]],))
    if not {"x", "y", "width", "height"} <= value.keys():
        return None
    left, top = float(value["x"]) * across, float(value["y"]) * down
    width, height = float(value["width"]) * across, float(value["height"]) * down
    turned = float(value.get("rotation") or 0)
    if turned:
        return Shape(label, corners=turned_box(left, top, width, height, turned, about=(left, top)))
    return Shape(label, box=(left, top, left + width, top + height))
