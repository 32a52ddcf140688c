"""What every test can use: people with each role, a project, a dataset, jobs, and stand-ins for the outside.

People have no password: `client.force_login(person)`, or a token for the API. Nothing here starts a process, opens
a socket or writes outside a temporary folder.
"""

# ruff: noqa: E402 - the environment comes before the settings that read it, and those before the models

import atexit
import os
import shutil
import tempfile

_FOLDER = tempfile.mkdtemp(prefix="trainyard-tests-")
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
os.environ["DATA_DIR"] = _FOLDER
os.environ["CELERY_BROKER_URL"] = "memory://"
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import django

django.setup()

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser
from django.core.cache import cache
from django.test import Client

from apps.executor.fake import FakeExecutor
from apps.executor.registry import get_executor, reset_executor
from apps.jobs import services
from apps.jobs.models import Job
from apps.projects.models import Membership, Project, Role
from apps.storage.models import Dataset, DatasetVersion
from apps.storage.stores import get_store
from trainer.store import ObjectStore

MakeJob = Callable[..., Job]
MakeVersion = Callable[..., DatasetVersion]
SignIn = Callable[[AbstractUser], Client]


@pytest.fixture(autouse=True)
def _forget_throttles() -> None:
    """Requests counted in one test do not slow down the next."""
    cache.clear()


def _member(project: Project, name: str, role: Role) -> AbstractUser:
    user = get_user_model().objects.create_user(name)
    Membership.objects.create(project=project, user=user, role=role)
    return user


@pytest.fixture
def operator(db: None) -> AbstractUser:
    """A superuser, member of nothing."""
    return get_user_model().objects.create_superuser("operator")


@pytest.fixture
def stranger(db: None) -> AbstractUser:
    """Somebody with an account and no project."""
    return get_user_model().objects.create_user("stranger")


@pytest.fixture
def sign_in() -> SignIn:
    """A client of that person, as staff: nobody else is let into the admin."""

    def sign_in(person: AbstractUser) -> Client:
        person.is_staff = True
        person.save()
        client = Client()
        client.force_login(person)
        return client

    return sign_in


@pytest.fixture
def console(sign_in: SignIn, operator: AbstractUser) -> Client:
    return sign_in(operator)


@pytest.fixture
def project(db: None) -> Project:
    return Project.objects.create(name="Shelves")


@pytest.fixture
def manager(project: Project) -> AbstractUser:
    return _member(project, "manager", Role.MANAGER)


@pytest.fixture
def trainer_user(project: Project) -> AbstractUser:
    """Who may run jobs in `project`, and owns those that `make_job` makes."""
    return _member(project, "trainer", Role.TRAINER)


@pytest.fixture
def viewer(project: Project) -> AbstractUser:
    return _member(project, "viewer", Role.VIEWER)


@pytest.fixture
def make_version() -> MakeVersion:
    """Adds the next version to a dataset: the row alone, with no archive behind it."""

    def make(dataset: Dataset, **fields: Any) -> DatasetVersion:
        number = dataset.versions.count() + 1
        described = {
            "sha256": f"{number:064x}",
            "size": 4096,
            "class_names": ["box", "can"],
            "images": {"train": 8, "val": 2},
            "instances": {"train": 24, "val": 6},
        }
        return DatasetVersion.objects.create(dataset=dataset, number=number, **{**described, **fields})

    return make


@pytest.fixture
def dataset(project: Project, make_version: MakeVersion) -> Dataset:
    """For object detection, in `project`, with version 1."""
    dataset = Dataset.objects.create(project=project, name="shelf photos", task_type="object_detection")
    make_version(dataset)
    return dataset


@pytest.fixture
def make_job(project: Project, dataset: Dataset, trainer_user: AbstractUser) -> MakeJob:
    """Submits a small job as `trainer_user`. Give it any argument of `services.submit` to have it otherwise."""

    def make(**overrides: Any) -> Job:
        asked = {
            "project": project,
            "dataset": dataset,
            "by": trainer_user,
            "task_type": "object_detection",
            "model_name": "yolo11n",
            "epochs": 3,
            "batch_size": 4,
            "learning_rate": 0.01,
        }
        return services.submit(**{**asked, **overrides})

    return make


@pytest.fixture
def fake_executor(settings: Any) -> Iterator[FakeExecutor]:
    """The platform's executor for the test: it starts nothing, and the test plays the trainers' part."""
    settings.EXECUTOR = "apps.executor.fake.FakeExecutor"
    reset_executor()
    executor = get_executor()
    assert isinstance(executor, FakeExecutor)
    yield executor
    reset_executor()


@pytest.fixture
def store(settings: Any, tmp_path: Path) -> Iterator[ObjectStore]:
    """The platform's object store for the test: an empty folder."""
    settings.STORE_ENVIRONMENT = {"STORAGE_TYPE": "local", "LOCAL_STORAGE_ROOT": str(tmp_path / "store")}
    get_store.cache_clear()
    yield get_store()
    get_store.cache_clear()
