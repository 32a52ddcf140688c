"""Who goes next, where to, and why the others wait."""

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import AbstractUser
from django.db import IntegrityError, transaction

from apps.executor.base import Slot
from apps.executor.fake import FakeExecutor
from apps.jobs import reconciliation, scheduling, services
from apps.jobs.models import Attempt, Job, StatusChange
from apps.jobs.states import EndReason, State
from apps.jobs.tokens import bearer_of
from servers.names import attempt_name
from trainer.contract.variables import SECRET_NAMES, parse

MakeJob = Callable[..., Job]
GPUS = [Slot("gpu:0", ("0",), "gpu"), Slot("gpu:1", ("1",), "gpu")]


def state_of(job: Job) -> str:
    job.refresh_from_db()
    return job.state


def names(executor: FakeExecutor) -> list[str]:
    return [spec.name for spec in executor.launches]


def test_a_job_is_launched_on_a_slot_with_its_own_environment(make_job: MakeJob, fake_executor: FakeExecutor) -> None:
    fake_executor.room = GPUS[1:]
    job = make_job(hyperparameters={"mosaic": 0.5})
    assert scheduling.dispatch() == 1
    (spec,) = fake_executor.launches
    attempt = Attempt.objects.get()
    assert spec.name == attempt.name == attempt_name(job)
    assert spec.devices == ("1",)
    told = parse(spec.environment)
    assert (job.pk, 1, job.project_id) == (told.JOB_ID, told.ATTEMPT, told.PROJECT_ID)
    assert told.CALLBACK_URL is not None
    assert told.CALLBACK_URL.endswith(f"/internal/training/{job.pk}")
    assert told.HYPERPARAMETERS == {"mosaic": 0.5}
    assert told.INTERNAL_AUTH_TOKEN is not None
    bearer = bearer_of(told.INTERNAL_AUTH_TOKEN.get_secret_value())
    assert bearer is not None
    assert (bearer.job_id, bearer.attempt) == (job.pk, 1)
    assert spec.secret_names == SECRET_NAMES & spec.environment.keys()
    assert (attempt.slot, attempt.devices, attempt.reference) == ("gpu:1", ["1"], f"fake/{spec.name}")
    assert (attempt.node, attempt.log_location) == ("fake-node", f"memory:{spec.name}")
    assert state_of(job) == State.LAUNCHING
    assert job.attempt_number == 1


def test_priority_goes_first_and_then_who_came_first(make_job: MakeJob, fake_executor: FakeExecutor) -> None:
    jobs = [make_job(priority=priority) for priority in (0, -1, 5, 0, 5)]
    fake_executor.room = [Slot(f"cpu:{n}", (), "cpu") for n in range(5)]
    assert scheduling.dispatch() == 5
    order = [jobs[index] for index in (2, 4, 0, 3, 1)]
    assert names(fake_executor) == [attempt_name(job) for job in order]


def test_a_job_that_is_queued_again_goes_behind_those_of_its_priority(
    make_job: MakeJob, fake_executor: FakeExecutor, trainer_user: AbstractUser
) -> None:
    first, second = make_job(), make_job()
    services.cancel(first, by=trainer_user)
    services.retry(first, by=trainer_user)
    scheduling.dispatch()
    assert names(fake_executor) == [attempt_name(second)]


def test_no_more_are_launched_than_there_are_slots_and_the_rest_follows(
    make_job: MakeJob, fake_executor: FakeExecutor
) -> None:
    fake_executor.room = GPUS
    jobs = [make_job() for _ in range(3)]
    assert scheduling.dispatch() == 2
    assert scheduling.dispatch() == 0
    assert [state_of(job) for job in jobs] == [State.LAUNCHING, State.LAUNCHING, State.QUEUED]
    fake_executor.finish(f"fake/{attempt_name(jobs[0])}", 0)
    reconciliation.reconcile()
    assert scheduling.dispatch() == 1
    assert Attempt.objects.get(job=jobs[2]).slot == "gpu:0"


def test_the_database_itself_gives_a_slot_to_one_and_a_job_one_trainer(launched: Job, make_job: MakeJob) -> None:
    other = make_job()
    for wrong in ({"job": other, "slot": "cpu:0"}, {"job": launched, "slot": "cpu:9"}):
        with pytest.raises(IntegrityError), transaction.atomic():
            Attempt.objects.create(number=2, executor="fake", **wrong)
    Attempt.objects.filter(job=launched).update(ended_at="2026-01-01T00:00Z")
    Attempt.objects.create(number=2, executor="fake", job=launched, slot="cpu:0")


def test_a_launch_that_fails_ends_the_job_with_words_and_frees_the_slot(
    make_job: MakeJob, fake_executor: FakeExecutor
) -> None:
    fake_executor.fail_next_launch("no such program: trainer", retryable=False)
    unlucky, next_one = make_job(), make_job()
    scheduling.dispatch()
    assert state_of(unlucky) == State.FAILED
    assert (unlucky.end_reason, unlucky.end_message) == (EndReason.LAUNCH_FAILED, "no such program: trainer")
    attempt = Attempt.objects.get(job=unlucky)
    assert attempt.ended_at is not None
    assert attempt.evidence == "no such program: trainer"
    assert state_of(next_one) == State.LAUNCHING


def test_a_job_that_was_cancelled_while_its_launch_failed_is_cancelled(
    make_job: MakeJob, fake_executor: FakeExecutor, trainer_user: AbstractUser
) -> None:
    job = make_job()
    fake_executor.lose_next_reply()
    with pytest.raises(ConnectionError):
        scheduling.dispatch()
    services.cancel(Job.objects.get(pk=job.pk), by=trainer_user)
    attempt = Attempt.objects.get()
    scheduling.give_up(attempt, EndReason.LAUNCH_FAILED, "no room")
    assert state_of(job) == State.CANCELLED


def test_settings_that_no_longer_fit_end_the_job_with_the_variable_named(
    make_job: MakeJob, fake_executor: FakeExecutor, settings: Any
) -> None:
    settings.PLATFORM_URL = "backend"
    job = make_job()
    scheduling.dispatch()
    assert state_of(job) == State.FAILED
    assert job.end_reason == EndReason.BAD_CONFIGURATION
    assert job.end_message.startswith("CALLBACK_URL: ")
    assert fake_executor.launches == []


def test_a_store_without_its_keys_ends_the_job_with_every_missing_one_named_and_no_traceback(
    make_job: MakeJob, fake_executor: FakeExecutor, settings: Any
) -> None:
    settings.STORE_ENVIRONMENT = {"STORAGE_TYPE": "minio", "MINIO_SECRET_KEY": "key-hush", "MINIO_BUCKET": ""}
    job = make_job()
    scheduling.dispatch()
    assert state_of(job) == State.FAILED
    assert "MINIO_ACCESS_KEY: is required when STORAGE_TYPE is minio" in job.end_message
    assert "MINIO_BUCKET: is required when STORAGE_TYPE is minio" in job.end_message
    assert "pydantic" not in job.end_message
    assert "hush" not in job.end_message


def test_secrets_are_in_the_launch_alone(
    make_job: MakeJob, fake_executor: FakeExecutor, settings: Any, dump: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither rows nor log lines hold them, whether the launch works, fails, or is lost on the way."""
    settings.STORE_ENVIRONMENT = {
        "STORAGE_TYPE": "minio",
        "MINIO_ACCESS_KEY": "id-hush",
        "MINIO_SECRET_KEY": "key-hush",
        "MINIO_BUCKET": "b",
        "R2_SECRET_ACCESS_KEY": "r2-hush",
    }
    settings.INTERNAL_AUTH_TOKEN = "platform-hush"
    settings.MLFLOW_TRACKING_URI = "http://mlflow"
    settings.MLFLOW_TRACKING_USERNAME = "me"
    settings.MLFLOW_TRACKING_PASSWORD = "mlflow-hush"
    fake_executor.room = [Slot(f"cpu:{n}", (), "cpu") for n in range(3)]
    with caplog.at_level(logging.DEBUG):
        make_job()
        scheduling.dispatch()
        make_job()
        fake_executor.fail_next_launch()
        scheduling.dispatch()
        make_job()
        fake_executor.lose_next_reply()
        with pytest.raises(ConnectionError):
            scheduling.dispatch()
        Attempt.objects.filter(reference="").update(created_at="2026-01-01T00:00Z")
        reconciliation.reconcile()
    written = json.dumps(dump(), default=str) + caplog.text
    tokens = [spec.environment["INTERNAL_AUTH_TOKEN"] for spec in fake_executor.launches]
    assert len(tokens) == 2
    assert not any(token in written or token.rpartition(".")[2] in written for token in tokens)
    assert "hush" not in written
    told = json.dumps([dict(spec.environment) for spec in fake_executor.launches])
    assert "key-hush" in told
    assert "r2-hush" not in told
    assert "platform-hush" not in told
    assert "hush" not in repr(fake_executor.launches)


# --- why they wait ----------------------------------------------------------------------------------------------


def test_whoever_waits_is_told_the_place_and_who_holds_the_slots(
    make_job: MakeJob, fake_executor: FakeExecutor
) -> None:
    running, second, first = make_job(), make_job(), make_job(priority=1)
    Job.objects.filter(pk=first.pk).update(priority=-0)
    Job.objects.filter(pk=second.pk).update(priority=-1)
    scheduling.dispatch()
    for place, job in enumerate((first, second), start=1):
        job.refresh_from_db()
        assert job.pending_reason == f"Number {place} in the queue; every slot is taken (cpu:0: job {running.pk})."
    running.refresh_from_db()
    assert running.pending_reason == ""


def test_a_place_with_no_slot_at_all_is_told_as_such(make_job: MakeJob, fake_executor: FakeExecutor) -> None:
    fake_executor.room = []
    job = make_job()
    assert scheduling.dispatch() == 0
    job.refresh_from_db()
    assert job.pending_reason == "No slot is configured: set TRAINER_DEVICES or CPU_SLOTS."


def test_a_job_that_is_launched_waits_for_nothing_any_more(make_job: MakeJob, fake_executor: FakeExecutor) -> None:
    fake_executor.room = []
    job = make_job()
    scheduling.dispatch()
    fake_executor.room = GPUS
    scheduling.dispatch()
    job.refresh_from_db()
    assert job.pending_reason == ""


def test_many_slots_do_not_make_the_reason_longer_than_its_column(
    make_job: MakeJob, fake_executor: FakeExecutor
) -> None:
    fake_executor.room = [Slot(f"gpu:GPU-5d5ba0d6-{n:04d}", ("0",), "gpu") for n in range(20)]
    jobs = [make_job() for _ in range(21)]
    scheduling.dispatch()
    jobs[-1].refresh_from_db()
    assert jobs[-1].pending_reason.startswith("Number 1 in the queue")
    assert len(jobs[-1].pending_reason) <= 300


def test_waiting_leaves_no_history_and_is_written_once(make_job: MakeJob, fake_executor: FakeExecutor) -> None:
    make_job()
    waiting = make_job()
    scheduling.dispatch()
    changes = StatusChange.objects.count()
    scheduling.dispatch()
    assert StatusChange.objects.count() == changes
    assert state_of(waiting) == State.QUEUED


# --- a job whose previous trainer is not known to be dead -----------------------------------------------------------


@pytest.fixture
def retried(launched: Job, say: Any, event: Any, trainer_user: AbstractUser) -> Job:
    """Queued again while the trainer that reported its failure has not been seen to end."""
    say(launched, event(1, "started"), event(2, "failed"))
    launched.refresh_from_db()
    return services.retry(launched, by=trainer_user)


def test_a_retried_job_waits_for_its_previous_trainer_and_holds_nobody_up(
    retried: Job, make_job: MakeJob, fake_executor: FakeExecutor
) -> None:
    fake_executor.room = [*GPUS, Slot("cpu:0", (), "cpu")]
    other = make_job(priority=-5)
    assert scheduling.dispatch() == 1
    assert state_of(other) == State.LAUNCHING
    assert state_of(retried) == State.QUEUED
    assert retried.pending_reason == "Waits for its previous attempt to end (cpu:0)."


@pytest.mark.parametrize("exit_code", [72, 0, None], ids=["as it said", "all is well", "no trace"])
def test_once_the_previous_trainer_is_gone_the_retry_is_launched_as_the_next_attempt(
    exit_code: int | None, retried: Job, fake_executor: FakeExecutor
) -> None:
    """The end of the old attempt is no news about the new one."""
    fake_executor.finish(f"fake/{attempt_name(retried)}", exit_code)
    reconciliation.reconcile()
    assert state_of(retried) == State.QUEUED
    assert (retried.end_reason, retried.ended_at) == ("", None)
    assert scheduling.dispatch() == 1
    assert state_of(retried) == State.LAUNCHING
    assert [attempt.number for attempt in retried.attempts.all()] == [2, 1]
    assert names(fake_executor)[-1] == attempt_name(retried, 2)


def test_a_previous_trainer_that_does_not_leave_by_itself_is_made_to(retried: Job, fake_executor: FakeExecutor) -> None:
    """Or the retry would wait for as long as it hangs."""
    reconciliation.reconcile()
    assert fake_executor.attempts[f"fake/{attempt_name(retried)}"].stops == [False]
    reconciliation.reconcile()
    assert scheduling.dispatch() == 1
    assert state_of(retried) == State.LAUNCHING


# --- several dispatchers ----------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("shared_database")
def test_dispatchers_at_once_never_launch_more_than_the_slots_nor_any_job_twice(
    make_job: MakeJob, fake_executor: FakeExecutor, at_once: Callable[..., list[Any]]
) -> None:
    fake_executor.room = [Slot(f"cpu:{n}", (), "cpu") for n in range(3)]
    for _ in range(8):
        make_job()
    counts = at_once(*[scheduling.dispatch] * 4)
    assert sum(counts) == 3, counts
    assert len(set(names(fake_executor))) == len(names(fake_executor)) == 3
    live = Attempt.objects.filter(ended_at=None)
    assert sorted(live.values_list("slot", flat=True)) == ["cpu:0", "cpu:1", "cpu:2"]
    assert Job.objects.filter(state=State.LAUNCHING).count() == 3
    assert StatusChange.objects.filter(new=State.LAUNCHING).count() == 3
