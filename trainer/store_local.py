"""The folder half of `trainer.store`. Take stores from `trainer.store.open_store`.

root/KEY                             an object
root/.incoming/*.part                files that are being written
root/.incoming/UPLOAD/upload.json    an upload in parts: its key, and when it was started
root/.incoming/UPLOAD/00001          part 1 of it
"""

import errno
import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from trainer.store import (
    INCOMING,
    LocalStoreSettings,
    ObjectMissingError,
    ObjectStore,
    PendingUpload,
    StoreDeniedError,
    StoredObject,
    StoreError,
    StoreFullError,
    UploadMissingError,
    UploadPart,
    check_key,
    check_part_number,
    copy_stream,
    make_folder,
    require_whole,
    whole_file,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_ABOUT = "upload.json"
_UPLOAD_ID = re.compile(r"[0-9a-f]{32}")
_PART = re.compile(r"\d{5}")


class LocalStore(ObjectStore):
    """A folder; an object is the file of its key's name. A folder without objects is removed with its last one."""

    def __init__(self, settings: LocalStoreSettings) -> None:
        self._root = settings.root.absolute()
        self._incoming = self._root / INCOMING

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
                    folders[:] = [name for name in folders if name != INCOMING]
                for path in (Path(folder, name) for name in names):
                    with suppress(FileNotFoundError):  # deleted since the folder was read
                        key = path.relative_to(self._root).as_posix()
                        yield StoredObject(key, path.stat().st_size, None)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._translated("delete", key), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            for folder in path.relative_to(self._root).parents[:-1]:
                try:
                    (self._root / folder).rmdir()
                except OSError:
                    break  # it holds other objects, or somebody else has removed it

    def presign_get(
        self,
        key: str,
        expires_seconds: int,
        filename: str | None = None,
        *,
        inline: bool = False,
        content_type: str | None = None,
    ) -> str | None:
        check_key(key)
        return None

    def presign_put(self, key: str, expires_seconds: int) -> str | None:
        check_key(key)
        return None

    # --- uploads in parts ---------------------------------------------------------------------------------------

    def start_upload(self, key: str, content_type: str | None = None) -> str:
        check_key(key)
        upload_id = uuid.uuid4().hex
        about = {"key": key, "started_at": datetime.now(UTC).isoformat()}
        with self._translated("start an upload of", key):
            folder = self._incoming / upload_id
            folder.mkdir(parents=True)
            with whole_file(folder / _ABOUT, folder) as file:
                file.write(json.dumps(about).encode())
        return upload_id

    def presign_part(self, key: str, upload_id: str, number: int, expires_seconds: int) -> str | None:
        check_key(key)
        check_part_number(number)
        return None

    def put_part(self, key: str, upload_id: str, number: int, source: BinaryIO, size: int) -> None:
        path = self._upload(key, upload_id) / f"{check_part_number(number):05d}"
        with (
            self._translated(f"write part {number} of", key, UploadMissingError),
            whole_file(path, path.parent) as target,
        ):
            copied, _ = copy_stream(source, target, size)
            require_whole(key, number, copied, size)

    def list_parts(self, key: str, upload_id: str) -> Sequence[UploadPart]:
        folder = self._upload(key, upload_id)
        with self._translated("list the parts of", key, UploadMissingError):
            return [UploadPart(int(path.name), path.stat().st_size) for path in _part_files(folder)]

    def complete_upload(self, key: str, upload_id: str) -> StoredObject:
        folder, target = self._upload(key, upload_id), self._path(key)
        self.check_parts(key, self.list_parts(key, upload_id))
        with self._translated("complete the upload of", key, UploadMissingError):
            make_folder(target.parent)
            with whole_file(target, self._incoming) as whole:
                reader = io.BufferedReader(_Joined(_part_files(folder)), 1 << 20)
                with reader:
                    size, sha256 = copy_stream(reader, whole)
        self.abort_upload(key, upload_id)
        return StoredObject(key, size, sha256)

    def abort_upload(self, key: str, upload_id: str) -> None:
        try:
            folder = self._upload(key, upload_id)
        except UploadMissingError:
            return
        with self._translated("abort the upload of", key), suppress(FileNotFoundError):
            # First out of sight in one step, so that nobody meets an upload with half of its parts.
            doomed = folder.with_name(f".{upload_id}.part")
            folder.rename(doomed)
            shutil.rmtree(doomed)

    def list_uploads(self, prefix: str = "") -> Iterator[PendingUpload]:
        below = check_key(prefix.rstrip("/")) + "/" if prefix else ""
        with self._translated("list the uploads below", prefix or "all keys"), suppress(FileNotFoundError):
            for folder in self._incoming.iterdir():
                about = _about(folder) if _UPLOAD_ID.fullmatch(folder.name) else None
                if about is not None and about[0].startswith(below):
                    yield PendingUpload(about[0], folder.name, about[1])

    def remove_unfinished(self, before: datetime) -> None:
        with self._translated("tidy", INCOMING), suppress(FileNotFoundError):
            for path in self._incoming.glob(".*.part"):
                with suppress(FileNotFoundError):  # its writer has finished, or somebody else tidies
                    if path.stat().st_mtime >= before.timestamp():
                        continue
                    if path.is_dir():
                        shutil.rmtree(path)
                    else:
                        path.unlink()

    # --- the rest -----------------------------------------------------------------------------------------------

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _upload(self, key: str, upload_id: str) -> Path:
        """The folder of the upload. An id comes from outside: it must be one of ours, and of this key."""
        check_key(key)
        folder = self._incoming / upload_id
        about = _about(folder) if _UPLOAD_ID.fullmatch(upload_id) else None
        if about is None or about[0] != key:
            raise UploadMissingError(
                f"There is no upload {upload_id[:64]!r} of {key} in {self._root}: it was completed or given up. "
                "Start a new one."
            )
        return folder

    def _put(self, key: str, source: BinaryIO) -> StoredObject:
        path = self._path(key)
        with self._translated("write", key):
            make_folder(path.parent)
            self._incoming.mkdir(exist_ok=True)
            with whole_file(path, self._incoming) as target:
                size, sha256 = copy_stream(source, target)
        return StoredObject(key, size, sha256)

    def _reader(self, key: str, start: int, end: int | None) -> tuple[BinaryIO, str | None]:
        with self._translated("read", key, ObjectMissingError):
            file = self._path(key).open("rb")
        file.seek(start)
        return (file if end is None else io.BufferedReader(_Head(file, end - start))), None

    @contextmanager
    def _translated(self, verb: str, key: str, missing: type[StoreError] = StoreError) -> Iterator[None]:
        """Errors of the disk as ours; `missing` is the one for a file that is not there."""
        try:
            yield
        except OSError as error:
            what = f"Cannot {verb} {key} in the folder {self._root}: {error.strerror or error}."
            match error.errno:
                case errno.ENOENT | errno.ENOTDIR | errno.EISDIR if missing is not StoreError:
                    raise missing(f"{what} It was deleted, or LOCAL_STORAGE_ROOT differs.") from error
                case errno.EACCES | errno.EPERM | errno.EROFS:
                    raise StoreDeniedError(f"{what} Give this user access to LOCAL_STORAGE_ROOT.") from error
                case errno.ENOSPC | errno.EDQUOT:
                    raise StoreFullError(f"{what} Free space, or move LOCAL_STORAGE_ROOT.") from error
            raise StoreError(f"{what} Check LOCAL_STORAGE_ROOT.") from error


def _about(folder: Path) -> tuple[str, datetime] | None:
    """The key of an upload and when it was started, or None where the folder is none."""
    try:
        about = json.loads((folder / _ABOUT).read_bytes())
    except FileNotFoundError:
        return None
    return about["key"], datetime.fromisoformat(about["started_at"])


def _part_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _PART.fullmatch(path.name))


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


class _Joined(io.RawIOBase):
    """The bytes of several files, one after another."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths: Iterator[Path] = iter(paths)
        self._file: io.BytesIO | io.FileIO = io.BytesIO()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        while not (count := self._file.readinto(buffer)):
            path = next(self._paths, None)
            if path is None:
                return 0
            self._file.close()
            self._file = path.open("rb", buffering=0)
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


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
