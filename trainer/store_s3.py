"""The S3 half of `trainer.store`: MinIO, R2, or any other service that speaks S3, through boto3.

Take stores from `trainer.store.open_store`, which loads this module only where it is needed.
"""

import functools
import hashlib
import io
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's own, which is not the built-in one
    HTTPClientError,
    IncompleteReadError,
)
from s3transfer.utils import ReadFileChunk

from trainer.store import (
    CHUNK,
    MIN_PART_BYTES,
    BucketMissingError,
    ObjectMissingError,
    ObjectStore,
    PendingUpload,
    S3StoreSettings,
    StoreDeniedError,
    StoredObject,
    StoreError,
    StoreUnreachableError,
    UploadMissingError,
    UploadPart,
    check_key,
    check_part_number,
    copy_stream,
    part_size_for,
    require_whole,
    whole_file,
)
from trainer.store_errors import explained, kind_of
from trainer.store_ranges import PIECE, WORKERS, Answer, ResumingReader, Span, fetch, in_parallel, reserve, spans

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, PartTypeDef

_CONFIG = Config(
    signature_version="s3v4",
    s3={"addressing_style": "path"},
    connect_timeout=5,
    read_timeout=60,
    retries={"mode": "standard", "total_max_attempts": 4},
    # The checksums that boto3 would add of itself are refused by Ceph's radosgw, among others.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
    max_pool_connections=8 * WORKERS,
)
_BREAKS = (HTTPClientError, IncompleteReadError, OSError)  # while an answer is read; boto3 repeats requests alone
_LONGEST_LINK_SECONDS = 7 * 24 * 3600  # the limit of signature v4
_OCTETS = "application/octet-stream"


class S3Store(ObjectStore):
    """A bucket. Each object carries its SHA-256 in its metadata, and is checked against it when fetched.

    On the way up, the signature of every request covers the SHA-256 of its body, which services verify.
    """

    def __init__(self, settings: S3StoreSettings) -> None:
        self._settings = settings
        self._bucket = settings.bucket
        self._lock = threading.Lock()
        self._made: dict[tuple[int, str], S3Client] = {}

    def uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{check_key(key)}"

    def put_file(self, key: str, path: Path, content_type: str | None = None) -> StoredObject:
        check_key(key)
        with path.open("rb") as source:
            before = os.fstat(source.fileno())
            if before.st_size <= PIECE:
                return self.put_bytes(key, source.read(), content_type)
            # The digest travels ahead of the bytes, so that the file is read twice.
            size, sha256 = copy_stream(source, None)
            upload_id = self._start(key, content_type, {"sha256": sha256})
            try:
                self._send(key, upload_id, source, size)
                after = path.stat()
                if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                    raise StoreError(f"{path} changed while it was uploaded to {key}. Upload a copy that is at rest.")
                self.complete_upload(key, upload_id)
            except BaseException:
                with suppress(StoreError):  # the error that is under way tells more
                    self.abort_upload(key, upload_id)
                raise
        return StoredObject(key, size, sha256)

    def put_bytes(self, key: str, data: bytes, content_type: str | None = None) -> StoredObject:
        check_key(key)
        sha256 = hashlib.sha256(data).hexdigest()
        with self._translated("upload", key):
            self._client().put_object(
                Bucket=self._bucket,
                Key=key,
                Body=data,
                Metadata={"sha256": sha256},
                ContentType=content_type or _OCTETS,
            )
        return StoredObject(key, len(data), sha256)

    def get_file(self, key: str, path: Path) -> StoredObject:
        with self._open(check_key(key), 0, PIECE) as first:
            known = first.answer
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path, path.parent, durable=False) as target:
                if known.size <= PIECE or known.whole:
                    size, sha256 = copy_stream(io.BufferedReader(first, CHUNK), target)
                else:

                    def open_span(span: Span) -> ResumingReader:
                        return first if span[0] == 0 else self._open(key, *span, tag=known.tag)

                    reserve(target, path.parent, known.size)
                    size, sha256 = known.size, fetch(open_span, known.size, target)
                self._require_same(key, known.sha256, sha256)
        return StoredObject(key, size, sha256)

    def stat(self, key: str) -> StoredObject | None:
        check_key(key)
        try:
            with self._translated("look up", key):
                head = self._client().head_object(Bucket=self._bucket, Key=key)
        except ObjectMissingError:
            self._require_bucket(key)
            return None
        return StoredObject(key, head["ContentLength"], head["Metadata"].get("sha256"))

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        folder = check_key(prefix.rstrip("/")) + "/" if prefix else ""
        with self._translated("list", prefix or "all objects"):
            pages = self._client().get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=folder)
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield StoredObject(entry["Key"], entry["Size"], None)

    def delete(self, key: str) -> None:
        check_key(key)
        try:
            with self._translated("delete", key):
                self._client().delete_object(Bucket=self._bucket, Key=key)
        except ObjectMissingError:
            return  # most services answer 204, some 404

    # --- links ----------------------------------------------------------------------------------------------------

    def presign_get(
        self,
        key: str,
        expires_seconds: int,
        filename: str | None = None,
        *,
        inline: bool = False,
        content_type: str | None = None,
    ) -> str | None:
        how = {}
        if filename or inline:
            name = f"; filename*=UTF-8''{quote(filename, safe='')}" if filename else ""
            how["ResponseContentDisposition"] = ("inline" if inline else "attachment") + name
        if content_type:
            how["ResponseContentType"] = content_type
        return self._link("get_object", key, expires_seconds, **how)

    def presign_put(self, key: str, expires_seconds: int) -> str | None:
        return self._link("put_object", key, expires_seconds)

    def presign_part(self, key: str, upload_id: str, number: int, expires_seconds: int) -> str | None:
        number = check_part_number(number)
        return self._link("upload_part", key, expires_seconds, UploadId=upload_id, PartNumber=number)

    def _link(self, operation: str, key: str, expires_seconds: int, **more: object) -> str:
        params = {"Bucket": self._bucket, "Key": check_key(key), **more}
        expires = min(expires_seconds, _LONGEST_LINK_SECONDS)
        with self._translated("link to", key):
            client = self._client(self._settings.public_endpoint)
            return client.generate_presigned_url(operation, Params=params, ExpiresIn=expires)

    # --- uploads in parts ---------------------------------------------------------------------------------------

    def start_upload(self, key: str, content_type: str | None = None) -> str:
        return self._start(check_key(key), content_type, {})

    def put_part(self, key: str, upload_id: str, number: int, source: BinaryIO, size: int) -> None:
        check_key(key)
        # Through a file: the request is signed with the digest of what it holds, and may have to be repeated.
        with tempfile.SpooledTemporaryFile(max_size=PIECE) as spool:
            copied, _ = copy_stream(source, spool, size)
            require_whole(key, number, copied, size)
            spool.seek(0)
            self._send_part(key, upload_id, check_part_number(number), spool)

    def list_parts(self, key: str, upload_id: str) -> Sequence[UploadPart]:
        return [UploadPart(part["PartNumber"], part["Size"]) for part in self._parts(key, upload_id)]

    def complete_upload(self, key: str, upload_id: str) -> StoredObject:
        parts = self._parts(key, upload_id)
        sizes = [UploadPart(part["PartNumber"], part["Size"]) for part in parts]
        self.check_parts(key, sizes)
        small = [part.number for part in sizes[:-1] if part.size < MIN_PART_BYTES]
        if small:
            raise StoreError(
                f"Part {small[0]} of {key} is smaller than 5 MiB, which only the last may be. Start again."
            )
        tags: list[CompletedPartTypeDef] = [{"ETag": part["ETag"], "PartNumber": part["PartNumber"]} for part in parts]
        answer: StoreError | None = None
        try:
            with self._translated("complete the upload of", key, UploadMissingError):
                self._client().complete_multipart_upload(
                    Bucket=self._bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": tags}
                )
        except UploadMissingError as error:
            answer = error  # it was there a moment ago: a repeated request finds that the first one did it
        size, stored = sum(part.size for part in sizes), self.stat(key)
        if stored is None or stored.size != size:
            why = f"the object has {stored.size if stored else 'no'} bytes after its {size} bytes of parts were joined"
            raise answer or self._error(StoreError, why, "complete the upload of", key)
        return stored

    def abort_upload(self, key: str, upload_id: str) -> None:
        check_key(key)
        with suppress(UploadMissingError), self._translated("abort the upload of", key, UploadMissingError):
            self._client().abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)

    def list_uploads(self, prefix: str = "") -> Iterator[PendingUpload]:
        folder = check_key(prefix.rstrip("/")) + "/" if prefix else ""
        with self._translated("list the uploads below", prefix or "all keys"):
            pages = self._client().get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=folder)
            for page in pages:
                for upload in page.get("Uploads", ()):
                    yield PendingUpload(upload["Key"], upload["UploadId"], upload["Initiated"])

    def remove_unfinished(self, before: datetime) -> None:
        return  # an object is there whole, or its upload is in `list_uploads`

    def _start(self, key: str, content_type: str | None, metadata: Mapping[str, str]) -> str:
        with self._translated("start an upload of", key):
            return self._client().create_multipart_upload(
                Bucket=self._bucket, Key=key, Metadata=metadata, ContentType=content_type or _OCTETS
            )["UploadId"]

    def _send(self, key: str, upload_id: str, source: BinaryIO, size: int) -> None:
        """All of the file `source` in parts, a few at a time."""
        part_size = part_size_for(size)

        def send(span: Span) -> None:
            start, end = span
            number = start // part_size + 1
            if part_size <= PIECE:  # whole from memory: boto3 would read a file in small bites
                self._send_part(key, upload_id, number, os.pread(source.fileno(), end - start, start))
            else:
                with ReadFileChunk.from_filename(source.name, start, end - start) as chunk:
                    self._send_part(key, upload_id, number, chunk)

        for _ in in_parallel(send, spans(size, part_size)):
            pass

    def _send_part(self, key: str, upload_id: str, number: int, body: Any) -> None:
        with self._translated(f"upload part {number} of", key, UploadMissingError):
            self._client().upload_part(Bucket=self._bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=body)

    def _parts(self, key: str, upload_id: str) -> "Sequence[PartTypeDef]":
        check_key(key)
        with self._translated("list the parts of", key, UploadMissingError):
            pages = (
                self._client().get_paginator("list_parts").paginate(Bucket=self._bucket, Key=key, UploadId=upload_id)
            )
            return sorted((part for page in pages for part in page.get("Parts", ())), key=lambda p: p["PartNumber"])

    # --- requests -----------------------------------------------------------------------------------------------

    def _reader(self, key: str, start: int, end: int | None) -> tuple[BinaryIO, str | None]:
        raw = self._open(key, start, end)
        return io.BufferedReader(raw, CHUNK), raw.answer.sha256

    def _open(self, key: str, start: int, end: int | None, tag: str | None = None) -> ResumingReader:
        fail = functools.partial(self._error, verb="read", key=key)
        return ResumingReader(functools.partial(self._get, key), _BREAKS, fail, (start, end), tag)

    def _get(self, key: str, start: int, end: int | None) -> Answer:
        # An open range from the start would be refused where the object is empty.
        wanted = f"bytes={start}-{'' if end is None else end - 1}" if start or end is not None else None
        try:
            with self._translated("read", key):
                if wanted:
                    got = self._client().get_object(Bucket=self._bucket, Key=key, Range=wanted)
                else:
                    got = self._client().get_object(Bucket=self._bucket, Key=key)
        except StoreError as error:
            if isinstance(error.__cause__, ClientError) and _status(error.__cause__) == 416:
                return Answer(None)
            raise
        size = got.get("ContentRange", "").rpartition("/")[2]  # "bytes 0-99/1000"
        return Answer(
            got["Body"],
            got.get("ETag", ""),
            got["Metadata"].get("sha256"),
            int(size) if size.isdigit() else got["ContentLength"],
            whole=got["ResponseMetadata"]["HTTPStatusCode"] == 200,
        )

    def _require_bucket(self, key: str) -> None:
        """The answer to a HEAD has no body to tell whether the object or its whole bucket is missing."""
        try:
            with self._translated("look up", key):
                self._client().head_bucket(Bucket=self._bucket)
        except ObjectMissingError as error:
            raise self._error(BucketMissingError, "404", "look up", key) from error
        except StoreDeniedError:
            return  # keys that may read objects alone: they were let through to learn that it is missing

    def _client(self, endpoint: str | None = None) -> "S3Client":
        """The client of `endpoint`, or of the settings' own."""
        endpoint = endpoint or self._settings.endpoint
        # A client is safe to share between threads, though not to create in several at once, and its open
        # connections must not be used on both sides of a fork.
        with self._lock:
            made = self._made.get((os.getpid(), endpoint))
            if made is None:
                settings = self._settings
                try:
                    made = boto3.session.Session().client(
                        "s3",
                        endpoint_url=endpoint,
                        aws_access_key_id=settings.access_key,
                        aws_secret_access_key=settings.secret_key,
                        region_name=settings.region,
                        config=_CONFIG,
                    )
                except ValueError as error:  # "Invalid endpoint", which is not an error of botocore's tree
                    raise self._error(StoreError, str(error), "reach", "the store") from error
                self._made[os.getpid(), endpoint] = made
            return made

    @contextmanager
    def _translated(self, verb: str, key: str, missing: type[StoreError] = ObjectMissingError) -> Iterator[None]:
        """The client's errors as ours; `missing` is what a 404 means here."""
        try:
            yield
        except ClientError as error:
            kind = _kind(error)
            raise self._error(missing if kind is ObjectMissingError else kind, str(error), verb, key) from error
        except (HTTPClientError, ConnectionError, IncompleteReadError) as error:
            raise self._error(StoreUnreachableError, str(error), verb, key) from error
        except BotoCoreError as error:
            raise self._error(StoreError, str(error), verb, key) from error

    def _error(self, kind: type[StoreError], why: str, verb: str, key: str) -> StoreError:
        return explained(self._settings, kind, why, verb, key)


def _status(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _kind(error: ClientError) -> type[StoreError]:
    return kind_of(error.response.get("Error", {}).get("Code", ""), _status(error))
