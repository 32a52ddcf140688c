"""Every task trains: one epoch from random weights on a few drawn pictures."""

import json
import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from trainer import yolo
from trainer.contract.messages import Epoch, Phase, Progress
from trainer.contract.tasks import MAIN_METRICS, ULTRALYTICS_TASK, TaskType
from trainer.contract.variables import TrainerEnvironment
from trainer.stopping import Stop

SIDE = 64
MODEL = {
    TaskType.OBJECT_DETECTION: "yolo11n",
    TaskType.INSTANCE_SEGMENTATION: "yolo11n-seg",
    TaskType.POSE_ESTIMATION: "yolo11n-pose",
    TaskType.ORIENTED_DETECTION: "yolo11n-obb",
    TaskType.IMAGE_CLASSIFICATION: "yolo11n-cls",
}
LOSSES = {
    TaskType.OBJECT_DETECTION: {"box", "cls", "dfl"},
    TaskType.INSTANCE_SEGMENTATION: {"box", "seg", "cls", "dfl"},
    TaskType.POSE_ESTIMATION: {"box", "pose", "kobj", "cls", "dfl"},
    TaskType.ORIENTED_DETECTION: {"box", "cls", "dfl", "angle"},
    TaskType.IMAGE_CLASSIFICATION: {"loss"},
}


@pytest.fixture(scope="module", autouse=True)
def _ultralytics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Quiet, and with its settings in a folder of the tests."""
    before = dict(os.environ)
    yolo.quieten(tmp_path_factory.mktemp("config"))
    yolo.load()
    yield
    os.environ.clear()
    os.environ.update(before)


class Everything:
    """Remembers all that a training says."""

    def __init__(self) -> None:
        self.heartbeats: list[Progress] = []
        self.epochs: list[Epoch] = []
        self.checkpoints: list[tuple[int, Path | None, Path]] = []

    def progress(self, progress: Progress) -> None:
        self.heartbeats.append(progress)

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)

    def checkpoint(self, epoch: int, best: Path | None, last: Path) -> None:
        assert last.is_file()
        self.checkpoints.append((epoch, best, last))


def _corners(x: float, y: float, w: float, h: float) -> list[float]:
    return [x - w / 2, y - h / 2, x + w / 2, y - h / 2, x + w / 2, y + h / 2, x - w / 2, y + h / 2]


LABEL: dict[TaskType, Callable[[float, float, float, float], list[float]]] = {
    TaskType.OBJECT_DETECTION: lambda *box: [*box],
    TaskType.INSTANCE_SEGMENTATION: _corners,
    TaskType.POSE_ESTIMATION: lambda *box: [*box, box[0], box[1], 2, box[0] + box[2] / 2, box[1], 1],
    TaskType.ORIENTED_DETECTION: _corners,
}


def draw(folder: Path, task: TaskType) -> str:
    """Squares of two colours, labelled for the task. Returns what ultralytics takes for `data`."""
    chance = random.Random(7)
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            class_id = number % 2
            centre = chance.uniform(0.35, 0.65), chance.uniform(0.35, 0.65)
            box = (*centre, 0.4, 0.3)
            picture = Image.new("RGB", (SIDE, SIDE), "white")
            corners = [value * SIDE for value in _corners(*box)]
            ImageDraw.Draw(picture).polygon(corners, fill=("red", "blue")[class_id])
            if task == TaskType.IMAGE_CLASSIFICATION:
                path = folder / split / ("red", "blue")[class_id] / f"{number}.png"
            else:
                path = folder / "images" / split / f"{number}.png"
                label = folder / "labels" / split / f"{number}.txt"
                label.parent.mkdir(parents=True, exist_ok=True)
                label.write_text(" ".join(map(str, [class_id, *LABEL[task](*box)])))
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    if task == TaskType.IMAGE_CLASSIFICATION:
        return str(folder)
    described: dict[str, Any] = {"path": str(folder), "train": "images/train", "val": "images/val"}
    described["names"] = {0: "red", 1: "blue"}
    if task == TaskType.POSE_ESTIMATION:
        described |= {"kpt_shape": [2, 3], "flip_idx": [0, 1]}
    (folder / "data.yaml").write_text(json.dumps(described))  # JSON is YAML
    return str(folder / "data.yaml")


@pytest.mark.parametrize("task", TaskType)
def test_every_task_trains(task: TaskType, tmp_path: Path) -> None:
    settings = TrainerEnvironment.model_validate(
        {
            "JOB_ID": 1,
            "PROJECT_ID": "p",
            "TASK_TYPE": task,
            "MODEL_NAME": MODEL[task],
            "EPOCHS": 1,
            "BATCH_SIZE": 2,
            "LEARNING_RATE": 0.001,
            "IMAGE_SIZE": SIDE,
            "PRETRAINED": "never",
            "HYPERPARAMETERS": {"plots": False, "mosaic": 0},
            "DATASET_ID": "6a4c1c1e-7a0e-4a58-9a55-2f0c8b1d9c11",
            "DATASET_SHA256": "a" * 64,
            "STORAGE_TYPE": "local",
            "LOCAL_STORAGE_ROOT": tmp_path / "store",
        }
    )
    data = draw(tmp_path / "squares", task)
    listener = Everything()
    outcome = yolo.train(yolo.arguments(settings, data, None, tmp_path / "run"), listener, Stop())

    (epoch,) = listener.epochs
    assert (epoch.epoch, epoch.epochs, outcome.epochs) == (1, 1, 1)
    losses = {name.removeprefix("train/").removesuffix("_loss"): value for name, value in epoch.metrics.items()}
    assert LOSSES[task] <= losses.keys()
    assert all(math.isfinite(losses[name] or math.nan) for name in LOSSES[task])
    assert epoch.metrics["fitness"] is not None
    for metrics in (epoch.metrics, outcome.metrics):
        assert all(metrics[name] is not None for name in MAIN_METRICS[task])

    last = listener.heartbeats[-1]
    assert (last.phase, last.fraction) == (Phase.VALIDATING, 1)
    assert {name.removesuffix("_loss") for name in last.losses} >= LOSSES[task]

    weights = outcome.folder / "weights"
    assert listener.checkpoints == [(1, weights / "best.pt", weights / "last.pt")]
    assert _task_of(weights / "best.pt") == _task_of(weights / "last.pt") == ULTRALYTICS_TASK[task]


def _task_of(checkpoint: Path) -> str:
    """What the model in the file was made for, as ultralytics itself reads it."""
    from ultralytics import YOLO

    return str(YOLO(checkpoint).task)
