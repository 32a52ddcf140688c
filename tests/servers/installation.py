"""A whole platform in processes of its own: web, worker and scheduler under the process manager, on a port and in a
folder of their own. The tests speak to it over HTTP, as a frontend would."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

from config.local_services import free_port

ROOT = Path(__file__).parents[2]
PATIENCE = 240.0

# Small enough for a few seconds, large enough that a test can step in while it runs.
SMALL = {
    "task_type": "object_detection",
    "model_name": "yolo11n",
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 0.002,
    "image_size": 64,
    "pretrained": "never",
    "hyperparameters": {"mosaic": 0, "plots": False},
}

SET_UP = """
from config import setting_up
from apps.projects.models import Project
from apps.storage.sample import draw_sample
from apps.storage.services import import_folder
from rest_framework.authtoken.models import Token
import pathlib, tempfile
setting_up.prepare()
user, password = setting_up.ensure_admin()
project = Project.objects.create(name="Shelves")
folder = pathlib.Path(tempfile.mkdtemp()) / "shapes"
draw_sample(folder, train=32, val=8, size=64)
version = import_folder(folder, project=project, name="shapes", task_type="object_detection", by=user)
token, _ = Token.objects.get_or_create(user=user)
print("MADE", project.pk, version.dataset_id, token.key)
"""


def eventually(ask: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Call `ask` until its answer is true, and return that answer."""
    deadline = time.monotonic() + patience
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"It did not happen: {what}"
        time.sleep(0.2)
    return answer


class Installation:
    """One installation. `environ` are its settings, on top of the embedded default's."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "TMPDIR")}
        self.environ = kept | {"DATA_DIR": str(folder), "PLATFORM_URL": self.url} | environ
        self._manager: subprocess.Popen[bytes] | None = None
        made = self.manage("shell", "-c", SET_UP).stdout
        line = next(line for line in made.splitlines() if line.startswith("MADE"))
        _, self.project, self.dataset, self.token = line.split()

    def manage(self, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(ROOT / "manage.py"), *arguments]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, cwd=ROOT, timeout=400)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
        return done

    # --- the process manager ------------------------------------------------------------------------------------

    def start(self) -> None:
        command = [sys.executable, str(ROOT / "manage.py"), "serve", "--port", str(self.port), "--no-mlflow"]
        with (self.folder / "serve.log").open("ab") as log:
            self._manager = subprocess.Popen(command, env=self.environ, cwd=ROOT, stdout=log, stderr=log)
        eventually(self.answers, "the platform answers")

    def stop(self) -> None:
        """As Ctrl-C would: everything ends but the trainers."""
        if self._manager is not None:
            self._manager.send_signal(signal.SIGINT)
            self._manager.wait(60)
            self._manager = None

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Started, and at the end stopped with every trainer that is left."""
        self.start()
        try:
            yield self
        finally:
            self.stop()
            for process in self.trainers():
                process.kill()

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def services(self) -> list[psutil.Process]:
        """Web, worker and scheduler with their children; trainers and their supervisors are none of them."""
        assert self._manager is not None
        return psutil.Process(self._manager.pid).children(recursive=True)

    def trainers(self) -> list[psutil.Process]:
        """Whatever runs in the attempts' folders."""
        mine = str(self.folder / "attempts")
        return [p for p in psutil.process_iter() if _runs_in(p, mine)]

    # --- the API ------------------------------------------------------------------------------------------------

    def get(self, path: str, **parameters: Any) -> httpx.Response:
        return httpx.get(f"{self.url}/api/v1/{path}", params=parameters, headers=self._headers, timeout=30)

    def post(self, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        return httpx.post(f"{self.url}/api/v1/{path}", json=body or {}, headers=self._headers, timeout=30)

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Token {self.token}"}

    def submit(self, **changes: Any) -> int:
        body = {"project": self.project, "dataset": self.dataset, **SMALL, **changes}
        answer = self.post("jobs", body)
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    def job(self, job_id: int) -> dict[str, Any]:
        answer = self.get(f"jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def job_when(self, job_id: int, condition: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The job once `condition` holds of it; fails at once where it ended otherwise."""

        def look() -> dict[str, Any] | None:
            try:
                job = self.job(job_id)
            except httpx.TransportError:
                return None  # restarting
            if condition(job):
                return job
            assert job["state"] not in ("succeeded", "failed", "cancelled"), self.why(job)
            return None

        found: dict[str, Any] = eventually(look, f"job {job_id} gets there")
        return found

    def ended(self, job_id: int) -> dict[str, Any]:
        return self.job_when(job_id, lambda job: job["state"] in ("succeeded", "failed", "cancelled"))

    def epochs(self, job_id: int) -> list[int]:
        return [row["epoch"] for row in self.get(f"jobs/{job_id}/metrics").json()["results"]]

    def why(self, job: dict[str, Any]) -> str:
        log = self.get(f"jobs/{job['id']}/logs", offset=-4000).text
        return f"{job['state']}: {job.get('end_message')}\n{log}"


def _runs_in(process: psutil.Process, folder: str) -> bool:
    try:
        return folder in process.cwd() or any(folder in word for word in process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
        return False
