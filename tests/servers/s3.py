"""What the S3 services of the tests have in common."""

import socket
import subprocess
import uuid
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config

from trainer.store import S3StoreSettings


@dataclass(frozen=True)
class S3Service:
    """Where a test service listens, and its keys."""

    endpoint: str
    access_key: str
    secret_key: str

    def settings(self, bucket: str) -> S3StoreSettings:
        return S3StoreSettings("minio", self.endpoint, self.access_key, self.secret_key, bucket)

    def environment(self, bucket: str) -> dict[str, str]:
        """The variables by which a person sets this service and `bucket`."""
        return {
            "STORAGE_TYPE": "minio",
            "MINIO_ENDPOINT": self.endpoint,
            "MINIO_ACCESS_KEY": self.access_key,
            "MINIO_SECRET_KEY": self.secret_key,
            "MINIO_BUCKET": bucket,
        }

    def new_bucket(self) -> S3StoreSettings:
        bucket = f"tests-{uuid.uuid4().hex}"
        self.client().create_bucket(Bucket=bucket)
        return self.settings(bucket)

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def stop(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    try:
        server.wait(timeout=10)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
