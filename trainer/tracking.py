"""Recording in MLflow. Everything happens on a thread of its own; nothing of it can slow or end a training.

The only module that imports mlflow, and it does so where it is first needed: the import takes a second or two.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

logger = logging.getLogger(__name__)

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
RETRY_SECONDS = 30.0
_MAX_PARAM = 500

OnRun = Callable[[str, str], None]
_Job = Callable[["_Run"], None]


class _Run:
    """An open run: the client, and the ids that name it."""

    def __init__(self, client: Any, experiment_id: str, run_id: str) -> None:
        self.client, self.experiment_id, self.run_id = client, experiment_id, run_id


class Tracker:
    """Records one run. Calls put work on a queue and return; an unreachable MLflow costs a warning."""

    def __init__(
        self,
        uri: str,
        *,
        experiment: str,
        run_name: str,
        tags: Mapping[str, str],
        artifact_root: str = "",
        on_run: OnRun = lambda experiment_id, run_id: None,
    ) -> None:
        self._uri, self._experiment, self._run_name = uri, experiment, run_name
        self._tags, self._artifact_root, self._on_run = dict(tags), artifact_root, on_run
        self._queue: queue.Queue[_Job | None] = queue.Queue()
        self._run: _Run | None = None
        self._warned = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        if uri:
            self._thread.start()

    def params(self, values: Mapping[str, Any]) -> None:
        """Record the settings of the run."""
        from_values = {k: str(v)[:_MAX_PARAM] for k, v in values.items() if v is not None}

        def record(run: _Run) -> None:
            from mlflow.entities import Param

            run.client.log_batch(run.run_id, params=[Param(k, v) for k, v in from_values.items()])

        self._put(record)

    def metrics(self, values: Mapping[str, float | None], step: int) -> None:
        """Record the metrics of epoch `step`, counted from 1."""
        now = int(time.time() * 1000)

        def record(run: _Run) -> None:
            from mlflow.entities import Metric

            points = [Metric(_name(k), v, now, step) for k, v in values.items() if v is not None]
            run.client.log_batch(run.run_id, metrics=points)

        self._put(record)

    def tag(self, name: str, value: str) -> None:
        """Note something about the run, such as where an artifact lies."""
        self._put(lambda run: run.client.set_tag(run.run_id, name, value[:5000]))

    def close(self, status: RunStatus, wait_seconds: float) -> None:
        """Record what is left and close the run; give up after `wait_seconds`."""
        if not self._uri:
            return
        self._put(lambda run: run.client.set_terminated(run.run_id, status))
        self._queue.put(None)
        self._closing.set()
        self._thread.join(wait_seconds)
        if self._thread.is_alive() or not self._queue.empty():
            logger.warning("MLflow at %s did not take everything; the run there is incomplete.", _shown(self._uri))

    # --- the thread -------------------------------------------------------------------------------------------

    def _put(self, job: _Job) -> None:
        if self._uri:
            self._queue.put(job)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            while not self._try(job):
                if self._closing.wait(RETRY_SECONDS):
                    # Asked to end: one more try for this one, and none for the rest.
                    if not self._try(job):
                        self._queue.put(None)
                        return
                    break

    def _try(self, job: _Job) -> bool:
        try:
            if self._run is None:
                self._run = self._open()
                self._on_run(self._run.experiment_id, self._run.run_id)
            job(self._run)
        except Exception as error:  # noqa: BLE001 - mlflow, its HTTP and SQL layers raise what they like
            if not self._warned:
                self._warned = True
                logger.warning(
                    "MLflow at %s cannot be used (%s: %s); training goes on without it.",
                    _shown(self._uri),
                    type(error).__name__,
                    str(error).splitlines()[0][:300] if str(error) else "no reason given",
                )
            return False
        return True

    def _open(self) -> _Run:
        client = _client(self._uri)
        found = client.get_experiment_by_name(self._experiment)
        experiment_id = found.experiment_id if found else self._create_experiment(client)
        run = client.create_run(experiment_id, run_name=self._run_name, tags=self._tags)
        return _Run(client, str(experiment_id), run.info.run_id)

    def _create_experiment(self, client: Any) -> str:
        from mlflow.exceptions import MlflowException

        location = f"{self._artifact_root}/{self._experiment}" if self._artifact_root else None
        try:
            return str(client.create_experiment(self._experiment, artifact_location=location))
        except MlflowException:
            found = client.get_experiment_by_name(self._experiment)  # another trainer made it just now
            if found is None:
                raise
            return str(found.experiment_id)


def close_run(uri: str, run_id: str, status: RunStatus) -> bool:
    """Close a run whose trainer is dead. False where it was closed already.

    Raises:
        mlflow.exceptions.MlflowException: the run is not known, or MLflow cannot be used.
    """
    client = _client(uri)
    if client.get_run(run_id).info.status != "RUNNING":
        return False
    client.set_terminated(run_id, status)
    return True


def create_database(uri: str, artifact_root: str) -> None:
    """Create or upgrade MLflow's own database at `uri`, a SQLite file say. Safe to repeat."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(uri, artifact_root)


def _client(uri: str) -> Any:
    # mlflow's own patience is minutes; a thread that hangs so long would outlive the training.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _name(metric: str) -> str:
    """MLflow takes no parentheses: `metrics/mAP50(B)` becomes `metrics/mAP50_B`."""
    return metric.replace("(", "_").replace(")", "")


def _shown(uri: str) -> str:
    from trainer.contract.variables import without_password

    return without_password(uri)
