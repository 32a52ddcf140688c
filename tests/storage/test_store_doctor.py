"""`manage.py storage doctor` and the check of `check --deploy`, on a folder and on a real S3 service."""

import os
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.management import CommandError, call_command

from apps.storage.stores import get_store
from servers.s3 import S3Service
from trainer.store import ObjectStore


def doctor() -> str:
    out = StringIO()
    call_command("storage", "doctor", stdout=out)
    return out.getvalue()


def failing() -> str:
    out = StringIO()
    with pytest.raises(CommandError, match="see above"):
        call_command("storage", "doctor", stdout=out)
    return out.getvalue()


def test_a_folder_that_works_passes_and_stays_empty(store: ObjectStore) -> None:
    told = doctor()
    assert "free space" in told
    assert "failed" not in told
    assert list(store.list()) == []
    assert list(store.list_uploads()) == []


def test_a_service_passes_and_its_missing_cors_rule_is_told(s3_store: ObjectStore, settings: Any) -> None:
    settings.PLATFORM_URL = "https://trainyard.example.org"
    told = doctor()
    assert "failed" not in told
    assert "Browsers on https://trainyard.example.org cannot upload" in told
    assert '{"CORSRules": [{"AllowedOrigins": ["https://trainyard.example.org"]' in told
    assert list(s3_store.list()) == []
    assert list(s3_store.list_uploads()) == []


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("MINIO_SECRET_KEY", "wrong-secret", "MINIO_SECRET_KEY"),
        ("MINIO_BUCKET", "no-such-bucket", "Create the bucket, or correct MINIO_BUCKET"),
        ("MINIO_ENDPOINT", "http://127.0.0.1:1", "does not answer"),
        ("MINIO_ENDPOINT", "localhost", "MINIO_ENDPOINT"),
    ],
)
def test_what_to_mend_is_named(s3_store: ObjectStore, settings: Any, name: str, value: str, told: str) -> None:
    settings.STORE_ENVIRONMENT = {**settings.STORE_ENVIRONMENT, name: value}
    get_store.cache_clear()
    found = failing()
    assert told in found
    assert "wrong-secret" not in found


def test_links_are_tried_under_the_public_address(swift: S3Service, s3_store: ObjectStore, settings: Any) -> None:
    settings.STORAGE_PUBLIC_ENDPOINT = swift.endpoint.replace("127.0.0.1", "localhost")
    assert "http://localhost:" in doctor()
    settings.STORAGE_PUBLIC_ENDPOINT = "http://127.0.0.1:1"
    assert "Check STORAGE_PUBLIC_ENDPOINT from a browser" in doctor()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(settings: Any, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    settings.STORE_ENVIRONMENT = {"STORAGE_TYPE": "local", "LOCAL_STORAGE_ROOT": str(tmp_path / "store")}
    assert "LOCAL_STORAGE_ROOT" in failing()


def test_a_folder_that_is_a_file_is_named(settings: Any, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("in the way")
    settings.STORE_ENVIRONMENT = {"STORAGE_TYPE": "local", "LOCAL_STORAGE_ROOT": str(tmp_path / "store")}
    assert "LOCAL_STORAGE_ROOT" in failing()


def test_only_the_deployment_check_touches_the_network(settings: Any) -> None:
    settings.STORE_ENVIRONMENT = {
        "STORAGE_TYPE": "minio",
        "MINIO_ENDPOINT": "http://127.0.0.1:1",
        "MINIO_ACCESS_KEY": "key",
        "MINIO_SECRET_KEY": "secret",
        "MINIO_BUCKET": "bucket",
    }
    assert not [message for message in run_checks() if str(message.id).startswith("storage.")]
    (found,) = [message for message in run_checks(include_deployment_checks=True) if message.id == "storage.E001"]
    assert "MINIO_ENDPOINT" in found.msg


def test_a_public_endpoint_that_is_no_address_is_told(settings: Any) -> None:
    settings.STORAGE_PUBLIC_ENDPOINT = "s3.example.org"
    assert "storage.E002" in [message.id for message in run_checks()]
