"""For tests of jobs: what a trainer says, and what the database holds."""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.db import connection, connections

from apps.executor.fake import FakeExecutor
from apps.jobs import scheduling
from apps.jobs.ingest import ingest
from apps.jobs.models import Attempt, Job
from trainer.contract.messages import Answer, Batch
from trainer.contract.variables import artifact_prefix

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DATA: dict[str, dict[str, Any]] = {
    "started": {"host": "node-1", "pid": 7, "device": "CPU", "versions": {"torch": "2.14.1"}},
    "progress": {"phase": "training", "epoch": 1, "epochs": 2, "fraction": 0.25, "losses": {"box": 1.5}},
    "epoch": {"epoch": 1, "epochs": 2, "seconds": 3.0, "metrics": {"fitness": 0.5}},
    "artifact": {
        "kind": "best",
        "name": "best.pt",
        "key": "PREFIX/best.pt",
        "size": 10,
        "sha256": "a" * 64,
        "epoch": 1,
    },
    "finished": {"epochs": 2, "seconds": 9.0, "metrics": {"fitness": 0.6}, "note": "done"},
    "failed": {"reason": "diverged", "message": "loss is NaN", "traceback": "Traceback …"},
    "interrupted": {"by": "SIGTERM", "epoch": 1},
}

MakeEvent = Callable[..., dict[str, Any]]
Say = Callable[..., Answer]
Dump = Callable[[], dict[str, list[dict[str, Any]]]]


@pytest.fixture
def event() -> MakeEvent:
    """A message as it travels: number, type, and what its data has otherwise than usual."""

    def make(seq: int, kind: str = "progress", /, **data: Any) -> dict[str, Any]:
        at = (NOON + timedelta(seconds=seq)).isoformat()
        return {"seq": seq, "type": kind, "at": at, "data": {**DATA[kind], **data}}

    return make


@pytest.fixture
def say() -> Say:
    """Has the job's current attempt, or the one given, say these messages in one request.

    PREFIX in the key of an artifact stands for where that attempt stores.
    """

    def speak(job: Job, *events: dict[str, Any], attempt: int | None = None) -> Answer:
        job.refresh_from_db()
        number = job.attempt_number if attempt is None else attempt
        prefix = artifact_prefix(job.project_id, job.pk, number)
        text = json.dumps({"attempt": number, "events": events}).replace("PREFIX/", f"{prefix}/")
        return ingest(job.pk, number, Batch.model_validate_json(text).events)

    return speak


@pytest.fixture
def launched(make_job: Callable[..., Job], fake_executor: FakeExecutor) -> Job:
    """A job whose trainer was started and has said nothing yet."""
    job = make_job()
    assert scheduling.dispatch() == 1
    job.refresh_from_db()
    return job


@pytest.fixture
def attempt_of() -> Callable[[Job], Attempt]:
    """The job's current attempt, as the database has it now."""

    def find(job: Job) -> Attempt:
        job.refresh_from_db()
        attempt = job.current_attempt
        assert attempt is not None
        return attempt

    return find


@pytest.fixture
def dump() -> Dump:
    """Every row of the jobs app, to compare before with after."""

    def rows() -> dict[str, list[dict[str, Any]]]:
        models = apps.get_app_config("jobs").get_models()
        return {model.__name__: list(model._default_manager.order_by("pk").values()) for model in models}

    return rows


@pytest.fixture
def shared_database(transactional_db: None, tmp_path: Path) -> Iterator[None]:
    """The test's database as a file, as installations have it: threads each have a connection of their own to it.

    Connections to one SQLite database in memory share a cache, and with it locks that no file has.
    """
    if connection.vendor != "sqlite" or not connection.is_in_memory_db():
        yield
        return
    settings = connection.settings_dict
    path, original, name = tmp_path / "shared.sqlite3", connections["default"], settings["NAME"]
    original.ensure_connection()
    copy = sqlite3.connect(path)
    original.connection.backup(copy)
    copy.close()
    settings["NAME"] = str(path)
    del connections["default"]
    try:
        yield
    finally:
        connections["default"].close()
        settings["NAME"] = name
        connections["default"] = original


@pytest.fixture
def at_once() -> Callable[..., list[Any]]:
    """Runs functions in threads that start together, and returns what each returned or raised."""

    def run(*works: Callable[[], Any]) -> list[Any]:
        barrier, results = threading.Barrier(len(works)), [None] * len(works)

        def one(index: int, work: Callable[[], Any]) -> None:
            try:
                barrier.wait(30)
                results[index] = work()
            except Exception as error:  # noqa: BLE001 - handed to the test
                results[index] = error
            finally:
                connections.close_all()

        threads = [threading.Thread(target=one, args=(i, work)) for i, work in enumerate(works)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in threads)
        return results

    return run
