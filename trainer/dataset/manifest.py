"""The manifest of a dataset version: every file with its SHA-256, and where in the store its bytes lie.

It is a gzip file of JSON lines: a header, then one line a file, in the order of their paths. Files travel in shards:
tar archives of some tens of MiB that the versions of a dataset share, so that a file that did not change is stored
once. `sha256` of a version is the digest of what the version holds (description, paths, digests, sizes), and not of
where it lies: the same content is the same version, however it was packed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from trainer.dataset.layout import Description

FORMAT = 1


@dataclass(frozen=True)
class Shard:
    """A tar in the store. `size` is in bytes."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
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


def shard_key(dataset_id: str, name: str) -> str:
    """Where a shard lies. Its name is its own, never used twice: deleting one cannot hit another."""
    return f"datasets/{dataset_id}/shards/{name}.tar"


def content_digest(description: Description, ok: bool, entries: Iterable[Entry]) -> str:
    """The version's `sha256`. `entries` in the order of their paths; they are read once."""
    raise NotImplementedError


def write(path: Path, header: Header, entries: Iterable[Entry]) -> None:
    """Write a manifest, the same bytes for the same input."""
    raise NotImplementedError


def read(source: BinaryIO) -> tuple[Header, Iterator[Entry]]:
    """The header, and the entries as they are read, in constant memory.

    Raises DatasetCorruptError, from the iterator too: for what is no manifest, and at its end where the entries do
    not add up to the header's `sha256`, `files` and `size`, so that a reader who got to the end may trust them.
    """
    raise NotImplementedError
