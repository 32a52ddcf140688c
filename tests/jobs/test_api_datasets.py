"""Datasets, versions, uploads and imports over HTTP."""

import csv
import io
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import AbstractUser
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from apps.projects.models import Project
from apps.storage import imports
from apps.storage.models import Dataset, DatasetFinding, DatasetImport, FindingCount, ImportState
from apps.storage.sample import draw_sample
from apps.storage.services import import_source
from calling import api, problem
from trainer.store import ObjectStore

V1 = "/api/v1"


@pytest.fixture(autouse=True)
def _places(settings: Any, tmp_path: Path, store: ObjectStore) -> None:
    settings.DATA_DIR = tmp_path / "data"


@pytest.fixture
def archive(tmp_path: Path) -> bytes:
    draw_sample(tmp_path / "shapes", train=4, val=2, size=64)
    return Path(shutil.make_archive(str(tmp_path / "shapes"), "zip", tmp_path / "shapes")).read_bytes()


def begin(client: APIClient, dataset: Dataset | str, **asked: Any) -> Any:
    pk = dataset.pk if isinstance(dataset, Dataset) else dataset
    body = {"filename": "shapes.zip", "size": 1000, **asked}
    return client.post(f"{V1}/datasets/{pk}/imports", body, format="json")


def put(client: APIClient, url: str, data: bytes, **headers: Any) -> Any:
    return client.put(url, data, content_type="application/octet-stream", **headers)


class TestMakingOne:
    def test_a_dataset_is_made_filled_and_trained_on(
        self, project: Project, trainer_user: AbstractUser, archive: bytes
    ) -> None:
        client = api(trainer_user)
        asked = {"project": project.pk, "name": "shapes", "task_type": "object_detection"}
        made = client.post(f"{V1}/datasets", asked, format="json")
        assert made.status_code == 201, made.content
        assert made["Location"].endswith(f"{V1}/datasets/{made.json()['id']}")
        assert made.json()["versions"] == []

        begun = begin(client, made.json()["id"], size=len(archive))
        assert begun.status_code == 201, begun.content
        at, shown = begun["Location"], begun.json()
        assert (shown["state"], shown["part_count"], shown["parts"]) == ("uploading", 1, [])
        asked_urls = client.post(f"{at}/parts", {"numbers": [1]}, format="json").json()["urls"]
        assert put(client, asked_urls["1"], archive).status_code == 204
        assert client.get(at).json()["parts"] == [{"number": 1, "size": len(archive)}]
        assert client.post(f"{at}/complete").json()["state"] == "queued"
        imports.run_import(uuid.UUID(shown["id"]))

        ended = client.get(at).json()
        assert (ended["state"], ended["version"]) == ("succeeded", 1), ended
        (version,) = client.get(made["Location"]).json()["versions"]
        assert (version["images"], version["trainable"], version["errors"]) == ({"train": 4, "val": 2}, True, 0)
        assert version["files"] == 12
        detail = client.get(f"{made['Location']}/versions/1").json()
        assert detail["sha256"] == version["sha256"]
        assert detail["statistics"]

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"name": ""}, "name"),
            ({"name": "shelf photos"}, "name"),
            ({"name": "x" * 101}, "name"),
            ({"task_type": "cooking"}, "task_type"),
            ({"project": "nowhere"}, "project"),
        ],
    )
    def test_what_is_wrong_is_told_by_field(
        self, changes: dict[str, str], field: str, dataset: Dataset, trainer_user: AbstractUser
    ) -> None:
        asked = {"project": dataset.project_id, "name": "new", "task_type": "object_detection", **changes}
        answer = problem(api(trainer_user).post(f"{V1}/datasets", asked, format="json"), 400)
        assert set(answer["errors"]) == {field}

    def test_a_viewer_makes_none(self, project: Project, viewer: AbstractUser) -> None:
        asked = {"project": project.pk, "name": "new", "task_type": "object_detection"}
        problem(api(viewer).post(f"{V1}/datasets", asked, format="json"), 403)


class TestUploading:
    def test_an_upload_is_gone_on_with_unless_a_new_one_is_asked_for(
        self, dataset: Dataset, trainer_user: AbstractUser
    ) -> None:
        client = api(trainer_user)
        first = begin(client, dataset)
        again = begin(client, dataset)
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json()["id"] == again.json()["id"]
        assert begin(client, dataset, resume=False).json()["id"] != first.json()["id"]
        assert begin(client, dataset, size=1001).status_code == 201

    def test_an_import_is_listed_and_cancelled(self, dataset: Dataset, trainer_user: AbstractUser) -> None:
        client = api(trainer_user)
        at = begin(client, dataset)["Location"]
        assert len(client.get(f"{V1}/datasets/{dataset.pk}/imports").json()["results"]) == 1
        assert client.delete(at).status_code == 204
        assert client.get(at).json()["state"] == "cancelled"
        assert problem(client.delete(at), 409)["type"].endswith("import-state")
        problem(client.post(f"{at}/complete"), 409)
        problem(client.post(f"{at}/parts", {"numbers": [1]}, format="json"), 409)
        problem(put(client, f"{at}/parts/1", b"x" * 1000), 409)

    def test_what_is_wrong_with_an_upload_is_told_by_field(self, dataset: Dataset, trainer_user: AbstractUser) -> None:
        client = api(trainer_user)
        for asked, field in (
            ({"filename": "a.exe"}, "filename"),
            ({"size": 0}, "size"),
            ({"format": "runes"}, "format"),
            ({"val_share": 2}, "val_share"),
        ):
            assert set(problem(begin(client, dataset, **asked), 400)["errors"]) == {field}
        at = begin(client, dataset)["Location"]
        for numbers in ([], [0], ["x"], [2], list(range(1, 1002))):
            problem(client.post(f"{at}/parts", {"numbers": numbers}, format="json"), 400)
        assert "1 of 1 parts" in problem(client.post(f"{at}/complete"), 400)["detail"]

    def test_a_part_must_have_its_size_and_say_so(self, dataset: Dataset, trainer_user: AbstractUser) -> None:
        client = api(trainer_user)
        at = begin(client, dataset)["Location"]
        assert "Part 1 has 1000 bytes" in problem(put(client, f"{at}/parts/1", b"short"), 400)["detail"]
        problem(put(client, f"{at}/parts/2", b"x" * 1000), 400)
        problem(put(client, f"{at}/parts/1", b"x" * 1000, CONTENT_LENGTH=""), 411)
        assert put(client, f"{at}/parts/1", b"x" * 1000).status_code == 204

    def test_a_browser_needs_its_csrf_token_and_nothing_else(self, dataset: Dataset, manager: AbstractUser) -> None:
        at = begin(api(manager), dataset)["Location"]
        browser = Client(enforce_csrf_checks=True)
        browser.force_login(manager)
        kind = "application/octet-stream"
        assert browser.put(f"{at}/parts/1", b"x" * 1000, content_type=kind).status_code == 403
        browser.cookies["csrftoken"] = "a" * 32
        headers = {"X-CSRFToken": "a" * 32}
        assert browser.put(f"{at}/parts/1", b"x" * 1000, content_type=kind, headers=headers).status_code == 204

    def test_members_without_the_right_and_strangers_are_refused(
        self, dataset: Dataset, trainer_user: AbstractUser, viewer: AbstractUser, stranger: AbstractUser
    ) -> None:
        at = begin(api(trainer_user), dataset)["Location"]
        for person, status in ((viewer, 403), (stranger, 404)):
            client = api(person)
            problem(begin(client, dataset), status)
            problem(client.post(f"{at}/parts", {"numbers": [1]}, format="json"), status)
            problem(put(client, f"{at}/parts/1", b"x" * 1000), status)
            problem(client.post(f"{at}/complete"), status)
            problem(client.delete(at), status)
        assert api(viewer).get(at).status_code == 200
        problem(api(stranger).get(at), 404)
        problem(api(stranger).get(f"{V1}/datasets/{dataset.pk}/imports"), 404)
        problem(api().get(at), 401)
        assert DatasetImport.objects.get().state == ImportState.UPLOADING


class TestVersions:
    @pytest.fixture
    def two(self, project: Project, tmp_path: Path) -> str:
        """Where a dataset with two versions is."""
        folder = tmp_path / "two"
        draw_sample(folder, train=4, val=2, size=64)
        asked: dict[str, Any] = {"project": project, "name": "two", "task_type": "object_detection", "by": None}
        first = import_source(str(folder), **asked).version
        (folder / "labels" / "train" / "sample-0000.txt").write_text("0 0.5 0.5 0.2 0.2\n")
        (folder / "images" / "train" / "sample-0001.jpg").unlink()
        (folder / "labels" / "train" / "sample-0001.txt").unlink()
        import_source(str(folder), **asked)
        return f"{V1}/datasets/{first.dataset_id}/versions"

    def test_two_versions_are_compared(self, two: str, viewer: AbstractUser) -> None:
        client = api(viewer)
        found = client.get(f"{two}/2/diff?with=1").json()
        assert found["counts"] == {"added": 0, "removed": 1, "replaced": 0, "relabelled": 1}
        assert (found["old"], found["new"], found["classes"]) == (1, 2, [])
        (row,) = client.get(f"{two}/2/diff/removed?with=1").json()["results"]
        assert row["path"] == "images/train/sample-0001.jpg"
        problem(client.get(f"{two}/2/diff"), 400)
        problem(client.get(f"{two}/2/diff?with=9"), 404)
        problem(client.get(f"{two}/2/diff/moved?with=1"), 404)

    def test_a_manager_deletes_a_version_that_no_job_uses(
        self, two: str, trainer_user: AbstractUser, manager: AbstractUser, stranger: AbstractUser
    ) -> None:
        problem(api(stranger).delete(f"{two}/1"), 404)
        problem(api(trainer_user).delete(f"{two}/1"), 403)
        assert api(manager).delete(f"{two}/1").status_code == 204
        problem(api(manager).get(f"{two}/1"), 404)

    def test_a_version_that_a_job_uses_is_kept(self, make_job: Callable[..., Any], manager: AbstractUser) -> None:
        version = make_job().dataset_version
        at = f"{V1}/datasets/{version.dataset_id}/versions/{version.number}"
        assert "jobs were trained on it" in problem(api(manager).delete(at), 409)["detail"]
        assert api(manager).get(at).status_code == 200

    def test_findings_are_paged_filtered_and_downloaded(
        self, dataset: Dataset, viewer: AbstractUser, stranger: AbstractUser
    ) -> None:
        version = dataset.versions.get()
        DatasetFinding.objects.bulk_create(
            DatasetFinding(version=version, severity=severity, code=code, message="=1+1", path=f"{number}.jpg")
            for severity, code in (("error", "box_empty"), ("warning", "tiny"))
            for number in range(60)
        )
        FindingCount.objects.create(version=version, severity="error", code="box_empty", number=70)
        at, client = f"{V1}/datasets/{dataset.pk}/versions/1", api(viewer)
        page = client.get(f"{at}/findings").json()
        assert len(page["results"]) == 50
        rest = client.get(page["next"]).json()["results"]
        assert rest[0]["path"] == "50.jpg"
        assert len(client.get(f"{at}/findings?code=tiny&page_size=200").json()["results"]) == 60
        assert client.get(f"{at}/findings?severity=error&code=tiny").json()["results"] == []
        problem(client.get(f"{at}/findings?severity=odd"), 400)
        problem(client.get(f"{at}/findings?code=%00"), 400)
        with CaptureQueriesContext(connection) as queries:
            table = client.get(f"{at}/findings.csv?severity=error", HTTP_ACCEPT="text/csv")
            rows = list(csv.reader(io.StringIO(b"".join(table.streaming_content).decode())))
        assert len(queries) < 10
        assert (len(rows), rows[1]) == (62, ["error", "box_empty", "0.jpg", "", "'=1+1"])
        assert "10 more" in rows[-1][4]
        assert "findings.csv" in table["Content-Disposition"]
        for path in ("", "/findings", "/findings.csv", "/diff?with=1"):
            problem(api(stranger).get(at + path), 404)
