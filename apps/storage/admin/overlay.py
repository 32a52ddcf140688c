"""The labels of pictures, read from the store and made ready to be drawn."""

from collections.abc import Iterable

from apps.storage.admin.drawing import Shape
from apps.storage.admin.reading import read_files
from apps.storage.models import DatasetImage, DatasetVersion
from trainer.dataset.labels import Instance, parse
from trainer.dataset.layout import Description

_MOST_BYTES = 4 * 1024 * 1024  # of a label's file; more cannot be made out in a picture


def description_of(version: DatasetVersion) -> Description:
    said = {"class_names": version.class_names, "keypoints": version.keypoints}
    return Description.from_json({"task_type": version.dataset.task_type, **said})


def shapes_of(version: DatasetVersion, images: Iterable[DatasetImage]) -> dict[int, list[Shape]]:
    """What is labelled in each picture, by its id. Rows that cannot be read are left out: findings tell of them.

    Raises StoreError.
    """
    description = description_of(version)
    labelled = {image.pk: image.label for image in images if image.label and image.label.size <= _MOST_BYTES}
    pose = description.keypoints is not None
    texts = {pk: data.decode(errors="replace") for pk, data in read_files(labelled.values()).items()}
    return {pk: [_shape(each, pose) for each in parse(texts[label.pk], description)] for pk, label in labelled.items()}


def _shape(instance: Instance, keypoints: bool) -> Shape:
    """Its box where it has no outline of its own."""
    if not keypoints and instance.points:
        return Shape(instance.class_id, instance.points)
    x, y, width, height = instance.box
    left, right, top, bottom = x - width / 2, x + width / 2, y - height / 2, y + height / 2
    box = ((left, top), (right, top), (right, bottom), (left, bottom))
    # Without a third value, a keypoint in the corner is one that is not labelled.
    visible = instance.visible or tuple(int(point != (0, 0)) for point in instance.points)
    dots = [point if seen else None for point, seen in zip(instance.points, visible, strict=True)]
    return Shape(instance.class_id, box, dots)
