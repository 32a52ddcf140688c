"""The manifest of a dataset version: every file with its SHA-256, and where in the store its bytes lie.

It is a gzip file of JSON lines: a header, then one line a file, in the order of their paths. Files travel in shards:
tar archives of some tens of MiB that the versions of a dataset share, so that a file that did not change is stored
once. `sha256` of a version is the digest of what the version holds (description, paths, digests, sizes), and not of
where it lies: the same content is the same version, however it was packed.
"""

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from trainer.dataset.errors import DatasetCorruptError
from trainer.dataset.layout import IMAGES, LABELS, Description
from trainer.store import InvalidKeyError, check_key

FORMAT = 1

# A line is read whole, so its length is what a hostile manifest could fill the memory with.
_LONGEST_HEADER = 64 << 20  # names 300,000 shards: 10 TB
_LONGEST_LINE = 16 << 10
_LONGEST_PATH, _LONGEST_NAME = 1000, 255  # characters that the platform keeps; bytes that a file system takes
_DIGEST = re.compile(r"[0-9a-f]{64}")
# Almost every path is of this kind, which is known ten times as fast as by the rules one by one.
_PLAIN_PATH = re.compile(rf"(?:{IMAGES}|{LABELS})(?:/(?!\.\.?(?:/|$))[ -.0-\[\]-~]{{1,{_LONGEST_NAME}}})+")
_ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class Shard:
    """A tar in the store. `size` is in bytes."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a version. `shard` is an index into the header's shards, `offset` where in it the bytes begin."""

    path: str
    sha256: str
    size: int
    shard: int
    offset: int


@dataclass(frozen=True)
class Header:
    """`files` and `size` count what the version holds, in files and bytes. `ok`: the check found no error."""

    sha256: str
    description: Description
    files: int
    size: int
    ok: bool
    shards: tuple[Shard, ...]


def manifest_key(dataset_id: str, sha256: str) -> str:
    """Where in the store the manifest of the version with this digest lies."""
    return f"datasets/{dataset_id}/versions/{sha256}.jsonl.gz"


def shards_prefix(dataset_id: str) -> str:
    """The folder of all shards of a dataset."""
    return f"datasets/{dataset_id}/shards/"


def shard_key(dataset_id: str, name: str) -> str:
    """Where a shard lies. Its name is its own, never used twice: deleting one cannot hit another."""
    return f"{shards_prefix(dataset_id)}{name}.tar"


def path_problem(path: str) -> str | None:
    """What keeps a file of this path out of a version, in words that follow the path; None where nothing does."""
    if len(path) <= _LONGEST_PATH and _PLAIN_PATH.fullmatch(path):
        return None
    parts = path.split("/")
    if parts[0] not in (IMAGES, LABELS) or len(parts) < 2:
        return f"is not below {IMAGES}/ or {LABELS}/"
    if "" in parts or "." in parts or ".." in parts:
        return "has a part that is empty, '.' or '..'"
    if "\\" in path or any(character < " " or character == "\x7f" for character in path):
        return "holds a backslash or a control character"
    try:
        too_long = len(path) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in parts)
    except UnicodeEncodeError:
        return "is not text in UTF-8"
    return f"is longer than {_LONGEST_PATH} characters, or has a part over {_LONGEST_NAME} bytes" if too_long else None


class ContentDigest:
    """The version's `sha256` as it grows, with the files and bytes that it covers so far."""

    def __init__(self, description: Description, ok: bool) -> None:
        self._digest = hashlib.sha256(_line({"description": description.to_json(), "ok": ok}))
        self.files = self.size = 0

    def add(self, entry: Entry) -> None:
        """Take in the next entry; they come in the order of their paths."""
        self._digest.update(_line([entry.path, entry.sha256, entry.size]))
        self.files += 1
        self.size += entry.size

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def content_digest(description: Description, ok: bool, entries: Iterable[Entry]) -> str:
    """The version's `sha256`. `entries` in the order of their paths; they are read once."""
    digest = ContentDigest(description, ok)
    for entry in entries:
        digest.add(entry)
    return digest.hexdigest()


def write(path: Path, header: Header, entries: Iterable[Entry]) -> None:
    """Write a manifest, the same bytes for the same input."""
    # Neither the time nor the file's name goes into the gzip header.
    with path.open("wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as target:
        target.write(_line(_header_to_json(header)))
        target.writelines(entry_line(entry) for entry in entries)


def read(source: BinaryIO) -> tuple[Header, Iterator[Entry]]:
    """The header, and the entries as they are read, in constant memory.

    Raises DatasetCorruptError, from the iterator too: for what is no manifest, and at its end where the entries do
    not add up to the header's `sha256`, `files` and `size`, so that a reader who got to the end may trust them.
    """
    lines = gzip.GzipFile(fileobj=source, mode="rb")
    data = _parsed(_next_line(lines, _LONGEST_HEADER), "its header")
    try:
        header = _header_from_json(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _corrupt(f"its header is not of format {FORMAT} ({error})") from error
    return header, _entries(lines, header)


def entry_line(entry: Entry) -> bytes:
    """An entry as a line of the manifest."""
    return _line([entry.path, entry.sha256, entry.size, entry.shard, entry.offset])


def parse_entry(line: bytes, shards: tuple[Shard, ...]) -> Entry:
    """The entry of a line. Raises DatasetCorruptError where it is none, or points beyond its shard."""
    match _parsed(line, "a line"):
        case [str() as path, str() as sha256, int() as size, int() as shard, int() as offset]:
            if problem := path_problem(path):
                raise _corrupt(f"its path {path[:200]!r} {problem}")
            inside = min(size, shard, offset) >= 0 and shard < len(shards) and offset + size <= shards[shard].size
            if inside and _DIGEST.fullmatch(sha256):
                return Entry(path, sha256, size, shard, offset)
    raise _corrupt(f"it has the line {line[:200]!r}")


def _entries(lines: gzip.GzipFile, header: Header) -> Iterator[Entry]:
    digest = ContentDigest(header.description, header.ok)
    previous = ""
    while line := _next_line(lines, _LONGEST_LINE):
        entry = parse_entry(line, header.shards)
        if entry.path <= previous:
            raise _corrupt(f"{entry.path!r} comes after {previous!r}, out of order or twice")
        previous = entry.path
        digest.add(entry)
        if digest.files > header.files:  # whoever acts on entries before the end is not led on for ever
            raise _corrupt(f"it lists more than its {header.files} files")
        yield entry
    if (digest.files, digest.size, digest.hexdigest()) != (header.files, header.size, header.sha256):
        raise _corrupt(f"what it lists does not add up to the version {header.sha256}")


def _next_line(lines: gzip.GzipFile, longest: int) -> bytes:
    """The next line, b"" at the end."""
    try:
        line = lines.readline(longest + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise _corrupt(f"it is not a whole gzip file ({error})") from error
    if len(line) > longest:
        raise _corrupt(f"a line of it is longer than {longest} bytes")
    return line


def _parsed(line: bytes, what: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError too
        raise _corrupt(f"{what} is not JSON ({str(error)[:200]})") from error


def _line(data: Any) -> bytes:
    """Canonical: one spelling for one content."""
    return _ENCODER.encode(data).encode() + b"\n"


def _header_to_json(header: Header) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "sha256": header.sha256,
        "description": header.description.to_json(),
        "files": header.files,
        "size": header.size,
        "ok": header.ok,
        "shards": [[shard.key, shard.sha256, shard.size] for shard in header.shards],
    }


def _header_from_json(data: Any) -> Header:
    """Raises KeyError, TypeError, ValueError or AttributeError for what `_header_to_json` does not write."""
    if data["format"] != FORMAT:
        raise ValueError(f"it says format {data['format']!r}")
    ok = data["ok"]
    if not isinstance(ok, bool):
        raise TypeError("'ok' is neither true nor false")
    names = data["description"]["class_names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("the class names are not a list of texts")
    return Header(
        sha256=_digest(data["sha256"]),
        description=Description.from_json(data["description"]),
        files=_count(data["files"]),
        size=_count(data["size"]),
        ok=ok,
        shards=tuple(_shard(each) for each in data["shards"]),
    )


def _shard(data: Any) -> Shard:
    key, sha256, size = data
    try:
        return Shard(check_key(key), _digest(sha256), _count(size))
    except InvalidKeyError as error:
        raise ValueError(str(error)) from error


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError(f"{str(value)[:80]!r} is no SHA-256")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{str(value)[:80]!r} is no number of files or bytes")
    return value


def _corrupt(why: str) -> DatasetCorruptError:
    return DatasetCorruptError(
        f"The manifest of this dataset version cannot be used: {why}. Import the data again to store it anew."
    )
