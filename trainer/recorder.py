"""The only module that imports mlflow: the process beside the trainer that records a run, and what the platform needs.

`python -m trainer.recorder` takes orders as JSON lines on standard input, and answers on standard output with the
run's ids and with warnings. It ends when its input does.
"""

import json
import os
import signal
import sys
import time
from typing import IO, Any

from trainer.contract.variables import without_password

RETRY_SECONDS = 15.0
_MAX_PARAM, _MAX_TAG, _MAX_PARAMS_AT_ONCE = 6000, 8000, 100


class Recorder:
    """Carries orders out in sequence; one that MLflow does not take is tried again for as long as the run lasts."""

    def __init__(self, answers: IO[str]) -> None:
        self._answers = answers
        self._client: Any = None
        self._opening: dict[str, Any] = {}
        self._run_id = ""
        self._waiting: list[dict[str, Any]] = []
        self._retry_at = 0.0
        self._warned = False

    def take(self, order: dict[str, Any]) -> None:
        """Carry `order` out, after those that still wait. Closing tries once more, however short ago the last try."""
        self._waiting.append(order)
        if time.monotonic() >= self._retry_at or order["order"] == "close":
            self._work_off()

    @property
    def done(self) -> bool:
        return not self._waiting

    def _work_off(self) -> None:
        while self._waiting:
            try:
                getattr(self, f"_{self._waiting[0]['order']}")(self._waiting[0])
            except Exception as error:  # noqa: BLE001 - mlflow, its HTTP and SQL layers raise what they like
                self._warn(error)
                if self._run_id == "" or not _is_refusal(error):
                    self._retry_at = time.monotonic() + RETRY_SECONDS
                    return
            del self._waiting[0]

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            uri = str(self._opening.get("uri", self._waiting[0].get("uri", "")))
            where = without_password(uri)
            # mlflow repeats the address in its message, password and all.
            text = str(error).replace(uri.rstrip("/"), where.rstrip("/"))
            why = text.splitlines()[0][:300] if text else "no reason given"
            self._answer(warning=f"MLflow at {where} cannot be used ({type(error).__name__}: {why}); training goes on.")

    def _answer(self, **what: str) -> None:
        self._answers.write(json.dumps(what) + "\n")
        self._answers.flush()

    # --- orders -----------------------------------------------------------------------------------------------

    def _open(self, order: dict[str, Any]) -> None:
        self._opening = order
        self._client = _client(order["uri"])
        experiment_id = _experiment(self._client, order["experiment"], order["artifact_root"])
        run = self._client.create_run(experiment_id, run_name=order["run_name"], tags=order["tags"])
        self._run_id = run.info.run_id
        self._answer(experiment_id=experiment_id, run_id=self._run_id)

    def _params(self, order: dict[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(_name(name), value[:_MAX_PARAM]) for name, value in order["values"].items()]
        for start in range(0, len(params), _MAX_PARAMS_AT_ONCE):
            self._client.log_batch(self._run_id, params=params[start : start + _MAX_PARAMS_AT_ONCE])

    def _metrics(self, order: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        points = [Metric(_name(name), value, order["at"], order["step"]) for name, value in order["values"].items()]
        self._client.log_batch(self._run_id, metrics=points)

    def _tag(self, order: dict[str, Any]) -> None:
        self._client.set_tag(self._run_id, order["name"], order["value"][:_MAX_TAG])

    def _close(self, order: dict[str, Any]) -> None:
        self._client.set_terminated(self._run_id, order["status"])


def close_run(uri: str, run_id: str, status: str) -> bool:
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
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(uri, artifact_root)


def _client(uri: str) -> Any:
    # mlflow's own patience is minutes: whoever waits for the end of a training would wait for it.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _experiment(client: Any, name: str, artifact_root: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, f"{artifact_root}/{name}" if artifact_root else None))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another trainer may have made it just now
            if found is None:
                raise
    return str(found.experiment_id)


def _is_refusal(error: Exception) -> bool:
    """Whether MLflow was there and said no: it would say so again, and nothing after it would be recorded."""
    return getattr(error, "error_code", "") in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def _name(name: str) -> str:
    """MLflow takes no parentheses: `metrics/mAP50(B)` becomes `metrics/mAP50_B`."""
    return name.replace("(", "_").replace(")", "")


def main() -> int:
    """Carry out orders until there are no more. 0 where MLflow has taken all of them."""
    # The trainer is asked to stop, not this: it ends when the trainer closes its input.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    recorder = Recorder(os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8"))
    sys.stdout = sys.stderr  # answers alone go out there, whatever libraries print
    for line in sys.stdin:
        recorder.take(json.loads(line))
    return 0 if recorder.done else 1


if __name__ == "__main__":
    # The trainer waits for this process, and all is said and stored: nothing is gained by an orderly shutdown.
    os._exit(main())
