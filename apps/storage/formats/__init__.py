"""Formats that datasets come in. Each module reads one; all write the layout of `trainer.dataset.layout`.

A module has NAME, `looks_like(tree)` and `convert(tree, target, task, *, val_share, progress)`. `docs/datasets.md` says
what each understands, and why no library converts in its place.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from apps.storage.errors import NotADatasetError
from apps.storage.formats.detect import READERS, reader_of
from apps.storage.formats.tree import Tree
from apps.storage.formats.writing import Converted
from trainer.contract.tasks import TaskType

__all__ = ["FORMATS", "Converted", "convert", "detect"]

FORMATS = tuple(READERS)


def detect(folder: Path) -> str:
    """The name of the format that `folder` is in. Raises NotADatasetError, saying what was found."""
    name: str = reader_of(Tree(folder), None).NAME
    return name


def convert(
    folder: Path,
    target: Path,
    *,
    task_type: TaskType,
    format: str | None = None,  # noqa: A002 - what callers call it
    val_share: float = 0.2,
    progress: Callable[[int, int], None] | None = None,
) -> Converted:
    """Write the dataset in `folder` to the new folder `target` in the internal layout; `folder` stays as it is.

    Pictures are hard links where both are on one file system, so neither may be written to. `progress` is told the
    pictures done and in all. Where no split for validation is named, `val_share` of the pictures become it.

    Raises NotADatasetError, with nothing left of `target`: for a format that is not known or another than `format`,
    annotations that cannot be read, and for what does not suit the task. Raises OSError.
    """
    if not 0 <= val_share < 1:
        raise ValueError(f"val_share is a share from 0 to below 1, and not {val_share}.")
    tree = Tree(folder)
    module = reader_of(tree, format)
    target.mkdir()
    try:
        task = TaskType(task_type)
        converted: Converted = module.convert(
            tree, target, task, val_share=val_share, progress=progress or (lambda _done, _total: None)
        )
    except (NotADatasetError, OSError):
        shutil.rmtree(target, ignore_errors=True)
        raise
    return converted
