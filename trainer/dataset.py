"""Datasets on their way from a folder to the store and into a trainer's cache.

A version of a dataset is one uncompressed tar in the store: pictures do not compress, and one large object
moves several times as fast as thousands of small ones. `trainer.dataset_validation` knows the layout.

    DatasetError              anything that keeps a dataset from being used
    +- DatasetInvalidError    its contents break the rules; the person who made it has to mend them
    +- DatasetCorruptError    the archive is not the one that was packed; the store has to be looked at
"""

import hashlib
import os
import re
import shutil
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import yaml

from trainer.dataset_validation import (
    DATA_YAML,
    IMAGE_SUFFIXES,
    REQUIRED_SPLITS,
    SPLITS,
    DatasetReport,
    Finding,
    read_class_names,
    validate,
)
from trainer.store import CHUNK, ObjectMissingError, ObjectStore

__all__ = [
    "DATA_YAML",
    "IMAGE_SUFFIXES",
    "REQUIRED_SPLITS",
    "SPLITS",
    "DatasetCorruptError",
    "DatasetError",
    "DatasetInvalidError",
    "DatasetReport",
    "Finding",
    "PackedDataset",
    "archive_key",
    "fetch",
    "pack",
    "read_class_names",
    "validate",
    "write_ultralytics_yaml",
]

_ABANDONED_SECONDS = 24 * 3600
_SHOWN_ERRORS = 5
_SCRATCH = ".fetching-"
# Python 3.11 has the filter from 3.11.4 on; `_refuse_foreign` refuses all that it would.
_FILTER: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


class DatasetError(Exception):
    """A dataset cannot be used; the message says why and what to do."""


class DatasetInvalidError(DatasetError):
    """The contents break the rules. `report` has every finding, the message the first errors."""

    def __init__(self, report: DatasetReport) -> None:
        self.report = report
        shown = " ".join(str(finding) for finding in report.errors[:_SHOWN_ERRORS])
        more = len(report.errors) - _SHOWN_ERRORS
        rest = f" And {more} more." if more > 0 else ""
        super().__init__(f"The dataset cannot be trained on. {shown}{rest}")


class DatasetCorruptError(DatasetError):
    """The archive differs from the one that was packed, or is not one that `pack` would make."""


@dataclass(frozen=True)
class PackedDataset:
    """An archive: its size in bytes and its SHA-256 in lower-case hex."""

    size: int
    sha256: str


def archive_key(dataset_id: str, sha256: str) -> str:
    """Where in the store the archive with this `sha256` lies: two imports at once cannot overwrite each other."""
    return f"datasets/{dataset_id}/{sha256}.tar"


def pack(folder: Path, archive: Path) -> PackedDataset:
    """Write the regular files below `folder` into the tar `archive`, replacing it once it is whole.

    The same files give the same bytes wherever and whenever they are packed. Links are left out, and so
    are the caches that ultralytics writes among the labels. Raises OSError where files cannot be read or
    written, DatasetError where `archive` is inside `folder`.
    """
    if archive.resolve().is_relative_to(folder.resolve()):
        raise DatasetError(f"{archive} is inside {folder} and would pack itself. Write it somewhere else.")
    partial = archive.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with partial.open("xb") as file:
            target = _HashingWriter(file)
            stream = cast("BinaryIO", target)  # writing is all that tarfile does to a stream
            with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK) as tar:
                for name, path in sorted(_regular_files(folder)):
                    member = tarfile.TarInfo(name)
                    member.size, member.mode = path.stat().st_size, 0o644
                    with path.open("rb") as source:
                        tar.addfile(member, source)
                    _forget_members(tar)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(archive)
    finally:
        partial.unlink(missing_ok=True)
    return PackedDataset(target.size, target.digest.hexdigest())


def fetch(
    store: ObjectStore,
    key: str,
    sha256: str,
    cache_root: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Return the folder of the dataset whose archive has this `sha256`, fetching it unless it is cached.

    The folder is `<cache_root>/datasets/<sha256>`, and has that name only once it is complete and its
    archive's digest is proven. Processes that fetch at once do not disturb each other. `progress` is told
    the bytes done and the bytes in all, once a MiB. Raises StoreError, DatasetCorruptError, and
    DatasetError where the cache cannot be written.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):  # it becomes a folder's name
        raise DatasetError(f"{sha256[:80]!r} is no SHA-256. Give the digest that `pack` returned.")
    home = cache_root / "datasets"
    folder = home / sha256
    if folder.is_dir():
        return folder
    stored = store.stat(key)
    if stored is None:
        raise ObjectMissingError(f"There is no dataset archive {store.uri(key)}. Upload this version anew.")
    try:
        home.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(home)
        scratch = home / f"{_SCRATCH}{uuid.uuid4().hex}"
        scratch.mkdir()  # not mkdtemp: other users may share the cache
    except OSError as error:
        raise _cache_error(home, error) from error
    try:
        with store.open(key) as source:
            reader = _HashingReader(source, stored.size, progress)
            _extract(reader, scratch, key)
        if reader.digest.hexdigest() != sha256:
            raise DatasetCorruptError(
                f"{store.uri(key)} is not the archive that was packed: its SHA-256 is "
                f"{reader.digest.hexdigest()} instead of {sha256}. Store this version of the dataset anew."
            )
        _claim(scratch, folder)
    except OSError as error:
        raise _cache_error(home, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def write_ultralytics_yaml(folder: Path, destination: Path) -> Path:
    """Write the description that ultralytics trains from: absolute `path`, splits, names; return its path.

    Made of the class names alone, and never a copy of the dataset's own `data.yaml`, whose `download` key
    ultralytics would run as code. Raises DatasetInvalidError where the names cannot be read.
    """
    names, findings = read_class_names(folder)
    report = DatasetReport(class_names=names, findings=findings)
    if not report.ok:
        raise DatasetInvalidError(report)
    data: dict[str, object] = {"path": str(folder.resolve())}
    data |= {split: f"images/{split}" for split in SPLITS if (folder / "images" / split).is_dir()}
    data["names"] = dict(enumerate(names))
    destination.parent.mkdir(parents=True, exist_ok=True)
    destination.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return destination


def _regular_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names within the archive, and paths, of what belongs into it."""
    for parent, _, names in os.walk(folder, onerror=_reraise):
        for path in (Path(parent, name) for name in names):
            if path.suffix != ".cache" and path.is_file() and not path.is_symlink():
                yield path.relative_to(folder).as_posix(), path


def _extract(reader: "_HashingReader", target: Path, key: str) -> None:
    """Unpack the archive as it arrives, which needs room for the dataset once and not twice."""
    try:
        stream = cast("BinaryIO", reader)  # reading is all that tarfile does to a stream
        with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK) as tar:
            while (member := tar.next()) is not None:
                _refuse_foreign(member)
                tar.extract(member, target, set_attrs=False, **_FILTER)
                _forget_members(tar)
    except tarfile.TarError as error:
        raise DatasetCorruptError(
            f"{key} is not an archive that can be unpacked: {error}. Store this version of the dataset anew."
        ) from error
    while reader.read(CHUNK):  # the padding after the last member is part of the digest
        pass


def _refuse_foreign(member: tarfile.TarInfo) -> None:
    """Refuse what `pack` never writes. tarfile's own filter mends some of it, where none should pass."""
    path = PurePosixPath(member.name)
    regular = member.isreg() and not member.issparse()  # a sparse file can fill a disk from a few bytes
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or not (regular or member.isdir()):
        raise tarfile.TarError(f"its member {member.name[:200]!r} is refused")


def _claim(scratch: Path, folder: Path) -> None:
    """Give the finished folder its name, unless another process was first: then its work is as good."""
    try:
        scratch.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _remove_abandoned(home: Path) -> None:
    """Remove what fetches left behind that were killed a day ago or earlier."""
    for scratch in home.glob(f"{_SCRATCH}*"):
        try:
            if scratch.stat().st_mtime < time.time() - _ABANDONED_SECONDS:
                shutil.rmtree(scratch, ignore_errors=True)
        except FileNotFoundError:
            continue  # its owner finished just now


def _cache_error(home: Path, error: OSError) -> DatasetError:
    why = error.strerror or str(error)
    return DatasetError(f"Cannot write the dataset cache {home}: {why}. Free space there, or move the cache.")


def _forget_members(tar: tarfile.TarFile) -> None:
    """Drop the list of members seen, which tarfile keeps and streaming never needs: a KB for each picture."""
    tar.members = []  # type: ignore[attr-defined]


def _reraise(error: OSError) -> None:
    raise error


class _HashingWriter:
    """Counts and hashes what is written through it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest, self.size = hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)


class _HashingReader:
    """Hashes what is read through it and tells how far it is."""

    def __init__(self, source: BinaryIO, total: int, progress: Callable[[int, int], None] | None) -> None:
        self._source, self._total, self._progress = source, total, progress
        self.digest, self._done = hashlib.sha256(), 0

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self.digest.update(data)
        self._done += len(data)
        if self._progress is not None and data:
            self._progress(self._done, self._total)
        return data
