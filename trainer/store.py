"""The object store: one interface, a folder or any S3 service behind it.

Platform and trainer reach every dataset, checkpoint and artifact through `open_store(settings)`. All bytes
stream in constant memory, and one store may be shared by threads. The S3 half is in `trainer.store_s3`,
the only module that imports boto3; it is loaded for S3 settings alone, so that a run on a folder does not
pay for the import.

    StoreError                 anything that went wrong with the store
    +- InvalidKeyError         the key breaks the rules of `check_key`
    +- ObjectMissingError      no object of that key
    +- BucketMissingError      no such bucket
    +- StoreDeniedError        credentials or permissions
    +- StoreUnreachableError   network, or a server that is ill for now: worth trying again
    +- StoreFullError          no space, or a quota reached
    +- ChecksumMismatchError   the bytes that came back are not those that were stored
"""

import errno
import hashlib
import io
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 1 << 20

_MAX_KEY_BYTES, _MAX_SEGMENT_BYTES = 1024, 255  # S3's limit for a key, a file system's for a name
_INCOMING = ".incoming"


class StoreError(Exception):
    """An operation on the store failed; the message says what to mend."""

    retryable = False


class InvalidKeyError(StoreError, ValueError):
    """The key could not be stored alike everywhere."""


class ObjectMissingError(StoreError):
    """There is no object of that key."""


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


StoreSettings = LocalStoreSettings | S3StoreSettings


@dataclass(frozen=True)
class StoredObject:
    """What is known of an object: its key, its size in bytes, its SHA-256 in lower-case hex.

    `sha256` is known after a put or a get. A listing never knows it, nor does `stat` on a folder or for an
    S3 object that somebody else uploaded.
    """

    key: str
    size: int
    sha256: str | None


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
    elif segments[0] == _INCOMING:
        problem = f"begins with {_INCOMING}, where a local store keeps unfinished files"
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
    def presign_get(self, key: str, expires_seconds: int, filename: str | None = None) -> str | None:
        """A link that downloads the object without credentials for up to a week, saved as `filename`.

        None where the store has no server of its own: the platform then streams the object itself.
        """

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
        """Write the object to `path`, whole or not at all. Raises OSError where that cannot be written."""
        source, expected = self._reader(check_key(key), 0, None)
        with source:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _whole_file(path, path.parent) as target:
                size, sha256 = copy_stream(source, target)
                if expected and expected != sha256:
                    raise ChecksumMismatchError(
                        f"{self.uri(key)} was damaged in the store or on its way: its SHA-256 is {sha256}, "
                        f"and {expected} was stored. Try again; if it stays so, store the object anew."
                    )
        return StoredObject(key, size, sha256)

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


class LocalStore(ObjectStore):
    """A folder; an object is the file of its key's name."""

    def __init__(self, settings: LocalStoreSettings) -> None:
        self._root = settings.root.absolute()

    def uri(self, key: str) -> str:
        return self._path(key).as_uri()

    def put_file(self, key: str, path: Path, content_type: str | None = None) -> StoredObject:
        with path.open("rb") as source:
            return self._put(key, source)

    def put_bytes(self, key: str, data: bytes, content_type: str | None = None) -> StoredObject:
        return self._put(key, io.BytesIO(data))

    def stat(self, key: str) -> StoredObject | None:
        path = self._path(key)
        with self._translated("look up", key):
            return StoredObject(key, path.stat().st_size, None) if path.is_file() else None

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        top = self._path(prefix.rstrip("/")) if prefix else self._root
        with self._translated("list", prefix or "all objects"):
            for folder, folders, names in os.walk(top, onerror=_raise_unless_missing):
                if folder == str(self._root):
                    folders[:] = [name for name in folders if name != _INCOMING]
                for path in (Path(folder, name) for name in names):
                    with suppress(FileNotFoundError):  # deleted since the folder was read
                        key = path.relative_to(self._root).as_posix()
                        yield StoredObject(key, path.stat().st_size, None)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._translated("delete", key), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()

    def presign_get(self, key: str, expires_seconds: int, filename: str | None = None) -> str | None:
        check_key(key)
        return None

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _put(self, key: str, source: BinaryIO) -> StoredObject:
        path, incoming = self._path(key), self._root / _INCOMING
        with self._translated("write", key):
            path.parent.mkdir(parents=True, exist_ok=True)
            incoming.mkdir(exist_ok=True)
            with _whole_file(path, incoming) as target:
                size, sha256 = copy_stream(source, target)
        return StoredObject(key, size, sha256)

    def _reader(self, key: str, start: int, end: int | None) -> tuple[BinaryIO, str | None]:
        with self._translated("read", key):
            file = self._path(key).open("rb")
        file.seek(start)
        return (file if end is None else io.BufferedReader(_Head(file, end - start))), None

    @contextmanager
    def _translated(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = f"Cannot {verb} {key} in the folder {self._root}: {error.strerror or error}."
            match error.errno:
                case errno.ENOENT | errno.ENOTDIR | errno.EISDIR if verb == "read":
                    raise ObjectMissingError(f"{what} It was deleted, or LOCAL_STORAGE_ROOT differs.") from error
                case errno.EACCES | errno.EPERM | errno.EROFS:
                    raise StoreDeniedError(f"{what} Give this user access to LOCAL_STORAGE_ROOT.") from error
                case errno.ENOSPC | errno.EDQUOT:
                    raise StoreFullError(f"{what} Free space, or move LOCAL_STORAGE_ROOT.") from error
            raise StoreError(f"{what} Check LOCAL_STORAGE_ROOT.") from error


def open_store(settings: StoreSettings) -> ObjectStore:
    """The store that the settings describe. Touches neither disk nor network."""
    if isinstance(settings, LocalStoreSettings):
        return LocalStore(settings)
    from trainer.store_s3 import S3Store

    return S3Store(settings)


def copy_stream(source: BinaryIO, target: BinaryIO | None) -> tuple[int, str]:
    """Copy all of `source` to `target`, if any, and return its size in bytes and its SHA-256."""
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
        if target is not None:
            target.write(chunk)
    return size, digest.hexdigest()


@contextmanager
def _whole_file(path: Path, scratch: Path) -> Iterator[BinaryIO]:
    """A new file in the folder `scratch` that becomes `path` once all of it is on the disk, or is removed.

    `scratch` must be on the file system of `path`, where a rename is one step.
    """
    partial = scratch / f".{uuid.uuid4().hex}.part"
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


class _Head(io.RawIOBase):
    """The next `length` bytes of a file, which is closed along with it."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file, self._left = file, length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer)
        chunk = self._file.read(min(self._left, len(view)))
        view[: len(chunk)] = chunk
        self._left -= len(chunk)
        return len(chunk)

    def close(self) -> None:
        self._file.close()
        super().close()
