"""The only module that touches ultralytics: quiet it, run it, and listen to it."""

import logging
import math
import os
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from trainer.contract.hyperparameters import DEFAULT_OPTIMIZER
from trainer.contract.messages import Epoch, Phase, Progress
from trainer.contract.tasks import ULTRALYTICS_TASK, TaskType
from trainer.contract.variables import TrainerEnvironment
from trainer.failures import DivergedError
from trainer.stopping import Stop

logger = logging.getLogger(__name__)

_UPSTREAM_HOST = ("github.com", 443)


class Listener(Protocol):
    """What is told of a training while it runs. Every call must return at once."""

    def progress(self, progress: Progress) -> None: ...

    def epoch(self, epoch: Epoch) -> None: ...

    def checkpoint(self, epoch: int, best: Path | None, last: Path) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """A finished training: where its files lie, how many epochs it ran, and the best checkpoint's metrics."""

    folder: Path
    epochs: int
    metrics: dict[str, float | None]


def quieten(config_dir: Path) -> None:
    """Switch off what ultralytics does over the network by itself; call before it is first imported.

    No DNS probes, update check, pip installs or telemetry; a font that is there already, for labels in any script.
    """
    os.environ["YOLO_CONFIG_DIR"] = str(config_dir)
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    os.environ.setdefault("MPLCONFIGDIR", str(config_dir / "matplotlib"))
    home = config_dir / "Ultralytics"
    home.mkdir(parents=True, exist_ok=True)
    font = _some_font()
    for name in ("Arial.ttf", "Arial.Unicode.ttf"):
        if font is not None and not (home / name).exists():
            shutil.copy(font, home / name)


def load(weights_dir: Path | None = None) -> dict[str, str]:
    """Import ultralytics with every integration off and its log in ours. Returns the versions at work."""
    import torch
    import ultralytics
    from ultralytics import settings as ultralytics_settings

    off = dict.fromkeys(("sync", "clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb"), False)
    folder = {"weights_dir": str(weights_dir)} if weights_dir else {}
    ultralytics_settings.update({**off, **folder, "vscode_msg": False, "openvino_msg": False})
    log = logging.getLogger("ultralytics")
    log.handlers.clear()
    log.propagate = True
    return {
        "ultralytics": ultralytics.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
    }


def device_name() -> str:
    """The device that training will run on, for people."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"


def arguments(settings: TrainerEnvironment, data: str, weights: Path | None, folder: Path) -> dict[str, Any]:
    """The arguments of `yolo train` that this environment means. Paths are absolute.

    `data` is what ultralytics calls by that name: a yaml file, or a folder with `train` and `val` for classification.
    """
    import torch

    chosen = dict(settings.HYPERPARAMETERS)
    on_gpu = torch.cuda.is_available()
    if on_gpu and "amp" not in chosen:
        chosen["amp"] = _mixed_precision(settings.WEIGHTS_DIR)
    return {
        "task": ULTRALYTICS_TASK[TaskType(settings.TASK_TYPE)],
        "model": f"{settings.MODEL_NAME}.yaml",
        "data": str(Path(data).resolve()),
        "epochs": settings.EPOCHS,
        "batch": settings.BATCH_SIZE,
        "imgsz": settings.IMAGE_SIZE,
        "lr0": settings.LEARNING_RATE,
        "seed": settings.SEED,
        "optimizer": DEFAULT_OPTIMIZER,
        "device": ",".join(map(str, range(torch.cuda.device_count()))) if on_gpu else "cpu",
        "project": str(folder.resolve().parent),
        "name": folder.name,
        "exist_ok": True,
        "pretrained": str(weights.resolve()) if weights else False,
        **chosen,
    }


def train(args: Mapping[str, Any], listener: Listener, stop: Stop) -> Outcome:
    """Train, telling `listener` of everything. Blocks until the training ends.

    Raises:
        StopTrainingError: a stop was asked for; the files of the last whole epoch lie in the run's folder.
        DivergedError: the loss is no longer finite.
    """
    trainer = _trainer_class(args["task"])(overrides=dict(args))
    listening = _Listening(listener, stop)
    for event in ("on_train_start", "on_train_epoch_start", "on_train_batch_end", "on_train_epoch_end"):
        trainer.add_callback(event, getattr(listening, event))
    trainer.add_callback("on_val_batch_end", stop.check)
    trainer.add_callback("on_model_save", listening.on_model_save)
    trainer.add_callback("on_fit_epoch_end", listening.on_fit_epoch_end)
    trainer.train()
    return Outcome(Path(trainer.save_dir), listening.finished, _numbers(trainer.metrics))


def _trainer_class(task: str) -> Any:
    """ultralytics' trainer of the task."""
    from ultralytics.models.yolo import classify, detect, obb, pose, segment

    return {
        "detect": detect.DetectionTrainer,
        "segment": segment.SegmentationTrainer,
        "pose": pose.PoseTrainer,
        "obb": obb.OBBTrainer,
        "classify": classify.ClassificationTrainer,
    }[task]


class _Listening:
    """Turns ultralytics' callbacks into words for the listener. An exception here would end the training."""

    def __init__(self, listener: Listener, stop: Stop) -> None:
        self._listener, self._stop = listener, stop
        self._epoch = 0
        self._batch = 0
        self._final = False
        self._epoch_began = self._began = time.monotonic()
        self._done_at_start = 0.0
        self.finished = 0

    def on_train_start(self, trainer: Any) -> None:
        self._began = time.monotonic()
        self._done_at_start = float(trainer.start_epoch)

    def on_train_epoch_start(self, trainer: Any) -> None:
        self._epoch, self._batch = trainer.epoch, 0
        self._epoch_began = time.monotonic()
        self._tell(trainer, Phase.TRAINING)

    def on_train_batch_end(self, trainer: Any) -> None:
        self._batch += 1
        self._tell(trainer, Phase.TRAINING)
        self._stop.check()

    def on_train_epoch_end(self, trainer: Any) -> None:
        self._final = trainer.epoch + 1 >= trainer.epochs
        self._tell(trainer, Phase.VALIDATING)

    def on_model_save(self, trainer: Any) -> None:
        best = Path(trainer.best) if trainer.best_fitness == trainer.fitness else None
        self._listener.checkpoint(trainer.epoch + 1, best, Path(trainer.last))

    def on_fit_epoch_end(self, trainer: Any) -> None:
        if trainer.epoch != self._epoch:
            return  # the final validation of the best checkpoint, which is no epoch
        self.finished = trainer.epoch + 1
        losses = trainer.label_loss_items(trainer.tloss, prefix="train")
        if not all(math.isfinite(value) for value in losses.values()):
            raise DivergedError(
                f"The loss of epoch {self.finished} is not a number ({losses}). Lower LEARNING_RATE "
                f"(now {trainer.args.lr0}), or choose another optimizer (now {trainer.args.optimizer})."
            )
        metrics = {**losses, **trainer.metrics, **trainer.lr, "fitness": trainer.fitness}
        self._listener.epoch(
            Epoch(
                epoch=self.finished,
                epochs=trainer.epochs,
                seconds=round(time.monotonic() - self._epoch_began, 3),
                metrics=_numbers(metrics),
            )
        )
        self._stop.check()

    def _tell(self, trainer: Any, phase: Phase) -> None:
        batches = max(len(trainer.train_loader), 1)
        epochs_done = trainer.epoch + min(self._batch / batches, 1.0)
        fraction = min(epochs_done / trainer.epochs, 1.0)
        done, elapsed = epochs_done - self._done_at_start, time.monotonic() - self._began
        eta = elapsed / done * (trainer.epochs - epochs_done) if self._batch and done > 0 else None
        losses = trainer.tloss or {}
        self._listener.progress(
            Progress(
                phase=phase,
                epoch=trainer.epoch + 1,
                epochs=trainer.epochs,
                fraction=round(fraction, 4),
                eta_seconds=None if eta is None else round(eta, 1),
                losses=_numbers(losses),
            )
        )


def download_published_weights(name: str, folder: Path) -> Path | None:
    """Fetch `name` from where ultralytics publishes its models; None where the network does not allow it."""
    try:
        socket.create_connection(_UPSTREAM_HOST, timeout=3).close()
    except OSError as error:
        logger.info("%s cannot be downloaded: %s is out of reach (%s).", name, _UPSTREAM_HOST[0], error)
        return None
    from ultralytics.utils.downloads import attempt_download_asset

    folder.mkdir(parents=True, exist_ok=True)
    try:
        path = Path(attempt_download_asset(folder / name))
    except Exception as error:  # noqa: BLE001 - ultralytics raises several kinds for one thing: it did not work
        logger.warning("%s could not be downloaded: %s", name, error)
        return None
    return path if path.is_file() else None


def _mixed_precision(weights_dir: Path | None) -> bool | str:
    """bfloat16 where the GPU has it: it needs no trial run. Otherwise fp16, whose trial needs yolo26n.pt at hand."""
    import torch

    if torch.cuda.is_bf16_supported():
        return "bf16"
    return weights_dir is not None and (weights_dir / "yolo26n.pt").is_file()


def _some_font() -> Path | None:
    """A TrueType font: the one that matplotlib brings along."""
    spec = find_spec("matplotlib")
    folders = spec.submodule_search_locations if spec else None
    font = Path(folders[0], "mpl-data", "fonts", "ttf", "DejaVuSans.ttf") if folders else None
    return font if font is not None and font.is_file() else None


def _numbers(values: Mapping[str, Any]) -> dict[str, float | None]:
    """Plain floats; what is not finite becomes None, since JSON has no word for it."""
    floats = {str(name): float(value) for name, value in values.items() if value is not None}
    return {name: value if math.isfinite(value) else None for name, value in floats.items()}
