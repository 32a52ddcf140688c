"""COCO: one JSON with `images`, `annotations` and `categories`, or one for each split.

Also as Roboflow (a JSON in each split's folder), CVAT (a box's rotation among its attributes) and Label Studio export
it. Annotations are loaded whole, with Python's own reader.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apps.storage.errors import NotADatasetError
from apps.storage.formats.shapes import MOST_MASK_PIXELS, Keypoint, Polygon, Shape, mask_of, outlines, turned_box
from apps.storage.formats.tree import Tree, read_json, size_of, split_of_file, split_of_path
from apps.storage.formats.writing import Converted, Notes, Progress, Writer, flip_of
from trainer.contract.tasks import TaskType
from trainer.dataset.layout import Keypoints

NAME = "coco"
_PEEK = 1 << 16
_OTHER_KINDS = ("captions", "stuff", "panoptic", "image_info")


@dataclass
class _Classes:
    """Categories in the order of their ids: those of the first file, then what others add. `points` are names."""

    ids: dict[str, int] = field(default_factory=dict)
    points: tuple[str, ...] = ()
    count: int = 0  # keypoints of an object, named or not


def looks_like(tree: Tree) -> bool:
    return any(_is_coco(tree, name) for name in tree.of_suffix(".json"))


def convert(tree: Tree, target: Path, task: TaskType, *, val_share: float, progress: Progress) -> Converted:
    files = _files_for(tree, task)
    splits = {split for split in files.values() if split}
    writer = Writer(tree, target, task, splits=splits, val_share=val_share, progress=progress)
    classes, used = _Classes(), set[str]()
    for name, split in files.items():
        data = _load(tree, name)
        _learn_classes(data, classes, name)
        if task is TaskType.POSE_ESTIMATION:
            _learn_keypoints(data, classes, name)
        for image, size, shapes in _pictures(tree, name, data, classes, writer.notes, used):
            label = writer.label_of(image, size, shapes, classes.ids, classes.count)
            writer.picture(image, split, label)
    left = len(set(tree.images) - used)
    if left:
        writer.notes.add("image_unlisted", "{n} pictures are in no annotation file and were left out.", number=left)
    keypoints = Keypoints(classes.count, 3, flip_of(classes.points)) if task is TaskType.POSE_ESTIMATION else None
    return writer.finish(NAME, list(classes.ids), keypoints)


# --- files ---


def _is_coco(tree: Tree, name: str) -> bool:
    """Told by the beginning and the end of the file, which may be large."""
    with tree.open(name) as file:
        head = file.read(_PEEK)
        file.seek(max(0, tree.path(name).stat().st_size - _PEEK))
        ends = head + file.read()
    found = sum(f'"{key}"'.encode() in ends for key in ("images", "annotations", "categories"))
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and b'"images"' in ends and found >= 2


def _files_for(tree: Tree, task: TaskType) -> dict[str, str | None]:
    """The annotation files to read and the split that each stands for. One split is one file."""
    names = [name for name in tree.of_suffix(".json") if _is_coco(tree, name)]
    pose = task is TaskType.POSE_ESTIMATION
    by_split: dict[str | None, list[str]] = {}
    for name in names:
        base = name.rpartition("/")[2].lower()
        if not base.startswith(_OTHER_KINDS) or len(names) == 1:
            by_split.setdefault(split_of_file(name), []).append(name)
    chosen: dict[str, str | None] = {}
    for split in sorted(by_split, key=lambda split: ["train", "val", "test", None].index(split)):
        found = by_split[split]
        if len(found) > 1:
            found = [name for name in found if ("keypoint" in name.rpartition("/")[2].lower()) is pose] or found
        if len(found) > 1:
            shown = ", ".join(found[:5])
            raise NotADatasetError(
                f"There are {len(found)} annotation files for the same pictures: {shown}. Keep one for each split, and "
                "name it after the split, as in instances_train.json and instances_val.json."
            )
        chosen[found[0]] = split
    return chosen


def _load(tree: Tree, name: str) -> dict[str, Any]:
    data = read_json(tree, name, "dataset")
    keys = ("images", "annotations", "categories")
    if not isinstance(data, dict) or not all(isinstance(data.get(key, []), list) for key in keys):
        raise NotADatasetError(f"{name} is no COCO file: 'images', 'annotations' and 'categories' are to be lists.")
    return {key: [entry for entry in data.get(key, []) if isinstance(entry, dict)] for key in keys}


# --- classes ---


def _learn_classes(data: Mapping[str, Any], classes: _Classes, name: str) -> None:
    categories = sorted(data["categories"], key=lambda category: _number(category.get("id"), name))
    if not categories:
        raise NotADatasetError(f"{name} has no categories, so the classes have no names. Export it with them.")
    used = {_key(annotation.get("category_id")) for annotation in data["annotations"]}
    above = {str(category.get("supercategory")) for category in categories}
    for category in categories:
        label = str(category.get("name", category["id"]))
        # Roboflow's first category is a heading of the others.
        heading = category.get("supercategory") == "none" and label in above and category["id"] not in used
        if not (heading and len(categories) > 1):
            classes.ids.setdefault(label, len(classes.ids))


def _learn_keypoints(data: Mapping[str, Any], classes: _Classes, name: str) -> None:
    """How many keypoints an object has: as many as the category with the most; others are filled up."""
    counts = {len(_list(category.get("keypoints"))) for category in data["categories"]}
    counts |= {len(_list(annotation.get("keypoints"))) // 3 for annotation in data["annotations"]}
    most = max(counts, default=0)
    if classes.count and most > classes.count:
        raise NotADatasetError(f"{name} has {most} keypoints an object, and others have {classes.count}.")
    classes.count = max(classes.count, most)
    for category in data["categories"]:
        names = tuple(str(point) for point in _list(category.get("keypoints")))
        if len(names) == classes.count:
            classes.points = classes.points or names


def _of(annotation: Mapping[str, Any], key: str, inner: str) -> Any:
    value = annotation.get(key)
    return value.get(inner) if isinstance(value, dict) else None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _key(value: object) -> object:
    """An id as annotations give it; what cannot be one stands for none."""
    return value if isinstance(value, int | str) else None


def _number(value: object, name: str) -> int:
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.isdecimal() and len(value) < 19:
        return int(value)
    raise NotADatasetError(f"{name} has a category whose id is no number: {value!r:.80}. Export it anew.")


# --- pictures ---


def _pictures(
    tree: Tree, name: str, data: Mapping[str, Any], classes: _Classes, notes: Notes, used: set[str]
) -> Iterator[tuple[str, tuple[float, float], Iterable[Shape]]]:
    by_image: dict[object, list[Mapping[str, Any]]] = {}
    for annotation in data["annotations"]:
        by_image.setdefault(_key(annotation.get("image_id")), []).append(annotation)
    names = {category["id"]: str(category.get("name", category["id"])) for category in data["categories"]}
    folders = _folders_for(name)
    for record in data["images"]:
        said = str(record.get("file_name") or "")
        image = tree.image(said, *folders)
        annotations = by_image.pop(_key(record.get("id")), [])
        if image is None:
            notes.add("image_missing", "{n} annotated pictures are not in the archive and were left out.", said)
            continue
        if image in used:
            notes.add("image_listed_twice", "{n} pictures are listed twice; the first time counts.", image)
            continue
        used.add(image)
        size = _size(record) or tree.size_of_image(image) or (1.0, 1.0)
        yield image, size, _shapes(annotations, names, classes, size, notes, image)
    if by_image:
        number = sum(map(len, by_image.values()))
        notes.add("annotation_orphan", "{n} annotations belong to no listed picture and were left out.", number=number)


def _folders_for(name: str) -> list[str]:
    """Where the pictures of an annotation file are looked for first."""
    folder, _slash, base = name.rpartition("/")
    stem = base.removesuffix(".json").removeprefix("instances_").removeprefix("person_keypoints_")
    up = folder.rpartition("/")[0]
    roots = [f"{root}/" if root else "" for root in dict.fromkeys((folder, up))]
    split = split_of_file(name)
    inner = [f"images/{stem}", stem, *([f"images/{split}", split] if split else []), "images"]
    return [*([folder] if folder and split_of_path(name) else []), *(root + rest for root in roots for rest in inner)]


def _size(record: Mapping[str, Any]) -> tuple[float, float] | None:
    return size_of(record.get("width"), record.get("height"))


def _shapes(
    annotations: Iterable[Mapping[str, Any]],
    names: Mapping[object, str],
    classes: _Classes,
    size: tuple[float, float],
    notes: Notes,
    image: str,
) -> Iterator[Shape]:
    for annotation in annotations:
        label = names.get(_key(annotation.get("category_id")))
        if label not in classes.ids:
            notes.add("class_unknown", "{n} annotations have a category that is not listed; they were left out.", image)
        elif annotation.get("iscrowd"):
            notes.add(
                "crowd_left_out", "{n} annotations of crowds were left out: they outline no single object.", image
            )
        else:
            try:
                yield _shape(str(label), annotation, size)
            except (TypeError, ValueError, IndexError, KeyError, OverflowError):
                notes.add("annotation_malformed", "{n} annotations cannot be understood and were left out.", image)


def _shape(label: str, annotation: Mapping[str, Any], size: tuple[float, float]) -> Shape:
    box, corners = None, ()
    if bbox := annotation.get("bbox"):
        left, top, width, height = (float(value) for value in bbox)
        box = left, top, left + width, top + height
        turned = float(_of(annotation, "attributes", "rotation") or 0)
        if turned:
            about = left + width / 2, top + height / 2
            return Shape(label, corners=turned_box(left, top, width, height, turned, about=about))
    polygons = _polygons(annotation.get("segmentation"), size)
    return Shape(label, box, corners, polygons, _keypoints_of(annotation.get("keypoints")))


def _polygons(segmentation: object, size: tuple[float, float]) -> tuple[Polygon, ...]:
    if isinstance(segmentation, list):
        flat = [segmentation] if segmentation and isinstance(segmentation[0], int | float) else segmentation
        found = []
        for values in flat:
            if len(values) >= 6:
                numbers = [float(value) for value in values]
                found.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
        return tuple(found)
    return _of_mask(segmentation, size) if isinstance(segmentation, dict) and segmentation.get("counts") else ()


def _of_mask(rle: Mapping[str, Any], size: tuple[float, float]) -> tuple[Polygon, ...]:
    """The outlines of a run-length mask, packed or plain: runs of background and object in turn, column by column."""
    height, width = (int(value) for value in rle["size"])
    if not (0 < height * width <= MOST_MASK_PIXELS and (width, height) == tuple(map(int, size))):
        raise ValueError("a mask is as large as its picture")
    runs = _unpacked(rle["counts"]) if isinstance(rle["counts"], str) else [int(run) for run in rle["counts"]]
    return outlines(mask_of(runs, width, height).T)


def _unpacked(counts: str) -> list[int]:
    """The runs of COCO's packed masks: five bits a character, lowest first, as differences to the run before the last.

    Not pycocotools' reader: given a string that ends too early, it returns memory that it has not written to.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode("ascii"):
        bits = character - 48
        if not 0 <= bits < 64 or shift > 35:
            raise ValueError("no packed mask")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def _keypoints_of(values: object) -> tuple[Keypoint, ...]:
    if not isinstance(values, list) or len(values) % 3:
        return ()
    return tuple(
        (float(x), float(y), min(max(int(visible), 0), 2))
        for x, y, visible in zip(values[::3], values[1::3], values[2::3], strict=True)
    )
