"""`python -m trainer` with an environment that cannot be used: it says why, everywhere it can, and trains nothing."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from trainer.contract.exits import ExitCode

REPOSITORY = Path(__file__).parents[2]
GOOD = {
    "JOB_ID": "1",
    "ATTEMPT": "2",
    "PROJECT_ID": "abc123",
    "TASK_TYPE": "object_detection",
    "MODEL_NAME": "yolo11n",
    "EPOCHS": "1",
    "BATCH_SIZE": "4",
    "LEARNING_RATE": "0.01",
    "DATASET_ID": "6a4c1c1e-7a0e-4a58-9a55-2f0c8b1d9c11",
    "DATASET_SHA256": "a" * 64,
    "STORAGE_TYPE": "local",
}


class Callback:
    """The platform's end: it takes everything, and keeps it."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.attempts: list[int] = []
        self.tokens: list[str] = []
        callback = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                callback.tokens.append(self.headers["Authorization"])
                callback.attempts.append(body["attempt"])
                callback.events += body["events"]
                answer = json.dumps({"acked": max(event["seq"] for event in body["events"])}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/internal/training/1"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [event["data"] for event in self.events if event["type"] == "failed"]


@pytest.fixture
def callback() -> Iterator[Callback]:
    callback = Callback()
    yield callback
    callback.server.shutdown()
    callback.server.server_close()
    callback.thread.join()


@pytest.fixture
def good(tmp_path: Path, callback: Callback) -> dict[str, str]:
    """An environment that can be used, but that its store is empty."""
    return {
        **GOOD,
        "LOCAL_STORAGE_ROOT": str(tmp_path / "store"),
        "WORK_DIR": str(tmp_path / "work"),
        "CALLBACK_URL": callback.url,
        "INTERNAL_AUTH_TOKEN": "token-hush",
    }


def train(environ: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    machine = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "trainer"],
        cwd=REPOSITORY,
        env={**machine, "PYTHONIOENCODING": "utf-8", **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    """All messages on stdout, which is JSON lines and nothing else."""
    assert "Traceback" not in done.stderr, done.stderr
    return "\n".join(json.loads(line)["message"] for line in done.stdout.splitlines())


def test_every_problem_stands_on_stdout_and_reaches_the_platform(callback: Callback, good: dict[str, str]) -> None:
    bad = {**good, "EPOCHS": "many", "STORAGE_TYPE": "r2", "MODEL_NAME": "yolo99", "R2_SECRET_ACCESS_KEY": "key-hush"}
    del bad["DATASET_ID"]
    done = train(bad)
    assert done.returncode == ExitCode.BAD_CONFIGURATION == 78
    (failure,) = callback.failures
    assert failure["reason"] == "bad_configuration"
    for text in (said(done), failure["message"]):
        for name in ("EPOCHS", "MODEL_NAME", "DATASET_ID", "R2_ENDPOINT", "R2_ACCESS_KEY_ID", "R2_BUCKET"):
            assert f"{name}: " in text
        assert "R2_SECRET_ACCESS_KEY" not in text
    assert set(callback.attempts) == {2}
    assert set(callback.tokens) == {"Bearer token-hush"}


def test_no_secret_stands_on_stdout_in_the_spool_or_in_the_message(
    callback: Callback, good: dict[str, str], tmp_path: Path
) -> None:
    bad = {
        **good,
        "STORAGE_TYPE": "minio",
        "MINIO_ENDPOINT": "minio-hush",
        "MINIO_ACCESS_KEY": "id-hush",
        "MINIO_SECRET_KEY": "key-hush",
        "R2_ENDPOINT": "ftp://me:r2-hush@host",
        "R2_SECRET_ACCESS_KEY": "secret-hush",
        "MLFLOW_TRACKING_URI": "http://me:mlflow-hush@mlflow",
        "MLFLOW_TRACKING_PASSWORD": "password-hush",
        "DATASET_SHA256": "sha-hush",
        "HYPERPARAMETERS": '{"optimizer": "hyper-hush"}',
    }
    done = train(bad)
    assert done.returncode == ExitCode.BAD_CONFIGURATION
    assert callback.failures
    assert "hush" not in done.stdout + done.stderr
    assert "hush" not in json.dumps(callback.events)
    assert "hush" not in (tmp_path / "work" / "messages.jsonl").read_text()


@pytest.mark.parametrize(
    "change",
    [
        {"CALLBACK_URL": ""},
        {"CALLBACK_URL": "nowhere"},
        {"CALLBACK_URL": "http://[::1"},
        {"INTERNAL_AUTH_TOKEN": ""},
        {"ATTEMPT": "²"},
        {"ATTEMPT": "first"},
        {"ATTEMPT": "-1"},
        {"WORK_DIR": "/proc/none"},
    ],
    ids=lambda change: "=".join(next(iter(change.items()))),
)
def test_where_the_platform_cannot_be_told_stdout_and_the_exit_code_still_say_it(
    change: dict[str, str], good: dict[str, str]
) -> None:
    done = train({**good, "EPOCHS": "many", **change})
    assert done.returncode == ExitCode.BAD_CONFIGURATION, done.stderr
    assert "EPOCHS: " in said(done)


def test_an_attempt_that_is_not_given_is_the_first(callback: Callback, good: dict[str, str]) -> None:
    """As everywhere, empty counts as unset."""
    done = train({**good, "EPOCHS": "many", "ATTEMPT": ""})
    assert done.returncode == ExitCode.BAD_CONFIGURATION
    assert callback.failures
    assert set(callback.attempts) == {1}


def test_problems_too_long_for_one_message_are_told_as_far_as_it_goes(callback: Callback, good: dict[str, str]) -> None:
    many = json.dumps({f"unknown_number_{number}": 0 for number in range(1500)})
    done = train({**good, "HYPERPARAMETERS": many})
    assert done.returncode == ExitCode.BAD_CONFIGURATION, done.stderr
    (failure,) = callback.failures
    assert "unknown_number_0: no such hyper-parameter" in failure["message"]


def test_bytes_that_are_no_text_are_told_all_the_same(callback: Callback, good: dict[str, str]) -> None:
    done = train({**good, "HYPERPARAMETERS": b'{"mosa\xffic": 0}'})
    assert done.returncode == ExitCode.BAD_CONFIGURATION, done.stderr
    assert "HYPERPARAMETERS: " in said(done)
    assert callback.failures


def test_a_folder_that_cannot_be_written_is_a_bad_configuration(callback: Callback, good: dict[str, str]) -> None:
    """Everything else is right: it must not end as a bug of the trainer."""
    done = train({**good, "WORK_DIR": "/proc/none"})
    assert done.returncode == ExitCode.BAD_CONFIGURATION, done.stderr
    assert "WORK_DIR" in said(done)


def test_nothing_is_imported_that_is_not_needed_to_say_no(good: dict[str, str], tmp_path: Path) -> None:
    trace = "import sys; from trainer.run import main; code = main(); print(sorted(sys.modules), file=sys.stderr)"
    environ = {**good, "EPOCHS": "many", "CALLBACK_URL": "", "PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", trace], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
    )
    assert "trainer.run" in done.stderr
    assert "'torch'" not in done.stderr
    assert "'ultralytics'" not in done.stderr
