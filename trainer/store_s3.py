"""The S3 half of `trainer.store`: MinIO, R2, or any other service that speaks S3, through boto3.

Take stores from `trainer.store.open_store`, which loads this module only where it is needed.
"""

import hashlib
import io
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote

import boto3
from boto3.exceptions import S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's own, which is not the built-in one
    HTTPClientError,
    IncompleteReadError,
)

from trainer.store import (
    CHUNK,
    BucketMissingError,
    ObjectMissingError,
    ObjectStore,
    S3StoreSettings,
    StoreDeniedError,
    StoredObject,
    StoreError,
    StoreFullError,
    StoreUnreachableError,
    check_key,
    copy_stream,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

# Few large parts beat boto3's default of 8 MiB wherever an object is large enough to be split.
_TRANSFER = TransferConfig(multipart_threshold=64 << 20, multipart_chunksize=64 << 20, max_concurrency=4)
_CONFIG = Config(
    signature_version="s3v4",
    s3={"addressing_style": "path"},
    connect_timeout=5,
    read_timeout=60,
    retries={"mode": "standard", "total_max_attempts": 4},
    # The checksums that boto3 would add of itself are refused by Ceph's radosgw, among others.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
    max_pool_connections=16,
)
_RESUMES = 4  # how often in a row a download may break without a byte gained
_LONGEST_LINK_SECONDS = 7 * 24 * 3600  # the limit of signature v4
_OCTETS = "application/octet-stream"

_VARIABLES = {
    "minio": ("MINIO_ENDPOINT", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "MINIO_BUCKET"),
    "r2": ("R2_ENDPOINT", "R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY", "R2_BUCKET"),
}
_BY_CODE: Mapping[str, type[StoreError]] = {
    "NoSuchKey": ObjectMissingError,
    "NoSuchBucket": BucketMissingError,
    "InvalidBucketName": BucketMissingError,
    "AccessDenied": StoreDeniedError,
    "AuthorizationHeaderMalformed": StoreDeniedError,
    "QuotaExceeded": StoreFullError,
    "InsufficientCapacity": StoreFullError,
    "XMinioStorageFull": StoreFullError,
    "XMinioAdminBucketQuotaExceeded": StoreFullError,
    "SlowDown": StoreUnreachableError,
    "RequestTimeout": StoreUnreachableError,
    "NotImplemented": StoreError,
}
_BY_STATUS: Mapping[int, type[StoreError]] = {
    401: StoreDeniedError,
    403: StoreDeniedError,
    404: ObjectMissingError,
    408: StoreUnreachableError,
    429: StoreUnreachableError,
    507: StoreFullError,
}


class S3Store(ObjectStore):
    """A bucket. Each object carries its SHA-256 in its metadata, and is checked against it when fetched."""

    def __init__(self, settings: S3StoreSettings) -> None:
        self._settings = settings
        self._bucket = settings.bucket
        self._lock = threading.Lock()
        self._made: tuple[int, S3Client] | None = None

    def uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{check_key(key)}"

    def put_file(self, key: str, path: Path, content_type: str | None = None) -> StoredObject:
        check_key(key)
        # The digest travels ahead of the bytes, so that the file is read twice.
        with path.open("rb") as source:
            before = os.fstat(source.fileno())
            size, sha256 = copy_stream(source, None)
        extra = {"Metadata": {"sha256": sha256}, "ContentType": content_type or _OCTETS}
        with self._translated("upload", key):
            self._client.upload_file(str(path), self._bucket, key, ExtraArgs=extra, Config=_TRANSFER)
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise StoreError(f"{path} changed while it was uploaded to {key}. Upload a copy that is at rest.")
        return StoredObject(key, size, sha256)

    def put_bytes(self, key: str, data: bytes, content_type: str | None = None) -> StoredObject:
        check_key(key)
        sha256 = hashlib.sha256(data).hexdigest()
        with self._translated("upload", key):
            self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=data,
                Metadata={"sha256": sha256},
                ContentType=content_type or _OCTETS,
            )
        return StoredObject(key, len(data), sha256)

    def stat(self, key: str) -> StoredObject | None:
        check_key(key)
        try:
            with self._translated("look up", key):
                head = self._client.head_object(Bucket=self._bucket, Key=key)
        except ObjectMissingError:
            self._require_bucket(key)
            return None
        return StoredObject(key, head["ContentLength"], head["Metadata"].get("sha256"))

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        folder = check_key(prefix.rstrip("/")) + "/" if prefix else ""
        with self._translated("list", prefix or "all objects"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=folder)
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield StoredObject(entry["Key"], entry["Size"], None)

    def delete(self, key: str) -> None:
        check_key(key)
        try:
            with self._translated("delete", key):
                self._client.delete_object(Bucket=self._bucket, Key=key)
        except ObjectMissingError:
            return  # most services answer 204, some 404

    def presign_get(self, key: str, expires_seconds: int, filename: str | None = None) -> str | None:
        params = {"Bucket": self._bucket, "Key": check_key(key)}
        if filename:
            params["ResponseContentDisposition"] = f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
        expires = min(expires_seconds, _LONGEST_LINK_SECONDS)
        with self._translated("link to", key):
            return self._client.generate_presigned_url("get_object", Params=params, ExpiresIn=expires)

    def _reader(self, key: str, start: int, end: int | None) -> tuple[BinaryIO, str | None]:
        raw = _ResumingReader(self, key, start, end)
        return io.BufferedReader(raw, CHUNK), raw.sha256

    def _get(self, key: str, byte_range: str | None) -> tuple["StreamingBody | None", str, str | None]:
        """The body (None where the range is beyond the end), the entity tag, and the stored SHA-256."""
        try:
            with self._translated("read", key):
                if byte_range:
                    got = self._client.get_object(Bucket=self._bucket, Key=key, Range=byte_range)
                else:
                    got = self._client.get_object(Bucket=self._bucket, Key=key)
        except StoreError as error:
            if isinstance(error.__cause__, ClientError) and _status(error.__cause__) == 416:
                return None, "", None
            raise
        return got["Body"], got["ETag"], got["Metadata"].get("sha256")

    def _require_bucket(self, key: str) -> None:
        """The answer to a HEAD has no body to tell whether the object or its whole bucket is missing."""
        try:
            with self._translated("look up", key):
                self._client.head_bucket(Bucket=self._bucket)
        except ObjectMissingError as error:
            raise self._error(BucketMissingError, "look up", key, "404") from error
        except StoreDeniedError:
            return  # keys that may read objects alone: they were let through to learn that it is missing

    @property
    def _client(self) -> "S3Client":
        # A client is safe to share between threads, though not to create in several at once, and its open
        # connections must not be used on both sides of a fork.
        with self._lock:
            if self._made is None or self._made[0] != os.getpid():
                settings = self._settings
                try:
                    client = boto3.session.Session().client(
                        "s3",
                        endpoint_url=settings.endpoint,
                        aws_access_key_id=settings.access_key,
                        aws_secret_access_key=settings.secret_key,
                        region_name=settings.region,
                        config=_CONFIG,
                    )
                except ValueError as error:  # "Invalid endpoint", which is not an error of botocore's tree
                    raise self._error(StoreError, "reach", "the store", str(error)) from error
                self._made = os.getpid(), client
            return self._made[1]

    @contextmanager
    def _translated(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except S3UploadFailedError as error:  # boto3 wraps the ClientErrors of an upload, and of that alone
            cause = error.__context__ if isinstance(error.__context__, ClientError) else None
            kind = _kind(cause) if cause else StoreError
            raise self._error(kind, verb, key, str(cause or error)) from (cause or error)
        except ClientError as error:
            raise self._error(_kind(error), verb, key, str(error)) from error
        except (HTTPClientError, ConnectionError, IncompleteReadError) as error:
            raise self._error(StoreUnreachableError, verb, key, str(error)) from error
        except BotoCoreError as error:
            raise self._error(StoreError, verb, key, str(error)) from error

    def _error(self, kind: type[StoreError], verb: str, key: str, why: str) -> StoreError:
        endpoint, access, secret, bucket = _VARIABLES[self._settings.type]
        mend = {
            ObjectMissingError: f"It was deleted, or {bucket} names another bucket.",
            BucketMissingError: f"Create the bucket, or correct {bucket}.",
            StoreDeniedError: f"Check {access} and {secret}, what they may do, and this machine's clock.",
            StoreUnreachableError: f"Check {endpoint} and that the service is up; then try again.",
            StoreFullError: "Free space in the store or raise its quota.",
        }.get(kind, f"Check {endpoint} and {bucket}.")
        place = f"bucket {self._bucket} at {self._settings.endpoint}"
        return kind(f"Cannot {verb} {key} in {place}: {why.rstrip('.')}. {mend}")


class _ResumingReader(io.RawIOBase):
    """An object's bytes; a broken connection is opened again at the byte where it broke.

    boto3 retries a request, but never the reading of its answer, and a dataset takes minutes to read.
    """

    def __init__(self, store: S3Store, key: str, start: int, end: int | None) -> None:
        self._store, self._key, self._at, self._end = store, key, start, end
        self._failures = 0
        self._body: StreamingBody | None = None
        self._tag, self.sha256 = self._request()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer)
        while self._body is not None:
            try:
                chunk = self._body.read(len(view))
            except (HTTPClientError, IncompleteReadError, OSError) as error:
                self._resume(error)
                continue
            self._failures = 0
            self._at += len(chunk)
            view[: len(chunk)] = chunk
            return len(chunk)
        return 0

    def close(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None
        super().close()

    def _request(self) -> tuple[str, str | None]:
        whole = self._at == 0 and self._end is None
        if self._end is not None and self._at >= self._end:
            return "", None
        last = "" if self._end is None else self._end - 1
        self._body, tag, sha256 = self._store._get(self._key, None if whole else f"bytes={self._at}-{last}")
        return tag, sha256

    def _resume(self, error: Exception) -> None:
        self._failures += 1
        if self._body is not None:
            self._body.close()
            self._body = None
        if self._failures > _RESUMES:
            raise self._store._error(StoreUnreachableError, "read", self._key, str(error)) from error
        tag, _ = self._request()
        if self._body is not None and tag != self._tag:
            why = "the object was replaced while it was read"
            raise self._store._error(StoreError, "read", self._key, why) from error


def _status(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _kind(error: ClientError) -> type[StoreError]:
    """The code decides where it is known, then the HTTP status."""
    code, status = error.response.get("Error", {}).get("Code", ""), _status(error)
    return _BY_CODE.get(code) or _BY_STATUS.get(status) or (StoreUnreachableError if status >= 500 else StoreError)
