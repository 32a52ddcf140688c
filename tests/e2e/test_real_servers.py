"""The same job with PostgreSQL, Redis, an S3 service and an MLflow server: the same code, other settings."""

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.local_services import free_port
from servers.installation import Installation, eventually
from servers.postgresql import run_postgresql
from servers.redis import run_redis
from servers.swift import ACCESS_KEY, SECRET_KEY, run_swift

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = f"-m mlflow server --backend-store-uri sqlite:///{folder}/mlflow.db --host 127.0.0.1 --port {port}"
    command += f" --artifacts-destination {folder}/artifacts --workers 1"
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([sys.executable, *command.split()], stdout=log, stderr=log, cwd=folder)
    try:
        eventually(lambda: _answers(f"http://127.0.0.1:{port}/health"), "the MLflow server answers")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, mlflow_server: str) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("real")
    with (
        run_postgresql() as database,
        run_redis(folder / "redis") as broker,
        run_swift(_made(folder / "swift")) as s3,
    ):
        s3.client().create_bucket(Bucket="trainyard")
        environ = {
            "DATABASE_URL": database,
            "CELERY_BROKER_URL": broker,
            "STORAGE_TYPE": "minio",
            "MINIO_ENDPOINT": s3.endpoint,
            "MINIO_ACCESS_KEY": ACCESS_KEY,
            "MINIO_SECRET_KEY": SECRET_KEY,
            "MINIO_BUCKET": "trainyard",
            "MLFLOW_TRACKING_URI": mlflow_server,
        }
        with Installation(_made(folder / "data"), **environ).running() as installation:
            yield installation


def test_a_job_trains_on_servers_alone(installation: Installation, mlflow_server: str) -> None:
    job = installation.ended(installation.submit())
    assert job["state"] == "succeeded", installation.why(job)
    assert installation.epochs(job["id"]) == [1, 2]
    artifacts = installation.get(f"jobs/{job['id']}/artifacts").json()["results"]
    best = next(a for a in artifacts if a["name"] == "best.pt")
    answer = installation.get(f"jobs/{job['id']}/artifacts/{best['id']}/download")
    assert answer.status_code == 302
    with urllib.request.urlopen(answer.headers["Location"]) as download:
        assert len(download.read()) == best["size"]
    run = job["attempts"][0]["mlflow_run_id"]
    with urllib.request.urlopen(f"{mlflow_server}/api/2.0/mlflow/runs/get?run_id={run}") as found:
        assert b'"status": "FINISHED"' in found.read()


def test_the_store_keys_are_in_the_trainers_environment_and_nowhere_else(installation: Installation) -> None:
    masked = installation.manage("runtrainer", "--print-env", "1").stdout
    assert "MINIO_SECRET_KEY='********'" in masked
    for path in (installation.folder / "attempts").rglob("*"):
        if path.is_file():
            assert SECRET_KEY.encode() not in path.read_bytes(), path


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
