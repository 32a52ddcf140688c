"""The main job on the embedded default, with real processes and real HTTP, and what may happen to it on the way."""

import hashlib
import json
import signal
import sqlite3
from typing import Any

import psutil
import pytest

from servers.installation import Installation, eventually

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def trained(_embedded: Installation) -> dict[str, Any]:
    """A job that went the whole way."""
    return _embedded.ended(_embedded.submit(hyperparameters={"mosaic": 0}))


def test_a_job_trains_through_the_whole_platform(embedded: Installation, trained: dict[str, Any]) -> None:
    assert trained["state"] == "succeeded", embedded.why(trained)
    assert embedded.epochs(trained["id"]) == [1, 2]
    rows = embedded.get(f"jobs/{trained['id']}/metrics").json()["results"]
    assert {"train/box_loss", "metrics/mAP50(B)", "lr/pg0", "fitness"} <= rows[0]["metrics"].keys()
    states = [(change["old"], change["new"]) for change in reversed(trained["history"])]
    assert states == [("", "queued"), ("queued", "launching"), ("launching", "running"), ("running", "succeeded")]


def test_every_message_has_arrived_in_order(embedded: Installation, trained: dict[str, Any]) -> None:
    events = embedded.get(f"jobs/{trained['id']}/events", limit=500).json()["results"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] in ("started", "progress")
    assert events[-1]["type"] == "finished"


def test_its_files_come_back_as_they_were_stored(embedded: Installation, trained: dict[str, Any]) -> None:
    artifacts = embedded.get(f"jobs/{trained['id']}/artifacts").json()["results"]
    assert {"best.pt", "last.pt", "results.csv", "args.yaml", "results.png"} <= {a["name"] for a in artifacts}
    for artifact in artifacts:
        content = embedded.get(f"jobs/{trained['id']}/artifacts/{artifact['id']}/download").content
        assert len(content) == artifact["size"]
        assert hashlib.sha256(content).hexdigest() == artifact["sha256"]


def test_its_log_is_json_lines_with_job_and_attempt(embedded: Installation, trained: dict[str, Any]) -> None:
    lines = embedded.get(f"jobs/{trained['id']}/logs", limit=1_000_000).text.splitlines()
    assert len(lines) > 10
    for line in lines:
        assert json.loads(line).items() >= {"job": trained["id"], "attempt": 1}.items()


def test_mlflow_has_the_same_epochs(embedded: Installation, trained: dict[str, Any]) -> None:
    run = trained["attempts"][0]["mlflow_run_id"]
    with sqlite3.connect(embedded.folder / "mlflow" / "mlflow.db") as database:
        status = database.execute("SELECT status FROM runs WHERE run_uuid = ?", [run]).fetchone()
        steps = database.execute(
            "SELECT step FROM metrics WHERE run_uuid = ? AND key = 'metrics/mAP50_B' ORDER BY step", [run]
        ).fetchall()
        params = dict(database.execute("SELECT key, value FROM params WHERE run_uuid = ?", [run]).fetchall())
        project = database.execute(
            "SELECT experiments.name FROM experiments JOIN runs USING (experiment_id) WHERE run_uuid = ?", [run]
        ).fetchone()
    assert status == ("FINISHED",)
    assert steps == [(1,), (2,)]
    assert params["lr0"] == "0.002"
    assert project == (f"project-{embedded.project}",)


def test_no_secret_lies_in_a_file_that_others_read(embedded: Installation, trained: dict[str, Any]) -> None:
    secrets = [path.read_text().encode() for path in (embedded.folder / "secrets").iterdir() if path.name.isupper()]
    token = embedded.manage("runtrainer", "--print-env", str(trained["id"]), "--show-secrets").stdout
    secrets.append(token.partition("INTERNAL_AUTH_TOKEN=")[2].split()[0].encode())
    assert len(secrets) == 3
    searched = [p for p in embedded.folder.rglob("*") if p.is_file() and p.parent.name != "secrets"]
    assert len(searched) > 20
    for path in searched:
        content = path.read_bytes()
        assert not any(secret in content for secret in secrets), path


def test_restarting_everything_while_a_job_trains_loses_nothing(embedded: Installation) -> None:
    job_id = embedded.submit(epochs=40)
    embedded.job_when(job_id, lambda job: job["progress"]["epoch"] >= 1)
    for process in embedded.services():
        process.kill()
    eventually(embedded.answers, "the process manager brings the platform back")
    embedded.job_when(job_id, lambda job: job["progress"]["epoch"] >= 2)
    embedded.stop()
    assert embedded.trainers(), "the trainer outlives the platform"
    embedded.start()
    job = embedded.ended(job_id)
    assert job["state"] == "succeeded", embedded.why(job)
    assert embedded.epochs(job_id) == list(range(1, 41))
    assert [attempt["number"] for attempt in job["attempts"]] == [1]
    events = embedded.get(f"jobs/{job_id}/events", limit=500).json()["results"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


def test_a_job_that_ends_while_the_platform_is_down_is_told_of_afterwards(embedded: Installation) -> None:
    job_id = embedded.submit(epochs=2)
    embedded.job_when(job_id, lambda job: job["state"] == "running")
    embedded.stop()
    log = next((embedded.folder / "attempts").glob(f"job-{job_id}-attempt-1-*")) / "trainer.log"
    eventually(lambda: "Speed:" in log.read_text(), "training ends with nobody to tell")
    embedded.start()
    job = embedded.ended(job_id)
    assert job["state"] == "succeeded", embedded.why(job)
    assert embedded.epochs(job_id) == [1, 2]


def test_a_cancelled_job_stops_and_keeps_its_last_checkpoint(embedded: Installation) -> None:
    job_id = embedded.submit(epochs=200)
    embedded.job_when(job_id, lambda job: job["progress"]["epoch"] >= 1)
    assert embedded.post(f"jobs/{job_id}/cancel").status_code == 200
    job = embedded.ended(job_id)
    assert job["state"] == "cancelled"
    assert "last.pt" in {a["name"] for a in embedded.get(f"jobs/{job_id}/artifacts").json()["results"]}
    eventually(lambda: not embedded.trainers(), "no process of it is left")
    attempt = eventually(
        lambda: next((a for a in embedded.job(job_id)["attempts"] if a["ended_at"]), None), "its end is recorded"
    )
    assert attempt["exit_code"] == 75


def test_a_killed_trainer_is_noticed_and_the_next_job_gets_its_slot(embedded: Installation) -> None:
    first = embedded.submit(epochs=200)
    embedded.job_when(first, lambda job: job["progress"]["epoch"] >= 1)
    second = embedded.submit(epochs=1)
    waiting = embedded.job_when(second, lambda job: job["progress"]["pending_reason"])
    assert str(first) in waiting["progress"]["pending_reason"]
    _trainer_of(embedded).send_signal(signal.SIGKILL)
    job = embedded.ended(first)
    assert (job["state"], job["end_reason"]) == ("failed", "killed")
    assert "SIGKILL" in job["end_message"]
    assert embedded.ended(second)["state"] == "succeeded"


def test_bad_data_fails_with_a_class_and_words(embedded: Installation) -> None:
    for archive in (embedded.folder / "store" / "datasets").rglob("*.tar"):
        archive.rename(archive.with_suffix(".away"))
    for cached in (embedded.folder / "cache" / "datasets").iterdir():
        cached.rename(embedded.folder / f"away-{cached.name}")
    try:
        job = embedded.ended(embedded.submit(epochs=1))
    finally:
        for archive in (embedded.folder / "store" / "datasets").rglob("*.away"):
            archive.rename(archive.with_suffix(".tar"))
    assert (job["state"], job["end_reason"]) == ("failed", "bad_data")
    assert "shards/" in job["end_message"]


def test_runtrainer_follows_a_job_to_its_end(embedded: Installation) -> None:
    options = "--project Shelves --dataset shapes --task object_detection --model yolo11n --epochs 1 --batch-size 8"
    more = ["--learning-rate", "0.002", "--image-size", "64", "--pretrained", "never", "--follow"]
    done = embedded.manage("runtrainer", *options.split(), *more)
    assert "succeeded" in done.stdout
    assert "best.pt" in done.stdout.replace("\n", "")


def test_the_demo_uses_what_runs_already_and_shows_where_everything_lies(embedded: Installation) -> None:
    shown = embedded.manage("demo", "--epochs", "1").stdout
    for where in ("best checkpoint", "plots", "log", "MLflow run", "/admin/"):
        assert where in shown
    assert embedded.answers(), "the demo stops only what it started"


def test_runtrainer_names_every_problem(embedded: Installation) -> None:
    options = "--project Shelves --dataset shapes --task object_detection --model yolo11n-seg --epochs 0"
    done = embedded.manage("runtrainer", *options.split(), code=1)
    for name in ("model_name", "epochs", "batch_size", "learning_rate"):
        assert name in done.stderr


def _trainer_of(embedded: Installation) -> psutil.Process:
    return next(
        p for p in embedded.trainers() if "trainer" in p.cmdline() and "supervisor" not in " ".join(p.cmdline())
    )
