"""Large objects over several connections at once, and reading that goes on where a connection broke.

Nothing here knows of S3's client: `trainer.store_s3` brings the requests. What is held in memory does not grow with
the object.
"""

import errno
import hashlib
import io
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeVar

from trainer.store import CHUNK, StoreError, StoreUnreachableError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PIECE = 32 << 20  # bytes: large against the milliseconds that a request costs
WORKERS = 4
# What a read takes from a connection. From 128 KiB on, malloc maps fresh pages for each, at twice the CPU.
_BITE = 120 << 10
_RESUMES = 4  # how often in a row a download may break without a byte gained
_PAUSE = 0.1  # seconds before the first resumption; doubled for each that follows in a row

T = TypeVar("T")
Span = tuple[int, int]  # from, up to and not including


class Body(Protocol):
    def read(self, amt: int, /) -> bytes: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Answer:
    """What a service said to a request for some of an object's bytes. `body` is None beyond the object's end."""

    body: Body | None
    tag: str = ""
    sha256: str | None = None
    size: int = 0  # of the whole object
    whole: bool = False  # it sent all of it, whatever was asked for


class ResumingReader(io.RawIOBase):
    """Some bytes of an object; a broken connection is opened again at the byte where it broke.

    `ask(start, end)` makes one request, `breaks` are the errors of reading its answer that are worth another, and
    `fail(kind, why)` makes the error to raise. Given the `tag` of an object, the reader refuses another one's bytes.
    """

    def __init__(
        self,
        ask: Callable[[int, int | None], Answer],
        breaks: tuple[type[Exception], ...],
        fail: Callable[[type[StoreError], str], StoreError],
        span: tuple[int, int | None],
        tag: str | None = None,
    ) -> None:
        self._ask, self._breaks, self._fail = ask, breaks, fail
        self._at, self._end = span
        self._failures = 0
        self.answer = Answer(None)
        if self._end is None or self._at < self._end:
            self.answer = self._request(tag)
        self._body = self.answer.body

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes; fewer do not mean the end, none do."""
        if size < 0:
            return self.readall()
        while self._body is not None:
            try:
                chunk = self._body.read(size)
            except self._breaks as error:
                self._resume(error)
                continue
            self._failures = 0
            self._at += len(chunk)
            return chunk
        return b""

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer)
        chunk = self.read(len(view))
        view[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None
        super().close()

    def _request(self, tag: str | None) -> Answer:
        answer = self._ask(self._at, self._end)
        why = None
        if answer.body is not None and tag is not None and answer.tag != tag:
            why = "the object was replaced while it was read"
        elif answer.whole and self._at:
            why = "the service does not send parts of objects"
        if why and answer.body is not None:
            answer.body.close()
            raise self._fail(StoreError, why)
        return answer

    def _resume(self, error: Exception) -> None:
        self._failures += 1
        if self._body is not None:
            self._body.close()
            self._body = None
        if self._failures > _RESUMES:
            raise self._fail(StoreUnreachableError, str(error)) from error
        time.sleep(_PAUSE * 2 ** (self._failures - 1))
        self._body = self._request(self.answer.tag).body


def spans(size: int, piece: int = PIECE) -> Iterator[Span]:
    """The pieces of `size` bytes, in order."""
    return ((start, min(start + piece, size)) for start in range(0, size, piece))


def in_parallel(work: Callable[[Span], T], pieces: Iterator[Span]) -> Iterator[tuple[Span, T]]:
    """`work` of each piece in its order, a few at a time and a few ahead of whoever reads the results.

    The first error ends it: pieces that have not begun are dropped, those under way are waited for.
    """
    waiting: deque[tuple[Span, Future[T]]] = deque()
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="store") as pool:
        try:
            for piece in pieces:
                waiting.append((piece, pool.submit(work, piece)))
                if len(waiting) >= 2 * WORKERS:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def fetch(open_span: Callable[[Span], ResumingReader], size: int, target: BinaryIO) -> str:
    """Write the `size` bytes that `open_span` delivers in pieces into `target`, and return their SHA-256.

    The pieces are written as they come and hashed in order, from the page cache: nothing waits in memory.
    """
    descriptor, stopped = target.fileno(), threading.Event()

    def take(span: Span) -> None:
        try:
            copy(span)
        except BaseException:
            stopped.set()  # the others need not go on
            raise

    def copy(span: Span) -> None:
        at, end = span
        with open_span(span) as source:
            while at < end and not stopped.is_set():
                chunk = source.read(min(_BITE, end - at))
                if not chunk:
                    raise StoreUnreachableError(f"The object ended at byte {at}, before byte {end}. Try again.")
                at += os.pwrite(descriptor, chunk, at)

    digest, buffer = hashlib.sha256(), memoryview(bytearray(CHUNK))
    try:
        for (at, end), _ in in_parallel(take, spans(size)):
            while at < end:
                count = os.preadv(descriptor, [buffer[: end - at]], at)
                digest.update(buffer[:count])
                at += count
    finally:
        stopped.set()
    return digest.hexdigest()


def reserve(target: BinaryIO, folder: Path, size: int) -> None:
    """Make `target` `size` bytes long. Raises OSError at once where the disk has no room for it."""
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    os.truncate(target.fileno(), size)
