"""Datasets to import, and the way of an archive through an upload."""

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import AbstractUser

from apps.projects.models import Project
from apps.storage import imports, uploads
from apps.storage.models import Dataset, DatasetImport
from apps.storage.sample import draw_sample
from apps.storage.stores import get_store
from importing import send
from servers.s3 import S3Service
from servers.swift import run_swift
from trainer.store import ObjectStore

Upload = Callable[..., DatasetImport]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "drawn"
    draw_sample(folder, train=6, val=2, size=64)
    return folder


@pytest.fixture
def sample(drawn: Path, tmp_path: Path) -> Path:
    """A small dataset that a test may change."""
    return Path(shutil.copytree(drawn, tmp_path / "sample"))


@pytest.fixture
def archive(sample: Path, tmp_path: Path) -> Path:
    return Path(shutil.make_archive(str(tmp_path / "shapes"), "zip", sample))


@pytest.fixture
def shapes(project: Project) -> Dataset:
    """An empty dataset."""
    return Dataset.objects.create(project=project, name="shapes", task_type="object_detection")


@pytest.fixture
def data_dir(settings: Any, tmp_path: Path) -> Path:
    settings.DATA_DIR = tmp_path / "data"
    return Path(settings.DATA_DIR)


@pytest.fixture
def upload(shapes: Dataset, trainer_user: AbstractUser, store: ObjectStore, data_dir: Path) -> Upload:
    """Uploads a file into `shapes`, part by part through the platform, and queues its import."""

    def run(path: Path, dataset: Dataset = shapes, **options: Any) -> DatasetImport:
        size = path.stat().st_size
        imp = uploads.start_upload(dataset=dataset, filename=path.name, size=size, by=trainer_user, options=options)
        send(imp, path)
        return uploads.complete_upload(imp, trainer_user)

    return run


@pytest.fixture
def carry_out(upload: Upload) -> Upload:
    """Uploads a file, imports it as a worker does, and returns the import as it ended."""

    def run(path: Path, **options: Any) -> DatasetImport:
        imp = upload(path, **options)
        imports.run_import(imp.pk)
        imp.refresh_from_db()
        return imp

    return run


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Service]:
    with run_swift(tmp_path_factory.mktemp("swift")) as service:
        yield service


@pytest.fixture
def s3_store(swift: S3Service, settings: Any) -> Iterator[ObjectStore]:
    """The platform's object store for the test: an empty bucket of a real service."""
    bucket = f"tests-{uuid.uuid4().hex}"
    swift.client().create_bucket(Bucket=bucket)
    settings.STORE_ENVIRONMENT = swift.environment(bucket)
    get_store.cache_clear()
    yield get_store()
    get_store.cache_clear()
