"""Recording in MLflow: a real SQLite database of its own, and a server that is not there."""

import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from trainer.tracking import Tracker

PATIENCE = 60.0


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with MLflow's schema, made as the platform makes it."""
    from trainer.recorder import create_database

    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    create_database(uri, (folder / "artifacts").as_uri())
    return uri


@pytest.fixture
def tracker_of(tmp_path: Path) -> Iterator[Callable[..., Tracker]]:
    made: list[Tracker] = []

    def make(uri: str, **options: Any) -> Tracker:
        asked = {
            "experiment": "project-abc123",
            "run_name": "job-1-attempt-2",
            "tags": {"trainyard.job": "1", "trainyard.attempt": "2"},
            "artifact_root": (tmp_path / "artifacts").as_uri(),
        }
        made.append(Tracker(uri, **{**asked, **options}))
        return made[-1]

    yield make
    for tracker in made:
        tracker.close("KILLED", 0)


@pytest.fixture
def nobody() -> str:
    """Host and port where nobody listens."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def curve(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client(uri).get_metric_history(run_id, name)]


def test_a_run_has_its_name_tags_params_metrics_by_epoch_and_its_end(uri: str, tracker_of: Any) -> None:
    runs: list[tuple[str, str]] = []
    tracker = tracker_of(uri, on_run=lambda experiment_id, run_id: runs.append((experiment_id, run_id)))
    tracker.params({"optimizer": "AdamW", "lr0": 0.01, "empty": None, "dataset_version": 3})
    tracker.metrics({"metrics/mAP50(B)": 0.25, "fitness": 0.1, "lr/pg0": None}, 1)
    tracker.metrics({"metrics/mAP50(B)": 0.5, "fitness": 0.2}, 2)
    tracker.tag("artifact.best", "file:///store/best.pt")
    assert tracker.close("FINISHED", PATIENCE) is True
    ((experiment_id, run_id),) = runs
    run = client(uri).get_run(run_id)
    assert client(uri).get_experiment(experiment_id).name == "project-abc123"
    assert run.info.experiment_id == experiment_id
    assert run.info.run_name == "job-1-attempt-2"
    assert run.info.status == "FINISHED"
    assert run.info.end_time is not None
    assert run.data.params == {"optimizer": "AdamW", "lr0": "0.01", "dataset_version": "3"}
    assert run.data.tags.items() >= {
        ("trainyard.job", "1"),
        ("trainyard.attempt", "2"),
        ("artifact.best", "file:///store/best.pt"),
    }
    assert curve(uri, run_id, "metrics/mAP50_B") == [(1, 0.25), (2, 0.5)]
    assert curve(uri, run_id, "fitness") == [(1, 0.1), (2, 0.2)]
    assert curve(uri, run_id, "lr/pg0") == []


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_run_ends_as_its_training_did_in_the_experiment_that_is_there(status: Any, uri: str, tracker_of: Any) -> None:
    experiments, runs = set(), []
    for _ in range(2):
        tracker = tracker_of(
            uri, experiment="twice", on_run=lambda experiment, run: (experiments.add(experiment), runs.append(run))
        )
        assert tracker.close(status, PATIENCE)
    assert len(experiments) == 1
    assert len(set(runs)) == 2
    assert {client(uri).get_run(run).info.status for run in runs} == {status}


def test_more_and_longer_params_than_mlflow_takes_at_once_are_all_recorded(uri: str, tracker_of: Any) -> None:
    runs: list[str] = []
    tracker = tracker_of(uri, on_run=lambda experiment, run: runs.append(run))
    tracker.params({f"param{number}": number for number in range(150)} | {"long": "x" * 20_000})
    assert tracker.close("FINISHED", PATIENCE)
    params = client(uri).get_run(runs[0]).data.params
    assert len(params) == 151
    assert params["long"].startswith("xxx")


def test_what_mlflow_refuses_is_left_out_and_the_rest_is_recorded(uri: str, tracker_of: Any) -> None:
    """It would refuse it again and again, and nothing after it would ever be recorded."""
    runs: list[str] = []
    tracker = tracker_of(uri, on_run=lambda experiment, run: runs.append(run))
    tracker.metrics({"fitness": 0.1}, 1)
    tracker.metrics({"what?!": 1.0}, 2)
    tracker.params({"a": 1})
    tracker.params({"a": 2})
    tracker.metrics({"fitness": 0.3}, 3)
    tracker.close("FINISHED", PATIENCE)
    assert curve(uri, runs[0], "fitness") == [(1, 0.1), (3, 0.3)]
    run = client(uri).get_run(runs[0])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"a": "1"}


def test_without_an_address_nothing_is_recorded_and_nothing_is_said(
    tracker_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[str] = []
    tracker = tracker_of("", on_run=lambda experiment, run: runs.append(run))
    tracker.params({"a": 1})
    tracker.metrics({"fitness": 0.1}, 1)
    tracker.tag("a", "b")
    assert tracker.close("FINISHED", 0) is True
    assert runs == []
    assert caplog.text == ""


def test_a_server_that_is_not_there_costs_warnings_but_no_training(
    nobody: str, tracker_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """One when it is found out, one at the end; and closing gives up when its patience ends."""
    tracker = tracker_of(f"http://{nobody}")
    for epoch in range(1, 51):
        tracker.metrics({"fitness": epoch / 50}, epoch)
    began = time.monotonic()
    assert tracker.close("FINISHED", 20) is False
    assert time.monotonic() - began < 25
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [text for text in warnings if "cannot be used" in text] == warnings[:1]
    assert len(warnings) == 2
    assert nobody in warnings[0]


def test_closing_waits_no_longer_than_asked_for_a_server_that_hangs(tracker_of: Any) -> None:
    """It takes the connection and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        tracker = tracker_of(f"http://127.0.0.1:{server.getsockname()[1]}")
        tracker.params({"a": 1})
        began = time.monotonic()
        assert tracker.close("FINISHED", 3) is False
        assert time.monotonic() - began < 8


def test_no_password_is_logged_when_a_server_cannot_be_reached(
    nobody: str, tracker_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = tracker_of(f"http://me:hush@{nobody}")
    tracker.params({"a": 1})
    assert tracker.close("FINISHED", 20) is False
    assert nobody in caplog.text
    assert "hush" not in caplog.text


def test_a_database_that_appears_later_gets_everything(tmp_path: Path, uri: str, tracker_of: Any) -> None:
    """Orders wait while MLflow cannot be used; closing tries once more."""
    source = Path(uri.removeprefix("sqlite:///"))
    late = tmp_path / "later" / "mlflow.db"
    late.parent.mkdir()
    late.write_bytes(b"this is no database, and far too short to be one" * 50)
    runs: list[str] = []
    tracker = tracker_of(f"sqlite:///{late}", on_run=lambda experiment, run: runs.append(run))
    tracker.metrics({"fitness": 0.1}, 1)
    time.sleep(4)  # the first try has failed
    late.write_bytes(source.read_bytes())
    tracker.metrics({"fitness": 0.2}, 2)
    assert tracker.close("FINISHED", PATIENCE) is True
    assert curve(f"sqlite:///{late}", runs[0], "fitness") == [(1, 0.1), (2, 0.2)]


def test_a_run_whose_trainer_died_can_be_closed_from_outside_once(uri: str) -> None:
    from trainer.recorder import close_run

    run = client(uri).create_run(client(uri).create_experiment("outside"))
    assert close_run(uri, run.info.run_id, "FAILED") is True
    assert close_run(uri, run.info.run_id, "KILLED") is False
    assert client(uri).get_run(run.info.run_id).info.status == "FAILED"
