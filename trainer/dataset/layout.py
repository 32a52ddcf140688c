"""The one layout that every dataset is brought into, whatever it was published as.

    data.yaml                               the description: task, class names, keypoints
    images/{train,val[,test]}/…             pictures, in subfolders if wanted
    labels/{train,val[,test]}/….txt         one for each picture, of the same subfolder and name

Image classification has no labels: the first folder below a split is the class, and class ids follow the sorted
names. All other labels have one row an object, in shares (0 to 1) of the picture's width and height:

    object_detection        class  centre-x centre-y width height
    instance_segmentation   class  x1 y1 x2 y2 x3 y3 …                              three points or more
    oriented_detection      class  x1 y1 x2 y2 x3 y3 x4 y4                          corners in order
    pose_estimation         class  centre-x centre-y width height  x y [visible] …  as many as `keypoints` says
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from trainer.contract.tasks import TaskType

DATA_YAML = "data.yaml"
IMAGES, LABELS = "images", "labels"
REQUIRED_SPLITS = ("train", "val")
SPLITS = (*REQUIRED_SPLITS, "test")
# What Pillow, which validates, and OpenCV, which trains, both read.
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Keypoints:
    """The keypoints of one object: how many, whether a third value tells their visibility (dimensions 2 or 3).

    `flip` has, for each keypoint, the index of its mirror image; empty turns mirroring off.
    """

    count: int
    dimensions: int
    flip: tuple[int, ...] = ()


@dataclass(frozen=True)
class Description:
    """What a dataset says of itself: everything the trainer must know besides the files."""

    task_type: TaskType
    class_names: tuple[str, ...]
    keypoints: Keypoints | None = None

    def to_json(self) -> dict[str, Any]:
        points = self.keypoints
        return {
            "task_type": str(self.task_type),
            "class_names": list(self.class_names),
            "keypoints": points and {"count": points.count, "dimensions": points.dimensions, "flip": list(points.flip)},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Description":
        points = data["keypoints"]
        keypoints = Keypoints(points["count"], points["dimensions"], tuple(points["flip"])) if points else None
        return cls(TaskType(data["task_type"]), tuple(data["class_names"]), keypoints)


@dataclass(frozen=True)
class ImageRecord:
    """What the check of one picture and its label learnt. Paths are relative to the dataset, with slashes.

    `width` and `height` are pixels as trained on (EXIF orientation applied), 0 where the picture cannot be opened.
    `class_ids` are the distinct classes in it, ascending. `codes` are those of its findings.
    """

    path: str
    split: str
    width: int
    height: int
    size: int
    sha256: str
    label_path: str | None
    label_sha256: str | None
    instances: int
    class_ids: tuple[int, ...]
    codes: tuple[str, ...]


def label_path_of(image_path: str) -> str:
    """`images/train/a/b.jpg` → `labels/train/a/b.txt`."""
    parts = PurePosixPath(image_path).with_suffix(".txt").parts
    return PurePosixPath(LABELS, *parts[1:]).as_posix()


def has_labels(task_type: str) -> bool:
    return task_type != TaskType.IMAGE_CLASSIFICATION


def write_description(folder: Path, description: Description) -> None:
    """Write `data.yaml`, replacing the one there is."""
    raise NotImplementedError
