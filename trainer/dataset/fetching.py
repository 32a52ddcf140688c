"""Fetching a dataset version into this machine's cache."""

import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from trainer.dataset import manifest
from trainer.dataset.cache import Cache, CachedDataset, Lock, is_intact
from trainer.dataset.downloading import download
from trainer.dataset.errors import DatasetCorruptError, DatasetError, DatasetInvalidError
from trainer.dataset.manifest import Entry, Header
from trainer.store import CHUNK, ObjectMissingError, ObjectStore

logger = logging.getLogger(__name__)

_LINKED_VERSIONS = 3  # others looked through for unchanged files

Progress = Callable[[int, int], None]


def fetch(
    store: ObjectStore,
    dataset_id: str,
    sha256: str,
    cache_root: Path,
    *,
    max_bytes: int,
    task_type: str | None = None,
    progress: Progress | None = None,
    check: Callable[[], None] | None = None,
) -> CachedDataset:
    """Return the dataset version with this digest from the cache, fetching what the cache lacks of it.

    Where it is cached, the store is not asked: sizes and times of the files are compared with the manifest, and only
    those that differ are fetched anew. While another process fetches the version, this waits for it. To make room for
    what is fetched, versions that nobody uses are removed until the cache holds at most `max_bytes`.

    `progress` is told the bytes done and in all; `check` is called several times a second and may raise, which ends
    the fetch and removes what it had. Raises DatasetInvalidError for a version with errors or for another task than
    `task_type`, DatasetCorruptError where the store holds other bytes than were packed, CacheError (or its
    CacheFullError) where the cache cannot be written, and StoreError.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):  # it becomes a folder's name
        raise DatasetError(f"{sha256[:80]!r} is no SHA-256. Give the digest of a dataset version.")
    cache = Cache(cache_root.absolute(), max_bytes)
    told = _Told(progress, check)
    with cache.translated():
        cache.home.mkdir(parents=True, exist_ok=True)
        path = cache.fetch_lock(sha256)
        with Lock.wait(path, lambda: told.waiting(path)) as lock:
            told.lock = lock
            one = _Fetch(cache, store, dataset_id, sha256, told)
            header = one.cached()
            if header is None:
                cache.sweep()
                header = one.fetched(task_type)
            _refuse_unusable(header, task_type)
            told.finish(header.size)
            return cache.use(sha256, header)


class _Told:
    """Passes on how far the fetch is, to the caller and to processes that wait for it, and whether to go on."""

    def __init__(self, progress: Progress | None, check: Callable[[], None] | None) -> None:
        self._progress, self._check = progress, check
        self._done, self._counting = 0, threading.Lock()
        self.total = 0
        self.lock: Lock | None = None

    def add(self, size: int) -> None:
        """Count bytes that are done; from any thread."""
        with self._counting:
            self._done += size

    def tick(self) -> None:
        if self._check is not None:
            self._check()
        if self.lock is not None:
            self.lock.note(f"{self._done} {self.total}")
        if self._progress is not None and self.total:
            self._progress(self._done, self.total)

    def waiting(self, path: Path) -> None:
        """Pass on what the process that holds the lock at `path` noted in it."""
        if self._check is not None:
            self._check()
        if self._progress is not None:
            with suppress(OSError, ValueError):  # removed, or not written yet
                done, total = map(int, path.read_text().split())
                self._progress(done, total)

    def finish(self, total: int) -> None:
        if self._progress is not None:
            self._progress(total, total)


@dataclass(frozen=True)
class _Fetch:
    """One version on its way into the cache. The caller holds its fetch lock."""

    cache: Cache
    store: ObjectStore
    dataset_id: str
    sha256: str
    told: _Told

    def cached(self) -> Header | None:
        """The header of the version in the cache, where it is there; it is mended where that is needed."""
        folder, listing = self.cache.folder(self.sha256), self.cache.manifest(self.sha256)
        if not folder.is_dir():
            return None
        try:
            header, files, size = _compared(listing, folder, self.sha256)
        except (FileNotFoundError, DatasetCorruptError):
            with self._scratch() as scratch:
                self._get_manifest(scratch / "manifest")
                (scratch / "manifest").replace(listing)
            header, files, size = _compared(listing, folder, self.sha256)
        if files:
            logger.warning("%d files of the cached dataset %s were changed or removed; fetching them.", files, folder)
            self.told.total = size
            self._mend(header, folder, listing)
        return header

    def fetched(self, task_type: str | None) -> Header:
        """Put the version together and into its place."""
        with self._scratch() as scratch:
            listing, files = scratch / "manifest", scratch / "files"
            files.mkdir()
            header = self._get_manifest(listing)
            _refuse_unusable(header, task_type)
            missing = header.size - self._link_unchanged(header, listing, files)
            self.cache.make_room(header, missing, self.told.tick)
            self.told.total = header.size
            self.told.add(header.size - missing)
            download(self.store, header, _lacking(listing, files), files, self.told)
            self.cache.publish(self.sha256)
        return header

    def _mend(self, header: Header, folder: Path, listing: Path) -> None:
        """Replace the files that are not as they were fetched, one by one: others may be training on the rest."""
        with self._scratch() as files:
            download(self.store, header, _lacking(listing, folder), files, self.told)
            for entry in _lacking(listing, folder):
                target = folder / entry.path
                target.parent.mkdir(parents=True, exist_ok=True)
                (files / entry.path).replace(target)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        scratch = self.cache.scratch(self.sha256)
        shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _get_manifest(self, path: Path) -> Header:
        key = manifest.manifest_key(self.dataset_id, self.sha256)
        try:
            with self.store.open(key) as source, path.open("xb") as target:
                shutil.copyfileobj(source, target, CHUNK)
        except ObjectMissingError as error:
            raise ObjectMissingError(
                f"The store has no manifest of this dataset version ({self.store.uri(key)}): it was deleted, or the "
                "trainer reads another store than the platform. Import the data again, or correct the store's settings."
            ) from error
        header = _verified(path, self.sha256)
        prefix = manifest.shards_prefix(self.dataset_id)
        if foreign := next((shard.key for shard in header.shards if not shard.key.startswith(prefix)), None):
            raise DatasetCorruptError(
                f"The manifest of dataset version {self.sha256} names {foreign}, which is no part of dataset "
                f"{self.dataset_id}. Import the data again to store it anew."
            )
        return header

    def _link_unchanged(self, header: Header, listing: Path, files: Path) -> int:
        """Take from other versions in the cache what is the same in this one; returns how many bytes that is."""
        linked = 0
        with self.cache.others(header) as others:
            for other in others[:_LINKED_VERSIONS]:
                folder = self.cache.folder(other)
                try:
                    for entry in _common(_entries(listing), _entries(self.cache.manifest(other))):
                        source, target = f"{folder}/{entry.path}", f"{files}/{entry.path}"
                        if is_intact(source, entry) and not os.path.lexists(target):
                            _link(source, target)
                            linked += entry.size
                except (OSError, DatasetCorruptError) as error:
                    # A file system without links, another user's files, too many links: the store has them all.
                    logger.info("Not all of the cached version %s can be shared: %s", other, error)
        return linked


def _verified(path: Path, sha256: str) -> Header:
    """The header of a manifest that is proven to be the one of this version, to its last line."""
    with path.open("rb") as source:
        header, entries = manifest.read(source)
        _require(header, sha256)
        for _ in entries:
            pass
    return header


def _compared(listing: Path, folder: Path, sha256: str) -> tuple[Header, int, int]:
    """The header of a manifest as `_verified` gives it, and of how many files and bytes `folder` differs."""
    files = size = 0
    with listing.open("rb") as source:
        header, entries = manifest.read(source)
        _require(header, sha256)
        for entry in entries:
            if not is_intact(f"{folder}/{entry.path}", entry):
                files, size = files + 1, size + entry.size
    return header, files, size


def _require(header: Header, sha256: str) -> None:
    if header.sha256 != sha256:
        raise DatasetCorruptError(
            f"The manifest stored for dataset version {sha256} is that of {header.sha256}. "
            "Import the data again to store it anew."
        )


def _refuse_unusable(header: Header, task_type: str | None) -> None:
    if not header.ok:
        raise DatasetInvalidError(
            "This dataset version has errors, which are listed with it on the platform. "
            "Mend the files, import them again, and train on the new version."
        )
    its = header.description.task_type
    if task_type is not None and its != task_type:
        raise DatasetInvalidError(
            f"This dataset version is labelled for {its}, and the job is for {task_type}. Choose another dataset, or a "
            "model for its task."
        )


def _entries(listing: Path) -> Iterator[Entry]:
    with listing.open("rb") as source:
        yield from manifest.read(source)[1]


def _lacking(listing: Path, folder: Path) -> Iterator[Entry]:
    """Entries of the manifest whose file is not in `folder` as it should be."""
    return (entry for entry in _entries(listing) if not is_intact(f"{folder}/{entry.path}", entry))


def _common(some: Iterator[Entry], others: Iterator[Entry]) -> Iterator[Entry]:
    """Those of `some` that are the same file in `others`; both in the order of their paths."""
    other = next(others, None)
    for entry in some:
        while other is not None and other.path < entry.path:
            other = next(others, None)
        if other is not None and (other.path, other.sha256, other.size) == (entry.path, entry.sha256, entry.size):
            yield entry


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.link(source, target)
