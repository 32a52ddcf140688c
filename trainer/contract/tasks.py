"""The five tasks, and the model families ultralytics offers for each."""

from enum import StrEnum

SIZES = ("n", "s", "m", "l", "x")
FAMILIES = ("yolo26", "yolo11", "yolov8")


class TaskType(StrEnum):
    """`TASK_TYPE`, as the specification spells it."""

    OBJECT_DETECTION = "object_detection"
    INSTANCE_SEGMENTATION = "instance_segmentation"
    POSE_ESTIMATION = "pose_estimation"
    ORIENTED_DETECTION = "oriented_detection"
    IMAGE_CLASSIFICATION = "image_classification"


ULTRALYTICS_TASK = {
    TaskType.OBJECT_DETECTION: "detect",
    TaskType.INSTANCE_SEGMENTATION: "segment",
    TaskType.POSE_ESTIMATION: "pose",
    TaskType.ORIENTED_DETECTION: "obb",
    TaskType.IMAGE_CLASSIFICATION: "classify",
}

_SUFFIX = {
    TaskType.OBJECT_DETECTION: "",
    TaskType.INSTANCE_SEGMENTATION: "-seg",
    TaskType.POSE_ESTIMATION: "-pose",
    TaskType.ORIENTED_DETECTION: "-obb",
    TaskType.IMAGE_CLASSIFICATION: "-cls",
}

# yolo12 is published for detection alone.
MODELS: dict[TaskType, tuple[str, ...]] = {
    task: tuple(
        f"{family}{size}{suffix}"
        for family in (*FAMILIES, *(("yolo12",) if task is TaskType.OBJECT_DETECTION else ()))
        for size in SIZES
    )
    for task, suffix in _SUFFIX.items()
}

# What tells most of how good a model is: ultralytics' names of two metrics and short ones for people, the first being
# the more forgiving. Of masks and keypoints rather than of the boxes around them.
MAIN_METRICS: dict[TaskType, dict[str, str]] = {
    TaskType.OBJECT_DETECTION: {"metrics/mAP50(B)": "mAP50", "metrics/mAP50-95(B)": "mAP50-95"},
    TaskType.INSTANCE_SEGMENTATION: {"metrics/mAP50(M)": "mask mAP50", "metrics/mAP50-95(M)": "mask mAP50-95"},
    TaskType.POSE_ESTIMATION: {"metrics/mAP50(P)": "pose mAP50", "metrics/mAP50-95(P)": "pose mAP50-95"},
    TaskType.ORIENTED_DETECTION: {"metrics/mAP50(B)": "mAP50", "metrics/mAP50-95(B)": "mAP50-95"},
    TaskType.IMAGE_CLASSIFICATION: {"metrics/accuracy_top1": "top-1", "metrics/accuracy_top5": "top-5"},
}


def task_of(model_name: str) -> TaskType | None:
    """The task that `model_name` is made for, or None where no family knows the name."""
    return next((task for task, names in MODELS.items() if model_name in names), None)
