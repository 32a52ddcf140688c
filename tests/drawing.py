"""Small datasets of every task, drawn on the spot, for tests to look at and to break."""

import io
from pathlib import Path
from typing import Any

from PIL import Image

from trainer.contract.tasks import TaskType
from trainer.dataset.layout import Description, Keypoints, write_description

NAMES = ("cat", "dog")
ROWS = {
    TaskType.OBJECT_DETECTION: ("0 0.5 0.5 0.5 0.4", "1 0.25 0.25 0.2 0.2"),
    TaskType.INSTANCE_SEGMENTATION: ("0 0.1 0.1 0.9 0.1 0.5 0.8", "1 0.2 0.2 0.4 0.2 0.4 0.5 0.2 0.5"),
    TaskType.ORIENTED_DETECTION: ("0 0.5 0.1 0.9 0.5 0.5 0.9 0.1 0.5", "1 0.2 0.2 0.4 0.2 0.4 0.5 0.2 0.5"),
    TaskType.POSE_ESTIMATION: ("0 0.5 0.5 0.5 0.4 0.4 0.4 2 0.6 0.6 1", "1 0.5 0.5 0.2 0.2 0.5 0.5 2 0 0 0"),
}
KEYPOINTS = Keypoints(2, 3, (1, 0))


def picture(
    seed: int = 0, size: tuple[int, int] = (64, 48), kind: str = "JPEG", mode: str = "RGB", **how: Any
) -> bytes:
    """An encoded picture; another one for every seed."""
    stream = io.BytesIO()
    blobs = Image.new("RGB", (4, 4))
    blobs.putdata([((seed * 37 + i * 53) % 256, (seed * 11 + i * 29) % 256, i * 16) for i in range(16)])
    blobs.resize(size).convert(mode).save(stream, kind, **how)
    return stream.getvalue()


def description_for(task: TaskType, names: tuple[str, ...] = NAMES) -> Description:
    return Description(task, names, KEYPOINTS if task is TaskType.POSE_ESTIMATION else None)


def draw(folder: Path, task: TaskType = TaskType.OBJECT_DETECTION, *, train: int = 3, val: int = 2) -> Path:
    """A dataset without findings; the numbers count the pictures, of each class for classification."""
    classification = task is TaskType.IMAGE_CLASSIFICATION
    seed = 0
    for split, number in (("train", train), ("val", val)):
        for place in (f"images/{split}/{name}" for name in NAMES) if classification else (f"images/{split}",):
            (folder / place).mkdir(parents=True)
            for index in range(number):
                seed += 1
                (folder / place / f"{index}.jpg").write_bytes(picture(seed))
        if not classification:
            (folder / "labels" / split).mkdir(parents=True)
            for index in range(number):
                (folder / "labels" / split / f"{index}.txt").write_text("\n".join(ROWS[task]) + "\n")
    write_description(folder, description_for(task))
    return folder
