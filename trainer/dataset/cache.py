"""The datasets that this machine holds, shared by its jobs.

    <root>/datasets/
        <sha256>/                  a complete version; it gets this name in one step, once all of it is checked
        <sha256>.jsonl.gz          its manifest
        <sha256>.fetch             locked by whoever fetches it, checks it or removes it
        <sha256>.use               locked, shared, by whoever trains on it; its time is that of the last use
        .fetching-<sha256>/        one that is being fetched, by the holder of its fetch lock
        .removing-<anything>       one that is being removed

The locks are the kernel's (flock) and end with the process that holds them, however it ends. Files are read-only and
bear one fixed time: whatever was written to or put in their place since is known without reading it. Versions of one
dataset share unchanged files as hard links.
"""

import errno
import fcntl
import logging
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from trainer.dataset import manifest
from trainer.dataset.errors import CacheError, CacheFullError, DatasetCorruptError
from trainer.dataset.manifest import Entry, Header

logger = logging.getLogger(__name__)

STAMP_NS = 946_684_800 * 10**9  # 2000-01-01: what was written in the cache by others is younger
_FETCHING, _REMOVING = ".fetching-", ".removing-"
_WAIT_SECONDS = 0.1
_VERSION = re.compile(r"[0-9a-f]{64}")


class Lock:
    """A kernel's lock on a file, held until it is released or its process ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor

    @classmethod
    def take(cls, path: Path, *, shared: bool = False) -> "Lock | None":
        """The lock, or None where somebody else has it."""
        kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, kind)
                if _is_still(path, descriptor):
                    return cls(path, descriptor)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # it was removed in between, and somebody else may lock its successor

    @classmethod
    def wait(cls, path: Path, waiting: Callable[[], None], *, shared: bool = False) -> "Lock":
        """The lock, as soon as it is to be had; `waiting` is called again and again, and may raise."""
        while (lock := cls.take(path, shared=shared)) is None:
            waiting()
            time.sleep(_WAIT_SECONDS)
        return lock

    def note(self, text: str) -> None:
        """Write what those who wait for the lock may read."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.release()


class CachedDataset:
    """A version in the cache, which is not removed while this is open. A process that ends closes it."""

    def __init__(self, folder: Path, header: Header, use: Lock) -> None:
        self.folder, self.header, self._use = folder, header, use

    def close(self) -> None:
        with suppress(
            OSError
        ):  # somebody else's file, or a disk that went read-only: only the order of removal suffers
            os.utime(self._use.path)
        self._use.release()

    def __enter__(self) -> "CachedDataset":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True)
class Cache:
    """The cache below `root`. Its methods raise OSError; `translated` turns that into words."""

    root: Path
    max_bytes: int

    @property
    def home(self) -> Path:
        return self.root / "datasets"

    def folder(self, sha256: str) -> Path:
        return self.home / sha256

    def manifest(self, sha256: str) -> Path:
        return self.home / f"{sha256}.jsonl.gz"

    def scratch(self, sha256: str) -> Path:
        """Where the version is put together: `files` becomes its folder, `manifest` its manifest."""
        return self.home / f"{_FETCHING}{sha256}"

    def fetch_lock(self, sha256: str) -> Path:
        return self.home / f"{sha256}.fetch"

    def use_lock(self, sha256: str) -> Path:
        return self.home / f"{sha256}.use"

    def publish(self, sha256: str) -> None:
        """Make what was put together the version. The caller holds its fetch lock."""
        scratch = self.scratch(sha256)
        (scratch / "manifest").replace(self.manifest(sha256))
        (scratch / "files").rename(self.folder(sha256))
        scratch.rmdir()

    def use(self, sha256: str, header: Header) -> CachedDataset:
        """Hold the version against removal. The caller holds its fetch lock, as who removes it must."""
        path = self.use_lock(sha256)
        use = Lock.wait(path, lambda: None, shared=True)
        with suppress(PermissionError):  # another user made it
            os.utime(path)
        return CachedDataset(self.folder(sha256), header, use)

    @contextmanager
    def others(self, header: Header) -> Iterator[list[str]]:
        """The cached versions that share shards with this one, last used first, held against removal."""
        wanted = {shard.key for shard in header.shards}
        with ExitStack() as held:
            found = []
            for sha256, other in self._by_last_use():
                if sha256 != header.sha256 and any(shard.key in wanted for shard in other.shards):
                    lock = Lock.take(self.use_lock(sha256), shared=True)
                    if lock is not None:
                        held.enter_context(lock)
                        if self.folder(sha256).is_dir():
                            found.append(sha256)
            yield list(reversed(found))

    def sweep(self) -> None:
        """Remove what killed processes left behind."""
        for path in self._listed(_REMOVING):
            shutil.rmtree(path, ignore_errors=True)
        for path in self._listed(_FETCHING):
            lock = Lock.take(self.fetch_lock(path.name.removeprefix(_FETCHING)))
            if lock is not None:
                with lock:
                    shutil.rmtree(path, ignore_errors=True)
        for path in self._listed(""):
            if _VERSION.fullmatch(path.name) and self._header(self.manifest(path.name)) is None:
                self._remove(path.name)  # without a manifest nobody can tell what it holds

    def make_room(self, header: Header, missing: int, waiting: Callable[[], None]) -> None:
        """Remove what was not used longest until this version fits, of which `missing` bytes are yet to come.

        Counts every version at its full size, as if it shared nothing. Raises CacheFullError where the disk itself
        has no room for what is missing.
        """
        with Lock.wait(self.home / ".evicting", waiting):
            cached = dict(self._by_last_use())
            total = header.size + sum(other.size for other in cached.values()) + self._being_fetched(header.sha256)
            for sha256, other in cached.items():
                if total <= self.max_bytes and missing <= shutil.disk_usage(self.home).free:
                    break
                if sha256 != header.sha256 and self._remove(sha256):
                    total -= other.size
                    logger.info("Removed the dataset version %s from the cache to make room.", sha256)
        if total > self.max_bytes:
            logger.warning("The cache %s holds more than CACHE_MAX_GB: all of it is in use.", self.home)
        if missing > (free := shutil.disk_usage(self.home).free):
            raise CacheFullError(
                f"The dataset needs {missing / 1e9:.1f} GB in {self.home}, where {free / 1e9:.1f} GB are free. "
                "Free space there, or move the cache (CACHE_DIR)."
            )

    def _remove(self, sha256: str) -> bool:
        """Remove the version unless somebody fetches or uses it."""
        with ExitStack() as held:
            for path in (self.fetch_lock(sha256), self.use_lock(sha256)):
                lock = Lock.take(path)
                if lock is None:
                    return False
                held.enter_context(lock)
            doomed = self.home / f"{_REMOVING}{uuid.uuid4().hex}"
            with suppress(FileNotFoundError):
                self.folder(sha256).rename(doomed)
            self.manifest(sha256).unlink(missing_ok=True)
            self.use_lock(sha256).unlink(missing_ok=True)
            self.fetch_lock(sha256).unlink(missing_ok=True)
        shutil.rmtree(doomed, ignore_errors=True)
        return True

    def _by_last_use(self) -> Iterator[tuple[str, Header]]:
        """The complete versions, the one that was not used longest first."""
        used = []
        for path in self._listed(""):
            if _VERSION.fullmatch(path.name) and path.is_dir():
                with suppress(FileNotFoundError):
                    used.append((self.use_lock(path.name).stat().st_mtime_ns, path.name))
        for _time, sha256 in sorted(used):
            if header := self._header(self.manifest(sha256)):
                yield sha256, header

    def _being_fetched(self, but: str) -> int:
        """Bytes that others will have fetched soon."""
        scratches = (path for path in self._listed(_FETCHING) if path != self.scratch(but))
        headers = (self._header(path / "manifest") for path in scratches)
        return sum(header.size for header in headers if header)

    def _header(self, path: Path) -> Header | None:
        try:
            with path.open("rb") as source:
                return manifest.read(source)[0]
        except (FileNotFoundError, DatasetCorruptError):
            return None

    def _listed(self, prefix: str) -> list[Path]:
        return sorted(path for path in self.home.iterdir() if path.name.startswith(prefix))

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Say in words what OSError says in numbers."""
        try:
            yield
        except OSError as error:
            what = f"Cannot write the dataset cache {self.home}: {error.strerror or error}."
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise CacheFullError(f"{what} Free space there, or move the cache (CACHE_DIR).") from error
            raise CacheError(f"{what} Give this user a folder to write to, and name it in CACHE_DIR.") from error


def is_intact(path: str, entry: Entry) -> bool:
    """Whether the file is there as it was fetched, as far as that shows without reading it."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return found.st_size == entry.size and found.st_mtime_ns == STAMP_NS


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
