"""What retention would delete and why, what it leaves alone, and what is known when it is interrupted."""

from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import AbstractUser
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.executor.base import Alive, Unknown
from apps.executor.fake import FakeExecutor
from apps.executor.registry import subprocess_from_settings
from apps.jobs import retention, scheduling, selectors, services, tasks
from apps.jobs.errors import InvalidJobError
from apps.jobs.models import Artifact, Attempt, EpochMetrics, Job
from apps.jobs.states import EndReason, State
from apps.jobs.transitions import end
from apps.projects.models import Project
from trainer.contract.variables import artifact_prefix
from trainer.store import ObjectStore

pytestmark = pytest.mark.usefixtures("fake_executor", "store")

MakeJob = Callable[..., Job]
ALL = ["best.pt", "epoch-2.pt", "epoch-4.pt", "epoch-5.pt", "last.pt"]
_SEQ = iter(range(1, 10_000))


def put(attempt: Attempt, store: ObjectStore, name: str, kind: str, epoch: int) -> Artifact:
    key = f"{artifact_prefix(attempt.job.project_id, attempt.job_id, attempt.number)}/{name}"
    stored = store.put_bytes(key, name.encode())
    return Artifact.objects.create(
        attempt=attempt,
        name=name,
        kind=kind,
        key=key,
        size=stored.size,
        sha256=stored.sha256,
        epoch=epoch,
        seq=next(_SEQ),
        stored_at=timezone.now(),
    )


@pytest.fixture
def ended_job(make_job: MakeJob, fake_executor: FakeExecutor, store: ObjectStore) -> Callable[..., Job]:
    """A job that succeeded so many days ago, with best, last, three periodic checkpoints and a plot."""

    def make(days: float = 0) -> Job:
        job = make_job()
        assert scheduling.dispatch() == 1
        job.refresh_from_db()
        attempt = job.attempts.get()
        put(attempt, store, "best.pt", "best", 4)
        put(attempt, store, "last.pt", "last", 5)
        for epoch in (2, 4, 5):
            put(attempt, store, f"epoch-{epoch}.pt", "checkpoint", epoch)
        put(attempt, store, "results.png", "plot", 5)
        end(job, EndReason.FINISHED, by="trainer")
        then = timezone.now() - timedelta(days=days)
        Job.objects.filter(pk=job.pk).update(ended_at=then)
        Attempt.objects.filter(pk=attempt.pk).update(ended_at=then)
        fake_executor.finish(attempt.reference)
        job.refresh_from_db()
        return job

    return make


def rule(project: Project, **fields: Any) -> None:
    Project.objects.filter(pk=project.pk).update(**fields)
    project.refresh_from_db()


def planned(project: Project | None = None) -> list[str]:
    """The names of the artifacts that would go."""
    found = [each for each in retention.plan(project) if isinstance(each, retention.ArtifactRemoval)]
    return sorted(each.artifact.name for each in found)


# --- the rules ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "days", "gone"),
    [
        ({}, 9999, []),
        ({"keep_last": False}, 0, ["last.pt"]),
        ({"keep_best": False}, 0, ["best.pt"]),
        ({"keep_every": 1}, 0, []),
        ({"keep_every": 2}, 0, ["epoch-5.pt"]),
        ({"keep_every": 5}, 0, ["epoch-2.pt", "epoch-4.pt"]),
        ({"keep_every": 100}, 0, ["epoch-2.pt", "epoch-4.pt", "epoch-5.pt"]),
        ({"keep_days": 7}, 6.9, []),
        ({"keep_days": 7}, 7.1, ["epoch-2.pt", "epoch-4.pt", "epoch-5.pt", "last.pt"]),
        ({"keep_days": 7, "keep_best": False}, 8, ["best.pt", "epoch-2.pt", "epoch-4.pt", "epoch-5.pt"]),
        ({"keep_days": 0}, 0.1, ["epoch-2.pt", "epoch-4.pt", "epoch-5.pt", "last.pt"]),
    ],
)
def test_what_a_project_does_not_keep_goes(
    rules: dict[str, Any], days: float, gone: list[str], ended_job: Any, project: Project
) -> None:
    ended_job(days)
    rule(project, **rules)
    assert planned() == gone


def test_an_attempt_is_never_left_without_a_checkpoint(ended_job: Any, project: Project) -> None:
    job = ended_job(30)
    job.attempts.get().artifacts.filter(kind="best").delete()
    rule(project, keep_last=False, keep_days=7, keep_every=100)
    assert planned() == ["epoch-2.pt", "epoch-4.pt", "epoch-5.pt"]
    job.attempts.get().artifacts.filter(kind="last").delete()
    assert planned() == ["epoch-2.pt", "epoch-4.pt"]


def test_a_project_that_keeps_neither_best_nor_last_is_refused(project: Project) -> None:
    project.keep_best = project.keep_last = False
    with pytest.raises(ValidationError, match="Keep the best or the last"):
        project.full_clean()


def test_every_removal_says_what_goes_why_and_how_much(ended_job: Any, project: Project) -> None:
    job = ended_job()
    rule(project, keep_last=False)
    (removal,) = retention.plan()
    assert removal.what == f"job {job.pk}, attempt 1: last.pt"
    assert removal.why == "the project does not keep last checkpoints"
    assert removal.size == len("last.pt")


def test_another_projects_rules_are_its_own(ended_job: Any, project: Project) -> None:
    ended_job()
    other = Project.objects.create(name="Other", keep_last=False)
    assert planned() == planned(other) == []
    rule(project, keep_last=False)
    assert planned(other) == []
    assert planned(project) == ["last.pt"]


# --- what is left alone -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.CANCELLING, State.LOST])
def test_a_job_that_has_not_ended_is_left_alone(state: State, ended_job: Any, project: Project) -> None:
    job = ended_job(30)
    rule(project, keep_last=False, keep_days=1)
    Job.objects.filter(pk=job.pk).update(state=state, end_reason="")
    assert planned() == []


def test_a_trainer_that_may_still_live_is_left_alone(ended_job: Any, project: Project) -> None:
    job = ended_job()
    rule(project, keep_last=False)
    job.attempts.update(ended_at=None)
    assert planned() == []


def test_a_checkpoint_that_a_waiting_job_starts_from_is_left_alone_until_that_has_ended(
    ended_job: Any, project: Project, make_job: MakeJob, trainer_user: AbstractUser
) -> None:
    last = ended_job().attempts.get().artifacts.get(name="last.pt")
    rule(project, keep_last=False)
    next_job = make_job(weights=last.key)
    assert planned() == []
    services.cancel(next_job, by=trainer_user)
    assert planned() == ["last.pt"]


def test_what_came_into_use_since_it_was_planned_is_spared(
    ended_job: Any, project: Project, make_job: MakeJob, store: ObjectStore
) -> None:
    last = ended_job().attempts.get().artifacts.get(name="last.pt")
    rule(project, keep_last=False)
    removals = retention.plan()
    make_job(weights=last.key)
    outcome = retention.enforce(removals)
    assert (outcome.removed, outcome.spared) == ([], removals)
    assert store.exists(last.key)
    assert selectors.artifacts(last.attempt).filter(pk=last.pk).exists()


def test_a_job_that_was_retried_since_it_was_planned_is_spared(
    ended_job: Any, project: Project, store: ObjectStore
) -> None:
    job = ended_job()
    rule(project, keep_last=False)
    removals = retention.plan()
    Job.objects.filter(pk=job.pk).update(state=State.QUEUED, end_reason="")
    assert retention.enforce(removals).spared == removals
    assert store.exists(job.attempts.get().artifacts.get(name="last.pt").key)


@pytest.mark.django_db(transaction=True)
def test_a_job_that_starts_from_a_checkpoint_while_it_is_removed_has_it_or_is_refused(
    shared_database: None,
    at_once: Callable[..., list[Any]],
    ended_job: Any,
    project: Project,
    make_job: MakeJob,
    store: ObjectStore,
) -> None:
    for _ in range(5):
        last = ended_job().attempts.get().artifacts.get(name="last.pt")
        rule(project, keep_last=False)
        # Those that were spared before are planned again.
        removals = [each for each in retention.plan() if getattr(each, "artifact", None) == last]
        outcome, job = at_once(lambda: retention.enforce(removals), lambda: make_job(weights=last.key))  # noqa: B023
        if store.exists(last.key):
            assert isinstance(job, Job)
            assert outcome.spared == removals
            job.delete()
        else:
            assert isinstance(job, InvalidJobError), job
            assert outcome.removed == removals


# --- doing it -----------------------------------------------------------------------------------------------------


def test_what_goes_is_gone_from_the_store_and_from_every_list(
    ended_job: Any, project: Project, store: ObjectStore, client: Client, operator: AbstractUser
) -> None:
    attempt = ended_job(30).attempts.get()
    rule(project, keep_days=7)
    outcome = retention.enforce(retention.plan())
    assert outcome.freed == sum(len(name) for name in ALL if name != "best.pt")
    left = {stored.key.rpartition("/")[2] for stored in store.list()}
    assert left == {"best.pt", "results.png"}
    assert {artifact.name for artifact in selectors.artifacts(attempt)} == left
    client.force_login(operator)
    page = client.get(reverse("admin:jobs_job_change", args=[attempt.job_id])).content.decode()
    assert "best.pt" in page
    assert "epoch-2.pt" not in page
    gone = attempt.artifacts.get(name="last.pt")
    assert client.get(reverse("admin:jobs_job_artifact", args=[attempt.job_id, gone.pk])).status_code == 404
    assert client.get(f"/api/v1/jobs/{attempt.job_id}/artifacts/{gone.pk}/download").status_code == 404
    assert planned() == []


def test_a_store_that_fails_in_the_middle_loses_nothing_and_the_next_run_finishes(
    ended_job: Any, project: Project, store: ObjectStore, tmp_path: Path
) -> None:
    attempt = ended_job().attempts.get()
    rule(project, keep_last=False, keep_every=100)
    removals = retention.plan()
    # A folder in the place of a file cannot be unlinked: the store refuses that one object.
    stubborn = tmp_path / "store" / attempt.artifacts.get(name="epoch-4.pt").key
    stubborn.unlink()
    stubborn.mkdir()
    outcome = retention.enforce(removals)
    assert len(outcome.removed) == 3
    ((failed, error),) = outcome.failed
    assert failed.what.endswith("epoch-4.pt")
    assert "LOCAL_STORAGE_ROOT" in str(error)
    shown = {artifact.name for artifact in selectors.artifacts(attempt)}
    assert shown == {"best.pt", "results.png"}, "what may be gone is not shown"
    assert [each.why for each in retention.plan()] == ["its removal was begun and not finished"]
    stubborn.rmdir()
    stubborn.write_bytes(b"epoch-4.pt")
    assert len(retention.enforce(retention.plan()).removed) == 1
    assert not stubborn.exists()
    assert retention.plan() == []


def test_the_daily_task_does_it(ended_job: Any, project: Project, store: ObjectStore) -> None:
    last = ended_job().attempts.get().artifacts.get(name="last.pt")
    rule(project, keep_last=False)
    tasks.retention()
    assert not store.exists(last.key)


# --- leftovers ----------------------------------------------------------------------------------------------------


def test_working_files_of_long_ended_attempts_go_once(
    ended_job: Any, fake_executor: FakeExecutor, settings: Any
) -> None:
    settings.ATTEMPTS_KEPT_DAYS = 14
    recent, old = ended_job(13), ended_job(15)
    (removal,) = retention.plan()
    attempt = old.attempts.get()
    assert removal.what == f"working files and heartbeats of {attempt.name}"
    assert removal.why == "it ended over 14 days ago"
    retention.enforce([removal])
    assert fake_executor.attempts[attempt.reference].cleaned
    assert not fake_executor.attempts[recent.attempts.get().reference].cleaned
    assert retention.plan() == []


def test_heartbeats_of_long_ended_attempts_go_and_all_else_that_was_said_stays(
    ended_job: Any, say: Any, event: Any
) -> None:
    job = ended_job(30)
    say(job, event(1), event(2), event(3, "epoch"), event(4, "finished"), event(6))
    retention.enforce(retention.plan())
    attempt = job.attempts.get()
    assert [*attempt.events.values_list("seq", flat=True)] == [6, 4, 3], "6 is not acknowledged: 5 is missing"
    assert selectors.missing_events(attempt) == 1


def test_working_files_hold_the_only_checkpoint_where_none_was_stored(ended_job: Any) -> None:
    attempt = ended_job(30).attempts.get()
    attempt.artifacts.all().delete()
    assert len(retention.plan()) == 1, "it learnt nothing: nothing is lost"
    EpochMetrics.objects.create(attempt=attempt, epoch=1, seq=1, at=timezone.now())
    assert retention.plan() == []


def test_the_bytes_of_working_files_are_counted(settings: Any, tmp_path: Path) -> None:
    settings.ATTEMPTS_ROOT = tmp_path / "attempts"
    executor = subprocess_from_settings()
    work = settings.ATTEMPTS_ROOT / "job-1-attempt-1-abc" / "work" / "run"
    work.mkdir(parents=True)
    (work / "last.pt").write_bytes(b"x" * 1000)
    assert executor.working_size("job-1-attempt-1-abc") == 1000
    assert executor.working_size("nobody") == executor.working_size("../attempts") == 0


def test_an_attempt_whose_folder_is_gone_already_is_not_asked_for_again(
    ended_job: Any, fake_executor: FakeExecutor
) -> None:
    ended_job(30)
    fake_executor.attempts.clear()
    assert len(retention.enforce(retention.plan()).removed) == 1
    assert retention.plan() == []


def test_an_attempt_that_is_not_known_to_be_dead_keeps_its_files_and_is_reported(
    ended_job: Any, fake_executor: FakeExecutor
) -> None:
    attempt = ended_job(30).attempts.get()
    fake_executor.script(attempt.reference, Unknown("the node is away"))
    outcome = retention.enforce(retention.plan())
    assert "not known to be dead" in str(outcome.failed[0][1])
    assert len(retention.plan()) == 1


def test_objects_of_deleted_jobs_go_and_those_of_others_stay(
    ended_job: Any, project: Project, store: ObjectStore
) -> None:
    deleted, kept = ended_job(), ended_job()
    other = store.put_bytes("projects/elsewhere/jobs/1/attempt-1/best.pt", b"theirs").key
    number, prefix = deleted.pk, f"projects/{project.pk}/jobs/{deleted.pk}"
    deleted.delete()
    (removal,) = retention.plan()
    assert removal.what == f"6 objects below {prefix}"
    assert removal.why == f"job {number} has been deleted"
    assert removal.size == sum(stored.size for stored in store.list(prefix)) > 0
    retention.enforce([removal])
    assert not list(store.list(prefix))
    assert len(list(store.list(f"projects/{project.pk}/jobs/{kept.pk}"))) == 6
    assert store.exists(other)
    assert retention.plan() == []


def test_a_job_newer_than_all_that_are_known_is_no_deleted_one(
    ended_job: Any, project: Project, store: ObjectStore
) -> None:
    """The database is an older copy, restored: what came after it is in the store alone."""
    job = ended_job()
    store.put_bytes(f"projects/{project.pk}/jobs/{job.pk + 1}/attempt-1/best.pt", b"from a time that is forgotten")
    assert retention.plan() == []


def test_a_deleted_jobs_checkpoint_that_a_waiting_job_starts_from_stays(
    ended_job: Any, make_job: MakeJob, store: ObjectStore
) -> None:
    deleted, _kept = ended_job(), ended_job()
    key = deleted.attempts.get().artifacts.get(name="best.pt").key
    removals_before = retention.plan()
    deleted.delete()
    removals = retention.plan()
    make_job(weights=key)
    assert (removals_before, retention.plan()) == ([], [])
    assert retention.enforce(removals).spared == removals
    assert store.exists(key)


def test_deleting_a_job_in_the_console_removes_its_working_files_at_once(
    ended_job: Any,
    client: Client,
    operator: AbstractUser,
    fake_executor: FakeExecutor,
    django_capture_on_commit_callbacks: Any,
) -> None:
    """Afterwards nothing in the database tells of them any more."""
    job = ended_job()
    reference = job.attempts.get().reference
    client.force_login(operator)
    with django_capture_on_commit_callbacks(execute=True):
        client.post(reverse("admin:jobs_job_delete", args=[job.pk]), {"post": "yes"})
    assert not Job.objects.exists()
    assert fake_executor.attempts[reference].cleaned


# --- the command --------------------------------------------------------------------------------------------------


def run(*args: str) -> str:
    out = StringIO()
    call_command("retention", *args, stdout=out)
    return out.getvalue()


def test_a_dry_run_says_what_would_go_and_changes_nothing(
    ended_job: Any, project: Project, store: ObjectStore, dump: Any
) -> None:
    ended_job()
    rule(project, keep_last=False, keep_every=2)
    before, objects = dump(), sorted(stored.key for stored in store.list())
    said = run("--dry-run", "--project", project.name)
    assert "last.pt: the project does not keep last checkpoints" in said
    assert "epoch-5.pt: the project keeps the checkpoint of every 2 epochs" in said
    assert "2 would be removed" in said
    assert f"({len('last.pt') + len('epoch-5.pt')} bytes). Nothing was changed." in said
    assert (dump(), sorted(stored.key for stored in store.list())) == (before, objects)


def test_the_command_removes_and_counts_the_bytes(ended_job: Any, project: Project) -> None:
    ended_job()
    rule(project, keep_last=False)
    assert "1 removed, 7\N{NO-BREAK SPACE}bytes (7 bytes) freed." in run()
    assert "0 removed" in run()


def test_the_command_fails_where_something_could_not_be_removed(
    ended_job: Any, fake_executor: FakeExecutor, project: Project
) -> None:
    attempt = ended_job(30).attempts.get()
    fake_executor.script(attempt.reference, Alive("it came back"))
    with pytest.raises(CommandError, match="1 could not be removed"):
        run()


def test_a_project_that_there_is_not_is_refused_with_those_there_are(project: Project) -> None:
    with pytest.raises(CommandError, match="there are: Shelves"):
        run("--project", "Shelfs")
