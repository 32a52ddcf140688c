"""Which files of a dataset are stored, as the packer asks for it: rows of Shard and StoredFile."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

from django.db import transaction

from apps.storage.models import Dataset, Shard, StoredFile
from trainer.dataset.manifest import Shard as PackedShard
from trainer.dataset.packing import Location

ASKED_AT_ONCE = 500  # an SQLite may be built to take no more than 999 values in a statement


_T = TypeVar("_T")


def in_chunks(values: Sequence[_T], size: int = ASKED_AT_ONCE) -> Iterator[Sequence[_T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


class DatabaseIndex:
    """The `trainer.dataset.packing.Index` of one dataset."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def find(self, digests: Sequence[str]) -> Mapping[str, Location]:
        found: dict[str, Location] = {}
        shards: dict[int, PackedShard] = {}
        for some in in_chunks(digests):
            rows = StoredFile.objects.filter(dataset=self._dataset, sha256__in=some).select_related("shard")
            for row in rows:
                # One object for each shard: a manifest counts its shards by them.
                shard = shards.setdefault(row.shard_id, PackedShard(row.shard.key, row.shard.sha256, row.shard.size))
                found[row.sha256] = Location(shard, row.offset, row.size)
        return found

    def add(self, shard: PackedShard, files: Mapping[str, tuple[int, int]]) -> None:
        """Where another import stored one of the files at the same moment, the index keeps its place for it."""
        with transaction.atomic():
            row = Shard.objects.create(dataset=self._dataset, key=shard.key, sha256=shard.sha256, size=shard.size)
            rows = (
                StoredFile(shard=row, dataset=self._dataset, sha256=sha256, offset=offset, size=size)
                for sha256, (offset, size) in files.items()
            )
            while some := list(islice(rows, 1000)):
                StoredFile.objects.bulk_create(some, ignore_conflicts=True)
