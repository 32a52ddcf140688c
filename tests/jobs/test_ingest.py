"""Taking in what trainers say: each message counts once, in whatever order they come."""

from collections.abc import Callable
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest
from django.contrib.auth.models import AbstractUser
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from apps.executor.fake import FakeExecutor
from apps.jobs import reconciliation, scheduling, services, transitions
from apps.jobs.errors import SupersededError
from apps.jobs.models import Artifact, Attempt, EpochMetrics, Event, Job, StatusChange
from apps.jobs.states import EndReason, State
from servers.names import attempt_name
from trainer.contract.exits import ADVICE, FailureReason
from trainer.contract.messages import Answer, Command

MakeEvent = Callable[..., dict[str, Any]]
Say = Callable[..., Answer]

# When something was noted, and by which key, is no content.
_MOMENTS = {"last_message_at", "started_at", "ended_at", "received_at", "at", "expected_end_at"}
_KEYS = {"id", "attempt_id", "job_id"}


def content(job: Job) -> dict[str, Any]:
    """All that is known of the job, but for the moments at which it was heard."""

    def rows(queryset: Any, *, by: str, leave_out: set[str] = frozenset()) -> list[dict[str, Any]]:  # type: ignore[assignment]
        return [{k: v for k, v in row.items() if k not in leave_out} for row in queryset.order_by(by).values()]

    attempt = job.attempts.get(number=job.attempt_number)
    return {
        "job": rows(Job.objects.filter(pk=job.pk), by="id", leave_out=_MOMENTS),
        "expected": Job.objects.get(pk=job.pk).expected_end_at is not None,
        "attempt": rows(Attempt.objects.filter(pk=attempt.pk), by="id", leave_out=_MOMENTS),
        "events": rows(Event.objects.filter(attempt=attempt), by="seq", leave_out=_KEYS | {"received_at"}),
        "epochs": rows(EpochMetrics.objects.filter(attempt=attempt), by="epoch", leave_out=_KEYS),
        "artifacts": rows(Artifact.objects.filter(attempt=attempt), by="name", leave_out=_KEYS),
        "history": list(StatusChange.objects.filter(job=job).order_by("id").values_list("old", "new", "reason")),
    }


class _UndoError(Exception):
    """Raised to leave everything as it was."""


def after(job: Job, say: Say, batches: Any) -> dict[str, Any]:
    """What is known once the batches have been said one after the other; then all of it is forgotten."""
    found: dict[str, Any] = {}
    try:
        with transaction.atomic():
            for batch in batches:
                say(job, *batch)
            found = content(Job.objects.get(pk=job.pk))
            raise _UndoError
    except _UndoError:
        return found


# --- order and repetition -----------------------------------------------------------------------------------------


def whole_story(event: MakeEvent) -> list[dict[str, Any]]:
    return [
        event(1, "progress", fraction=0.3, eta_seconds=60),
        event(2, "epoch", epoch=1, metrics={"fitness": 0.7, "loss": 1.0}),
        event(3, "epoch", epoch=2, metrics={"fitness": 0.6, "loss": None}),
        event(4, "artifact"),
        event(5, "finished", metrics={"fitness": 0.71, "precision": 0.9}),
    ]


def unfinished(event: MakeEvent) -> list[dict[str, Any]]:
    return [
        event(1, "progress", phase="building", fraction=None, losses={}, mlflow_run_id="r1", mlflow_experiment_id="7"),
        event(2, "progress", fraction=0.6, losses={"box": 2.0}),
        event(3, "epoch", epoch=1, metrics={"fitness": 0.2}),
        event(4, "progress", phase="validating", fraction=None, losses={}),
        event(5, "artifact", name="last.pt", kind="last"),
    ]


def repeated_epochs(event: MakeEvent) -> list[dict[str, Any]]:
    return [
        event(1, "epoch", epoch=1, metrics={"fitness": 0.2}),
        event(2, "epoch", epoch=2, epochs=4, metrics={"fitness": 0.9}),
        event(3, "epoch", epoch=2, epochs=4, metrics={"fitness": 0.1}),
        event(4, "artifact", epoch=1, size=1),
        event(5, "artifact", epoch=2, size=2),
    ]


def failing_story(event: MakeEvent) -> list[dict[str, Any]]:
    return [
        event(1, "started"),
        event(2, "progress", fraction=0.4),
        event(3, "epoch", epoch=1, metrics={"fitness": 0.2}),
        event(4, "progress", phase="uploading", fraction=0.6, losses={}),
        event(5, "failed"),
    ]


def interrupted_story(event: MakeEvent) -> list[dict[str, Any]]:
    return [
        event(1, "progress", fraction=0.1),
        event(2, "epoch", epoch=1, metrics={}),
        event(3, "artifact", name="last.pt", kind="last"),
        event(4, "interrupted"),
    ]


STORIES = [whole_story, unfinished, repeated_epochs, failing_story, interrupted_story]


@pytest.mark.parametrize("story", STORIES)
def test_in_whatever_order_messages_come_the_same_is_known_in_the_end(
    story: Callable[[MakeEvent], list[dict[str, Any]]], launched: Job, say: Say, event: MakeEvent
) -> None:
    events = story(event)
    expected = after(launched, say, [events])
    assert expected["attempt"][0]["acked_seq"] == len(events)
    differing = {
        str([e["seq"] for e in order]): {k: (found[k], expected[k]) for k in found if found[k] != expected[k]}
        for order in permutations(events)
        if (found := after(launched, say, [[each] for each in order])) != expected
    }
    first = next(iter(differing.items()), None)
    assert first is None, f"{len(differing)} orders give something else, such as {first}"


@pytest.mark.parametrize("story", STORIES)
def test_a_repeated_message_changes_nothing(
    story: Callable[[MakeEvent], list[dict[str, Any]]], launched: Job, say: Say, event: MakeEvent, dump: Any
) -> None:
    events = story(event)
    say(launched, *events)
    before = dump()
    for again in ([*events], [*reversed(events)], *([each] for each in events)):
        assert say(launched, *again).acked == len(events)
    assert dump() == before


def test_a_message_twice_in_one_request_counts_once(launched: Job, say: Say, event: MakeEvent) -> None:
    assert say(launched, event(1, "started"), event(1, "started"), event(2), event(1, "started")).acked == 2
    assert list(Event.objects.order_by("seq").values_list("seq", flat=True)) == [1, 2]


def test_a_message_that_says_something_else_under_a_number_that_is_known_is_left_aside(
    launched: Job, say: Say, event: MakeEvent, dump: Any
) -> None:
    say(launched, event(1, "epoch", metrics={"fitness": 0.5}))
    before = dump()
    say(launched, event(1, "epoch", metrics={"fitness": 0.9}))
    assert dump() == before


def test_a_gap_holds_the_acknowledgement_back_until_it_is_filled(launched: Job, say: Say, event: MakeEvent) -> None:
    assert say(launched, event(1), event(2)).acked == 2
    assert say(launched, event(4), event(6)).acked == 2
    assert say(launched, event(5)).acked == 2
    assert say(launched, event(3)).acked == 6
    assert say(launched, event(9)).acked == 6
    assert Attempt.objects.get().acked_seq == 6


def test_saying_nothing_is_answered_with_what_is_known(launched: Job, say: Say, event: MakeEvent, dump: Any) -> None:
    say(launched, event(1))
    before = dump()
    assert say(launched) == Answer(acked=1, command=Command.CONTINUE)
    assert dump() == before


# --- what the messages mean -----------------------------------------------------------------------------------------


def test_whoever_speaks_is_running_whatever_is_said(launched: Job, say: Say, event: MakeEvent) -> None:
    say(launched, event(3, "epoch"))
    launched.refresh_from_db()
    attempt = Attempt.objects.get()
    assert launched.state == State.RUNNING
    assert launched.started_at is not None
    assert attempt.started_at is not None
    assert timezone.now() - attempt.last_message_at < timedelta(minutes=1)  # type: ignore[operator]


def test_a_start_names_host_device_and_versions(launched: Job, say: Say, event: MakeEvent) -> None:
    say(launched, event(1, "started"))
    attempt = Attempt.objects.get()
    assert attempt.node == "node-1"
    assert attempt.versions == {"torch": "2.14.1", "device": "CPU"}


def test_progress_shows_phase_share_losses_run_and_expected_end(launched: Job, say: Say, event: MakeEvent) -> None:
    now = timezone.now().isoformat()
    said = event(1, fraction=0.25, eta_seconds=600, mlflow_experiment_id="7", mlflow_run_id="abc") | {"at": now}
    say(launched, said)
    launched.refresh_from_db()
    attempt = Attempt.objects.get()
    assert (launched.phase, launched.fraction, launched.losses) == ("training", 0.25, {"box": 1.5})
    assert launched.eta is not None
    assert timedelta(minutes=9) < launched.eta <= timedelta(minutes=10)
    assert (attempt.mlflow_experiment_id, attempt.mlflow_run_id) == ("7", "abc")


@pytest.mark.parametrize("eta", [1e9, 1e12, 1e300])
def test_an_expected_end_beyond_all_calendars_is_no_expected_end_worth_an_error(
    eta: float, launched: Job, say: Say, event: MakeEvent
) -> None:
    assert say(launched, event(1, eta_seconds=eta)).acked == 1


def test_the_clock_of_a_trainer_may_be_wrong(launched: Job, say: Say, event: MakeEvent) -> None:
    say(launched, event(1, eta_seconds=600) | {"at": "1970-01-01T00:00:00Z"})
    launched.refresh_from_db()
    assert launched.eta is not None
    assert timedelta(minutes=8) < launched.eta <= timedelta(minutes=10)


def test_an_epoch_has_its_metrics_and_moves_the_job_on(launched: Job, say: Say, event: MakeEvent) -> None:
    say(launched, event(1, "epoch", epoch=1, epochs=4, metrics={"fitness": 0.5, "x": None}))
    row = EpochMetrics.objects.get()
    launched.refresh_from_db()
    assert (row.epoch, row.seconds, row.metrics) == (1, 3.0, {"fitness": 0.5, "x": None})
    assert (launched.epoch, launched.fraction) == (1, 0.25)


def test_an_epoch_said_again_counts_as_it_was_last_said(launched: Job, say: Say, event: MakeEvent) -> None:
    say(launched, event(1, "epoch", epoch=1, metrics={"fitness": 0.9}), event(2, "epoch", metrics={"fitness": 0.1}))
    assert EpochMetrics.objects.get().metrics == {"fitness": 0.1}
    launched.refresh_from_db()
    assert (launched.best_epoch, launched.best_fitness, launched.best_metrics) == (1, 0.1, {"fitness": 0.1})


def test_the_best_epoch_is_the_first_of_the_fittest(launched: Job, say: Say, event: MakeEvent) -> None:
    fitness = [0.1, 0.7, 0.3, 0.7, None, 0.2]
    say(
        launched,
        *(
            event(n, "epoch", epoch=n, epochs=9, metrics={} if value is None else {"fitness": value, "n": n})
            for n, value in enumerate(fitness, start=1)
        ),
        event(7, "epoch", epoch=7, epochs=9, metrics={"fitness": None}),
    )
    launched.refresh_from_db()
    assert (launched.best_epoch, launched.best_fitness) == (2, 0.7)
    assert launched.best_metrics == {"fitness": 0.7, "n": 2}
    assert launched.epoch == 7


def test_an_artifact_is_known_once_by_its_name_as_last_stored(launched: Job, say: Say, event: MakeEvent) -> None:
    say(launched, event(1, "artifact", epoch=1, size=1), event(2, "artifact", epoch=2, size=2))
    artifact = Artifact.objects.get()
    key = f"projects/{launched.project_id}/jobs/{launched.pk}/attempt-1/best.pt"
    assert (artifact.name, artifact.kind, artifact.key, artifact.size) == ("best.pt", "best", key, 2)
    assert (artifact.epoch, artifact.sha256) == (2, "a" * 64)


@pytest.mark.parametrize(
    "key",
    [
        "PREFIX0/best.pt",
        "projects/other/jobs/1/attempt-1/best.pt",
        "PREFIX/../attempt-2/best.pt",
        "PREFIX/",
        "datasets/d/versions/v.jsonl.gz",
    ],
)
def test_an_artifact_with_a_key_of_somebody_else_is_acknowledged_and_not_recorded(
    key: str, launched: Job, say: Say, event: MakeEvent, caplog: pytest.LogCaptureFixture
) -> None:
    """The message must not come again and again, and what it names must not be handed out or deleted as the job's."""
    answer = say(launched, event(1, "artifact", key=key), event(2, "artifact", name="last.pt", key="PREFIX/last.pt"))
    assert answer.acked == 2
    assert Artifact.objects.get().name == "last.pt"
    assert "none of its keys" in caplog.text


def test_what_retention_removed_does_not_come_back_with_an_old_message(
    launched: Job, say: Say, event: MakeEvent
) -> None:
    say(launched, event(1, "artifact"), event(3, "epoch"))
    Artifact.objects.update(removed_at=timezone.now())
    say(launched, event(2))  # late: everything is applied anew
    assert Artifact.objects.get().removed_at is not None


def test_a_finished_job_has_succeeded_with_the_metrics_of_its_best_checkpoint(
    launched: Job, say: Say, event: MakeEvent
) -> None:
    answer = say(launched, event(1, "epoch", metrics={"fitness": 0.5}), event(2, "finished"))
    launched.refresh_from_db()
    assert (launched.state, launched.end_reason, launched.end_message) == (
        State.SUCCEEDED,
        EndReason.FINISHED,
        "done",
    )
    assert (launched.fraction, launched.phase, launched.best_metrics) == (1.0, "", {"fitness": 0.6})
    assert launched.ended_at is not None
    assert answer == Answer(acked=2, command=Command.CONTINUE)
    assert Attempt.objects.get().ended_at is None  # its process has yet to be seen dead


@pytest.mark.parametrize("reason", FailureReason)
def test_a_failed_job_says_what_and_what_to_do(
    reason: FailureReason, launched: Job, say: Say, event: MakeEvent
) -> None:
    say(launched, event(1, "failed", reason=reason, message="what happened", traceback="Traceback …"))
    launched.refresh_from_db()
    assert (launched.state, launched.end_reason) == (State.FAILED, reason.value)
    assert launched.end_message == f"what happened\n{ADVICE[reason]}"
    assert StatusChange.objects.latest("id").evidence == "Traceback …"


def test_an_interruption_that_nobody_here_asked_for_is_a_failure(launched: Job, say: Say, event: MakeEvent) -> None:
    say(launched, event(1, "interrupted", by="SIGTERM"))
    launched.refresh_from_db()
    assert (launched.state, launched.end_reason) == (State.FAILED, EndReason.INTERRUPTED)
    assert "SIGTERM" in launched.end_message


def test_an_interruption_that_was_asked_for_is_a_cancellation(
    launched: Job, say: Say, event: MakeEvent, trainer_user: AbstractUser
) -> None:
    say(launched, event(1, "started"))
    launched.refresh_from_db()
    services.cancel(launched, by=trainer_user)
    say(launched, event(2, "interrupted", by="the platform"))
    launched.refresh_from_db()
    assert (launched.state, launched.end_reason) == (State.CANCELLED, EndReason.CANCELLED)


@pytest.mark.parametrize(("kind", "state"), [("finished", State.SUCCEEDED), ("failed", State.FAILED)])
def test_an_end_that_came_before_the_trainer_could_stop_counts(
    kind: str, state: State, launched: Job, say: Say, event: MakeEvent, trainer_user: AbstractUser
) -> None:
    services.cancel(launched, by=trainer_user)
    say(launched, event(1, kind))
    launched.refresh_from_db()
    assert launched.state == state


@pytest.mark.parametrize("last_words", [("finished", "failed"), ("failed", "finished"), ("interrupted", "finished")])
def test_the_first_end_counts(last_words: tuple[str, str], launched: Job, say: Say, event: MakeEvent) -> None:
    ends = {"finished": State.SUCCEEDED, "failed": State.FAILED, "interrupted": State.FAILED}
    say(launched, event(1, last_words[0]), event(2, last_words[1]))
    launched.refresh_from_db()
    assert launched.state == ends[last_words[0]]


# --- what is answered ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "command"),
    [
        (State.LAUNCHING, Command.CONTINUE),
        (State.RUNNING, Command.CONTINUE),
        (State.LOST, Command.CONTINUE),
        (State.SUCCEEDED, Command.CONTINUE),
        (State.CANCELLING, Command.STOP),
        (State.CANCELLED, Command.STOP),
        (State.FAILED, Command.STOP),
    ],
)
def test_a_trainer_is_told_to_stop_where_nobody_wants_its_work(
    state: State, command: Command, launched: Job, say: Say, event: MakeEvent
) -> None:
    Job.objects.filter(pk=launched.pk).update(state=state)
    assert say(launched, event(1)).command == command
    assert say(launched).command == command


def test_a_cancelled_trainer_hears_it_with_its_next_message(
    launched: Job, say: Say, event: MakeEvent, trainer_user: AbstractUser
) -> None:
    assert say(launched, event(1)).command == Command.CONTINUE
    launched.refresh_from_db()
    services.cancel(launched, by=trainer_user)
    assert say(launched, event(2)) == Answer(acked=2, command=Command.STOP)
    launched.refresh_from_db()
    assert launched.state == State.CANCELLING


def test_late_messages_of_an_ended_job_are_kept_and_do_not_bring_it_back(
    launched: Job, say: Say, event: MakeEvent, fake_executor: FakeExecutor
) -> None:
    """Its process was found dead before its spool was delivered."""
    say(launched, event(1, "started"))
    launched.refresh_from_db()
    transitions.end(launched, EndReason.KILLED, by="platform", message="killed")
    answer = say(launched, event(2), event(3, "epoch"), event(4, "artifact"), event(5, "finished"))
    launched.refresh_from_db()
    assert answer.acked == 5
    assert (launched.state, launched.end_reason, launched.end_message) == (State.FAILED, EndReason.KILLED, "killed")
    assert EpochMetrics.objects.count() == Artifact.objects.count() == 1
    assert launched.expected_end_at is None


# --- fencing ------------------------------------------------------------------------------------------------------


@pytest.fixture
def second(launched: Job, say: Say, event: MakeEvent, trainer_user: AbstractUser, fake_executor: FakeExecutor) -> Job:
    """A job at its second attempt."""
    say(launched, event(1, "started"), event(2, "failed"))
    fake_executor.finish(f"fake/{attempt_name(launched)}", 72)
    reconciliation.reconcile()
    launched.refresh_from_db()
    services.retry(launched, by=trainer_user)
    assert scheduling.dispatch() == 1
    launched.refresh_from_db()
    assert (launched.attempt_number, launched.state) == (2, State.LAUNCHING)
    return launched


@pytest.mark.parametrize("kind", ["started", "progress", "epoch", "artifact", "finished", "failed", "interrupted"])
@pytest.mark.parametrize("number", [1, 3])
def test_messages_of_an_attempt_that_is_not_the_current_one_change_nothing(
    kind: str, number: int, second: Job, say: Say, event: MakeEvent, dump: Any
) -> None:
    before = dump()
    with pytest.raises(SupersededError, match=f"Attempt {number} of job {second.pk} is not the current one"):
        say(second, event(3, kind), attempt=number)
    assert dump() == before


@pytest.mark.parametrize("kind", ["started", "progress", "epoch", "artifact", "finished", "failed", "interrupted"])
def test_once_a_retry_is_asked_for_messages_of_the_attempt_before_change_nothing(
    kind: str, launched: Job, say: Say, event: MakeEvent, trainer_user: AbstractUser, dump: Any
) -> None:
    """Its trainer may speak until it has left; the job in the queue is no longer its own."""
    say(launched, event(1, "started"), event(2, "failed"))
    launched.refresh_from_db()
    services.retry(launched, by=trainer_user)
    before = dump()
    with pytest.raises(SupersededError):
        say(launched, event(3, kind))
    assert dump() == before


def test_each_attempt_counts_its_messages_for_itself(second: Job, say: Say, event: MakeEvent) -> None:
    assert say(second, event(1, "started"), event(2, "epoch")).acked == 2
    assert EpochMetrics.objects.get().attempt.number == 2
    assert Event.objects.count() == 4


def test_a_job_that_was_never_launched_has_nobody_to_speak_for_it(
    make_job: Callable[..., Job], say: Say, event: MakeEvent, dump: Any
) -> None:
    job = make_job()
    before = dump()
    with pytest.raises(SupersededError):
        say(job, event(1), attempt=1)
    assert dump() == before


def test_a_job_that_is_not_there_is_not_there(db: None, say: Say, event: MakeEvent) -> None:
    with pytest.raises(Job.DoesNotExist):
        say(Job(pk=4711, attempt_number=1), event(1))


# --- beside others ------------------------------------------------------------------------------------------------


def test_what_others_note_of_an_attempt_is_not_overwritten(launched: Job, say: Say, event: MakeEvent) -> None:
    """The reference comes from the launch, and the end from the reconciler, while messages come in."""
    with CaptureQueriesContext(connection) as queries:
        say(launched, event(1, "started"))
    (update,) = [query["sql"] for query in queries if query["sql"].startswith('UPDATE "jobs_attempt"')]
    written = update.partition(" SET ")[2].partition(" WHERE ")[0]
    for column in ("reference", "log_location", "stop_requested_at", "ended_at", "exit_code", "signal", "evidence"):
        assert f'"{column}"' not in written
