"""Fetching the files of a version in a few large ranges at a time, each file checked as it is written."""

import hashlib
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol

from trainer.dataset.cache import STAMP_NS
from trainer.dataset.errors import DatasetCorruptError
from trainer.dataset.manifest import Entry, Header, Shard
from trainer.store import CHUNK, ObjectStore

# Measured on loopback (benchmarks/fetching.py), 2 to 8 threads and ranges of 2 to 32 MiB are alike: what counts is to
# ask a dozen times instead of 2,000. Over a network a connection is often slower than the line, hence four of them,
# and ranges that are small enough for all four to end at about the same time.
WORKERS = 4
RANGE_BYTES = 8 << 20
GAP_BYTES = 128 << 10  # costs less to read over than another request, which takes 2 ms of CPU and a round trip
_SMALL = 1 << 20  # read whole; anything larger is streamed
_WINDOW = 4096  # entries put in the order of the shards at a time: what the memory for a fetch depends on
_TICK_SECONDS = 0.1
_LEAVE_SECONDS = 5.0


class Told(Protocol):
    """Who is told how far it is."""

    def add(self, size: int) -> None:
        """So many bytes are done; called from any thread."""

    def tick(self) -> None:
        """Called several times a second, in the thread that waits. May raise, which ends the download."""


@dataclass(frozen=True)
class _Part:
    """A piece of a shard that is asked for at once, and the files in it in the order of their bytes."""

    shard: Shard
    entries: list[Entry]

    @property
    def end(self) -> int:
        return self.entries[-1].offset + self.entries[-1].size

    def goes_on_with(self, entry: Entry) -> bool:
        """Whether `entry` is better read along than asked for on its own."""
        last, start = self.entries[-1], self.entries[0].offset
        if (entry.offset, entry.size) == (last.offset, last.size):
            return entry.size <= _SMALL  # the same bytes under another name
        return self.end <= entry.offset <= self.end + GAP_BYTES and entry.offset + entry.size - start <= RANGE_BYTES


def _parts(entries: Iterable[Entry], shards: tuple[Shard, ...]) -> Iterator[_Part]:
    """The entries as few large pieces of shards, in constant memory."""
    entries = iter(entries)
    while window := list(islice(entries, _WINDOW)):
        window.sort(key=lambda entry: (entry.shard, entry.offset))
        part: _Part | None = None
        for entry in window:
            shard = shards[entry.shard]
            if part is not None and part.shard is shard and part.goes_on_with(entry):
                part.entries.append(entry)
                continue
            if part is not None:
                yield part
            part = _Part(shard, [entry])
        if part is not None:
            yield part


def download(store: ObjectStore, header: Header, entries: Iterator[Entry], folder: Path, told: Told) -> None:
    """Write the files of `entries` into `folder`, each checked against its digest."""
    crew = _Crew(store, folder, told)
    try:
        for part in _parts(entries, header.shards):
            crew.give(part)
        crew.finish()
    finally:
        crew.leave()


class _Crew:
    """Threads that fetch parts. They are daemons: a server that hangs does not keep a stopped trainer alive."""

    def __init__(self, store: ObjectStore, folder: Path, told: Told) -> None:
        self._store, self._folder, self._told = store, str(folder), told
        self._parts: queue.Queue[_Part | None] = queue.Queue(WORKERS)
        self._error: BaseException | None = None
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._work, name="downloading", daemon=True) for _ in range(WORKERS)]
        for thread in self._threads:
            thread.start()

    def give(self, part: _Part | None) -> None:
        """Hand over a part as soon as somebody is free for it. Raises what any of them ran into."""
        while True:
            self._tick()
            with suppress(queue.Full):
                self._parts.put(part, timeout=_TICK_SECONDS)
                return

    def finish(self) -> None:
        """Wait until all is done."""
        for _ in self._threads:
            self.give(None)
        for thread in self._threads:
            while thread.is_alive():
                thread.join(_TICK_SECONDS)
                self._tick()
        self._tick()

    def leave(self) -> None:
        """End the threads, where they have not ended."""
        self._stopped.set()
        with suppress(queue.Empty):
            while True:
                self._parts.get_nowait()
        for _ in self._threads:
            with suppress(queue.Full):
                self._parts.put_nowait(None)
        deadline = time.monotonic() + _LEAVE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _tick(self) -> None:
        if self._error is not None:
            raise self._error
        self._told.tick()

    def _work(self) -> None:
        try:
            while (part := self._parts.get()) is not None and not self._stopped.is_set():
                self._take(part)
        except Exception as error:  # noqa: BLE001 - raised again by `_tick`, in the thread that waits
            self._error = self._error or error
            self._stopped.set()

    def _take(self, part: _Part) -> None:
        """Fetch a part; what arrived damaged is asked for once more, since the damage may be on the way."""
        for entry in self._read(part):
            if self._read(_Part(part.shard, [entry])):
                raise DatasetCorruptError(
                    f"{self._store.uri(part.shard.key)} does not hold {entry.path} as it was packed (SHA-256 "
                    f"{entry.sha256} at byte {entry.offset}). The store changed data: import it into a new dataset."
                )

    def _read(self, part: _Part) -> list[Entry]:
        """Write the files of a part; returns those whose bytes are not theirs."""
        wrong, position, data = [], part.entries[0].offset, b""
        last: Entry | None = None
        with self._store.open(part.shard.key, position, part.end) as source:
            for entry in part.entries:
                if self._stopped.is_set():
                    break
                path = f"{self._folder}/{entry.path}"
                if last is None or last.offset != entry.offset or last.size != entry.size:
                    source.read(entry.offset - position)  # what lies between, at most GAP_BYTES
                    position = entry.offset + entry.size
                    data = source.read(entry.size) if entry.size <= _SMALL else b""
                last = entry
                good = _write(path, data, entry) if entry.size <= _SMALL else _write_stream(path, source, entry)
                if good:
                    self._told.add(entry.size)
                else:
                    wrong.append(entry)
        return wrong


def _write(path: str, data: bytes, entry: Entry) -> bool:
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        return False
    descriptor = _create(path)
    try:
        written = os.write(descriptor, data)
        while written < len(data):  # a disk that is almost full takes a part, and refuses the rest in words
            written += os.write(descriptor, data[written:])
        os.utime(descriptor, ns=(STAMP_NS, STAMP_NS))
    finally:
        os.close(descriptor)
    return True


def _write_stream(path: str, source: BinaryIO, entry: Entry) -> bool:
    digest, left = hashlib.sha256(), entry.size
    with os.fdopen(_create(path), "wb", buffering=0) as target:
        while left and (chunk := source.read(min(left, CHUNK))):
            digest.update(chunk)
            target.write(chunk)
            left -= len(chunk)
        good = digest.hexdigest() == entry.sha256
        if good:
            os.utime(target.fileno(), ns=(STAMP_NS, STAMP_NS))
    if not good:
        os.unlink(path)
    return good


def _create(path: str) -> int:
    """A new file, read-only for everybody but this descriptor."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o444)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return os.open(path, flags, 0o444)
