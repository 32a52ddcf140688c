"""Object stores for the trainer's tests: a folder, and real S3 services of two kinds, which differ in what they can."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.rgw import run_rgw
from servers.s3 import S3Service
from servers.swift import run_swift
from trainer.store import LocalStoreSettings, ObjectStore, S3StoreSettings, StoreSettings, open_store


@pytest.fixture(scope="session")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Service]:
    with run_swift(tmp_path_factory.mktemp("swift")) as service:
        yield service


@pytest.fixture(scope="session")
def rgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Service]:
    with run_rgw(tmp_path_factory.mktemp("rgw")) as service:
        yield service


@pytest.fixture(params=["swift", "rgw"])
def s3_service(request: pytest.FixtureRequest) -> S3Service:
    service: S3Service = request.getfixturevalue(request.param)
    return service


@pytest.fixture
def s3_settings(s3_service: S3Service) -> S3StoreSettings:
    """A new, empty bucket."""
    return s3_service.new_bucket()


@pytest.fixture(params=["local", "swift", "rgw"])
def store_settings(request: pytest.FixtureRequest, tmp_path: Path) -> StoreSettings:
    if request.param == "local":
        return LocalStoreSettings(tmp_path / "store")
    service: S3Service = request.getfixturevalue(request.param)
    return service.new_bucket()


@pytest.fixture
def store(store_settings: StoreSettings) -> ObjectStore:
    """An empty store of each kind, so that every test of the interface runs on all."""
    return open_store(store_settings)
