"""One training, from its environment to its exit code. Read `_train` from top to bottom."""

import logging
import os
import socket
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

from trainer import logs, yolo
from trainer.contract.exits import EXIT_CODE, ExitCode, FailureReason
from trainer.contract.messages import (
    ArtifactKind,
    Epoch,
    Failed,
    Finished,
    Interrupted,
    Phase,
    Progress,
    Started,
)
from trainer.contract.variables import InvalidEnvironmentError, TrainerEnvironment, parse
from trainer.dataset.fetching import fetch
from trainer.dataset.layout import write_ultralytics_data
from trainer.failures import classify
from trainer.reporting import Reporter
from trainer.spool import MESSAGES
from trainer.stopping import Stop, StopTrainingError
from trainer.store import open_store
from trainer.tracking import RunStatus, Tracker
from trainer.uploads import Uploader
from trainer.weights import find_weights

logger = logging.getLogger(__name__)

TRACKING_PATIENCE_SECONDS = 15.0


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Run the training that `environ` describes and return the exit code."""
    stop = Stop()
    stop.listen_to_signals()
    try:
        settings = parse(environ)
    except InvalidEnvironmentError as error:
        return _refuse(environ, error, stop)
    work = settings.WORK_DIR.resolve()
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _refuse(environ, InvalidEnvironmentError([f"WORK_DIR: cannot be written ({error})"]), stop)
    logs.set_up(settings.LOG_FORMAT, settings.JOB_ID, settings.ATTEMPT)
    token = settings.INTERNAL_AUTH_TOKEN.get_secret_value() if settings.INTERNAL_AUTH_TOKEN else None
    reporter = Reporter(settings.CALLBACK_URL, token, settings.ATTEMPT, work / MESSAGES, stop)
    code = _train_and_tell(settings, work, reporter, stop)
    reporter.close(settings.LINGER_SECONDS)
    return code


def _train_and_tell(settings: TrainerEnvironment, work: Path, reporter: Reporter, stop: Stop) -> int:
    """Train, and turn however it ends into a last message and an exit code."""
    tracker = _tracker(settings, reporter)
    status: RunStatus = "FAILED"
    try:
        finished = _train(settings, work, reporter, tracker, stop)
        status, code = "FINISHED", ExitCode.SUCCEEDED
        tracker.close(status, TRACKING_PATIENCE_SECONDS)
        _say_last(reporter, finished)
    except StopTrainingError:
        tracker.close("KILLED", TRACKING_PATIENCE_SECONDS)
        code = ExitCode.SUPERSEDED if stop.superseded else ExitCode.INTERRUPTED
        logger.warning("Stopped by %s.", stop.by)
        _say_last(reporter, Interrupted(by=stop.by))
    except Exception as error:
        reason = classify(error)
        code = EXIT_CODE[reason]
        logger.exception("Failed (%s)", reason)
        tracker.close("FAILED", TRACKING_PATIENCE_SECONDS)
        failed = Failed(reason=reason, message=_message(error), traceback=_sendable(traceback.format_exc()[-15_000:]))
        _say_last(reporter, failed)
    return code


def _say_last(reporter: Reporter, word: Finished | Interrupted | Failed) -> None:
    try:
        reporter.say(word)
    except OSError as unwritable:
        # A full disk, say: the exit code still tells the class.
        logger.error("The platform cannot be told how it ended: %s", unwritable)


def _train(settings: TrainerEnvironment, work: Path, reporter: Reporter, tracker: Tracker, stop: Stop) -> Finished:
    began = time.monotonic()
    yolo.quieten(work / "config")
    versions = yolo.load(settings.WEIGHTS_DIR)
    reporter.say(Started(host=socket.gethostname(), pid=os.getpid(), device=yolo.device_name(), versions=versions))

    reporter.progress(Progress(phase=Phase.DOWNLOADING))
    store = open_store(settings.store_settings())
    dataset = fetch(  # open, and so kept in the cache, until the process ends
        store,
        str(settings.DATASET_ID),
        settings.DATASET_SHA256,
        settings.CACHE_DIR or work / "cache",
        max_bytes=int(settings.CACHE_MAX_GB * 1e9),
        task_type=settings.TASK_TYPE,
        progress=lambda done, total: _downloading(reporter, done, total),
        check=stop.check,
    )
    data = write_ultralytics_data(dataset.folder, dataset.header.description, work / "data.yaml")
    weights = find_weights(settings, store, work / "weights")
    stop.check()

    reporter.progress(Progress(phase=Phase.BUILDING, epochs=settings.EPOCHS))
    args = yolo.arguments(settings, data, weights, work / "run")
    logger.info("Training with %s, learning rate %s.", args["optimizer"], args["lr0"])
    tracker.params({**args, "dataset": settings.DATASET_ID, "dataset_version": settings.DATASET_VERSION})
    uploader = Uploader(
        store,
        settings.artifact_prefix,
        reporter,
        work / "uploading",
        epochs=settings.CHECKPOINT_EVERY,
        check=stop.check,
    )
    listener = _Everyone(reporter, tracker, uploader)
    try:
        outcome = yolo.train(args, listener, stop)
    except StopTrainingError:
        uploader.close()
        _keep_checkpoints(work / "run", uploader, listener.last_epoch)
        uploader.put_waiting()
        raise
    except Exception:
        uploader.close()
        uploader.rescue_waiting()
        raise

    reporter.progress(Progress(phase=Phase.UPLOADING, epoch=outcome.epochs, epochs=settings.EPOCHS, fraction=1))
    uploader.close()
    for name, address in _keep_checkpoints(outcome.folder, uploader, outcome.epochs).items():
        tracker.tag(f"artifact.{name}", address)
    uploader.put_waiting()
    _keep_results(outcome.folder, uploader)
    note = "" if weights else "Started from random weights."
    if outcome.epochs < settings.EPOCHS:
        note = f"Stopped early after {outcome.epochs} of {settings.EPOCHS} epochs: no better for a while. {note}"
    return Finished(
        epochs=outcome.epochs,
        seconds=round(time.monotonic() - began, 1),
        metrics=outcome.metrics,
        note=note.strip(),
    )


class _Everyone:
    """Passes on what the training says to all who want to know."""

    def __init__(self, reporter: Reporter, tracker: Tracker, uploader: Uploader) -> None:
        self._reporter, self._tracker, self._uploader = reporter, tracker, uploader
        self.last_epoch: int | None = None

    def progress(self, progress: Progress) -> None:
        self._reporter.progress(progress)

    def epoch(self, epoch: Epoch) -> None:
        self.last_epoch = epoch.epoch
        self._reporter.say(epoch)
        self._tracker.metrics(epoch.metrics, epoch.epoch)

    def checkpoint(self, epoch: int, best: Path | None, last: Path) -> None:
        self._uploader.checkpoint(epoch, best, last)


def _keep_checkpoints(folder: Path, uploader: Uploader, epoch: int | None) -> dict[str, str]:
    """Store best and last as they are now. Returns their addresses by name; empty before the first epoch ended."""
    addresses = {}
    for kind, of_epoch in ((ArtifactKind.BEST, uploader.best_epoch), (ArtifactKind.LAST, epoch)):
        path = folder / "weights" / f"{kind.value}.pt"
        if path.is_file():
            addresses[kind.value] = uploader.put(path, kind, of_epoch)
    return addresses


def _keep_results(folder: Path, uploader: Uploader) -> None:
    for path in sorted(folder.iterdir()):
        if path.suffix in (".png", ".jpg"):
            uploader.put(path, ArtifactKind.PLOT)
        elif path.suffix in (".csv", ".yaml"):
            uploader.put(path, ArtifactKind.RESULTS)


def _downloading(reporter: Reporter, done: int, total: int) -> None:
    note = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB"
    reporter.progress(Progress(phase=Phase.DOWNLOADING, note=note))


def _tracker(settings: TrainerEnvironment, reporter: Reporter) -> Tracker:
    return Tracker(
        settings.MLFLOW_TRACKING_URI,
        experiment=settings.experiment_name,
        run_name=f"job-{settings.JOB_ID}-attempt-{settings.ATTEMPT}",
        tags={
            "trainyard.job": str(settings.JOB_ID),
            "trainyard.attempt": str(settings.ATTEMPT),
            "trainyard.project": settings.PROJECT_ID,
            "trainyard.dataset_sha256": settings.DATASET_SHA256,
        },
        artifact_root=settings.MLFLOW_ARTIFACT_ROOT,
        on_run=reporter.mention_run,
    )


def _refuse(environ: Mapping[str, str], error: InvalidEnvironmentError, stop: Stop) -> int:
    """Say every problem on stdout, and to the platform where at least its address is good."""
    logs.set_up("auto", 0, 0)
    logger.error("The environment cannot be used:\n%s", error)
    url, token = environ.get("CALLBACK_URL", ""), environ.get("INTERNAL_AUTH_TOKEN", "")
    attempt = environ.get("ATTEMPT") or "1"
    if url.startswith(("http://", "https://")) and token and attempt.isdecimal():
        spool = Path(environ.get("WORK_DIR") or ".") / MESSAGES
        try:
            reporter = Reporter(url, token, int(attempt), spool, stop)
            reporter.say(Failed(reason=FailureReason.BAD_CONFIGURATION, message=_message(error)))
            reporter.close(linger_seconds=10)
        except OSError as unwritable:
            logger.error("The platform cannot be told: %s", unwritable)
    return ExitCode.BAD_CONFIGURATION


def _message(error: Exception) -> str:
    """The error in words."""
    return _sendable(str(error) or type(error).__name__)


def _sendable(text: str) -> str:
    """As a message can carry it: of bounded length, without what a file name that is no text leaves behind."""
    return text[:19_000].encode("utf-8", "replace").decode()
