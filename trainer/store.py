"""The object store: one interface, a folder or any S3 service behind it.

Platform and trainer reach every dataset, checkpoint and artifact through `open_store(settings)`. All bytes
stream in constant memory, and one store may be shared by threads. The folder is in `trainer.store_local`, S3 in
`trainer.store_s3`, the only module that imports boto3; it is loaded for S3 settings alone, so that a run on a
folder does not pay for the import.

    StoreError                 anything that went wrong with the store
    +- InvalidKeyError         the key breaks the rules of `check_key`
    +- ObjectMissingError      no object of that key
    +- UploadMissingError      no upload in parts of that name: completed, aborted, or never started
    +- BucketMissingError      no such bucket
    +- StoreDeniedError        credentials or permissions
    +- StoreUnreachableError   network, or a server that is ill for now: worth trying again
    +- StoreFullError          no space, or a quota reached
    +- ChecksumMismatchError   the bytes that came back are not those that were stored
"""

import hashlib
import os
import stat
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, BinaryIO, Literal, NamedTuple

CHUNK = 1 << 20

MIN_PART_BYTES, MAX_PARTS, MAX_OBJECT_BYTES = 5 << 20, 10_000, 5 << 40  # S3's limits; the last part may be smaller
_PATIENCE = range(100)
_PART_BYTES = 16 << 20  # what is lost when a part breaks off, against one request for each

_MAX_KEY_BYTES, _MAX_SEGMENT_BYTES = 1024, 255  # S3's limit for a key, a file system's for a name
INCOMING = ".incoming"


class StoreError(Exception):
    """An operation on the store failed; the message says what to mend."""

    retryable = False


class InvalidKeyError(StoreError, ValueError):
    """The key could not be stored alike everywhere."""


class ObjectMissingError(StoreError):
    """There is no object of that key."""


class UploadMissingError(StoreError):
    """There is no such upload: it was completed or aborted, or the store swept it away."""


class BucketMissingError(StoreError):
    """The bucket named in the settings does not exist."""


class StoreDeniedError(StoreError):
    """The store knows us and refuses, or does not know us."""


class StoreUnreachableError(StoreError):
    """The store did not answer, or answered that it cannot serve for now."""

    retryable = True


class StoreFullError(StoreError):
    """The store has no room left."""


class ChecksumMismatchError(StoreError):
    """The bytes read differ from the bytes stored."""


@dataclass(frozen=True)
class LocalStoreSettings:
    """A folder, on this machine or shared by all that need it."""

    root: Path


@dataclass(frozen=True)
class S3StoreSettings:
    """Any S3 service; `type` says by which variables a person set it, so that errors can name them."""

    type: Literal["minio", "r2"]
    endpoint: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    bucket: str
    region: str = "us-east-1"
    public_endpoint: str | None = None  # where browsers reach the service; links are signed for it


StoreSettings = LocalStoreSettings | S3StoreSettings


@dataclass(frozen=True)
class StoredObject:
    """What is known of an object: its key, its size in bytes, its SHA-256 in lower-case hex.

    `sha256` is known after a put or a get. A listing never knows it, nor does `stat` on a folder or for an
    S3 object that somebody else uploaded, an upload in parts included.
    """

    key: str
    size: int
    sha256: str | None


@dataclass(frozen=True)
class UploadPart:
    """A part that the store holds of an upload. Numbers count from 1; the size is in bytes."""

    number: int
    size: int


class PendingUpload(NamedTuple):
    """An upload in parts that was started, and neither completed nor aborted."""

    key: str
    upload_id: str
    started_at: datetime  # aware


def part_size_for(size: int) -> int:
    """The size in bytes of the parts in which to upload `size` bytes: the same for all but the last.

    Raises StoreError for more than an object can hold.
    """
    if size > MAX_OBJECT_BYTES:
        raise StoreError(f"{size} bytes are more than an object can hold, {MAX_OBJECT_BYTES}. Split the file.")
    smallest = -(-size // MAX_PARTS)
    return max(_PART_BYTES, -(-smallest // CHUNK) * CHUNK)


def check_part_number(number: int) -> int:
    if not 1 <= number <= MAX_PARTS:
        raise StoreError(f"There is no part {number}: parts are numbered from 1 to {MAX_PARTS}. Use larger parts.")
    return number


def require_whole(key: str, number: int, got: int, size: int) -> None:
    """Refuse a part that ended early."""
    if got != size:
        raise StoreError(f"Part {number} of {key} ended after {got} of {size} bytes. Send it again.")


def check_key(key: str) -> str:
    """Return `key` where it means the same in a folder and in a bucket; raise InvalidKeyError otherwise."""
    segments = key.split("/")
    problem = None
    if not key or "" in segments:
        problem = "has an empty part (no leading, trailing or double slash is allowed)"
    elif "." in segments or ".." in segments:
        problem = "has a part '.' or '..'"
    elif "\\" in key or not key.isprintable():
        problem = "holds a backslash or a control character"
    elif len(key.encode()) > _MAX_KEY_BYTES or any(len(part.encode()) > _MAX_SEGMENT_BYTES for part in segments):
        problem = f"is longer than {_MAX_KEY_BYTES} bytes, or has a part longer than {_MAX_SEGMENT_BYTES}"
    elif segments[0] == INCOMING:
        problem = f"begins with {INCOMING}, where a local store keeps unfinished files"
    if problem:
        raise InvalidKeyError(f"The storage key {key[:200]!r} {problem}. Choose another key.")
    return key


class ObjectStore(ABC):
    """Objects by key. Every method raises StoreError, besides what it names."""

    @abstractmethod
    def uri(self, key: str) -> str:
        """The object's address for people and for MLflow: file:///... or s3://bucket/key."""

    @abstractmethod
    def put_file(self, key: str, path: Path, content_type: str | None = None) -> StoredObject:
        """Store the file at `path`, replacing what the key held. Raises OSError where it cannot be read."""

    @abstractmethod
    def put_bytes(self, key: str, data: bytes, content_type: str | None = None) -> StoredObject:
        """Store `data`, replacing what the key held."""

    @abstractmethod
    def stat(self, key: str) -> StoredObject | None:
        """What is known of the object, or None where there is none."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """The objects below the folder `prefix` ("" is all), in no promised order.

        A prefix ends at a slash: `runs/1` does not match `runs/10/log`.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete the object; one that is not there is no error."""

    @abstractmethod
    def presign_get(
        self,
        key: str,
        expires_seconds: int,
        filename: str | None = None,
        *,
        inline: bool = False,
        content_type: str | None = None,
    ) -> str | None:
        """A link that downloads the object without credentials for up to a week.

        It is saved as `filename`, or shown in the browser if `inline`; `content_type` overrides the stored one. None
        where the store has no server of its own: the platform then streams the object itself.
        """

    @abstractmethod
    def presign_put(self, key: str, expires_seconds: int) -> str | None:
        """A link to which anybody can PUT the object in one request (up to 5 GiB); None as for `presign_get`."""

    # --- uploads in parts, which somebody else drives: a browser, a client of the API --------------------------------
    # S3's limits: at most MAX_PARTS parts, each of at least MIN_PART_BYTES but the last; R2 wants all but the last of
    # equal size. `part_size_for` chooses a size that meets them. What is neither completed nor aborted takes room for
    # ever: sweep `list_uploads`.

    @abstractmethod
    def start_upload(self, key: str, content_type: str | None = None) -> str:
        """Begin an upload in parts of the object `key`, which is seen once it is complete, and return its id."""

    @abstractmethod
    def presign_part(self, key: str, upload_id: str, number: int, expires_seconds: int) -> str | None:
        """A link to which anybody can PUT part `number` (from 1) without credentials.

        None where the store has no server of its own: the platform then receives the part and calls `put_part`.
        """

    @abstractmethod
    def put_part(self, key: str, upload_id: str, number: int, source: BinaryIO, size: int) -> None:
        """Store the next `size` bytes of `source` as part `number`, replacing an earlier part of that number.

        Raises UploadMissingError, and StoreError where `source` ends early: the part is then as it was before.
        """

    @abstractmethod
    def list_parts(self, key: str, upload_id: str) -> Sequence[UploadPart]:
        """The parts that the store has, by number. Raises UploadMissingError."""

    @abstractmethod
    def complete_upload(self, key: str, upload_id: str) -> StoredObject:
        """Make the object of the parts, replacing what the key held.

        Raises UploadMissingError, and StoreError where there is no part or one is missing between the others.
        """

    @abstractmethod
    def abort_upload(self, key: str, upload_id: str) -> None:
        """Forget the upload and its parts; one that is not there is no error."""

    @abstractmethod
    def list_uploads(self, prefix: str = "") -> Iterator[PendingUpload]:
        """The uploads below the folder `prefix` that were neither completed nor aborted, in no promised order."""

    @abstractmethod
    def remove_unfinished(self, before: datetime) -> None:
        """Remove what killed processes left of objects that they were writing, and nobody has touched since then.

        `before` is aware. What a service holds of such is in `list_uploads`.
        """

    def exists(self, key: str) -> bool:
        return self.stat(key) is not None

    def check_parts(self, key: str, parts: Sequence[UploadPart]) -> None:
        """Refuse to make an object of `parts`, which are in order, where one is missing."""
        numbers = {part.number for part in parts}
        missing = sorted(set(range(1, max(numbers, default=1) + 1)) - numbers)
        if missing:
            listed = ", ".join(map(str, missing[:10])) + (" and more" if len(missing) > 10 else "")
            raise StoreError(f"The upload of {key} is not complete: part {listed} is missing. Send it, then complete.")

    @abstractmethod
    def _reader(self, key: str, start: int, end: int | None) -> tuple[BinaryIO, str | None]:
        """The object's bytes, and the SHA-256 of the whole object where the store knows it."""

    @contextmanager
    def open(self, key: str, start: int = 0, end: int | None = None) -> Iterator[BinaryIO]:
        """Stream the object's bytes from `start` up to, not including, `end`, as a slice would.

        A range beyond the object's end is empty, which suits a reader that follows a growing log. Raises
        ValueError for a range that is negative or ends before it starts.
        """
        if start < 0 or (end is not None and end < start):
            raise ValueError(f"Not a range of bytes: {start} to {end}")
        with self._reader(check_key(key), start, end)[0] as reader:
            yield reader

    def get_file(self, key: str, path: Path) -> StoredObject:
        """Write the object to `path`, whole or not at all. Raises OSError where that cannot be written.

        What the store knows of its SHA-256 is checked. The file may still be on its way to the disk.
        """
        source, expected = self._reader(check_key(key), 0, None)
        with source:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path, path.parent, durable=False) as target:
                size, sha256 = copy_stream(source, target)
                self._require_same(key, expected, sha256)
        return StoredObject(key, size, sha256)

    def _require_same(self, key: str, stored: str | None, fetched: str) -> None:
        if stored and stored != fetched:
            raise ChecksumMismatchError(
                f"{self.uri(key)} was damaged in the store or on its way: its SHA-256 is {fetched}, "
                f"and {stored} was stored. Try again; if it stays so, store the object anew."
            )

    def delete_prefix(self, prefix: str) -> int:
        """Delete all objects below the folder `prefix` and return how many there were.

        One request an object: services differ in which checksum they demand of a bulk delete, and a run
        leaves dozens of objects, not thousands.
        """
        check_key(prefix.rstrip("/"))  # refuses "", which would empty the store
        count = 0
        for stored in self.list(prefix):
            self.delete(stored.key)
            count += 1
        return count


def open_store(settings: StoreSettings) -> ObjectStore:
    """The store that the settings describe. Touches neither disk nor network."""
    if isinstance(settings, LocalStoreSettings):
        from trainer.store_local import LocalStore

        return LocalStore(settings)
    from trainer.store_s3 import S3Store

    return S3Store(settings)


def copy_stream(source: IO[bytes], target: IO[bytes] | None, limit: int | None = None) -> tuple[int, str]:
    """Copy `source`, or its next `limit` bytes, to `target`, if any; return the size in bytes and the SHA-256."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK if limit is None else min(CHUNK, limit - size)):
        digest.update(chunk)
        size += len(chunk)
        if target is not None:
            target.write(chunk)
    return size, digest.hexdigest()


@contextmanager
def whole_file(path: Path, scratch: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A new file in the folder `scratch` that becomes `path` once all of it is written, or is removed.

    `scratch` must be on the file system of `path`, where a rename is one step. A durable file is on the disk by then;
    a copy of what can be fetched again need not wait for that.
    """
    partial = scratch / f".{uuid.uuid4().hex}.part"
    try:
        with partial.open("x+b") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        for _ in _PATIENCE:
            try:
                partial.replace(path)
            except FileNotFoundError:
                if not partial.exists():
                    raise
                make_folder(path.parent)  # it was empty, and somebody's delete took it away meanwhile
            else:
                break
    finally:
        partial.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make the folder and those above it, while others may remove them for being empty."""
    for _ in _PATIENCE:
        with suppress(FileNotFoundError):
            try:
                path.mkdir(parents=True, exist_ok=True)
            except FileExistsError:
                # Asked once: between two questions it may be removed and made anew, and look like a file.
                if not stat.S_ISDIR(path.stat().st_mode):
                    raise
            else:
                break
