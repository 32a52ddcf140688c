"""Bytes of pictures and labels, out of the shards they lie in."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from apps.storage.models import StoredFile
from apps.storage.stores import get_store
from trainer.store import CHUNK, ObjectMissingError

# A request costs more than reading over this many bytes that nobody asked for.
_GAP = 128 * 1024
_MOST_AT_ONCE = 8 * 1024 * 1024
_REQUESTS_AT_A_TIME = 8


@dataclass
class _Range:
    key: str
    start: int
    end: int
    files: list[StoredFile]


def read_file(file: StoredFile) -> bytes:
    """All bytes of a file, whose shard is loaded. Raises StoreError, where the shard ends too early too."""
    return next(iter(_read(_Range(file.shard.key, file.offset, file.offset + file.size, [file])).values()))


def read_files(files: Iterable[StoredFile]) -> dict[int, bytes]:
    """The bytes of each file by its id, neighbours in one request. Raises StoreError."""
    ranges = list(_ranges(files))
    if len(ranges) < 2:
        return _read(ranges[0]) if ranges else {}
    found: dict[int, bytes] = {}
    with ThreadPoolExecutor(_REQUESTS_AT_A_TIME) as pool:
        for read in pool.map(_read, ranges):
            found.update(read)
    return found


def stream_file(file: StoredFile) -> Iterator[bytes]:
    """The file's bytes in pieces. Raises StoreError."""
    with get_store().open(file.shard.key, file.offset, file.offset + file.size) as source:
        while piece := source.read(CHUNK):
            yield piece


def _ranges(files: Iterable[StoredFile]) -> Iterator[_Range]:
    current: _Range | None = None
    for file in sorted({file.pk: file for file in files}.values(), key=lambda file: (file.shard_id, file.offset)):
        key, end = file.shard.key, file.offset + file.size
        near = current is not None and current.key == key and file.offset - current.end <= _GAP
        if current is not None and near and end - current.start <= _MOST_AT_ONCE:
            current.files.append(file)
            current.end = max(current.end, end)
            continue
        if current is not None:
            yield current
        current = _Range(key, file.offset, end, [file])
    if current is not None:
        yield current


def _read(wanted: _Range) -> dict[int, bytes]:
    with get_store().open(wanted.key, wanted.start, wanted.end) as source:
        data = b"".join(iter(lambda: source.read(CHUNK), b""))
    if len(data) < wanted.end - wanted.start:
        raise ObjectMissingError(
            f"{wanted.key} ends before byte {wanted.end}: it was cut short in the store. Import the data again."
        )
    begin = wanted.start
    return {file.pk: data[file.offset - begin : file.offset - begin + file.size] for file in wanted.files}
