"""Pascal VOC: an XML file for each picture, in folders of their own or beside the pictures.

Boxes with an angle (`robndbox`, as roLabelImg writes) are taken too. The original data counts pixels from 1 and
includes the last one; most tools write positions from 0. Which it is, the whole dataset tells: where every box has
whole numbers from 1 on, they are pixels.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from apps.storage.formats.shapes import Shape, turned_box
from apps.storage.formats.tree import Tree, size_of, split_of_path, split_of_word
from apps.storage.formats.writing import Converted, Progress, Writer
from trainer.contract.tasks import TaskType

NAME = "voc"
_PEEK = 4096
_ROOT = re.compile(rb"<annotation[\s>]")
_OUTSIDE = ("JPEGImages", "images")


@dataclass
class _Survey:
    """What must be known of all files before the first label is written."""

    names: set[str]
    splits: set[str]
    pixels: bool = True


def looks_like(tree: Tree) -> bool:
    return any(_is_annotation(tree, name) for name in tree.of_suffix(".xml")[:20])


def convert(tree: Tree, target: Path, task: TaskType, *, val_share: float, progress: Progress) -> Converted:
    listed = _image_sets(tree)
    survey = _survey(tree, listed)
    ids = {name: number for number, name in enumerate(sorted(survey.names))}
    writer = Writer(tree, target, task, splits=survey.splits, val_share=val_share, progress=progress)
    used = set()
    for name, root in _annotations(tree):
        image = _image_of(tree, name, root)
        if image is None:
            said = root.findtext("filename") or name
            writer.notes.add("image_missing", "{n} annotated pictures are not in the archive and were left out.", said)
        elif image in used:
            writer.notes.add("image_listed_twice", "{n} pictures are annotated twice; the first time counts.", image)
        else:
            used.add(image)
            size = _size(root) or tree.size_of_image(image) or (1.0, 1.0)
            shapes = list(_shapes(root, survey.pixels, writer, name))
            writer.picture(image, _split_of(name, image, listed), writer.label_of(image, size, shapes, ids))
    left = len(set(tree.images) - used)
    if left:
        writer.notes.add("image_unlisted", "{n} pictures have no XML file and were left out.", number=left)
    return writer.finish(NAME, sorted(survey.names))


def _is_annotation(tree: Tree, name: str) -> bool:
    with tree.open(name) as file:
        return bool(_ROOT.search(file.read(_PEEK)))


def _annotations(tree: Tree) -> Iterator[tuple[str, Element]]:
    for name in tree.of_suffix(".xml"):
        if _is_annotation(tree, name):
            yield name, tree.xml(name)


def _survey(tree: Tree, listed: dict[str, str]) -> _Survey:
    survey = _Survey(set(), set())
    for name, root in _annotations(tree):
        image = _image_of(tree, name, root)
        if image is None:
            continue
        if split := _split_of(name, image, listed):
            survey.splits.add(split)
        for item in root.iterfind("object"):
            survey.names.add(_label(item))
            for box in item.iterfind("bndbox"):
                values = [(box.findtext(key) or "0").strip() for key in ("xmin", "ymin")]
                survey.pixels = survey.pixels and all(_is_pixel(value) for value in values)
    return survey


def _is_pixel(value: str) -> bool:
    try:
        number = float(value)
    except ValueError:
        return True
    return number >= 1 and number == int(number) if math.isfinite(number) else True


def _label(item: Element) -> str:
    return (item.findtext("name") or "").strip() or "unnamed"


def _image_sets(tree: Tree) -> dict[str, str]:
    """Stem → split, as `ImageSets/Main/train.txt` and its like list them. Lists of one class are not splits."""
    found: dict[str, str] = {}
    for name in tree.of_suffix(".txt"):
        split = split_of_word(name.rpartition("/")[2].removesuffix(".txt"))
        if split and "ImageSets" in name.split("/"):
            for line in tree.text(name).splitlines():
                if fields := line.split():
                    found.setdefault(fields[0], split)
    return found


def _split_of(name: str, image: str, listed: dict[str, str]) -> str | None:
    stem = image.rpartition("/")[2].rpartition(".")[0]
    return listed.get(stem) or listed.get(image.rpartition(".")[0]) or split_of_path(image) or split_of_path(name)


def _image_of(tree: Tree, name: str, root: Element) -> str | None:
    folder, _slash, base = name.rpartition("/")
    stem = base.removesuffix(".xml")
    up = folder.rpartition("/")[0]
    beside = [folder, *(f"{up}/{inner}" if up else inner for inner in _OUTSIDE)]
    # CVAT keeps subfolders below both: Annotations/a/1.xml and JPEGImages/a/1.jpg.
    mirrored = [folder.replace("Annotations", inner, 1) for inner in _OUTSIDE if "Annotations" in folder.split("/")]
    if found := tree.image_of_stem(stem, *mirrored, *beside):
        return found
    said = (root.findtext("filename") or "").strip()
    return tree.image(said, *beside) if said else None


def _size(root: Element) -> tuple[float, float] | None:
    try:
        return size_of(float(root.findtext("size/width") or 0), float(root.findtext("size/height") or 0))
    except ValueError:
        return None


def _shapes(root: Element, pixels: bool, writer: Writer, name: str) -> Iterator[Shape]:
    for item in root.iterfind("object"):
        try:
            shape = _shape(item, pixels)
        except (TypeError, ValueError):
            shape = None
        if shape is None:
            writer.notes.add("annotation_malformed", "{n} objects have no readable box and were left out.", name)
        else:
            yield shape


def _shape(item: Element, pixels: bool) -> Shape | None:
    if (box := item.find("bndbox")) is not None:
        left, top, right, bottom = (float(box.findtext(key) or "") for key in ("xmin", "ymin", "xmax", "ymax"))
        if pixels:
            left, top = left - 1, top - 1
        return Shape(_label(item), box=(left, top, right, bottom))
    if (box := item.find("robndbox")) is not None:
        x, y, width, height, angle = (float(box.findtext(key) or "") for key in ("cx", "cy", "w", "h", "angle"))
        corners = turned_box(x - width / 2, y - height / 2, width, height, math.degrees(angle), about=(x, y))
        return Shape(_label(item), corners=corners)
    return None
