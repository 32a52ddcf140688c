"""Packing a checked dataset into shards and a manifest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from trainer.dataset.layout import Description
from trainer.dataset.manifest import Header, Shard
from trainer.store import ObjectStore


@dataclass(frozen=True)
class Location:
    """Where the bytes of a file lie already."""

    shard: Shard
    offset: int
    size: int


class Index(Protocol):
    """What is stored of a dataset so far; the platform keeps it in its database."""

    def find(self, digests: Sequence[str]) -> Mapping[str, Location]:
        """Where files with these SHA-256 lie, for those that are stored."""
        ...

    def add(self, shard: Shard, files: Mapping[str, tuple[int, int]]) -> None:
        """`shard` lies complete in the store, with these files: SHA-256 → offset, size."""
        ...


def pack(
    folder: Path,
    description: Description,
    *,
    ok: bool,
    store: ObjectStore,
    dataset_id: str,
    index: Index,
    progress: Callable[[int, int], None] | None = None,
) -> Header:
    """Store the pictures and labels of `folder` that `index` does not know, then the manifest; return its header.

    `progress` is told the bytes done and in all. What was stored before an interruption is in `index`, and is not
    stored again. Raises StoreError, OSError, and DatasetError where a file changed while it was read.
    """
    raise NotImplementedError
