"""CVAT for images 1.1: one `annotations.xml` for all pictures, read in a stream.

Boxes (turned ones too), polygons, masks, skeletons, points and tags. Skeletons become keypoints in the order in which
the labels list them, with the smallest box around those that are seen, as CVAT's own export for YOLO does.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from apps.storage.errors import NotADatasetError
from apps.storage.formats.shapes import MOST_MASK_PIXELS, Keypoint, Polygon, Shape, mask_of, outlines, turned_box
from apps.storage.formats.tree import Tree, size_of, split_of_path, split_of_word, unreadable
from apps.storage.formats.writing import Converted, Progress, Writer, flip_of, folder_name
from trainer.contract.tasks import TaskType
from trainer.dataset.layout import Keypoints

NAME = "cvat"
_PEEK = 1 << 16
_ROOT = re.compile(rb"<annotations[\s>]")
_UNUSED = {"polyline": "lines", "ellipse": "ellipses", "cuboid": "cuboids"}


@dataclass
class _Survey:
    """Labels in CVAT's order, the points of each skeleton in theirs, and the splits."""

    labels: list[str] = field(default_factory=list)
    points: dict[str, list[str]] = field(default_factory=dict)
    most_points: int = 0
    splits: set[str] = field(default_factory=set)
    tagged: Counter[str] = field(default_factory=Counter)


def looks_like(tree: Tree) -> bool:
    return bool(_files(tree))


def convert(tree: Tree, target: Path, task: TaskType, *, val_share: float, progress: Progress) -> Converted:
    survey = _survey(tree)
    ids = {name: number for number, name in enumerate(_class_names(survey, task))}
    writer = Writer(tree, target, task, splits=survey.splits, val_share=val_share, progress=progress)
    used: set[str] = set()
    for name, element in _pictures(tree):
        image = _image_of(tree, name, element)
        if image is None:
            said = element.get("name", "")
            writer.notes.add("image_missing", "{n} annotated pictures are not in the archive and were left out.", said)
        elif image in used:
            writer.notes.add("image_listed_twice", "{n} pictures are listed twice; the first time counts.", image)
        else:
            used.add(image)
            _write(writer, image, element, survey, ids)
    left = len(set(tree.images) - used)
    if left:
        writer.notes.add("image_unlisted", "{n} pictures are not in annotations.xml and were left out.", number=left)
    if task is TaskType.IMAGE_CLASSIFICATION:
        return writer.finish(NAME, sorted({folder_name(label) for label in survey.tagged}))
    keypoints = None
    if task is TaskType.POSE_ESTIMATION:
        named = next((names for names in survey.points.values() if len(names) == survey.most_points), [])
        keypoints = Keypoints(max(survey.most_points, 1), 3, flip_of(named))
    return writer.finish(NAME, list(ids), keypoints)


def _write(writer: Writer, image: str, element: Element, survey: _Survey, ids: dict[str, int]) -> None:
    split = _split_of(image, element)
    size = _size(element) or writer.tree.size_of_image(image) or (1.0, 1.0)
    shapes = [shape for child in element if (shape := _shape_or_note(child, survey, writer, image, ids))]
    label = writer.label_of(image, size, shapes, ids, survey.most_points)
    if writer.task is TaskType.IMAGE_CLASSIFICATION:
        tags = [tag.get("label", "") for tag in element.iterfind("tag")]
        if len(tags) == 1:
            writer.classified(image, split, folder_name(tags[0]))
        else:
            what = "{n} pictures without a tag, or with several, were left out."
            writer.notes.add("image_without_class", what, image)
    else:
        writer.picture(image, split, label)


# --- reading ---


def _files(tree: Tree) -> list[str]:
    found = []
    for name in tree.of_suffix(".xml"):
        with tree.open(name) as file:
            if _ROOT.search(file.read(_PEEK)):
                found.append(name)
    return found


def _elements(tree: Tree) -> Iterator[tuple[str, Element]]:
    """The children of the root, each forgotten when the next is asked for."""
    for name in _files(tree):
        try:
            with tree.open(name) as file:
                depth = 0
                root: Element | None = None
                for event, element in defusedxml.ElementTree.iterparse(file, ("start", "end"), forbid_dtd=True):
                    if event == "start":
                        root = element if root is None else root
                        depth += 1
                        continue
                    depth -= 1
                    if depth == 1 and root is not None:
                        yield name, element
                        root.clear()
        except (ParseError, DefusedXmlException, ValueError) as error:
            raise unreadable(name, "XML", error) from error


def _pictures(tree: Tree) -> Iterator[tuple[str, Element]]:
    return ((name, element) for name, element in _elements(tree) if element.tag == "image")


def _survey(tree: Tree) -> _Survey:
    survey = _Survey()
    for name, element in _elements(tree):
        if element.tag == "track":
            raise NotADatasetError(
                f"{name} is CVAT's export of a video, with tracks. Export the task as 'CVAT for images 1.1' with its "
                "pictures: it splits tracks by frame."
            )
        if element.tag == "meta":
            _learn_labels(element, survey)
        elif element.tag == "image":
            if split := _split_of(element.get("name", ""), element):
                survey.splits.add(split)
            _learn_shapes(element, survey)
    return survey


def _learn_labels(meta: Element, survey: _Survey) -> None:
    for label in meta.iter("label"):
        name, parent = label.findtext("name", "").strip(), label.findtext("parent", "").strip()
        known = survey.points.setdefault(parent, []) if parent else survey.labels
        if name and name not in known:
            known.append(name)


def _learn_shapes(image: Element, survey: _Survey) -> None:
    """What a file without labels in its head, or with points in place of skeletons, has."""
    for child in image:
        label = child.get("label", "")
        if label not in survey.labels:
            survey.labels.append(label)
        if child.tag == "tag":
            survey.tagged[label] += 1
        elif child.tag == "points":
            survey.most_points = max(survey.most_points, child.get("points", "").count(";") + 1)
        elif child.tag == "skeleton":
            names = survey.points.setdefault(label, [])
            names += [name for point in child if (name := point.get("label", "")) not in names]
            survey.most_points = max(survey.most_points, len(names))


def _class_names(survey: _Survey, task: TaskType) -> list[str]:
    """All labels but those that are tags alone, unless tags are what is wanted."""
    return [name for name in survey.labels if name]


def _image_of(tree: Tree, name: str, element: Element) -> str | None:
    folder, said = name.rpartition("/")[0], element.get("name", "")
    subset = element.get("subset", "")
    inner = [f"images/{subset}", subset, "images", ""] if subset else ["images", "images/default", ""]
    return tree.image(said, *(f"{folder}/{rest}".rstrip("/") if folder else rest for rest in inner))


def _split_of(image: str, element: Element) -> str | None:
    return split_of_word(element.get("subset", "")) or split_of_path(image)


def _size(element: Element) -> tuple[float, float] | None:
    try:
        return size_of(float(element.get("width", 0)), float(element.get("height", 0)))
    except ValueError:
        return None


# --- shapes ---


def _shape_or_note(child: Element, survey: _Survey, writer: Writer, image: str, ids: dict[str, int]) -> Shape | None:
    if child.tag in _UNUSED:
        writer.notes.add(
            f"{child.tag}_left_out", f"{{n}} {_UNUSED[child.tag]} were left out: no task uses them.", image
        )
        return None
    if child.tag not in {"box", "polygon", "mask", "points", "skeleton"} or child.get("label", "") not in ids:
        return None
    try:
        return _shape(child, survey)
    except (TypeError, ValueError, KeyError, OverflowError):
        writer.notes.add("annotation_malformed", "{n} shapes cannot be understood and were left out.", image)
        return None


def _shape(child: Element, survey: _Survey) -> Shape:
    label = child.attrib["label"]
    if child.tag == "box":
        left, top, right, bottom = (float(child.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
        turned = float(child.get("rotation") or 0)
        if not turned:
            return Shape(label, box=(left, top, right, bottom))
        about = (left + right) / 2, (top + bottom) / 2
        return Shape(label, corners=turned_box(left, top, right - left, bottom - top, turned, about=about))
    if child.tag == "polygon":
        return Shape(label, polygons=(_points(child),))
    if child.tag == "mask":
        return Shape(label, polygons=_of_mask(child))
    if child.tag == "points":
        return Shape(label, keypoints=tuple((x, y, 2) for x, y in _points(child)))
    return Shape(label, keypoints=_of_skeleton(child, survey.points.get(label, [])))


def _points(element: Element) -> Polygon:
    pairs = [pair.split(",") for pair in element.attrib["points"].split(";")]
    return [(float(x), float(y)) for x, y in pairs]


def _of_skeleton(element: Element, names: list[str]) -> tuple[Keypoint, ...]:
    found: dict[str, Keypoint] = {}
    for point in element.iterfind("points"):
        x, y = _points(point)[0]
        visible = 0 if point.get("outside") == "1" else 1 if point.get("occluded") == "1" else 2
        found[point.get("label", "")] = (x, y, visible) if visible else (0.0, 0.0, 0)
    return tuple(found.get(name, (0.0, 0.0, 0)) for name in names)


def _of_mask(element: Element) -> tuple[Polygon, ...]:
    """Runs of background and object in turn, row by row, within the mask's own rectangle."""
    left, top, width, height = (int(float(element.attrib[key])) for key in ("left", "top", "width", "height"))
    runs = [int(run) for run in element.attrib["rle"].split(",")]
    if not 0 < width * height <= MOST_MASK_PIXELS:
        raise ValueError("a mask is no larger than a picture")
    return outlines(mask_of(runs, height, width), left, top)
