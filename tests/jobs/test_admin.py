"""The console as a browser meets it: what people with each role see, and what its buttons do."""

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import AbstractUser
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from apps.executor.base import LaunchSpec
from apps.executor.fake import FakeExecutor
from apps.jobs import following, services, transitions
from apps.jobs.admin import logs
from apps.jobs.ingest import ingest
from apps.jobs.models import Attempt, Job
from apps.jobs.states import EndReason, State
from apps.jobs.tokens import token_for
from apps.projects.models import Membership, Project
from apps.storage.models import Dataset
from apps.storage.stores import get_store
from servers.names import attempt_name
from trainer.contract.messages import ArtifactEvent, ArtifactStored, Epoch, EpochEvent, Started, StartedEvent
from trainer.contract.tasks import MODELS, TaskType
from trainer.contract.variables import artifact_prefix
from trainer.store import ObjectStore

pytestmark = pytest.mark.django_db

MakeJob = Callable[..., Job]
SignIn = Callable[[AbstractUser], Client]
LIST = "/admin/jobs/job/"
ADD = "/admin/jobs/job/add/"


def page_of(job: Job) -> str:
    return reverse("admin:jobs_job_change", args=[job.pk])


def button(job: Job, verb: str) -> str:
    return reverse("admin:jobs_job_do", args=[job.pk, verb])


def parts_of(job: Job) -> str:
    return reverse("admin:jobs_job_live", args=[job.pk])


@pytest.fixture(autouse=True)
def _no_trainers(fake_executor: FakeExecutor) -> None:
    """Whatever is asked of the executor here, the fake answers."""


@pytest.fixture
def job_in(make_job: MakeJob) -> Callable[[State], Job]:
    """A job in the state, come there by the moves that lead to it."""

    def make(state: State, **overrides: Any) -> Job:
        job = make_job(**overrides)
        if state == State.QUEUED:
            return job
        start(job)
        if state == State.LAUNCHING:
            return job
        ingest(job.pk, 1, [started(), *epochs(2)])
        job.refresh_from_db()
        if state in (State.CANCELLING, State.LOST):
            transitions.move(job, state, by="platform", evidence="silent for 94 s")
        reason = {
            State.SUCCEEDED: EndReason.FINISHED,
            State.FAILED: EndReason.BAD_DATA,
            State.CANCELLED: EndReason.CANCELLED,
        }.get(state)
        if reason:
            transitions.end(job, reason, by="trainer", message="labels/7.txt: class 9\nMend the files.")
            job.attempts.update(ended_at=timezone.now(), exit_code=0)
        return job

    return make


def start(job: Job, **fields: Any) -> Attempt:
    slot = f"cpu:{job.pk}"
    attempt = Attempt.objects.create(job=job, number=1, slot=slot, executor="fake", **fields)
    transitions.move(job, State.LAUNCHING, by="platform", attempt_number=1)
    return attempt


def started() -> StartedEvent:
    return StartedEvent(seq=1, at=timezone.now(), data=Started(host="box", device="cpu"))


def epochs(count: int) -> list[EpochEvent]:
    return [
        EpochEvent(
            seq=number + 1,
            at=timezone.now(),
            data=Epoch(
                epoch=number,
                epochs=3,
                metrics={
                    "train/box_loss": 1 / number,
                    "metrics/mAP50(B)": number / 7,
                    "metrics/mAP50-95(B)": number / 13,
                    "lr/pg0": None,
                    "fitness": number / 13,
                },
            ),
        )
        for number in range(1, count + 1)
    ]


def form_values(project: Project, dataset: Dataset, **overrides: Any) -> dict[str, Any]:
    values = {
        "project": project.pk,
        "dataset": str(dataset.pk),
        "task_type": "object_detection",
        "model_name": "yolo11n",
        "epochs": 5,
        "batch_size": 4,
        "learning_rate": "0.01",
        "image_size": 64,
        "seed": 0,
        "priority": 2,
        "pretrained": "never",
        "weights": "",
        "hyperparameters": '{"mosaic": 0}',
        "name": "from the form",
    }
    return {**values, **overrides}


# --- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", State)
def test_list_and_page_say_every_state_in_a_word(console: Client, job_in: Callable[..., Job], state: State) -> None:
    job = job_in(state)
    for address in (LIST, page_of(job), parts_of(job)):
        response = console.get(address)
        assert response.status_code == 200
        assert f'ty-state-{state.value}">{state.label}' in response.content.decode()


def test_a_failed_job_says_why_and_what_to_do(console: Client, job_in: Callable[..., Job]) -> None:
    job = job_in(State.FAILED)
    assert "Bad data: labels/7.txt: class 9" in console.get(LIST).content.decode()
    page = console.get(page_of(job)).content.decode()
    assert "Bad data: labels/7.txt: class 9" in page
    assert "Mend the files." in page


def test_a_waiting_job_says_why_it_waits(console: Client, make_job: MakeJob) -> None:
    job = make_job()
    Job.objects.filter(pk=job.pk).update(pending_reason="Number 1 in the queue.")
    assert "Number 1 in the queue." in console.get(LIST).content.decode()
    assert "Number 1 in the queue." in console.get(page_of(job)).content.decode()


def test_a_running_job_shows_progress_and_its_best_metrics(console: Client, job_in: Callable[..., Job]) -> None:
    job_in(State.RUNNING)
    page = console.get(LIST).content.decode()
    assert "67 %" in page
    assert "epoch 2/3" in page
    assert "0.286" in page
    assert "0.154" in page


def test_the_list_finds_by_id_name_model_and_dataset(console: Client, make_job: MakeJob) -> None:
    job, other = make_job(name="wanted"), make_job(name="unwanted", model_name="yolo26s")
    for words in (str(job.pk), f"#{job.pk}", " wanted", "yolo11n", "shelf photos"):
        found = console.get(LIST, {"q": words}).context["cl"].result_list
        assert job in found
    assert other not in console.get(LIST, {"q": "yolo11n"}).context["cl"].result_list


def test_the_list_narrows_by_state_project_task_and_model(console: Client, make_job: MakeJob) -> None:
    job, cancelled = make_job(), make_job(model_name="yolo26s")
    services.cancel(cancelled, by=cancelled.created_by)
    for narrowed in (
        {"state__exact": "queued"},
        {"project": job.project_id, "model": "yolo11n"},
        {"task_type__exact": "object_detection", "state__exact": "queued"},
    ):
        assert [*console.get(LIST, narrowed).context["cl"].result_list] == [job]


def test_refreshing_the_list_takes_the_order_and_the_rows_that_can_have_changed(
    console: Client, job_in: Callable[..., Job]
) -> None:
    ended, known, running = job_in(State.FAILED), job_in(State.FAILED), job_in(State.RUNNING)
    page = console.get(LIST, headers={"X-Trainyard-Rows": f"{known.pk},{running.pk}"}).content.decode()
    assert f'data-order="{running.pk},{known.pk},{ended.pk}"' in page
    assert f'data-row="{ended.pk}"' in page
    assert f'data-row="{running.pk}"' in page
    assert f'data-row="{known.pk}"' not in page
    assert "<html" not in page


def test_the_list_asks_the_database_as_often_for_thirty_jobs_as_for_three(
    console: Client, job_in: Callable[..., Job]
) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            console.get(LIST)
        return len(captured)

    for _ in range(3):
        job_in(State.RUNNING)
    console.get(LIST)
    few = queries()
    for state in [*State, State.RUNNING] * 3:
        job_in(state)
    assert Job.objects.count() == 30
    assert queries() == few


def test_the_page_leaves_out_what_the_browser_has_already(console: Client, job_in: Callable[..., Job]) -> None:
    job = job_in(State.RUNNING)
    whole = console.get(parts_of(job))
    assert b"curves-data" in whole.content
    have = {"curves": whole.context["curves"].version, "log": whole.context["log_version"]}
    again = console.get(parts_of(job), have)
    assert b"curves-data" not in again.content
    assert b"part-log" not in again.content
    ingest(job.pk, 1, epochs(3)[2:])
    assert b"curves-data" in console.get(parts_of(job), have).content


def test_refreshing_ends_some_time_after_the_job_has(console: Client, job_in: Callable[..., Job]) -> None:
    job = job_in(State.SUCCEEDED)
    assert b'data-live="1"' in console.get(parts_of(job)).content  # the last words may be on their way
    Job.objects.filter(pk=job.pk).update(ended_at=timezone.now() - timedelta(minutes=3))
    assert b'data-live=""' in console.get(parts_of(job)).content


def test_metrics_stand_in_a_table_for_those_without_scripts(console: Client, job_in: Callable[..., Job]) -> None:
    page = console.get(page_of(job_in(State.RUNNING))).content.decode()
    assert '<th scope="col">metrics/mAP50(B)</th>' in page
    assert "<td>0.28571</td>" in page


def test_an_earlier_attempt_can_be_looked_at(console: Client, job_in: Callable[..., Job]) -> None:
    job = job_in(State.FAILED)
    services.retry(job, by=job.created_by)
    Attempt.objects.create(job=job, number=2, executor="fake")
    transitions.move(job, State.LAUNCHING, by="platform", attempt_number=2)
    assert "Below is attempt 1; the current one is 2." in console.get(page_of(job), {"attempt": 1}).content.decode()
    assert console.get(page_of(job), {"attempt": "x"}).context["attempt"].number == 2


# --- secrets ------------------------------------------------------------------------------------------------


def test_no_page_shows_a_secret(console: Client, job_in: Callable[..., Job], settings: Any) -> None:
    settings.MLFLOW_TRACKING_URI = "https://me:hunter2@mlflow.example"
    settings.STORE_ENVIRONMENT = {
        "STORAGE_TYPE": "minio",
        "MINIO_ACCESS_KEY": "access-key-value",
        "MINIO_SECRET_KEY": "secret-key-value",
        "MINIO_BUCKET": "trainyard",
    }
    job = job_in(State.RUNNING)
    for address in (LIST, page_of(job), parts_of(job)):
        page = console.get(address).content.decode()
        for secret in (
            django_settings.INTERNAL_AUTH_TOKEN,
            token_for(job.pk, 1),
            "access-key-value",
            "secret-key-value",
            "hunter2",
        ):
            assert secret not in page
    assert "INTERNAL_AUTH_TOKEN" in console.get(page_of(job)).content.decode()


def test_settings_that_no_longer_fit_are_said_and_the_page_still_opens(
    console: Client, make_job: MakeJob, settings: Any
) -> None:
    settings.PLATFORM_URL = "not an address"
    page = console.get(page_of(make_job())).content.decode()
    assert "CALLBACK_URL: " in page


def test_an_api_token_is_told_once(console: Client, stranger: AbstractUser) -> None:
    told = console.post("/admin/authtoken/tokenproxy/add/", {"user": stranger.pk}, follow=True).content.decode()
    key = stranger.auth_token.key  # type: ignore[attr-defined]
    assert told.count(key) == 1
    for address in ("", f"{stranger.pk}/change/", f"{stranger.pk}/history/", f"{stranger.pk}/delete/"):
        response = console.get(f"/admin/authtoken/tokenproxy/{address}")
        assert response.status_code == 200
        assert key not in response.content.decode()


# --- rights -------------------------------------------------------------------------------------------------


def test_a_stranger_sees_no_job_and_no_address_below_one(
    sign_in: SignIn, stranger: AbstractUser, job_in: Callable[..., Job]
) -> None:
    job = job_in(State.RUNNING)
    client = sign_in(stranger)
    assert [*client.get(LIST).context["cl"].result_list] == []
    log = reverse("admin:jobs_job_log", args=[job.pk, 1])
    for address in (page_of(job), parts_of(job), log, f"{ADD}?clone={job.pk}"):
        assert client.get(address).status_code in (403, 404)
    assert client.post(button(job, "cancel")).status_code == 404
    assert client.get(ADD).status_code == 403
    assert [*client.get("/admin/storage/dataset/").context["cl"].result_list] == []
    assert [*client.get("/admin/projects/project/").context["cl"].result_list] == []


def test_a_viewer_sees_no_buttons_and_is_refused_what_they_do(
    sign_in: SignIn, viewer: AbstractUser, job_in: Callable[..., Job]
) -> None:
    job = job_in(State.RUNNING)
    client = sign_in(viewer)
    page = client.get(page_of(job)).content.decode()
    for name in ("button-cancel", "button-retry", "button-clone"):
        assert name not in page
    assert client.post(button(job, "cancel")).status_code == 403
    assert client.get(ADD).status_code == 403
    client.post(LIST, {"action": "cancel_selected", "_selected_action": [job.pk]})
    job.refresh_from_db()
    assert job.state == State.RUNNING


def test_everybody_on_the_staff_finds_what_is_theirs_from_the_first_page(
    sign_in: SignIn, viewer: AbstractUser, stranger: AbstractUser
) -> None:
    for person in (viewer, stranger):
        page = sign_in(person).get("/admin/").content.decode()
        for address in (LIST, "/admin/storage/dataset/", "/admin/projects/project/"):
            assert f'href="{address}"' in page
        assert "/admin/auth/user/" not in page


def test_people_who_are_no_staff_are_sent_to_the_sign_in_page(client: Client, make_job: MakeJob) -> None:
    job = make_job()
    client.force_login(job.created_by)  # type: ignore[arg-type]
    for address in (page_of(job), parts_of(job)):
        assert client.get(address).status_code == 302


def test_a_trainer_cannot_delete_and_a_manager_only_what_has_ended(
    sign_in: SignIn, trainer_user: AbstractUser, manager: AbstractUser, job_in: Callable[..., Job]
) -> None:
    ended, running = job_in(State.FAILED), job_in(State.RUNNING)
    delete = "admin:jobs_job_delete"
    assert sign_in(trainer_user).get(reverse(delete, args=[ended.pk])).status_code == 403
    client = sign_in(manager)
    assert client.get(reverse(delete, args=[running.pk])).status_code == 403
    assert client.post(reverse(delete, args=[running.pk]), {"post": "yes"}).status_code == 403
    assert str(ended) in client.get(reverse(delete, args=[ended.pk])).content.decode()
    client.post(reverse(delete, args=[ended.pk]), {"post": "yes"})
    assert [*Job.objects.all()] == [running]


def test_a_manager_changes_members_of_the_own_project_and_no_other(
    sign_in: SignIn, manager: AbstractUser, stranger: AbstractUser, project: Project
) -> None:
    other = Project.objects.create(name="Other")
    client = sign_in(manager)
    members = {
        "name": "Renamed",
        "keep_best": "on",
        "memberships-TOTAL_FORMS": 1,
        "memberships-INITIAL_FORMS": 0,
        "memberships-0-user": stranger.pk,
        "memberships-0-role": "viewer",
        "memberships-0-project": project.pk,
    }
    assert client.post(f"/admin/projects/project/{project.pk}/change/", members).status_code == 302
    assert Membership.objects.filter(project=project, user=stranger, role="viewer").exists()
    client.post(f"/admin/projects/project/{other.pk}/change/", {**members, "memberships-0-project": other.pk})
    assert not other.memberships.exists()
    assert client.get("/admin/projects/project/add/").status_code == 403
    assert client.get("/admin/auth/user/").status_code == 403


def test_datasets_show_their_versions(console: Client, dataset: Dataset) -> None:
    page = console.get(f"/admin/storage/dataset/{dataset.pk}/change/").content.decode()
    assert "10: train 8, val 2" in page
    assert "box, can" in page


@pytest.mark.parametrize(
    ("task", "metrics", "best", "second"),
    [
        ("object_detection", {"metrics/mAP50(B)": 0.5, "metrics/mAP50-95(B)": 0.25}, "mAP50 0.500", "mAP50-95 0.250"),
        (
            "instance_segmentation",
            {"metrics/mAP50(B)": 0.9, "metrics/mAP50(M)": 0.5, "metrics/mAP50-95(M)": None},
            "mask mAP50 0.500",
            "mask mAP50-95 –",
        ),
        (
            "pose_estimation",
            {"metrics/mAP50(P)": 0.5, "metrics/mAP50-95(P)": 0.25},
            "pose mAP50 0.500",
            "pose mAP50-95 0.250",
        ),
        (
            "oriented_detection",
            {"metrics/mAP50(B)": 0.5, "metrics/mAP50-95(B)": 0.25},
            "mAP50 0.500",
            "mAP50-95 0.250",
        ),
        (
            "image_classification",
            {"train/loss": 2.0, "metrics/accuracy_top1": 0.5, "metrics/accuracy_top5": 1.0},
            "top-1 0.500",
            "top-5 1.000",
        ),
    ],
)
def test_every_task_shows_the_scores_that_count_for_it(
    task: str,
    metrics: dict[str, Any],
    best: str,
    second: str,
    console: Client,
    project: Project,
    make_version: Any,
    make_job: MakeJob,
) -> None:
    dataset = Dataset.objects.create(project=project, name="theirs", task_type=task)
    make_version(dataset)
    job = make_job(dataset=dataset, task_type=task, model_name=MODELS[TaskType(task)][0])
    start(job)
    said = Epoch(epoch=1, epochs=3, metrics={**metrics, "fitness": 0.5})
    ingest(job.pk, 1, [EpochEvent(seq=1, at=timezone.now(), data=said)])
    row = console.get(LIST).content.decode()
    assert f"<b>{best}</b><small>{second}</small>" in row
    page = console.get(page_of(job)).content.decode()
    label, score = best.rsplit(" ", 1)
    assert f"<dt>{label}</dt><dd>{score}</dd>" in page
    assert f"1/3, {best}" in page
    names = {curve["label"] for curve in console.get(page_of(job)).context["curves"].data["charts"]["quality"]}
    assert label in names
    progress = following.progress_line(Job.objects.get(pk=job.pk)).plain
    assert best in progress


def test_a_picture_in_an_s3_store_is_linked_to_as_one_and_nothing_else_is(
    console: Client, make_job: MakeJob, settings: Any
) -> None:
    job = make_job()
    attempt = start(job)
    settings.STORE_ENVIRONMENT = {
        "STORAGE_TYPE": "minio",
        "MINIO_ENDPOINT": "http://store.example:9000",
        "MINIO_ACCESS_KEY": "key",
        "MINIO_SECRET_KEY": "secret",
        "MINIO_BUCKET": "trainyard",
    }
    get_store.cache_clear()  # links are signed without asking the server
    prefix = artifact_prefix(job.project_id, job.pk, 1)
    for seq, (name, kind) in enumerate([("results.png", "plot"), ("best.pt", "best")], 1):
        data = ArtifactStored(kind=kind, name=name, key=f"{prefix}/{name}", size=5, sha256="a" * 64)
        ingest(job.pk, 1, [ArtifactEvent(seq=seq, at=timezone.now(), data=data)])
    links = {
        artifact.name: parse_qs(
            urlsplit(
                console.get(reverse("admin:jobs_job_artifact", args=[job.pk, artifact.pk]) + "?show")["Location"]
            ).query
        )
        for artifact in attempt.artifacts.all()
    }
    get_store.cache_clear()
    assert links["results.png"]["response-content-disposition"][0].startswith("inline")
    assert links["results.png"]["response-content-type"] == ["image/png"]
    assert links["best.pt"]["response-content-disposition"][0].startswith("attachment")
    assert links["best.pt"]["response-content-type"] == ["application/octet-stream"]


def test_the_page_shows_what_the_job_is_trained_on(console: Client, make_job: MakeJob) -> None:
    job = make_job()
    version = job.dataset_version
    page = console.get(page_of(job)).content.decode()
    assert reverse("admin:storage_datasetversion_change", args=[version.pk]) in page
    assert f'<code title="{version.sha256}">{version.sha256[:12]}</code>' in page
    assert "<dt>Images</dt><dd>10 (train 8, val 2)</dd>" in page
    assert "<dt>Labelled objects</dt><dd>30 (train 24, val 6)</dd>" in page


def test_a_dataset_without_a_version_to_train_on_says_so_in_the_form(
    console: Client, dataset: Dataset, make_version: Any, project: Project
) -> None:
    make_version(dataset, errors=1)
    bad = Dataset.objects.create(project=project, name="bad", task_type="object_detection")
    make_version(bad, errors=2)
    page = console.get(ADD).content.decode()
    assert "shelf photos v1<" in page
    assert "bad (no version without errors)" in page


def test_a_file_that_is_none_of_the_attempts_is_told_of_and_not_offered(console: Client, make_job: MakeJob) -> None:
    job = make_job()
    start(job)
    data = ArtifactStored(kind="best", name="best.pt", key="projects/other/best.pt", size=5, sha256="a" * 64)
    ingest(job.pk, 1, [ArtifactEvent(seq=1, at=timezone.now(), data=data)])
    page = console.get(page_of(job)).content.decode()
    assert "best best.pt is not taken: its key projects/other/best.pt is none of this attempt" in page
    assert "Nothing is stored yet." in page


def test_a_manager_says_what_is_kept(sign_in: SignIn, manager: AbstractUser, project: Project) -> None:
    client, address = sign_in(manager), f"/admin/projects/project/{project.pk}/change/"
    assert "manage.py retention --dry-run" in client.get(address).content.decode()
    form = {"name": project.name, "memberships-TOTAL_FORMS": 0, "memberships-INITIAL_FORMS": 0}
    assert "Keep the best or the last" in client.post(address, form).content.decode()
    assert client.post(address, {**form, "keep_best": "on", "keep_every": 5, "keep_days": 30}).status_code == 302
    project.refresh_from_db()
    assert (project.keep_best, project.keep_last, project.keep_every, project.keep_days) == (True, False, 5, 30)


# --- a new job ----------------------------------------------------------------------------------------------


def test_the_form_puts_a_job_in_the_queue(
    sign_in: SignIn, trainer_user: AbstractUser, project: Project, dataset: Dataset
) -> None:
    response = sign_in(trainer_user).post(ADD, form_values(project, dataset))
    job = Job.objects.get()
    assert response.headers["Location"] == page_of(job)
    assert job.state == State.QUEUED
    assert job.created_by == trainer_user
    assert job.dataset_version == dataset.latest
    assert job.hyperparameters == {"mosaic": 0}
    assert job.status_changes.get().reason == "submitted"


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("model_name", "yolo11n-seg", "'yolo11n-seg' is not a model for object_detection"),
        ("model_name", "yolo99", "yolo99 is not a model that is trained here"),
        ("task_type", "flight", "not one of the available choices"),
        ("epochs", "0", "greater than or equal to 1"),
        ("image_size", "65", "multiple of 32"),
        ("hyperparameters", '{"mosaik": 0}', "did you mean mosaic?"),
        ("hyperparameters", "{", "Enter a valid JSON."),
    ],
)
def test_what_does_not_fit_is_said_at_its_field(
    console: Client, project: Project, dataset: Dataset, field: str, value: str, said: str
) -> None:
    response = console.post(ADD, form_values(project, dataset, **{field: value}))
    assert response.status_code == 200
    assert said in " ".join(response.context["adminform"].form.errors[field])
    assert not Job.objects.exists()


def test_only_projects_in_which_one_may_train_and_their_datasets_are_offered(
    sign_in: SignIn, trainer_user: AbstractUser, project: Project, dataset: Dataset
) -> None:
    seen = Project.objects.create(name="Only seen")
    Membership.objects.create(project=seen, user=trainer_user, role="viewer")
    foreign = Dataset.objects.create(project=seen, name="foreign", task_type="object_detection")
    client = sign_in(trainer_user)
    form = client.get(ADD).context["adminform"].form
    assert [*form.fields["project"].queryset] == [project]
    assert [*form.fields["dataset"].queryset] == [dataset]
    assert client.post(ADD, form_values(project, foreign)).context["adminform"].form.errors["dataset"]


def test_a_dataset_of_another_project_is_refused(
    console: Client, project: Project, dataset: Dataset, make_version: Any
) -> None:
    other = Dataset.objects.create(
        project=Project.objects.create(name="Other"), name="theirs", task_type="object_detection"
    )
    make_version(other)
    form = console.post(ADD, form_values(project, other)).context["adminform"].form
    assert form.errors["dataset"] == ["Belongs to another project"]


def test_a_clone_starts_from_the_form_of_its_model(
    console: Client, make_job: MakeJob, make_version: Any, project: Project, dataset: Dataset
) -> None:
    model = make_job(name="model", model_name="yolo26s", hyperparameters={"mosaic": 0.5})
    make_version(dataset)
    shown = console.get(f"{ADD}?clone={model.pk}").context["adminform"].form
    assert shown["model_name"].value() == "yolo26s"
    assert json.loads(shown["hyperparameters"].value()) == {"mosaic": 0.5}
    assert shown["version"].value() == 1
    console.post(f"{ADD}?clone={model.pk}", form_values(project, dataset, version="1"))
    console.post(f"{ADD}?clone={model.pk}", form_values(project, dataset))
    newest, kept = Job.objects.filter(cloned_from=model)
    assert (kept.dataset_version.number, newest.dataset_version.number) == (1, 2)


def test_an_old_version_can_be_chosen_and_one_that_is_not_there_is_told(
    console: Client, make_version: Any, project: Project, dataset: Dataset
) -> None:
    make_version(dataset)
    asked = f"{ADD}?project={project.pk}&dataset={dataset.pk}&version=1"
    assert console.get(asked).context["adminform"].form["version"].value() == "1"
    console.post(ADD, form_values(project, dataset, version="1"))
    assert Job.objects.get().dataset_version.number == 1
    form = console.post(ADD, form_values(project, dataset, version="7")).context["adminform"].form
    assert form.errors["version"] == ["shelf photos has no version 7; it has: v2, v1."]


def test_nothing_of_a_job_is_changed_through_its_page(console: Client, make_job: MakeJob) -> None:
    job = make_job()
    assert console.post(page_of(job), {"epochs": 999}).status_code == 405
    job.refresh_from_db()
    assert job.epochs == 3


# --- buttons ------------------------------------------------------------------------------------------------


def test_the_cancel_button_cancels(sign_in: SignIn, trainer_user: AbstractUser, job_in: Callable[..., Job]) -> None:
    client = sign_in(trainer_user)
    waiting, running = job_in(State.QUEUED), job_in(State.RUNNING)
    for job, state in ((waiting, State.CANCELLED), (running, State.CANCELLING)):
        assert client.post(button(job, "cancel")).headers["Location"] == page_of(job)
        job.refresh_from_db()
        assert job.state == state


@pytest.mark.parametrize(
    ("state", "buttons"),
    [
        (State.QUEUED, {"cancel", "clone"}),
        (State.RUNNING, {"cancel", "clone"}),
        (State.LOST, {"cancel", "clone"}),
        (State.CANCELLING, {"clone"}),
        (State.SUCCEEDED, {"clone"}),
        (State.FAILED, {"retry", "clone"}),
        (State.CANCELLED, {"retry", "clone"}),
    ],
)
def test_only_buttons_that_make_sense_are_there(
    console: Client, job_in: Callable[..., Job], state: State, buttons: set[str]
) -> None:
    page = console.get(page_of(job_in(state))).content.decode()
    assert {name for name in ("cancel", "retry", "clone") if f'id="button-{name}"' in page} == buttons


def test_a_button_that_came_too_late_says_so(console: Client, job_in: Callable[..., Job]) -> None:
    job = job_in(State.SUCCEEDED)
    page = console.post(button(job, "cancel"), follow=True).content.decode()
    assert "nothing to cancel" in page
    assert console.get(button(job, "cancel")).status_code == 405
    assert console.post(button(job, "explode")).status_code == 404


def test_a_button_without_its_token_does_nothing(operator: AbstractUser, make_job: MakeJob) -> None:
    job = make_job()
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    assert client.post(button(job, "cancel")).status_code == 403
    job.refresh_from_db()
    assert job.state == State.QUEUED


def test_bulk_actions_tell_what_worked_and_what_did_not(console: Client, job_in: Callable[..., Job]) -> None:
    waiting, failed = job_in(State.QUEUED), job_in(State.FAILED)
    chosen = {"_selected_action": [waiting.pk, failed.pk]}
    page = console.post(LIST, {"action": "cancel_selected", **chosen}, follow=True).content.decode()
    assert f"1 job is being cancelled: #{waiting.pk}." in page
    assert f"Job {failed.pk}: " in page
    page = console.post(LIST, {"action": "retry_selected", **chosen}, follow=True).content.decode()
    assert "2 jobs are queued again" in page
    page = console.post(LIST, {"action": "clone_selected", **chosen}, follow=True).content.decode()
    assert "2 new jobs are queued" in page
    assert Job.objects.filter(state=State.QUEUED).count() == 4


# --- log and artifacts --------------------------------------------------------------------------------------


def launched(executor: FakeExecutor, job: Job, log: bytes) -> Attempt:
    spec = LaunchSpec(f"job-{job.pk}", {}, frozenset(), (), 1)
    reference = executor.launch(spec).reference
    executor.write_log(reference, log)
    return start(job, reference=reference)


def test_json_lines_of_the_log_are_shown_by_their_parts(
    console: Client, make_job: MakeJob, fake_executor: FakeExecutor
) -> None:
    job = make_job()
    said = {"time": "2026-11-03T08:15:30.123Z", "level": "error", "message": "<b>no</b>", "traceback": "Traceback"}
    launched(fake_executor, job, json.dumps(said).encode() + b"\n\x1b[31mbare line\x1b[0m\n")
    page = console.get(page_of(job)).content.decode()
    assert 'class="ty-log-error"' in page
    assert "08:15:30" in page
    assert "&lt;b&gt;no&lt;/b&gt;\nTraceback" in page
    assert ">bare line<" in page


def test_the_end_of_a_long_log_is_shown_and_all_of_it_downloaded(
    console: Client, make_job: MakeJob, fake_executor: FakeExecutor
) -> None:
    job = make_job()
    log = b"".join(b"line %d\n" % number for number in range(300_000))
    launched(fake_executor, job, log)
    shown = console.get(page_of(job)).context["log"].lines
    assert len(shown) == logs.TAIL_LINES
    assert shown[-1].message == "line 299999"
    response = console.get(reverse("admin:jobs_job_log", args=[job.pk, 1]))
    assert b"".join(response.streaming_content) == log  # type: ignore[attr-defined]
    assert f'filename="{attempt_name(job)}.log"' in response.headers["Content-Disposition"]


def test_a_log_that_cannot_be_had_is_said_and_the_page_still_opens(console: Client, make_job: MakeJob) -> None:
    job = make_job()
    start(job, reference="fake/forgotten")
    assert "The log cannot be read" in console.get(page_of(job)).content.decode()
    response = console.get(reverse("admin:jobs_job_log", args=[job.pk, 1]), follow=True)
    assert "The log cannot be read" in response.content.decode()


def test_artifacts_come_from_the_store(
    console: Client, sign_in: SignIn, stranger: AbstractUser, job_in: Callable[..., Job], store: ObjectStore
) -> None:
    job = job_in(State.RUNNING)
    prefix = artifact_prefix(job.project_id, job.pk, 1)
    for seq, (name, kind) in enumerate([("results.png", "plot"), ("best.pt", "best"), ("gone.csv", "results")], 90):
        data = ArtifactStored(
            kind=kind, name=name, key=f"{prefix}/{name}", size=5, sha256=hashlib.sha256(b"bytes").hexdigest()
        )
        ingest(job.pk, 1, [ArtifactEvent(seq=seq, at=timezone.now(), data=data)])
        if name != "gone.csv":
            store.put_bytes(f"{prefix}/{name}", b"bytes")
    addresses = {
        artifact.name: reverse("admin:jobs_job_artifact", args=[job.pk, artifact.pk])
        for artifact in job.current_attempt.artifacts.all()  # type: ignore[union-attr]
    }
    saved, shown = console.get(addresses["best.pt"]), console.get(addresses["results.png"] + "?show")
    assert b"".join(saved.streaming_content) == b"bytes"  # type: ignore[attr-defined]
    assert saved.headers["Content-Disposition"].startswith("attachment")
    assert shown.headers["Content-Type"] == "image/png"
    assert shown.headers["Content-Disposition"].startswith("inline")
    assert console.get(addresses["best.pt"] + "?show").headers["Content-Type"] == "application/octet-stream"
    assert console.get(addresses["gone.csv"]).status_code == 404
    assert sign_in(stranger).get(addresses["best.pt"]).status_code == 404
    assert addresses["results.png"] + "?show" in console.get(page_of(job)).content.decode()
