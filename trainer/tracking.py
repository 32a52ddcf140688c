"""Recording in MLflow, from a process beside the trainer.

mlflow takes seconds to import and, when its server is down, minutes to give up. In a process of its own
(`trainer.recorder`) neither its imports nor its waits hold the training's interpreter lock, its memory is not the
trainer's, and nothing of it can slow or end a training.
"""

import json
import logging
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import IO, Any, Literal

logger = logging.getLogger(__name__)

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
OnRun = Callable[[str, str], None]


class Tracker:
    """Records one run. Calls put an order on a queue and return; an unreachable MLflow costs a warning.

    `on_run` is told the ids of experiment and run once the run exists. Without a `uri` nothing is recorded.
    """

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
        self._on_run = on_run
        self._orders: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._recorder: subprocess.Popen[str] | None = None
        if uri:
            self._recorder = _start_recorder()
            self._run_thread(self._pass_orders_on, self._recorder.stdin)
            self._reader = self._run_thread(self._listen, self._recorder.stdout)
            self._order(
                "open",
                uri=uri,
                experiment=experiment,
                run_name=run_name,
                tags=dict(tags),
                artifact_root=artifact_root,
            )

    def params(self, values: Mapping[str, Any]) -> None:
        """Record the settings of the run."""
        self._order("params", values={name: str(value) for name, value in values.items() if value is not None})

    def metrics(self, values: Mapping[str, float | None], step: int) -> None:
        """Record the metrics of epoch `step`, counted from 1."""
        present = {name: value for name, value in values.items() if value is not None}
        self._order("metrics", values=present, step=step, at=int(time.time() * 1000))

    def tag(self, name: str, value: str) -> None:
        """Note something about the run, such as where an artifact lies."""
        self._order("tag", name=name, value=value)

    def close(self, status: RunStatus, wait_seconds: float) -> bool:
        """Have the rest recorded and the run closed. False where that was not done in `wait_seconds`."""
        if self._recorder is None:
            return True
        self._order("close", status=status)
        self._orders.put(None)
        try:
            done = self._recorder.wait(wait_seconds) == 0
        except subprocess.TimeoutExpired:
            self._recorder.kill()
            self._recorder.wait()
            done = False
        self._reader.join(1)
        if not done:
            logger.warning("MLflow did not take everything; its run is incomplete. The platform has all metrics.")
        return done

    def _order(self, kind: str, **what: Any) -> None:
        if self._recorder is not None:
            self._orders.put({"order": kind, **what})

    def _pass_orders_on(self, pipe: IO[str]) -> None:
        """On a thread: a recorder that waits for its server may leave the pipe full."""
        try:
            while (order := self._orders.get()) is not None:
                pipe.write(json.dumps(order) + "\n")
                pipe.flush()
            pipe.close()
        except OSError as error:
            logger.warning("The MLflow recorder is gone (%s); training goes on without it.", error)

    def _listen(self, pipe: IO[str]) -> None:
        for line in pipe:
            said = json.loads(line)
            if "run_id" in said:
                self._on_run(said["experiment_id"], said["run_id"])
            else:
                logger.warning("%s", said["warning"])

    @staticmethod
    def _run_thread(work: Callable[[IO[str]], None], pipe: IO[str] | None) -> threading.Thread:
        thread = threading.Thread(target=work, args=(pipe,), name="mlflow", daemon=True)
        thread.start()
        return thread


def _start_recorder() -> "subprocess.Popen[str]":
    # Its standard error is dropped: libraries may print what they like there, warnings come over the pipe.
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.recorder"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
    )
