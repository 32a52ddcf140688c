"""Image classification: a folder of pictures for each class, below a folder for each split or without any."""

from collections.abc import Iterator
from pathlib import Path

from apps.storage.errors import NotADatasetError
from apps.storage.formats.tree import Tree, split_of_word
from apps.storage.formats.writing import Converted, Progress, Writer
from trainer.contract.tasks import TaskType

NAME = "classification"


def looks_like(tree: Tree) -> bool:
    return any(class_name for _image, _split, class_name, _name in _classified(tree))


def convert(tree: Tree, target: Path, task: TaskType, *, val_share: float, progress: Progress) -> Converted:
    if task is not TaskType.IMAGE_CLASSIFICATION:
        raise NotADatasetError(
            f"The dataset holds a folder of pictures for each class and no labels, which {task} cannot be trained on. "
            "Import it for image_classification, or add the labels."
        )
    splits = {split for _image, split, class_name, _name in _classified(tree) if class_name and split}
    writer = Writer(tree, target, task, splits=splits, val_share=val_share, progress=progress)
    trained, others = set[str](), set[str]()
    for image, split, class_name, name in _classified(tree):
        if class_name is None:
            writer.notes.add("image_without_class", "{n} pictures are in no class's folder and were left out.", image)
            continue
        (trained if split in {None, "train"} else others).add(class_name)
        writer.classified(image, split, class_name, name)
    # Ids follow the folders in train; of a class that is only elsewhere the check will tell.
    return writer.finish(NAME, sorted(trained or others))


def _classified(tree: Tree) -> Iterator[tuple[str, str | None, str | None, str]]:
    """Path, split, class, and name within the class of each picture. Splits count if the first folders all are some."""
    inner = _common_folder(tree)
    firsts = {image[len(inner) :].split("/")[0] for image in tree.images if "/" in image[len(inner) :]}
    by_split = bool(firsts) and any(split_of_word(name) == "train" for name in firsts)
    for image in tree.images:
        *folders, name = image[len(inner) :].split("/")
        split = split_of_word(folders[0]) if by_split and folders else None
        if split:
            folders = folders[1:]
        class_name = folders[0] if folders and (split or not by_split) else None
        yield image, split, class_name, "/".join([*folders[1:], name])


def _common_folder(tree: Tree) -> str:
    """`images/` where all pictures lie below such a folder, which is no class."""
    firsts = {image.split("/")[0] for image in tree.images}
    first = firsts.pop() if len(firsts) == 1 else ""
    nested = all(image.count("/") >= 2 for image in tree.images)
    return f"{first}/" if first and nested and not split_of_word(first) else ""
