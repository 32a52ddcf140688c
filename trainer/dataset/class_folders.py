"""The folders of a dataset for classification: the first one below a split is the class."""

from collections.abc import Mapping
from pathlib import Path

from trainer.dataset.findings import Finding
from trainer.dataset.layout import IMAGES, SPLITS, is_image, names_in


def class_names_of(folder: Path) -> tuple[str, ...]:
    """The classes in train, in the order of their ids."""
    return tuple(sorted(name.rstrip("/") for name in names_in(folder / IMAGES / "train") if name.endswith("/")))


def check_class_folders(folder: Path, stated: tuple[str, ...] | None) -> list[Finding]:
    """`stated` are the class names in data.yaml, if it has any."""
    findings = []
    classes = class_names_of(folder)
    if stated is not None and stated != classes:
        odd = sorted({*stated} ^ {*classes}) or ["their order"]
        message = f"'names' must be the folders in {IMAGES}/train, sorted. Wrong: {', '.join(odd[:10])}. Correct it."
        findings.append(Finding("error", "class_names_differ", message, "data.yaml"))
    for split in SPLITS:
        for name in names_in(folder / IMAGES / split):
            path = f"{IMAGES}/{split}/{name.rstrip('/')}"
            if not name.endswith("/"):
                if is_image(name):
                    message = "Lies in no class's folder and is left out. Move it into one."
                    findings.append(Finding("warning", "image_outside_class", message, path))
            elif not _has_image(folder / path):
                message = "There are no pictures in this class's folder. Put some there, or remove it."
                findings.append(Finding("error", "class_empty", message, path))
            elif name.rstrip("/") not in classes:
                message = f"There is no such class in {IMAGES}/train. Add its folder there, or rename this one."
                findings.append(Finding("error", "class_not_in_train", message, path))
    return findings


def _has_image(folder: Path) -> bool:
    pending = [folder]
    while pending:
        current = pending.pop()
        for name in names_in(current):
            if name.endswith("/"):
                pending.append(current / name)
            elif is_image(name):
                return True
    return False


def class_ids(names: tuple[str, ...]) -> Mapping[str, int]:
    return {name: number for number, name in enumerate(names)}


def class_of(path: str) -> str | None:
    """`images/train/cat/1.jpg` → `cat`; None for a picture that lies in no class's folder."""
    parts = path.split("/", 3)
    return parts[2] if len(parts) > 3 else None
