"""The REST API, over HTTP alone."""

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import AbstractUser
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient

from apps.executor.errors import ExecutorError
from apps.executor.fake import FakeExecutor
from apps.jobs import scheduling
from apps.jobs.ingest import ingest
from apps.jobs.models import Artifact, Attempt, Job
from apps.jobs.states import State
from apps.projects.models import Membership, Project, Role
from apps.storage.models import Dataset
from apps.storage.stores import get_store
from calling import api, problem
from trainer.contract.messages import Batch
from trainer.contract.variables import artifact_prefix
from trainer.store import ObjectStore

MakeJob = Callable[..., Job]
V1 = "/api/v1"
OF_JOB = ("", "/metrics", "/events", "/logs", "/artifacts")
VERBS = ("cancel", "retry", "clone")


def names(response: Any) -> list[str]:
    assert response.status_code == 200, response.content
    return [row["name"] for row in response.json()["results"]]


@pytest.fixture
def submission(project: Project, dataset: Dataset) -> dict[str, Any]:
    return {
        "project": project.pk,
        "dataset": str(dataset.pk),
        "task_type": "object_detection",
        "model_name": "yolo11n",
        "epochs": 3,
        "batch_size": 4,
        "learning_rate": 0.01,
    }


@pytest.fixture
def elsewhere(stranger: AbstractUser) -> Project:
    """A project that only `stranger` belongs to."""
    project = Project.objects.create(name="Elsewhere")
    Membership.objects.create(project=project, user=stranger, role=Role.MANAGER)
    return project


@pytest.fixture
def launched(make_job: MakeJob, fake_executor: FakeExecutor, store: ObjectStore) -> Attempt:
    """The first attempt of a job that the fake executor has started."""
    job = make_job()
    assert scheduling.dispatch() == 1
    return Attempt.objects.get(job=job)


def say(attempt: Attempt, *events: tuple[str, dict[str, Any]], first: int = 1) -> None:
    """What the trainer of `attempt` reports, numbered from `first`."""
    now = datetime.now(UTC).isoformat()
    rows = [{"seq": seq, "type": kind, "at": now, "data": data} for seq, (kind, data) in enumerate(events, start=first)]
    batch = Batch.model_validate({"attempt": attempt.number, "events": rows})
    ingest(attempt.job_id, attempt.number, batch.events)


def epoch(number: int, fitness: float) -> tuple[str, dict[str, Any]]:
    return "epoch", {"epoch": number, "epochs": 3, "seconds": 1.5, "metrics": {"fitness": fitness, "loss": None}}


def artifact(name: str, key: str, size: int) -> tuple[str, dict[str, Any]]:
    return "artifact", {"kind": "best", "name": name, "key": key, "size": size, "sha256": "a" * 64, "epoch": 2}


class TestSigningIn:
    def test_nobody_is_let_in_and_is_told_how(self, db: None) -> None:
        response = api().get(f"{V1}/jobs")
        assert problem(response, 401)["type"] == "about:blank"
        assert response["WWW-Authenticate"] == "Token"

    def test_a_made_up_token_is_refused(self, db: None) -> None:
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION="Token 0000")
        problem(client.get(f"{V1}/projects"), 401)

    def test_the_token_of_somebody_who_left_is_refused(self, manager: AbstractUser) -> None:
        client = api(manager)
        assert client.get(f"{V1}/projects").status_code == 200
        manager.is_active = False
        manager.save()
        problem(client.get(f"{V1}/projects"), 401)

    def test_name_and_password_give_a_token_that_opens_the_api(self, trainer_user: AbstractUser) -> None:
        trainer_user.set_password("shelves and boxes")
        trainer_user.save()
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION="Token stale")  # does not keep anybody from a new one
        answer = client.post(f"{V1}/token", {"username": "trainer", "password": "shelves and boxes"}, format="json")
        assert answer.status_code == 200
        client.credentials(HTTP_AUTHORIZATION=f"Token {answer.json()['token']}")
        assert names(client.get(f"{V1}/projects")) == ["Shelves"]

    def test_a_wrong_password_gives_none(self, trainer_user: AbstractUser) -> None:
        answer = api().post(f"{V1}/token", {"username": "trainer", "password": "no"}, format="json")
        assert "non_field_errors" in problem(answer, 400)["errors"]
        assert not Token.objects.exists()

    def test_guessing_passwords_is_slowed_down(self, db: None) -> None:
        client = api()
        answers = [client.post(f"{V1}/token", {}, format="json") for _ in range(31)]
        assert {answer.status_code for answer in answers[:30]} == {400}
        problem(answers[30], 429)
        assert int(answers[30]["Retry-After"]) > 0

    def test_a_browser_session_reads_and_needs_a_csrf_token_to_write(
        self, trainer_user: AbstractUser, submission: dict[str, Any]
    ) -> None:
        browser = APIClient(enforce_csrf_checks=True)
        browser.force_login(trainer_user)
        assert browser.get(f"{V1}/jobs").status_code == 200
        assert "CSRF" in problem(browser.post(f"{V1}/jobs", submission, format="json"), 403)["detail"]
        assert not Job.objects.exists()


class TestProjectsAndDatasets:
    def test_everybody_sees_the_projects_they_belong_to(
        self, project: Project, elsewhere: Project, viewer: AbstractUser, stranger: AbstractUser, operator: AbstractUser
    ) -> None:
        assert names(api(viewer).get(f"{V1}/projects")) == ["Shelves"]
        assert names(api(stranger).get(f"{V1}/projects")) == ["Elsewhere"]
        assert names(api(operator).get(f"{V1}/projects")) == ["Elsewhere", "Shelves"]
        assert names(api(operator).get(f"{V1}/projects?ordering=-name")) == ["Shelves", "Elsewhere"]

    def test_a_project_is_shown_to_its_members_alone(
        self, project: Project, viewer: AbstractUser, stranger: AbstractUser
    ) -> None:
        assert api(viewer).get(f"{V1}/projects/{project.pk}").json()["name"] == "Shelves"
        problem(api(stranger).get(f"{V1}/projects/{project.pk}"), 404)

    def test_a_dataset_comes_with_its_versions_newest_first(
        self, dataset: Dataset, make_version: Callable[..., Any], viewer: AbstractUser
    ) -> None:
        make_version(dataset, size=9000)
        shown = api(viewer).get(f"{V1}/datasets/{dataset.pk}").json()
        assert shown["project"] == dataset.project_id
        assert [version["number"] for version in shown["versions"]] == [2, 1]
        newest = shown["versions"][0]
        assert newest["size"] == 9000
        assert newest["sha256"] == f"{2:064x}"
        assert newest["class_names"] == ["box", "can"]
        assert newest["images"] == {"train": 8, "val": 2}
        assert newest["instances"] == {"train": 24, "val": 6}

    def test_a_stranger_finds_no_dataset(self, dataset: Dataset, stranger: AbstractUser) -> None:
        assert names(api(stranger).get(f"{V1}/datasets")) == []
        problem(api(stranger).get(f"{V1}/datasets/{dataset.pk}"), 404)

    def test_datasets_are_filtered_by_project_and_task(
        self, dataset: Dataset, elsewhere: Project, operator: AbstractUser
    ) -> None:
        Dataset.objects.create(project=elsewhere, name="poses", task_type="pose_estimation")
        client = api(operator)
        assert names(client.get(f"{V1}/datasets")) == ["poses", "shelf photos"]
        assert names(client.get(f"{V1}/datasets?project={elsewhere.pk}")) == ["poses"]
        assert names(client.get(f"{V1}/datasets?task_type=object_detection")) == ["shelf photos"]
        assert "task_type" in problem(client.get(f"{V1}/datasets?task_type=cooking"), 400)["errors"]

    def test_a_list_of_datasets_costs_the_same_however_long_it_is(
        self, dataset: Dataset, make_version: Callable[..., Any], viewer: AbstractUser
    ) -> None:
        client = api(viewer)
        with CaptureQueriesContext(connection) as few:
            client.get(f"{V1}/datasets")
        for number in range(5):
            make_version(
                Dataset.objects.create(project=dataset.project, name=f"d{number}", task_type="pose_estimation")
            )
        with CaptureQueriesContext(connection) as many:
            assert len(names(client.get(f"{V1}/datasets"))) == 6
        assert len(many) == len(few)


class TestListingJobs:
    def test_the_list_costs_the_same_number_of_queries_however_long_it_is(
        self, make_job: MakeJob, viewer: AbstractUser
    ) -> None:
        client = api(viewer)
        make_job()
        with CaptureQueriesContext(connection) as few:
            client.get(f"{V1}/jobs")
        for _ in range(9):
            make_job()
        with CaptureQueriesContext(connection) as many:
            assert len(names(client.get(f"{V1}/jobs"))) == 10
        assert len(many) == len(few) <= 2

    def test_strangers_see_no_job_and_the_operator_sees_all(
        self, make_job: MakeJob, stranger: AbstractUser, viewer: AbstractUser, operator: AbstractUser
    ) -> None:
        make_job(name="one")
        assert names(api(stranger).get(f"{V1}/jobs")) == []
        assert names(api(viewer).get(f"{V1}/jobs")) == ["one"]
        assert names(api(operator).get(f"{V1}/jobs")) == ["one"]

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("state=cancelled", ["other"]),
            ("state=cancelled&state=queued", ["other", "small"]),
            ("state=running", []),
            ("model_name=yolo11s", ["other"]),
            ("task_type=object_detection", ["other", "small"]),
            ("task_type=pose_estimation", []),
            ("created_after=2026-01-02T00:00:00Z", ["other"]),
            ("created_before=2026-01-02T00:00:00Z", ["small"]),
            ("project=nosuch", []),
        ],
    )
    def test_a_filter_leaves_what_it_names(
        self, query: str, expected: list[str], make_job: MakeJob, viewer: AbstractUser
    ) -> None:
        small, other = make_job(name="small"), make_job(name="other", model_name="yolo11s")
        Job.objects.filter(pk=small.pk).update(created_at=datetime(2026, 1, 1, tzinfo=UTC))
        Job.objects.filter(pk=other.pk).update(created_at=datetime(2026, 1, 2, tzinfo=UTC), state=State.CANCELLED)
        assert names(api(viewer).get(f"{V1}/jobs?{query}")) == expected

    def test_jobs_are_filtered_by_project(
        self, make_job: MakeJob, make_version: Callable[..., Any], elsewhere: Project, operator: AbstractUser
    ) -> None:
        there = Dataset.objects.create(project=elsewhere, name="there", task_type="object_detection")
        make_version(there)
        here = make_job(name="here")
        make_job(name="there", project=elsewhere, dataset=there, by=operator)
        assert names(api(operator).get(f"{V1}/jobs?project={elsewhere.pk}")) == ["there"]
        assert names(api(operator).get(f"{V1}/jobs?project={here.project_id}")) == ["here"]

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("state=sleeping", "state"),
            ("created_after=yesterday", "created_after"),
            ("ordering=epochs", "ordering"),
            ("page_size=0", "page_size"),
            ("page_size=201", "page_size"),
            ("page_size=²", "page_size"),
            ("cursor=made-up", "cursor"),
            ("model_name=%00", "model_name"),
        ],
    )
    def test_a_filter_that_makes_no_sense_is_named(self, query: str, field: str, viewer: AbstractUser) -> None:
        assert list(problem(api(viewer).get(f"{V1}/jobs?{query}"), 400)["errors"]) == [field]

    @pytest.mark.parametrize(
        ("ordering", "expected"),
        [
            ("", ["e", "d", "c", "b", "a"]),
            ("id", ["a", "b", "c", "d", "e"]),
            ("-priority", ["b", "e", "d", "c", "a"]),
            ("priority", ["e", "d", "c", "a", "b"]),
        ],
    )
    def test_pages_follow_the_ordering_with_no_job_twice_or_missing(
        self, ordering: str, expected: list[str], make_job: MakeJob, viewer: AbstractUser
    ) -> None:
        for name in "abcde":
            make_job(name=name, priority=5 if name == "b" else 0)
        client, seen = api(viewer), []
        address = f"{V1}/jobs?page_size=2&ordering={ordering}"
        for page in range(3):
            answer = client.get(address)
            seen += names(answer)
            address = answer.json()["next"]
            assert (address is None) == (page == 2)
        assert seen == expected

    def test_jobs_submitted_between_two_pages_do_not_shift_them(self, make_job: MakeJob, viewer: AbstractUser) -> None:
        for name in "abc":
            make_job(name=name)
        client = api(viewer)
        first = client.get(f"{V1}/jobs?page_size=2&ordering=-priority")
        assert names(first) == ["c", "b"]
        make_job(name="late")
        assert names(client.get(first.json()["next"])) == ["a"]

    def test_a_cursor_is_good_for_its_own_ordering_alone(self, make_job: MakeJob, viewer: AbstractUser) -> None:
        for name in "ab":
            make_job(name=name)
        client = api(viewer)
        following = client.get(f"{V1}/jobs?page_size=1&ordering=id").json()["next"]
        assert names(client.get(following)) == ["b"]
        assert "cursor" in problem(client.get(following.replace("ordering=id", "ordering=-id")), 400)["errors"]


class TestSubmitting:
    def test_a_trainer_submits_a_job_and_is_told_where_it_is(
        self, submission: dict[str, Any], trainer_user: AbstractUser, dataset: Dataset
    ) -> None:
        client = api(trainer_user)
        asked = {**submission, "name": "baseline", "priority": 7, "hyperparameters": {"mosaic": 0.5}}
        answer = client.post(f"{V1}/jobs", asked, format="json")
        assert answer.status_code == 201, answer.content
        job = Job.objects.get()
        assert answer["Location"] == f"http://testserver{V1}/jobs/{job.pk}"
        shown = client.get(answer["Location"]).json()
        assert shown == answer.json()
        assert {name: shown[name] for name in asked} == asked
        assert (shown["state"], shown["created_by"]) == ("queued", "trainer")
        assert (shown["image_size"], shown["seed"], shown["pretrained"], shown["weights"]) == (640, 0, "auto", "")
        assert [(move["old"], move["new"], move["actor"]) for move in shown["history"]] == [("", "queued", "trainer")]
        assert shown["attempts"] == []

    @pytest.mark.parametrize("person", ["manager", "operator"])
    def test_managers_and_operators_submit_too(
        self, person: str, submission: dict[str, Any], request: pytest.FixtureRequest
    ) -> None:
        client = api(request.getfixturevalue(person))
        assert client.post(f"{V1}/jobs", submission, format="json").status_code == 201

    def test_the_version_asked_for_is_pinned_and_the_newest_without_one(
        self, submission: dict[str, Any], dataset: Dataset, make_version: Callable[..., Any], manager: AbstractUser
    ) -> None:
        make_version(dataset)
        client = api(manager)
        first = client.post(f"{V1}/jobs", {**submission, "dataset_version": 1}, format="json")
        newest = client.post(f"{V1}/jobs", submission, format="json")
        assert (first.json()["dataset_version"], newest.json()["dataset_version"]) == (1, 2)
        shown = client.get(f"{V1}/jobs/{first.json()['id']}").json()
        assert shown["dataset_sha256"] == dataset.versions.get(number=1).sha256
        assert shown["dataset_images"] == {"train": 8, "val": 2}
        assert shown["dataset_instances"] == {"train": 24, "val": 6}

    def test_a_viewer_may_not_submit(self, submission: dict[str, Any], viewer: AbstractUser) -> None:
        body = problem(api(viewer).post(f"{V1}/jobs", submission, format="json"), 403)
        assert body["type"] == "urn:trainyard:problem:not-allowed"
        assert not Job.objects.exists()

    def test_for_a_stranger_neither_project_nor_dataset_exists(
        self, submission: dict[str, Any], stranger: AbstractUser
    ) -> None:
        errors = problem(api(stranger).post(f"{V1}/jobs", submission, format="json"), 400)["errors"]
        made_up = {**submission, "project": "nosuch", "dataset": str(uuid.uuid4())}
        assert problem(api(stranger).post(f"{V1}/jobs", made_up, format="json"), 400)["errors"] == errors
        assert set(errors) == {"project", "dataset"}

    def test_every_wrong_field_is_named_at_once(self, submission: dict[str, Any], manager: AbstractUser) -> None:
        wrong = {**submission, "epochs": 0, "seed": "many", "hyperparameters": {"mosiac": 1}, "model_name": "yolo1"}
        body = problem(api(manager).post(f"{V1}/jobs", wrong, format="json"), 400)
        assert body["type"] == "urn:trainyard:problem:invalid"
        assert set(body["errors"]) == {"epochs", "seed", "hyperparameters", "model_name"}
        assert "did you mean mosaic" in body["errors"]["hyperparameters"][0]
        assert "epochs: " in body["detail"]
        assert not Job.objects.exists()

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"epoch": 5}, "epoch"),
            ({"dataset_version": 9}, "dataset_version"),
            ({"dataset_version": 10**30}, "dataset_version"),
            ({"dataset": "not-a-uuid"}, "dataset"),
            ({"dataset": None}, "dataset"),
            ({"name": "n" * 101}, "name"),
            ({"priority": 2**31}, "priority"),
            ({"priority": "high"}, "priority"),
            ({"epochs": None}, "epochs"),
            ({"project": {"id": 1}}, "project"),
            ({"project": "a\0"}, "project"),
            ({"name": "a\0"}, "name"),
        ],
    )
    def test_a_wrong_field_is_named(
        self, changes: dict[str, Any], field: str, submission: dict[str, Any], manager: AbstractUser
    ) -> None:
        answer = api(manager).post(f"{V1}/jobs", {**submission, **changes}, format="json")
        assert list(problem(answer, 400)["errors"]) == [field]
        assert not Job.objects.exists()

    def test_a_dataset_of_another_project_of_mine_is_refused(
        self, submission: dict[str, Any], elsewhere: Project, operator: AbstractUser
    ) -> None:
        asked = {**submission, "project": elsewhere.pk}
        assert "dataset" in problem(api(operator).post(f"{V1}/jobs", asked, format="json"), 400)["errors"]

    @pytest.mark.parametrize(("body", "status"), [("{", 400), ("[]", 400), ("7", 400), ("", 400)])
    def test_a_body_that_is_no_object_is_refused(self, body: str, status: int, manager: AbstractUser) -> None:
        problem(api(manager).post(f"{V1}/jobs", body, content_type="application/json"), status)

    def test_a_form_is_refused_as_a_media_type(self, manager: AbstractUser, submission: dict[str, Any]) -> None:
        problem(api(manager).post(f"{V1}/jobs", submission, format="multipart"), 415)


class TestAnotherProject:
    @pytest.mark.parametrize("path", OF_JOB)
    def test_a_stranger_reads_nothing_of_a_job(self, path: str, make_job: MakeJob, stranger: AbstractUser) -> None:
        problem(api(stranger).get(f"{V1}/jobs/{make_job().pk}{path}"), 404)

    @pytest.mark.parametrize("verb", VERBS)
    def test_a_stranger_cannot_touch_a_job(self, verb: str, make_job: MakeJob, stranger: AbstractUser) -> None:
        job = make_job()
        problem(api(stranger).post(f"{V1}/jobs/{job.pk}/{verb}", {}, format="json"), 404)
        job.refresh_from_db()
        assert job.state == State.QUEUED
        assert Job.objects.count() == 1

    @pytest.mark.parametrize("verb", VERBS)
    def test_a_viewer_may_look_but_not_touch(self, verb: str, make_job: MakeJob, viewer: AbstractUser) -> None:
        job = make_job()
        assert api(viewer).get(f"{V1}/jobs/{job.pk}").status_code == 200
        problem(api(viewer).post(f"{V1}/jobs/{job.pk}/{verb}", {}, format="json"), 403)
        job.refresh_from_db()
        assert job.state == State.QUEUED
        assert Job.objects.count() == 1

    @pytest.mark.parametrize("path", OF_JOB)
    def test_nobody_reads_anything(self, path: str, make_job: MakeJob) -> None:
        problem(api().get(f"{V1}/jobs/{make_job().pk}{path}"), 401)

    @pytest.mark.parametrize("number", ["0", "999999", "9" * 30])
    @pytest.mark.parametrize("path", OF_JOB)
    def test_a_job_that_is_not_there_is_not_found(self, path: str, number: str, viewer: AbstractUser) -> None:
        problem(api(viewer).get(f"{V1}/jobs/{number}{path}"), 404)


class TestVerbs:
    def test_cancelling_a_waiting_job_ends_it_in_words(self, make_job: MakeJob, trainer_user: AbstractUser) -> None:
        answer = api(trainer_user).post(f"{V1}/jobs/{make_job().pk}/cancel")
        assert answer.status_code == 200
        shown = answer.json()
        assert (shown["state"], shown["end_reason"], shown["reason"]) == (
            "cancelled",
            "cancelled",
            "Cancelled by a person",
        )
        assert shown["end_message"] == "Cancelled while it waited."
        assert [move["new"] for move in shown["history"]] == ["cancelled", "queued"]

    def test_a_teammate_may_cancel_too(self, make_job: MakeJob, manager: AbstractUser) -> None:
        assert api(manager).post(f"{V1}/jobs/{make_job().pk}/cancel").json()["history"][0]["actor"] == "manager"

    def test_cancelling_a_running_job_asks_its_trainer_to_stop(
        self, launched: Attempt, trainer_user: AbstractUser
    ) -> None:
        answer = api(trainer_user).post(f"{V1}/jobs/{launched.job_id}/cancel")
        assert answer.json()["state"] == "cancelling"

    @pytest.mark.parametrize(("state", "verb"), [("cancelled", "cancel"), ("succeeded", "retry"), ("queued", "retry")])
    def test_what_the_state_does_not_allow_is_a_conflict(
        self, state: str, verb: str, make_job: MakeJob, manager: AbstractUser
    ) -> None:
        job = make_job()
        Job.objects.filter(pk=job.pk).update(state=state)
        body = problem(api(manager).post(f"{V1}/jobs/{job.pk}/{verb}"), 409)
        assert body["type"] == "urn:trainyard:problem:illegal-move"
        assert state in body["detail"]
        assert Job.objects.get().state == state

    def test_a_cancelled_job_is_retried(self, make_job: MakeJob, trainer_user: AbstractUser) -> None:
        client, address = api(trainer_user), f"{V1}/jobs/{make_job().pk}"
        client.post(f"{address}/cancel")
        shown = client.post(f"{address}/retry").json()
        assert (shown["state"], shown["end_reason"], shown["reason"], shown["ended_at"]) == ("queued", "", "", None)

    def test_a_clone_is_like_its_original_but_for_the_changes(
        self, make_job: MakeJob, dataset: Dataset, make_version: Callable[..., Any], manager: AbstractUser
    ) -> None:
        original = make_job(name="baseline", seed=3, hyperparameters={"mosaic": 0.5})
        make_version(dataset)  # later data does not change what is cloned
        answer = api(manager).post(f"{V1}/jobs/{original.pk}/clone", {"epochs": 9, "priority": 2}, format="json")
        assert answer.status_code == 201, answer.content
        shown = answer.json()
        assert answer["Location"].endswith(f"{V1}/jobs/{shown['id']}")
        assert (shown["cloned_from"], shown["created_by"]) == (original.pk, "manager")
        assert (shown["epochs"], shown["priority"], shown["dataset_version"]) == (9, 2, 1)
        assert (shown["name"], shown["seed"], shown["hyperparameters"]) == ("baseline", 3, {"mosaic": 0.5})

    def test_a_clone_needs_no_body(self, make_job: MakeJob, manager: AbstractUser) -> None:
        assert api(manager).post(f"{V1}/jobs/{make_job().pk}/clone").json()["epochs"] == 3

    def test_a_clone_may_take_another_version_of_the_dataset(
        self, make_job: MakeJob, dataset: Dataset, make_version: Callable[..., Any], manager: AbstractUser
    ) -> None:
        client, address = api(manager), f"{V1}/jobs/{make_job().pk}/clone"
        make_version(dataset)
        assert client.post(address, {"dataset_version": 2}, format="json").json()["dataset_version"] == 2
        assert client.post(address, {"dataset": str(dataset.pk)}, format="json").json()["dataset_version"] == 2
        refused = client.post(address, {"dataset_version": 3}, format="json")
        assert list(problem(refused, 400)["errors"]) == ["dataset_version"]

    @pytest.mark.parametrize("changes", [{"epochs": 0}, {"state": "succeeded"}, {"project": "abc"}, {"by": 1}])
    def test_a_clone_with_wrong_changes_is_not_made(
        self, changes: dict[str, Any], make_job: MakeJob, manager: AbstractUser
    ) -> None:
        answer = api(manager).post(f"{V1}/jobs/{make_job().pk}/clone", changes, format="json")
        assert list(problem(answer, 400)["errors"]) == list(changes)
        assert Job.objects.count() == 1


class TestWhatAnAttemptLeaves:
    def test_progress_is_shown_as_the_trainer_said_it(self, launched: Attempt, viewer: AbstractUser) -> None:
        progress = {"phase": "training", "epoch": 2, "epochs": 3, "fraction": 0.5, "eta_seconds": 90}
        said = {**progress, "losses": {"box": 1.25, "cls": None}, "mlflow_experiment_id": "4", "mlflow_run_id": "r1"}
        say(launched, ("started", {"host": "node-7"}), epoch(1, 0.4), ("progress", said))
        shown = api(viewer).get(f"{V1}/jobs/{launched.job_id}").json()
        assert shown["state"] == "running"
        now = shown["progress"]
        assert (now["phase"], now["epoch"], now["epochs"], now["fraction"]) == ("training", 1, 3, 0.5)
        assert 80 < now["eta_seconds"] <= 90
        assert now["losses"] == {"box": 1.25, "cls": None}
        assert (now["best_epoch"], now["best_metrics"]) == (1, {"fitness": 0.4, "loss": None})
        assert now["last_message_at"]
        (attempt,) = shown["attempts"]
        assert (attempt["number"], attempt["node"], attempt["exit_code"]) == (1, "node-7", None)
        assert attempt["mlflow_run_url"].endswith("/#/experiments/4/runs/r1")

    def test_a_failed_job_tells_why_and_on_what_evidence(self, launched: Attempt, viewer: AbstractUser) -> None:
        failure = {"reason": "gpu_out_of_memory", "message": "No memory left.", "traceback": "Traceback: there"}
        say(launched, ("failed", failure))
        Attempt.objects.filter(pk=launched.pk).update(exit_code=71, evidence="exit code 71")
        shown = api(viewer).get(f"{V1}/jobs/{launched.job_id}").json()
        assert (shown["state"], shown["end_reason"], shown["reason"]) == (
            "failed",
            "gpu_out_of_memory",
            "GPU out of memory",
        )
        assert "Lower the batch size" in shown["end_message"]
        assert shown["progress"]["eta_seconds"] is None
        assert shown["history"][0]["evidence"] == "Traceback: there"
        (attempt,) = shown["attempts"]
        assert (attempt["exit_code"], attempt["signal"], attempt["evidence"]) == (71, None, "exit code 71")
        assert attempt["mlflow_run_url"] is None

    def test_why_a_job_waits_is_shown(
        self, launched: Attempt, make_job: MakeJob, viewer: AbstractUser, fake_executor: FakeExecutor
    ) -> None:
        waiting = make_job()
        scheduling.dispatch()
        shown = api(viewer).get(f"{V1}/jobs/{waiting.pk}").json()
        assert shown["progress"]["pending_reason"].startswith("Number 1 in the queue")

    def test_metrics_come_by_epoch_with_null_for_what_is_not_finite(
        self, launched: Attempt, viewer: AbstractUser
    ) -> None:
        say(launched, epoch(2, 0.6), epoch(1, 0.4))
        body = api(viewer).get(f"{V1}/jobs/{launched.job_id}/metrics").json()
        assert body["attempt"] == 1
        assert [(row["epoch"], row["seconds"], row["metrics"]) for row in body["results"]] == [
            (1, 1.5, {"fitness": 0.4, "loss": None}),
            (2, 1.5, {"fitness": 0.6, "loss": None}),
        ]

    def test_an_earlier_attempt_is_asked_for_by_number(self, launched: Attempt, viewer: AbstractUser) -> None:
        say(launched, epoch(1, 0.4))
        Attempt.objects.filter(pk=launched.pk).update(ended_at=datetime.now(UTC))
        second = Attempt.objects.create(job=launched.job, number=2)
        Job.objects.filter(pk=launched.job_id).update(attempt_number=2)
        say(second, epoch(1, 0.9))
        client, address = api(viewer), f"{V1}/jobs/{launched.job_id}/metrics"

        def fitness(query: str) -> tuple[int, float]:
            body = client.get(f"{address}{query}").json()
            return body["attempt"], body["results"][0]["metrics"]["fitness"]

        assert fitness("") == fitness("?attempt=2") == (2, 0.9)
        assert fitness("?attempt=1") == (1, 0.4)
        problem(client.get(f"{address}?attempt=3"), 404)
        assert "attempt" in problem(client.get(f"{address}?attempt=first"), 400)["errors"]

    def test_before_the_first_launch_there_is_nothing_and_no_error(
        self, make_job: MakeJob, viewer: AbstractUser
    ) -> None:
        client, address = api(viewer), f"{V1}/jobs/{make_job().pk}"
        assert client.get(f"{address}/metrics").json() == {"attempt": None, "results": []}
        assert client.get(f"{address}/artifacts").json() == {"attempt": None, "results": []}
        assert client.get(f"{address}/events?after=4").json() == {"attempt": None, "results": [], "next_after": 4}
        log = client.get(f"{address}/logs")
        assert (log.content, log["X-Log-Size"]) == (b"", "0")

    def test_events_are_read_on_from_where_one_left_off(self, launched: Attempt, viewer: AbstractUser) -> None:
        say(launched, ("started", {"host": "node-7"}), epoch(1, 0.4), epoch(2, 0.6))
        client, address = api(viewer), f"{V1}/jobs/{launched.job_id}/events"
        first = client.get(f"{address}?limit=2").json()
        assert [(row["seq"], row["type"]) for row in first["results"]] == [(1, "started"), (2, "epoch")]
        assert first["results"][0]["data"]["host"] == "node-7"
        rest = client.get(f"{address}?after={first['next_after']}").json()
        assert [row["seq"] for row in rest["results"]] == [3]
        assert client.get(f"{address}?after=3").json() == {"attempt": 1, "results": [], "next_after": 3}

    @pytest.mark.parametrize("query", ["after=-1", "after=x", "limit=0", "limit=1001", "after=99999999999999999999"])
    def test_events_refuse_numbers_that_make_no_sense(
        self, query: str, launched: Attempt, viewer: AbstractUser
    ) -> None:
        answer = api(viewer).get(f"{V1}/jobs/{launched.job_id}/events?{query}")
        assert list(problem(answer, 400)["errors"]) == [query.partition("=")[0]]


class TestLogs:
    @pytest.mark.parametrize(
        ("query", "text", "start", "end"),
        [
            ("", b"one\ntwo\n", 0, 8),
            ("?offset=4", b"two\n", 4, 8),
            ("?offset=-4", b"two\n", 4, 8),
            ("?offset=-100&limit=3", b"one", 0, 3),
            ("?offset=50", b"", 8, 8),
        ],
    )
    def test_the_log_is_read_from_either_end(
        self,
        query: str,
        text: bytes,
        start: int,
        end: int,
        launched: Attempt,
        fake_executor: FakeExecutor,
        viewer: AbstractUser,
    ) -> None:
        launched.refresh_from_db()
        fake_executor.write_log(launched.reference, b"one\ntwo\n")
        answer = api(viewer).get(f"{V1}/jobs/{launched.job_id}/logs{query}", HTTP_ACCEPT="application/json")
        assert answer.status_code == 200
        assert answer["Content-Type"] == "text/plain; charset=utf-8"
        assert answer.content == text
        assert (answer["X-Log-Offset"], answer["X-Log-Next-Offset"], answer["X-Log-Size"]) == (
            str(start),
            str(end),
            "8",
        )

    def test_a_limit_over_a_mebibyte_is_refused(self, launched: Attempt, viewer: AbstractUser) -> None:
        answer = api(viewer).get(f"{V1}/jobs/{launched.job_id}/logs?limit=1048577")
        assert "limit" in problem(answer, 400)["errors"]

    def test_a_log_that_is_no_longer_kept_is_not_found(
        self, launched: Attempt, fake_executor: FakeExecutor, viewer: AbstractUser
    ) -> None:
        fake_executor.attempts.clear()
        body = problem(api(viewer).get(f"{V1}/jobs/{launched.job_id}/logs"), 404)
        assert body["type"] == "urn:trainyard:problem:log-gone"

    def test_an_executor_that_does_not_answer_is_said_to_be_unavailable(
        self, launched: Attempt, fake_executor: FakeExecutor, viewer: AbstractUser, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_answer(*args: Any, **kwargs: Any) -> None:
            raise ExecutorError("The cluster is away.")

        monkeypatch.setattr(fake_executor, "logs", no_answer)
        body = problem(api(viewer).get(f"{V1}/jobs/{launched.job_id}/logs"), 503)
        assert body["detail"] == "The cluster is away."


class TestArtifacts:
    @pytest.fixture
    def best(self, launched: Attempt, store: ObjectStore) -> Artifact:
        key = f"{artifact_prefix(launched.job.project_id, launched.job_id, launched.number)}/best.pt"
        store.put_bytes(key, b"weights" * 1000)
        say(launched, artifact("weights/best é.pt", key, 7000))
        return Artifact.objects.get()

    def _address(self, artifact: Artifact) -> str:
        return f"{V1}/jobs/{artifact.attempt.job_id}/artifacts/{artifact.pk}/download"

    def test_stored_files_are_listed(self, best: Artifact, viewer: AbstractUser) -> None:
        (row,) = api(viewer).get(f"{V1}/jobs/{best.attempt.job_id}/artifacts").json()["results"]
        assert (row["id"], row["kind"], row["name"], row["size"]) == (best.pk, "best", "weights/best é.pt", 7000)
        assert (row["sha256"], row["epoch"]) == ("a" * 64, 2)

    def test_a_file_in_a_folder_is_streamed_whole_as_an_attachment(self, best: Artifact, viewer: AbstractUser) -> None:
        answer: Any = api(viewer).get(self._address(best), HTTP_ACCEPT="application/json")
        assert answer.status_code == 200
        assert answer.streaming
        assert b"".join(answer.streaming_content) == b"weights" * 1000
        assert answer["Content-Length"] == "7000"
        assert answer["Content-Disposition"] == "attachment; filename*=utf-8''best%20%C3%A9.pt"
        assert answer["Content-Type"] == "application/octet-stream"

    def test_the_length_is_that_of_the_file_as_it_lies_there(
        self, best: Artifact, store: ObjectStore, viewer: AbstractUser
    ) -> None:
        store.put_bytes(best.key, b"a later checkpoint")
        answer: Any = api(viewer).get(self._address(best))
        assert answer["Content-Length"] == "18"
        assert b"".join(answer.streaming_content) == b"a later checkpoint"

    def test_a_store_with_a_server_is_redirected_to(self, best: Artifact, viewer: AbstractUser, settings: Any) -> None:
        settings.STORE_ENVIRONMENT = {
            "STORAGE_TYPE": "minio",
            "MINIO_ENDPOINT": "http://store.example:9000",
            "MINIO_ACCESS_KEY": "key",
            "MINIO_SECRET_KEY": "secret",
            "MINIO_BUCKET": "trainyard",
        }
        get_store.cache_clear()  # links are signed without asking the server
        answer = api(viewer).get(self._address(best))
        assert answer.status_code == 302
        assert answer["Location"].startswith(f"http://store.example:9000/trainyard/{best.key}?")
        assert "X-Amz-Expires=300" in answer["Location"]
        assert answer["Cache-Control"] == "no-store"

    def test_a_file_that_was_deleted_is_not_found(self, best: Artifact, viewer: AbstractUser) -> None:
        get_store().delete(best.key)
        body = problem(api(viewer).get(self._address(best)), 404)
        assert body["type"] == "urn:trainyard:problem:file-gone"

    def test_a_stranger_and_nobody_get_no_file(self, best: Artifact, stranger: AbstractUser) -> None:
        problem(api(stranger).get(self._address(best)), 404)
        problem(api().get(self._address(best)), 401)

    def test_a_file_is_found_under_its_own_job_alone(
        self, best: Artifact, make_job: MakeJob, viewer: AbstractUser
    ) -> None:
        problem(api(viewer).get(f"{V1}/jobs/{make_job().pk}/artifacts/{best.pk}/download"), 404)


class TestProblems:
    @pytest.mark.parametrize("path", ["/", "/nowhere", "/projects/%00", "/jobs/", "/jobs/one", "/datasets/not-a-uuid"])
    @pytest.mark.parametrize("method", ["get", "post"])
    def test_an_address_that_is_none_is_a_problem_too(self, path: str, method: str, db: None) -> None:
        problem(getattr(api(), method)(f"{V1}{path}"), 404)

    def test_a_method_that_is_none_is_told_what_there_is(self, viewer: AbstractUser) -> None:
        answer = api(viewer).delete(f"{V1}/jobs")
        problem(answer, 405)
        assert "POST" in answer["Allow"]

    def test_asking_for_html_is_not_acceptable(self, viewer: AbstractUser) -> None:
        problem(api(viewer).get(f"{V1}/jobs", HTTP_ACCEPT="text/html"), 406)


class TestSchema:
    @pytest.fixture
    def schema(self, db: None, tmp_path: Path) -> dict[str, Any]:
        import yaml

        target = tmp_path / "schema.yaml"
        call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(target))
        loaded: dict[str, Any] = yaml.safe_load(target.read_text())
        return loaded

    def test_every_operation_has_a_title_a_tag_and_its_problems(self, schema: dict[str, Any]) -> None:
        operations = {
            operation["operationId"]: operation for path in schema["paths"].values() for operation in path.values()
        }
        assert len(operations) >= 16
        assert {tag for each in operations.values() for tag in each["tags"]} == {"auth", "projects", "datasets", "jobs"}
        for name, operation in operations.items():
            assert operation["summary"], name
            refused = "400" if name == "token_obtain" else "401"
            assert "application/problem+json" in operation["responses"][refused]["content"], name

    def test_the_bounds_of_a_training_are_those_of_the_contract(self, schema: dict[str, Any]) -> None:
        submission = schema["components"]["schemas"]["JobSubmission"]
        assert submission["properties"]["epochs"]["maximum"] == 100_000
        assert set(submission["required"]) == {
            "project",
            "dataset",
            "task_type",
            "model_name",
            "epochs",
            "batch_size",
            "learning_rate",
        }
        changes = schema["components"]["schemas"]["JobChanges"]
        assert "required" not in changes
        assert "default" not in changes["properties"]["image_size"]
