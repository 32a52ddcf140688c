"""Object stores for the trainer's tests: a folder, and a real S3 service."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.swift import S3Service, run_swift
from trainer.store import LocalStoreSettings, ObjectStore, S3StoreSettings, open_store


@pytest.fixture(scope="session")
def s3_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Service]:
    with run_swift(tmp_path_factory.mktemp("swift")) as service:
        yield service


@pytest.fixture
def s3_settings(s3_service: S3Service) -> S3StoreSettings:
    """A new, empty bucket."""
    bucket = f"tests-{uuid.uuid4().hex}"
    s3_service.client().create_bucket(Bucket=bucket)
    return s3_service.settings(bucket)


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store of each kind, so that every test of the interface runs on both."""
    if request.param == "local":
        return open_store(LocalStoreSettings(tmp_path / "store"))
    return open_store(request.getfixturevalue("s3_settings"))
