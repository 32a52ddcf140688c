"""What the database believes against what the executor sees. The fake executor tells what each test wants seen."""

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from django.contrib.auth.models import AbstractUser
from django.utils import timezone

from apps.executor.base import Dead, Launched, LaunchSpec, Slot, Unknown
from apps.executor.errors import ExecutorError
from apps.executor.fake import FakeExecutor
from apps.jobs import scheduling, services
from apps.jobs.models import Attempt, Job, StatusChange
from apps.jobs.reconciliation import reconcile
from apps.jobs.states import EndReason, State
from config.celery import app as celery
from servers.names import attempt_name
from trainer.contract.exits import ADVICE, EXIT_CODE, ExitCode, FailureReason
from trainer.contract.messages import Epoch, Finished, Started
from trainer.spool import Spool

MakeJob = Callable[..., Job]
AttemptOf = Callable[[Job], Attempt]


def reference(job: Job) -> str:
    return f"fake/{attempt_name(job, job.attempt_number)}"


def ago(**time: float) -> datetime:
    return timezone.now() - timedelta(**time)


def silent_since(attempt: Attempt, when: datetime) -> None:
    Attempt.objects.filter(pk=attempt.pk).update(last_message_at=when, created_at=when)


def history(job: Job) -> list[tuple[str, str]]:
    return list(StatusChange.objects.filter(job=job).order_by("id").values_list("old", "new"))


@pytest.fixture
def running(launched: Job, say: Any, event: Any) -> Job:
    say(launched, event(1, "started"))
    launched.refresh_from_db()
    assert launched.state == State.RUNNING
    return launched


@pytest.fixture
def eager_tasks() -> Iterator[None]:
    """Whatever is sent to a worker is done on the spot."""
    celery.conf.task_always_eager = True
    yield
    celery.conf.task_always_eager = False


# --- alive, or not known ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["launching", "running"])
def test_a_trainer_that_is_seen_alive_stays_however_long_it_is_silent(
    state: str, launched: Job, attempt_of: AttemptOf, dump: Any
) -> None:
    Job.objects.filter(pk=launched.pk).update(state=state)
    silent_since(attempt_of(launched), ago(days=30))
    before = dump()
    reconcile()
    assert dump() == before


def test_not_knowing_ends_no_job_and_after_a_while_of_silence_it_counts_as_lost(
    running: Job, attempt_of: AttemptOf, fake_executor: FakeExecutor, dump: Any
) -> None:
    fake_executor.script(reference(running), Unknown("the node does not answer"))
    silent_since(attempt_of(running), ago(seconds=85))
    before = dump()
    reconcile()
    assert dump() == before
    silent_since(attempt_of(running), ago(seconds=95))
    reconcile()
    running.refresh_from_db()
    assert (running.state, running.end_reason, running.ended_at) == (State.LOST, "", None)
    change = StatusChange.objects.latest("id")
    assert change.reason == "silent"
    assert "the node does not answer" in change.evidence
    silent_since(attempt_of(running), ago(days=365))
    before = dump()
    for _ in range(3):
        reconcile()
    assert dump() == before
    assert attempt_of(running).ended_at is None
    assert fake_executor.attempts[reference(running)].stops == []


def test_a_trainer_that_has_never_said_anything_is_lost_by_the_time_of_its_launch(
    launched: Job, fake_executor: FakeExecutor, attempt_of: AttemptOf
) -> None:
    fake_executor.script(reference(launched), Unknown("?"))
    reconcile()
    assert attempt_of(launched).job.state == State.LAUNCHING
    Attempt.objects.update(created_at=ago(seconds=91))
    reconcile()
    assert attempt_of(launched).job.state == State.LOST


def test_a_lost_trainer_that_speaks_again_is_running(
    running: Job, fake_executor: FakeExecutor, attempt_of: AttemptOf, say: Any, event: Any
) -> None:
    fake_executor.script(reference(running), Unknown("?"))
    silent_since(attempt_of(running), ago(seconds=95))
    reconcile()
    say(running, event(2))
    running.refresh_from_db()
    assert running.state == State.RUNNING
    assert StatusChange.objects.latest("id").reason == "speaks again"
    reconcile()
    running.refresh_from_db()
    assert running.state == State.RUNNING


def test_a_lost_job_keeps_its_slot(running: Job, make_job: MakeJob) -> None:
    """Its trainer may be at work there."""
    Job.objects.filter(pk=running.pk).update(state=State.LOST)
    make_job()
    assert scheduling.dispatch() == 0


# --- dead -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (Dead(0, None, None, "exit code 0"), EndReason.FINISHED),
        (Dead(None, SIGKILL, None, "signal 9"), EndReason.KILLED),
        (Dead(None, SIGKILL, None, "killed for want of memory", oom_killed=True), EndReason.HOST_OUT_OF_MEMORY),
        (Dead(None, None, None, "no record of its end"), EndReason.VANISHED),
        (Dead(ExitCode.INTERRUPTED, None, None, "exit code 75"), EndReason.INTERRUPTED),
        (Dead(1, None, None, "exit code 1"), EndReason.CRASHED),
        *((Dead(EXIT_CODE[f], None, None, "its exit code"), EndReason(f.value)) for f in FailureReason),
    ],
    ids=lambda value: value.value if isinstance(value, EndReason) else "",
)
@pytest.mark.parametrize("state", ["launching", "running", "lost"])
def test_a_trainer_that_died_without_a_word_ends_its_job_with_the_reason_in_words(
    found: Dead, reason: EndReason, state: str, launched: Job, fake_executor: FakeExecutor, attempt_of: AttemptOf
) -> None:
    Job.objects.filter(pk=launched.pk).update(state=state)
    fake_executor.script(reference(launched), found)
    reconcile()
    attempt = attempt_of(launched)
    assert (launched.state, launched.end_reason) == (
        State.SUCCEEDED if reason == EndReason.FINISHED else State.FAILED,
        reason,
    )
    assert found.evidence in launched.end_message
    assert launched.end_message.startswith("The trainer ended without a last message")
    if reason.value in list(FailureReason):
        assert launched.end_message.endswith(ADVICE[FailureReason(reason.value)])
    else:
        assert launched.end_message.count(".") >= 2  # what happened, and what to do
    assert attempt.ended_at is not None
    assert (attempt.exit_code, attempt.signal, attempt.evidence) == (found.exit_code, found.signal, found.evidence)
    assert history(launched)[-1] == (state, launched.state)


def test_the_time_of_death_is_the_one_that_was_seen(
    launched: Job, fake_executor: FakeExecutor, attempt_of: AttemptOf
) -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    fake_executor.script(reference(launched), Dead(1, None, noon, "exit code 1"))
    reconcile()
    assert attempt_of(launched).ended_at == noon


@pytest.mark.parametrize("found", [Dead(0, None, None, "0"), Dead(None, SIGKILL, None, "killed while it left")])
def test_the_last_word_of_a_trainer_counts_more_than_how_it_died(
    found: Dead, running: Job, say: Any, event: Any, fake_executor: FakeExecutor, attempt_of: AttemptOf
) -> None:
    say(running, event(2, "finished"))
    fake_executor.script(reference(running), found)
    reconcile()
    attempt = attempt_of(running)
    assert (running.state, running.end_reason, running.end_message) == (State.SUCCEEDED, EndReason.FINISHED, "done")
    assert attempt.evidence == found.evidence
    assert attempt.ended_at is not None


def test_a_trainer_that_failed_and_then_died_has_failed_as_it_said(
    running: Job, say: Any, event: Any, fake_executor: FakeExecutor, attempt_of: AttemptOf
) -> None:
    say(running, event(2, "failed"))
    fake_executor.finish(reference(running), 72)
    reconcile()
    assert attempt_of(running).exit_code == 72
    assert (running.state, running.end_reason) == (State.FAILED, EndReason.DIVERGED)
    assert running.end_message.startswith("loss is NaN\n")


def test_a_dead_trainer_is_buried_once(running: Job, fake_executor: FakeExecutor, dump: Any) -> None:
    fake_executor.finish(reference(running), 1)
    reconcile()
    before = dump()
    reconcile()
    assert dump() == before


def test_the_slot_is_free_only_once_the_trainer_is_known_to_be_dead(
    running: Job, say: Any, event: Any, make_job: MakeJob, fake_executor: FakeExecutor
) -> None:
    """Not when it has said its last word: its process may hold the GPU for a while."""
    waiting = make_job()
    say(running, event(2, "finished"))
    reconcile()
    assert scheduling.dispatch() == 0
    fake_executor.script(reference(running), Unknown("?"))
    reconcile()
    assert scheduling.dispatch() == 0
    fake_executor.finish(reference(running), 0)
    assert scheduling.dispatch() == 0
    reconcile()
    assert scheduling.dispatch() == 1
    waiting.refresh_from_db()
    assert waiting.state == State.LAUNCHING


def test_a_slot_that_was_freed_wakes_the_dispatcher(
    running: Job, fake_executor: FakeExecutor, make_job: MakeJob, eager_tasks: None
) -> None:
    waiting = make_job()
    fake_executor.finish(reference(running), 1)
    reconcile()
    waiting.refresh_from_db()
    assert waiting.state == State.LAUNCHING


# --- stopping ---------------------------------------------------------------------------------------------------


def test_a_cancelled_trainer_is_asked_once_and_its_job_is_cancelled_when_it_is_dead(
    running: Job, trainer_user: AbstractUser, fake_executor: FakeExecutor, attempt_of: AttemptOf
) -> None:
    fake_executor.obeys_stop = False
    services.cancel(running, by=trainer_user)
    for _ in range(3):
        reconcile()
    attempt = attempt_of(running)
    assert fake_executor.attempts[reference(running)].stops == [False]
    assert attempt.stop_requested_at is not None
    assert (running.state, attempt.ended_at) == (State.CANCELLING, None)
    fake_executor.finish(reference(running), signal=SIGKILL)
    reconcile()
    attempt = attempt_of(running)
    assert (running.state, running.end_reason) == (State.CANCELLED, EndReason.CANCELLED)
    assert attempt.signal == SIGKILL


@pytest.mark.parametrize(
    "found", [Dead(0, None, None, "0"), Dead(1, None, None, "1"), Dead(None, None, None, "-")], ids=["0", "1", "none"]
)
def test_however_a_trainer_dies_that_is_being_cancelled_its_job_is_cancelled(
    found: Dead, running: Job, trainer_user: AbstractUser, fake_executor: FakeExecutor
) -> None:
    services.cancel(running, by=trainer_user)
    fake_executor.script(reference(running), found)
    reconcile()
    running.refresh_from_db()
    assert (running.state, running.end_reason) == (State.CANCELLED, EndReason.CANCELLED)


def test_a_trainer_that_finished_before_it_could_stop_has_succeeded(
    running: Job, trainer_user: AbstractUser, fake_executor: FakeExecutor, say: Any, event: Any
) -> None:
    services.cancel(running, by=trainer_user)
    say(running, event(2, "finished"))
    fake_executor.finish(reference(running), 0)
    reconcile()
    running.refresh_from_db()
    assert running.state == State.SUCCEEDED


def test_what_outlives_its_grace_is_killed(
    running: Job, trainer_user: AbstractUser, fake_executor: FakeExecutor, settings: Any, attempt_of: AttemptOf
) -> None:
    fake_executor.obeys_stop = False
    services.cancel(running, by=trainer_user)
    reconcile()
    Attempt.objects.update(stop_requested_at=ago(seconds=settings.STOP_GRACE_SECONDS + 10))
    reconcile()
    assert fake_executor.attempts[reference(running)].stops == [False]
    Attempt.objects.update(stop_requested_at=ago(seconds=settings.STOP_GRACE_SECONDS + 16))
    reconcile()
    assert fake_executor.attempts[reference(running)].stops == [False, True]


def test_a_trainer_that_has_said_its_last_word_gets_time_to_leave_and_is_stopped_if_it_does_not(
    running: Job, say: Any, event: Any, fake_executor: FakeExecutor, settings: Any
) -> None:
    fake_executor.obeys_stop = False
    say(running, event(2, "finished"))
    reconcile()
    assert fake_executor.attempts[reference(running)].stops == []
    Job.objects.update(ended_at=ago(seconds=settings.STOP_GRACE_SECONDS + 1))
    reconcile()
    assert fake_executor.attempts[reference(running)].stops == [False]


def test_a_stop_that_could_not_be_asked_is_logged_and_forced_later(
    running: Job, trainer_user: AbstractUser, fake_executor: FakeExecutor, settings: Any, attempt_of: AttemptOf
) -> None:
    services.cancel(running, by=trainer_user)
    lost = fake_executor.attempts.pop(reference(running))
    reconcile()
    assert attempt_of(running).job.state == State.CANCELLING
    fake_executor.attempts[reference(running)] = lost
    Attempt.objects.update(stop_requested_at=ago(seconds=settings.STOP_GRACE_SECONDS + 16))
    reconcile()
    assert lost.stops == [True]


# --- claimed, and then nothing ------------------------------------------------------------------------------------


@pytest.fixture
def claimed(make_job: MakeJob, fake_executor: FakeExecutor) -> Job:
    """The worker died after its attempt was claimed; the trainer was started all the same."""
    job = make_job()
    fake_executor.lose_next_reply()
    with pytest.raises(ConnectionError):
        scheduling.dispatch()
    job.refresh_from_db()
    assert (job.state, Attempt.objects.get().reference) == (State.LAUNCHING, "")
    return job


def test_a_trainer_that_was_started_and_not_noted_is_adopted(
    claimed: Job, fake_executor: FakeExecutor, attempt_of: AttemptOf
) -> None:
    reconcile()
    assert attempt_of(claimed).reference == ""  # whoever claimed it may still be launching
    Attempt.objects.update(created_at=ago(seconds=16))
    reconcile()
    assert attempt_of(claimed).reference == f"fake/{attempt_name(claimed)}"
    assert len(fake_executor.launches) == 1
    assert claimed.state == State.LAUNCHING


def test_an_attempt_that_was_claimed_and_never_launched_is_launched(
    claimed: Job, fake_executor: FakeExecutor, attempt_of: AttemptOf
) -> None:
    fake_executor.attempts.clear()
    fake_executor.launches.clear()
    Attempt.objects.update(created_at=ago(seconds=16))
    reconcile()
    assert [spec.name for spec in fake_executor.launches] == [attempt_name(claimed)]
    assert attempt_of(claimed).reference


def test_a_crash_on_the_second_try_too_is_mended_by_the_third(
    claimed: Job, fake_executor: FakeExecutor, attempt_of: AttemptOf, caplog: pytest.LogCaptureFixture
) -> None:
    fake_executor.attempts.clear()
    fake_executor.lose_next_reply()
    Attempt.objects.update(created_at=ago(seconds=16))
    reconcile()
    assert attempt_of(claimed).reference == ""
    reconcile()
    assert attempt_of(claimed).reference


def test_a_job_cancelled_before_its_launch_is_never_launched(
    claimed: Job, fake_executor: FakeExecutor, attempt_of: AttemptOf, trainer_user: AbstractUser
) -> None:
    fake_executor.attempts.clear()
    fake_executor.launches.clear()
    services.cancel(claimed, by=trainer_user)
    Attempt.objects.update(created_at=ago(seconds=16))
    reconcile()
    attempt = attempt_of(claimed)
    assert (claimed.state, fake_executor.launches) == (State.CANCELLED, [])
    assert attempt.ended_at is not None


def test_a_job_cancelled_after_a_launch_that_was_not_noted_is_found_and_stopped(
    claimed: Job, fake_executor: FakeExecutor, attempt_of: AttemptOf, trainer_user: AbstractUser
) -> None:
    services.cancel(claimed, by=trainer_user)
    Attempt.objects.update(created_at=ago(seconds=16))
    for _ in range(3):
        reconcile()
    assert attempt_of(claimed).ended_at is not None
    assert claimed.state == State.CANCELLED
    assert len(fake_executor.launches) == 1


def test_a_trainer_that_ran_and_finished_before_it_was_noted_is_buried(
    claimed: Job, fake_executor: FakeExecutor, attempt_of: AttemptOf, say: Any, event: Any
) -> None:
    say(claimed, event(1, "started"), event(2, "finished"))
    fake_executor.finish(f"fake/{attempt_name(claimed)}", 0)
    Attempt.objects.update(created_at=ago(seconds=16))
    for _ in range(2):
        reconcile()
    assert attempt_of(claimed).ended_at is not None
    assert claimed.state == State.SUCCEEDED


def test_a_trainer_that_starts_after_its_attempt_was_given_up_is_stopped(
    make_job: MakeJob, fake_executor: FakeExecutor, trainer_user: AbstractUser
) -> None:
    """Its launch took so long that it was cancelled and given up meanwhile: nobody else would look after it."""
    job = make_job()
    launch = fake_executor.launch

    def slow(spec: LaunchSpec) -> Launched:
        services.cancel(Job.objects.get(pk=job.pk), by=trainer_user)
        Attempt.objects.update(created_at=ago(seconds=16))
        reconcile()
        return launch(spec)

    fake_executor.launch = slow  # type: ignore[method-assign]
    scheduling.dispatch()
    job.refresh_from_db()
    assert job.state == State.CANCELLED
    (trainer,) = fake_executor.attempts.values()
    assert isinstance(trainer.observation, Dead)


# --- one bad apple ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [ExecutorError("cluster away"), OSError("disk away"), ValueError("a bug")])
def test_an_attempt_that_cannot_be_seen_to_does_not_keep_the_others_from_it(
    trouble: Exception, make_job: MakeJob, fake_executor: FakeExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    fake_executor.room = [Slot("cpu:0", (), "cpu"), Slot("cpu:1", (), "cpu")]
    bad, good = make_job(), make_job()
    scheduling.dispatch()
    for job in (bad, good):
        job.refresh_from_db()
    observe = fake_executor.observe

    def troubled(reference_: str) -> Any:
        if reference_ == reference(bad):
            raise trouble
        return observe(reference_)

    fake_executor.observe = troubled  # type: ignore[method-assign]
    fake_executor.finish(reference(good), 1)
    with caplog.at_level(logging.WARNING):
        reconcile()
    good.refresh_from_db()
    bad.refresh_from_db()
    assert (bad.state, good.state) == (State.LAUNCHING, State.FAILED)
    assert f"{attempt_name(bad)} could not be" in caplog.text


def test_a_state_that_the_trainer_changed_meanwhile_is_not_overwritten(
    running: Job, fake_executor: FakeExecutor, say: Any, event: Any
) -> None:
    """It finishes between being looked up and being found dead."""

    def observe(reference_: str) -> Any:
        say(running, event(2, "finished"))
        return Dead(None, SIGKILL, None, "killed while it left")

    fake_executor.observe = observe  # type: ignore[method-assign]
    reconcile()
    running.refresh_from_db()
    assert (running.state, running.end_reason) == (State.SUCCEEDED, EndReason.FINISHED)


def test_a_trainer_that_speaks_while_it_is_looked_for_is_not_lost(
    running: Job, fake_executor: FakeExecutor, say: Any, event: Any, attempt_of: AttemptOf
) -> None:
    silent_since(attempt_of(running), ago(seconds=95))

    def observe(reference_: str) -> Any:
        say(running, event(2))
        return Unknown("?")

    fake_executor.observe = observe  # type: ignore[method-assign]
    reconcile()
    running.refresh_from_db()
    assert running.state == State.RUNNING


def test_nothing_to_do_is_nothing_done(db: None, dump: Any, fake_executor: FakeExecutor) -> None:
    before = dump()
    reconcile()
    assert dump() == before


def test_what_a_dead_trainer_could_not_deliver_is_taken_in_before_it_is_judged(
    launched: Job, fake_executor: FakeExecutor, tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "messages.jsonl")
    at = timezone.now().isoformat()
    spool.append("started", at, Started(host="node").model_dump(mode="json"))
    spool.append("epoch", at, Epoch(epoch=1, epochs=1, metrics={"fitness": 0.5}).model_dump(mode="json"))
    spool.append("finished", at, Finished(epochs=1, seconds=3).model_dump(mode="json"))
    with (tmp_path / "messages.jsonl").open("a") as file:
        file.write('{"seq": 4, "type": "prog')  # torn by the end of the process
    attempt = launched.current_attempt
    assert attempt is not None
    fake_executor.attempts[attempt.reference].spool = tmp_path / "messages.jsonl"
    fake_executor.finish(attempt.reference, 0)
    reconcile()
    launched.refresh_from_db()
    attempt.refresh_from_db()
    assert (launched.state, launched.end_reason, launched.epoch) == (State.SUCCEEDED, EndReason.FINISHED, 1)
    assert (attempt.acked_seq, attempt.exit_code, attempt.epoch_metrics.count()) == (3, 0, 1)


def test_a_spool_that_cannot_be_read_does_not_keep_the_attempt_from_its_end(
    launched: Job, fake_executor: FakeExecutor, tmp_path: Path
) -> None:
    (tmp_path / "messages.jsonl").write_text("no json\n")
    attempt = launched.current_attempt
    assert attempt is not None
    fake_executor.attempts[attempt.reference].spool = tmp_path / "messages.jsonl"
    fake_executor.finish(attempt.reference, 70)
    reconcile()
    launched.refresh_from_db()
    assert (launched.state, launched.end_reason) == (State.FAILED, EndReason.CRASHED)


def test_a_lost_job_that_somebody_gives_up_frees_its_slot(
    launched: Job, fake_executor: FakeExecutor, trainer_user: AbstractUser
) -> None:
    attempt = launched.current_attempt
    assert attempt is not None
    fake_executor.attempts.clear()  # the executor never heard of it: its folder is gone, or the executor was changed
    services.cancel(launched, by=trainer_user)
    reconcile()
    launched.refresh_from_db()
    assert launched.state == State.CANCELLING
    long_ago = timezone.now() - timedelta(minutes=5)
    Attempt.objects.filter(pk=attempt.pk).update(
        created_at=long_ago, last_message_at=long_ago, stop_requested_at=long_ago
    )
    reconcile()
    launched.refresh_from_db()
    attempt.refresh_from_db()
    assert launched.state == State.CANCELLED
    assert attempt.ended_at is not None
    assert "given up" in attempt.evidence


def test_attempts_of_two_databases_never_share_a_name(make_job: Callable[..., Job]) -> None:
    job = make_job()
    assert Attempt(job=job, number=1).name != Attempt(job=job, number=1).name
