"""Telling which format a folder is in, by what its files hold and not by their names alone."""

from types import ModuleType

from apps.storage.errors import NotADatasetError
from apps.storage.formats import classification, coco, cvat, labelstudio, voc, yolo
from apps.storage.formats.tree import Tree

# In the order in which they are asked: the particular before the general. YOLO's text files outrank a COCO file beside
# them, which is how COCO is published for YOLO.
READERS: dict[str, ModuleType] = {
    module.NAME: module for module in (cvat, yolo, voc, coco, labelstudio, classification)
}
_SHOWN = 8

UNDERSTOOD = (
    "YOLO (pictures, text labels, data.yaml), COCO json, Pascal VOC xml, CVAT for images 1.1, Label Studio JSON, and "
    "one folder of pictures for each class"
)


def reader_of(tree: Tree, name: str | None) -> ModuleType:
    """The module that reads this tree: the one called `name`, or the first that knows it."""
    if not tree.images:
        raise NotADatasetError(f"There are no pictures in it. {_found(tree)} Export the dataset with its pictures.")
    if name is not None:
        if name not in READERS:
            raise NotADatasetError(f"There is no format {name!r}. Choose one of: {', '.join(READERS)}.")
        if not READERS[name].looks_like(tree):
            raise NotADatasetError(f"This is not in the format {name}. {_found(tree)} Leave the choice to detection.")
        return READERS[name]
    for module in READERS.values():
        if module.looks_like(tree):
            return module
    raise NotADatasetError(f"The format is not known. {_found(tree)} Understood are: {UNDERSTOOD}.")


def _found(tree: Tree) -> str:
    shown = ", ".join(tree.files[:_SHOWN])
    rest = len(tree.files) - _SHOWN
    return f"Found: {shown or 'nothing'}{f' and {rest:,} more files' if rest > 0 else ''}."
