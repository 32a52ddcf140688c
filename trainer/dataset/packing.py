"""Packing a checked dataset into shards and a manifest."""

import hashlib
import os
import tarfile
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Protocol

from trainer.dataset import manifest
from trainer.dataset.errors import DatasetError
from trainer.dataset.layout import IMAGES, LABELS, Description
from trainer.dataset.manifest import ContentDigest, Entry, Header, Shard
from trainer.store import CHUNK, ObjectStore, StoredObject, StoreError

# The trainer asks for ranges, so that the size decides nothing for it. Larger shards are fewer objects to store and
# list; smaller ones lose less when a pack is interrupted, need less room while they wait, and go in one request.
SHARD_BYTES = 32 << 20
SHARD_FILES = 4096  # labels are tiny: this bounds what the index is given at once, and the memory for it
_BATCH_FILES = 256  # hashed and looked up together
_HASHERS = 4
_UPLOADS = 2  # at once; as many full shards again may wait
_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Location:
    """Where the bytes of a file lie already."""

    shard: Shard
    offset: int
    size: int


class Index(Protocol):
    """What is stored of a dataset so far; the platform keeps it in its database. Called in the thread of `pack`."""

    def find(self, digests: Sequence[str]) -> Mapping[str, Location]:
        """Where files with these SHA-256 lie, for those that are stored."""
        ...

    def add(self, shard: Shard, files: Mapping[str, tuple[int, int]]) -> None:
        """`shard` lies complete in the store, with these files: SHA-256 → offset, size."""
        ...


class MemoryIndex:
    """An index that lasts as long as the process: for packing by hand, and for tests."""

    def __init__(self) -> None:
        self._files: dict[str, Location] = {}

    def find(self, digests: Sequence[str]) -> Mapping[str, Location]:
        return {digest: self._files[digest] for digest in digests if digest in self._files}

    def add(self, shard: Shard, files: Mapping[str, tuple[int, int]]) -> None:
        self._files |= {sha256: Location(shard, offset, size) for sha256, (offset, size) in files.items()}


def pack(
    folder: Path,
    description: Description,
    *,
    ok: bool,
    store: ObjectStore,
    dataset_id: str,
    index: Index,
    progress: Callable[[int, int], None] | None = None,
    scratch: Path | None = None,
) -> Header:
    """Store the pictures and labels of `folder` that `index` does not know, then the manifest; return its header.

    `progress` is told the bytes done and in all. What was stored before an interruption is in `index`, and is not
    stored again. Shards wait for their upload in a new folder inside `scratch`, the system's own for temporary files
    unless given: room for five of them is enough. Raises StoreError, OSError, and DatasetError where a file changed
    while it was read.
    """
    total = sum(path.stat().st_size for _name, path in _files(folder))
    with tempfile.TemporaryDirectory(prefix="packing-", dir=scratch) as made:
        room = Path(made)
        digest = ContentDigest(description, ok)
        listing = room / "entries"
        with (
            _Shards(room, store, dataset_id, index, progress, total) as shards,
            listing.open("wb") as entries,
            ThreadPoolExecutor(_HASHERS, "hashing") as hashers,
        ):
            files = _files(folder)
            while batch := list(islice(files, _BATCH_FILES)):
                for entry in shards.place(list(hashers.map(_hashed, batch))):
                    digest.add(entry)
                    entries.write(manifest.entry_line(entry))
            shards.finish()
        kept = _as_kept(listing, room / "kept", shards.all(), index)
        header = Header(digest.hexdigest(), description, digest.files, digest.size, ok, kept)
        target = room / "manifest"
        with (room / "kept").open("rb") as lines:
            manifest.write(target, header, (manifest.parse_entry(line, header.shards) for line in lines))
        # Last, so that a manifest never names what is not there.
        store.put_file(manifest.manifest_key(dataset_id, header.sha256), target)
    return header


def _as_kept(listing: Path, target: Path, shards: tuple[Shard, ...], index: Index) -> tuple[Shard, ...]:
    """Write the entries anew, each with the place that the index keeps for its bytes; return the shards in question.

    Another pack may have stored the same bytes at the same moment, and only one place is kept. Two packs of one content
    write one manifest: it must not depend on which of them is the last, nor name what the index takes for unused.
    """
    numbers: dict[Shard, int] = {}
    with listing.open("rb") as lines, target.open("wb") as kept:
        while batch := [manifest.parse_entry(line, shards) for line in islice(lines, _BATCH_FILES)]:
            places = index.find([entry.sha256 for entry in batch])
            for entry in batch:
                place = places.get(entry.sha256) or Location(shards[entry.shard], entry.offset, entry.size)
                number = numbers.setdefault(place.shard, len(numbers))
                kept.write(manifest.entry_line(replace(entry, shard=number, offset=place.offset)))
    return tuple(numbers)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names within the version, and paths, of what belongs to it, in the order of the names."""
    for kind in (IMAGES, LABELS):
        if (folder / kind).is_dir() and not (folder / kind).is_symlink():
            yield from _below(folder, kind)


def _below(folder: Path, parent: str) -> Iterator[tuple[str, Path]]:
    with os.scandir(folder / parent) as found:
        # With its slash, a subfolder sorts among the files as the paths of what is in it do.
        names = sorted(
            f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name
            for entry in found
            if entry.is_dir(follow_symlinks=False) or entry.is_file(follow_symlinks=False)
        )
    for name in names:
        path = f"{parent}/{name}"
        if name.endswith("/"):
            yield from _below(folder, path.rstrip("/"))
        elif not name.endswith(".cache"):  # what ultralytics leaves among the labels
            if problem := manifest.path_problem(path):
                raise DatasetError(f"The file {path!r} cannot be stored: its name {problem}. Rename it.")
            yield path, folder / path


@dataclass(frozen=True)
class _Hashed:
    name: str
    path: Path
    size: int
    sha256: str


def _hashed(file: tuple[str, Path]) -> _Hashed:
    name, path = file
    digest, size = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as source:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return _Hashed(name, path, size, digest.hexdigest())


@dataclass
class _Growing:
    """A shard that is being written: an uncompressed tar, so that a file's bytes lie in it as they are.

    `worth` counts the bytes of all files of the version that have their content here.
    """

    number: int
    key: str
    path: Path
    size: int = 0
    worth: int = 0
    files: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._digest = hashlib.sha256()
        self._target = self.path.open("xb")

    def has_room(self, size: int) -> bool:
        return not self.files or (self.size + size <= SHARD_BYTES and len(self.files) < SHARD_FILES)

    def append(self, file: _Hashed) -> int:
        """Add the file and return where its bytes begin. Raises DatasetError where they are no longer those hashed."""
        member = tarfile.TarInfo(file.name)
        member.size, member.mode = file.size, 0o644
        self._write(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))
        offset, digest = self.size, hashlib.sha256()
        with file.path.open("rb", buffering=0) as source:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                self._write(chunk)
        if digest.hexdigest() != file.sha256:
            raise DatasetError(f"{file.name} changed while it was packed. Try again with a folder that is at rest.")
        self._write(bytes(-file.size % _BLOCK))
        self.files[file.sha256] = offset, file.size
        self.worth += file.size
        return offset

    def close(self) -> Shard:
        self._write(bytes(2 * _BLOCK))  # the end of a tar
        self.abandon()
        return Shard(self.key, self._digest.hexdigest(), self.size)

    def abandon(self) -> None:
        self._target.close()

    def _write(self, data: bytes) -> None:
        self._digest.update(data)
        self._target.write(data)
        self.size += len(data)


@dataclass(frozen=True)
class _Upload:
    shard: Shard
    grown: _Growing
    done: Future[StoredObject]


class _Shards:
    """Puts files into shards and shards into the store; leaves the block only once all of it is done or undone."""

    def __init__(
        self,
        room: Path,
        store: ObjectStore,
        dataset_id: str,
        index: Index,
        progress: Callable[[int, int], None] | None,
        total: int,
    ) -> None:
        self._room, self._store, self._dataset_id, self._index = room, store, dataset_id, index
        self._progress, self._total, self._done = progress, total, 0
        self._pool = ThreadPoolExecutor(_UPLOADS, "uploading")
        self._numbers: dict[str, int] = {}  # by key, in the order in which the manifest first needs them
        self._known: dict[str, Shard] = {}
        self._growing: _Growing | None = None
        self._uploads: deque[_Upload] = deque()

    def __enter__(self) -> "_Shards":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if error is not None:
            self._give_up()
        self._pool.shutdown()

    def place(self, files: Sequence[_Hashed]) -> Iterator[Entry]:
        """Entries for `files`, with the bytes that are not yet stored on their way."""
        stored = dict(self._index.find([file.sha256 for file in files]))
        for file in files:
            number, offset = self._waiting(file) or self._stored(file, stored) or self._append(file, stored)
            yield Entry(file.name, file.sha256, file.size, number, offset)

    def finish(self) -> None:
        """Wait until all shards lie in the store."""
        self._close_growing({})
        while self._uploads:
            self._settle()

    def all(self) -> tuple[Shard, ...]:
        return tuple(self._known[key] for key in self._numbers)

    def _waiting(self, file: _Hashed) -> tuple[int, int] | None:
        """Where the same bytes lie in a shard that the index does not know yet."""
        growing = [self._growing] if self._growing else []
        for shard in (*growing, *(upload.grown for upload in self._uploads)):
            if file.sha256 in shard.files:
                shard.worth += file.size
                return shard.number, shard.files[file.sha256][0]
        return None

    def _stored(self, file: _Hashed, stored: Mapping[str, Location]) -> tuple[int, int] | None:
        location = stored.get(file.sha256)
        if location is None:
            return None
        self._known[location.shard.key] = location.shard
        self._advance(file.size)
        return self._number(location.shard.key), location.offset

    def _append(self, file: _Hashed, stored: dict[str, Location]) -> tuple[int, int]:
        if self._growing and not self._growing.has_room(file.size):
            self._close_growing(stored)
        if self._growing is None:
            name = uuid.uuid4().hex
            key = manifest.shard_key(self._dataset_id, name)
            self._growing = _Growing(self._number(key), key, self._room / name)
        return self._growing.number, self._growing.append(file)

    def _number(self, key: str) -> int:
        return self._numbers.setdefault(key, len(self._numbers))

    def _close_growing(self, stored: dict[str, Location]) -> None:
        """Send the shard off. Those that were sent before and have arrived go into the index, and into `stored`."""
        if self._growing is None:
            return
        grown, self._growing = self._growing, None
        shard = grown.close()
        self._known[shard.key] = shard
        self._uploads.append(_Upload(shard, grown, self._pool.submit(self._store.put_file, shard.key, grown.path)))
        while len(self._uploads) > 2 * _UPLOADS or (self._uploads and self._uploads[0].done.done()):
            stored |= self._settle()

    def _settle(self) -> dict[str, Location]:
        """Wait for the oldest upload, let the index know, and return what is stored by it."""
        upload = self._uploads[0]
        upload.done.result()
        files = upload.grown.files
        self._index.add(upload.shard, files)
        self._uploads.popleft()
        upload.grown.path.unlink()
        self._advance(upload.grown.worth)
        return {sha256: Location(upload.shard, offset, size) for sha256, (offset, size) in files.items()}

    def _advance(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(self._done, self._total)

    def _give_up(self) -> None:
        """Leave nothing in the store that the index does not know."""
        if self._growing:
            self._growing.abandon()
        for upload in self._uploads:
            if not upload.done.cancel():
                with suppress(StoreError, OSError):  # what failed is raised already, or nobody asks any more
                    upload.done.result()
                    self._store.delete(upload.shard.key)
