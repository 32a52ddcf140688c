"""The verbs: who may, what is refused and in which words, and what is in the database afterwards."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import AbstractUser
from django.utils import timezone

from apps.executor.fake import FakeExecutor
from apps.jobs import scheduling, services, tasks, transitions
from apps.jobs.errors import IllegalMoveError, InvalidJobError, NotAllowedError
from apps.jobs.models import Artifact, Attempt, Job, StatusChange
from apps.jobs.states import MOVES, EndReason, State
from apps.projects.models import Project
from apps.storage.models import Dataset
from config.celery import app as celery
from trainer.contract.tasks import MODELS, TaskType

MakeJob = Callable[..., Job]


@pytest.fixture
def refused(make_job: MakeJob, dump: Any) -> Callable[..., dict[str, list[str]]]:
    """Submits what must be refused, sees that nothing was written, and returns the problems by field."""

    def submit(**overrides: Any) -> dict[str, list[str]]:
        before = dump()
        with pytest.raises(InvalidJobError) as caught:
            make_job(**overrides)
        assert dump() == before
        for field, texts in caught.value.problems.items():
            assert all(texts)
            assert field in str(caught.value)
        return caught.value.problems

    return submit


# --- submit -----------------------------------------------------------------------------------------------------


def test_a_job_is_queued_as_asked_with_defaults_for_the_rest(make_job: MakeJob, trainer_user: AbstractUser) -> None:
    job = Job.objects.get(pk=make_job(name="first", priority=3).pk)
    assert (job.state, job.attempt_number, job.name, job.priority) == (State.QUEUED, 0, "first", 3)
    assert (job.epochs, job.batch_size, job.learning_rate) == (3, 4, 0.01)
    assert (job.image_size, job.seed, job.pretrained, job.weights, job.hyperparameters) == (640, 0, "auto", "", {})
    assert job.created_by == trainer_user
    change = StatusChange.objects.get(job=job)
    assert (change.old, change.new, change.actor, change.reason) == ("", State.QUEUED, "trainer", "submitted")


def test_what_the_contract_has_no_default_for_must_be_given(refused: Any) -> None:
    problems = refused(**dict.fromkeys(services.TRAINING_FIELDS))
    assert problems.keys() == {"task_type", "model_name", "epochs", "batch_size", "learning_rate"}
    assert all(text.startswith("is required") for texts in problems.values() for text in texts)


def test_none_counts_as_left_out(make_job: MakeJob) -> None:
    job = make_job(image_size=None, weights=None, hyperparameters=None)
    assert (job.image_size, job.weights, job.hyperparameters) == (640, "", {})


def test_the_newest_version_is_pinned_and_stays(make_job: MakeJob, dataset: Dataset, make_version: Any) -> None:
    make_version(dataset)
    job = make_job()
    make_version(dataset)
    job.refresh_from_db()
    assert job.dataset_version.number == 2


def test_an_older_version_can_be_asked_for(make_job: MakeJob, dataset: Dataset, make_version: Any) -> None:
    first = dataset.latest
    make_version(dataset)
    assert make_job(dataset=first).dataset_version == first


def test_every_problem_is_told_at_once_by_field(refused: Any, dataset: Dataset, make_version: Any) -> None:
    problems = refused(
        epochs=0,
        batch_size="many",
        learning_rate=float("nan"),
        image_size=100,
        model_name="yolo11n-seg",
        pretrained="perhaps",
        hyperparameters={"mosiac": 1, "optimizer": "auto"},
        dataset=Dataset.objects.create(project=dataset.project, name="empty", task_type="object_detection"),
        colour="red",
    )
    assert problems.keys() == {
        "epochs",
        "batch_size",
        "learning_rate",
        "image_size",
        "model_name",
        "pretrained",
        "hyperparameters",
        "dataset",
        "colour",
    }
    assert problems["colour"] == ["is not a field of a job"]
    assert problems["dataset"] == ["has no version yet: import its data first"]


def test_a_misspelt_hyperparameter_is_refused_with_the_nearest_name(refused: Any) -> None:
    (text,) = refused(hyperparameters={"mosiac": 0.5})["hyperparameters"]
    assert "mosiac: no such hyper-parameter; did you mean mosaic?" in text


def test_the_optimizer_that_ignores_the_learning_rate_is_refused_and_told_why(refused: Any) -> None:
    (text,) = refused(hyperparameters={"optimizer": "auto"})["hyperparameters"]
    assert "`auto` would ignore the learning rate" in text


@pytest.mark.parametrize("values", ["{", "[]", "3", [1], 3, True])
def test_hyperparameters_are_an_object(values: Any, refused: Any) -> None:
    assert refused(hyperparameters=values).keys() == {"hyperparameters"}


def test_what_a_hyperparameter_is_stored_as_is_what_ultralytics_takes(make_job: MakeJob, refused: Any) -> None:
    """Text that merely looks like a number would be refused by the trainer, after the job has waited for its turn."""
    assert make_job(hyperparameters={"mosaic": 0.5, "freeze": [0, 1]}).hyperparameters == {
        "mosaic": 0.5,
        "freeze": [0, 1],
    }
    assert refused(hyperparameters={"mosaic": "0.5"}).keys() == {"hyperparameters"}
    assert refused(hyperparameters={"degrees": True}).keys() == {"hyperparameters"}


def test_a_dataset_labelled_for_another_task_is_refused(refused: Any, project: Project, make_version: Any) -> None:
    poses = Dataset.objects.create(project=project, name="poses", task_type="pose_estimation")
    make_version(poses)
    assert refused(dataset=poses) == {"dataset": ["is labelled for pose_estimation, not for object_detection"]}


@pytest.mark.parametrize("as_version", [False, True])
def test_the_dataset_of_another_project_is_refused(as_version: bool, refused: Any, make_version: Any) -> None:
    elsewhere = Project.objects.create(name="Elsewhere")
    foreign = Dataset.objects.create(project=elsewhere, name="x", task_type="object_detection")
    version = make_version(foreign)
    assert refused(dataset=version if as_version else foreign) == {"dataset": ["belongs to another project"]}


@pytest.mark.parametrize("task", TaskType)
def test_every_task_is_trained(task: TaskType, make_job: MakeJob, project: Project, make_version: Any) -> None:
    dataset = Dataset.objects.create(project=project, name="theirs", task_type=task.value)
    make_version(dataset)
    job = make_job(dataset=dataset, task_type=task.value, model_name=MODELS[task][0])
    assert (job.task_type, job.model_name) == (task, MODELS[task][0])


def test_a_version_with_errors_is_refused_and_the_one_to_choose_is_named(
    dataset: Dataset, refused: Any, make_version: Any, make_job: MakeJob
) -> None:
    bad = make_version(dataset, errors=5)
    told = "v2 has 5 errors and cannot be trained on: mend them and import again"
    assert refused(dataset=bad) == {"dataset": [f"{told}, or choose v1"]}
    dataset.versions.filter(number=1).delete()
    assert refused(dataset=bad) == {"dataset": [told]}


def test_a_dataset_is_pinned_to_its_newest_version_without_errors(
    dataset: Dataset, make_version: Any, make_job: MakeJob
) -> None:
    make_version(dataset, warnings=7)
    make_version(dataset, errors=1)
    assert make_job().dataset_version.number == 2


def test_a_dataset_whose_versions_all_have_errors_is_refused_with_the_newest(
    dataset: Dataset, refused: Any, make_version: Any
) -> None:
    make_version(dataset, errors=1)
    dataset.versions.filter(errors=0).delete()
    assert refused(dataset=dataset)["dataset"] == [
        "has no version that can be trained on: the newest, v2, has 1 error; mend it and import again"
    ]


@pytest.mark.parametrize("name", ["epochs", "batch_size", "learning_rate", "image_size", "seed", "checkpoint_every"])
def test_true_is_no_number(name: str, refused: Any) -> None:
    assert refused(**{name: True})[name] == ["should be a number, not true or false"]


def test_weights_that_retention_removed_are_refused(
    make_job: MakeJob, refused: Any, project: Project, trainer_user: AbstractUser
) -> None:
    job = make_job()
    attempt = Attempt.objects.create(job=job, number=1, executor="fake")
    key = f"projects/{project.pk}/jobs/{job.pk}/attempt-1/best.pt"
    now = timezone.now()
    best = Artifact.objects.create(
        attempt=attempt, kind="best", name="best.pt", key=key, size=1, sha256="a" * 64, seq=1, stored_at=now
    )
    start = make_job(weights=key)
    services.cancel(start, by=trainer_user)
    best.removed_at = now
    best.save()
    assert "has been removed" in refused(weights=key)["weights"][0]
    with pytest.raises(InvalidJobError, match="has been removed"):
        services.retry(start, by=trainer_user)


def test_without_a_task_the_task_is_what_is_asked_for(refused: Any) -> None:
    problems = refused(task_type=None)
    assert problems["task_type"][0].startswith("is required")
    assert "dataset" not in problems


@pytest.mark.parametrize(
    "weights",
    [
        "weights//x",
        "/etc/passwd",
        "w.pt",
        "projects/other/jobs/1/best.pt",
        "weights/../projects/other/best.pt",
        "../w.pt",
    ],
)
def test_weights_come_from_places_that_the_project_may_read(weights: str, refused: Any) -> None:
    assert refused(weights=weights).keys() == {"weights"}


def test_weights_of_the_projects_own_jobs_are_welcome(make_job: MakeJob, project: Project) -> None:
    weights = f"projects/{project.pk}/jobs/1/attempt-1/best.pt"
    assert make_job(weights=weights).weights == weights


@pytest.mark.parametrize("labels", [{"name": "x" * 101}, {"name": "a\nb"}, {"name": "a\0"}, {"priority": 2**40}])
def test_labels_that_no_database_takes_are_refused_in_words(labels: dict[str, Any], refused: Any) -> None:
    assert refused(**labels).keys() == labels.keys()


@pytest.mark.parametrize("who", ["viewer", "stranger"])
def test_only_trainers_of_the_project_may_submit(
    who: str, request: pytest.FixtureRequest, make_job: MakeJob, dump: Any
) -> None:
    before = dump()
    with pytest.raises(NotAllowedError, match="Shelves"):
        make_job(by=request.getfixturevalue(who), epochs=-1)
    assert dump() == before


@pytest.mark.parametrize("who", ["trainer_user", "manager", "operator"])
def test_trainers_managers_and_operators_may_submit(
    who: str, request: pytest.FixtureRequest, make_job: MakeJob
) -> None:
    person = request.getfixturevalue(who)
    assert make_job(by=person).created_by == person


def test_somebody_who_was_deactivated_may_nothing(make_job: MakeJob, trainer_user: AbstractUser) -> None:
    job = make_job()
    trainer_user.is_active = False
    trainer_user.save()
    for act in (lambda: make_job(), lambda: services.cancel(job, by=trainer_user)):
        with pytest.raises(NotAllowedError):
            act()


# --- cancel -----------------------------------------------------------------------------------------------------


def test_a_waiting_job_is_cancelled_at_once(make_job: MakeJob, trainer_user: AbstractUser) -> None:
    job = services.cancel(make_job(), by=trainer_user)
    job.refresh_from_db()
    assert (job.state, job.end_reason) == (State.CANCELLED, EndReason.CANCELLED)
    assert job.end_message
    assert job.ended_at is not None
    assert StatusChange.objects.latest("id").actor == "trainer"
    assert not Attempt.objects.exists()


@pytest.mark.parametrize("state", [State.LAUNCHING, State.RUNNING, State.LOST])
def test_an_active_job_is_asked_to_stop_and_ends_later(state: State, launched: Job, trainer_user: AbstractUser) -> None:
    Job.objects.filter(pk=launched.pk).update(state=state)
    launched.refresh_from_db()
    services.cancel(launched, by=trainer_user)
    launched.refresh_from_db()
    assert (launched.state, launched.end_reason, launched.ended_at) == (State.CANCELLING, "", None)
    assert Attempt.objects.filter(ended_at=None).count() == 1


@pytest.mark.parametrize("state", [State.CANCELLING, State.SUCCEEDED, State.FAILED, State.CANCELLED])
def test_what_has_ended_or_is_ending_cannot_be_cancelled(
    state: State, make_job: MakeJob, trainer_user: AbstractUser, dump: Any
) -> None:
    job = make_job()
    Job.objects.filter(pk=job.pk).update(state=state)
    job.refresh_from_db()
    before = dump()
    with pytest.raises(IllegalMoveError, match=state.label.lower()):
        services.cancel(job, by=trainer_user)
    assert dump() == before


def test_cancelling_judges_a_job_by_what_it_has_become_meanwhile(
    make_job: MakeJob, fake_executor: FakeExecutor, trainer_user: AbstractUser
) -> None:
    stale = make_job()
    scheduling.dispatch()
    assert services.cancel(stale, by=trainer_user).state == State.CANCELLING


# --- retry ------------------------------------------------------------------------------------------------------


def test_a_failed_job_is_queued_again_with_nothing_left_of_its_end(
    launched: Job, say: Any, event: Any, trainer_user: AbstractUser
) -> None:
    say(launched, event(1, "started"), event(2), event(3, "epoch"), event(4, "failed"))
    launched.refresh_from_db()
    assert launched.state == State.FAILED
    before = Job.objects.values().get(pk=launched.pk)
    services.retry(launched, by=trainer_user)
    after = Job.objects.values().get(pk=launched.pk)
    changed = {name for name in after if after[name] != before[name]}
    assert after["state"] == State.QUEUED
    assert after["queued_at"] > before["queued_at"]
    fresh = Job.objects.values().get(pk=services.clone(launched, by=trainer_user).pk)
    own = {"id", "created_at", "queued_at", "cloned_from_id", "attempt_number"}
    assert {name: after[name] for name in after if name not in own} == {
        name: fresh[name] for name in fresh if name not in own
    }
    assert changed >= {"state", "end_reason", "end_message", "ended_at", "started_at", "epoch", "fraction", "losses"}


@pytest.mark.parametrize("state", [state for state in State if state not in (State.FAILED, State.CANCELLED)])
def test_only_what_failed_or_was_cancelled_can_be_retried(
    state: State, make_job: MakeJob, trainer_user: AbstractUser, dump: Any
) -> None:
    """A person's retry must not throw a training away that is under way."""
    job = make_job()
    Job.objects.filter(pk=job.pk).update(state=state)
    job.refresh_from_db()
    before = dump()
    with pytest.raises(IllegalMoveError):
        services.retry(job, by=trainer_user)
    assert dump() == before


def test_a_retry_of_what_changed_meanwhile_says_so(make_job: MakeJob, trainer_user: AbstractUser, dump: Any) -> None:
    job = services.cancel(make_job(), by=trainer_user)
    stale = Job.objects.get(pk=job.pk)
    services.retry(job, by=trainer_user)
    before = dump()
    with pytest.raises(IllegalMoveError, match="it is queued now"):
        services.retry(stale, by=trainer_user)
    assert dump() == before


@pytest.mark.parametrize("verb", [services.cancel, services.retry, services.clone])
@pytest.mark.parametrize("who", ["viewer", "stranger"])
def test_no_verb_works_for_those_who_may_only_look(
    verb: Any, who: str, request: pytest.FixtureRequest, make_job: MakeJob, dump: Any
) -> None:
    job = make_job()
    transitions.end(job, EndReason.CRASHED, by="me")
    before = dump()
    with pytest.raises(NotAllowedError):
        verb(job, by=request.getfixturevalue(who))
    assert dump() == before


# --- clone ------------------------------------------------------------------------------------------------------


def test_a_clone_is_the_same_job_again_on_the_same_version(
    make_job: MakeJob, dataset: Dataset, make_version: Any, manager: AbstractUser
) -> None:
    job = make_job(
        name="x", priority=2, hyperparameters={"mosaic": 0.5}, weights="weights/a.pt", seed=9, image_size=320
    )
    make_version(dataset)
    clone = services.clone(job, by=manager)
    assert clone.pk != job.pk
    assert (clone.cloned_from, clone.created_by, clone.state) == (job, manager, State.QUEUED)
    same = ("project", "dataset_version", "name", "priority", *services.TRAINING_FIELDS)
    assert [getattr(clone, field) for field in same] == [getattr(job, field) for field in same]


def test_a_clone_can_have_changes(
    make_job: MakeJob, dataset: Dataset, make_version: Any, manager: AbstractUser
) -> None:
    job = make_job(name="x", hyperparameters={"mosaic": 0.5})
    newer = make_version(dataset)
    clone = services.clone(job, by=manager, epochs=9, name="y", priority=5, hyperparameters={}, dataset=dataset)
    assert (clone.epochs, clone.name, clone.priority, clone.hyperparameters) == (9, "y", 5, {})
    assert clone.dataset_version == newer
    assert clone.batch_size == job.batch_size
    job.refresh_from_db()
    assert (job.epochs, job.hyperparameters) == (3, {"mosaic": 0.5})


def test_changes_of_a_clone_are_checked_like_any_other(make_job: MakeJob, manager: AbstractUser, dump: Any) -> None:
    job = make_job()
    before = dump()
    with pytest.raises(InvalidJobError) as caught:
        services.clone(job, by=manager, epochs=0, colour="red")
    assert caught.value.problems.keys() == {"epochs", "colour"}
    assert dump() == before


# --- the broker -------------------------------------------------------------------------------------------------


@pytest.fixture(params=["redis", "sqlite"])
def dead_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """Nobody listens there, or the folder of the file is gone."""
    urls = {"redis": "redis://127.0.0.1:1/0", "sqlite": f"sqla+sqlite:///{tmp_path}/gone/broker.sqlite3"}
    before = celery.conf.broker_url
    policy = celery.conf.task_publish_retry_policy

    def use(url: str, **retry: Any) -> None:
        celery._pool = celery.amqp._producer_pool = None
        celery.conf.update(
            broker_url=url, broker_read_url=url, broker_write_url=url, task_publish_retry_policy={**policy, **retry}
        )

    use(urls[request.param], max_retries=1, interval_start=0)
    yield
    use(before)


@pytest.mark.usefixtures("dead_broker")
def test_a_dead_broker_costs_a_wake_up_and_nothing_else(
    make_job: MakeJob,
    trainer_user: AbstractUser,
    fake_executor: FakeExecutor,
    django_capture_on_commit_callbacks: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING), django_capture_on_commit_callbacks(execute=True) as callbacks:
        job = make_job()
    assert len(callbacks) == 1
    assert "The broker did not take a wake-up" in caplog.text
    assert scheduling.dispatch() == 1
    with django_capture_on_commit_callbacks(execute=True) as callbacks:
        services.cancel(Job.objects.get(pk=job.pk), by=trainer_user)
    assert len(callbacks) == 1
    job.refresh_from_db()
    assert job.state == State.CANCELLING
    tasks.send_close_tracking_run(1)
    assert caplog.text.count("The broker did not take a wake-up") == 3


def test_a_job_that_is_rolled_back_wakes_nobody(
    make_job: MakeJob, refused: Any, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks() as callbacks:
        refused(epochs=0)
    assert callbacks == []


def test_every_verb_is_a_move_of_the_table() -> None:
    assert State.CANCELLED in MOVES[State.QUEUED]
    assert all(State.CANCELLING in MOVES[state] for state in (State.LAUNCHING, State.RUNNING, State.LOST))
