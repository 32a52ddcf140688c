"""Which files of a dataset are stored, as the packer asks for it: rows of Shard and StoredFile."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

from django.db import transaction
from django.utils import timezone

from apps.storage.models import DatasetImport, DatasetVersion, Shard, StoredFile
from apps.storage.progress import ImportLostError, mine
from apps.storage.stores import get_store
from trainer.dataset.manifest import Shard as PackedShard
from trainer.dataset.packing import Location

ASKED_AT_ONCE = 500  # an SQLite may be built to take no more than 999 values in a statement


_T = TypeVar("_T")


def in_chunks(values: Sequence[_T], size: int = ASKED_AT_ONCE) -> Iterator[Sequence[_T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


class DatabaseIndex:
    """The `trainer.dataset.packing.Index` of the dataset that a running import belongs to."""

    def __init__(self, imp: DatasetImport) -> None:
        self._import, self._dataset = imp, imp.dataset
        self._lost: dict[str, bool] = {}  # by key of a shard

    def find(self, digests: Sequence[str]) -> Mapping[str, Location]:
        found: dict[str, Location] = {}
        shards: dict[int, PackedShard] = {}
        for some in in_chunks(digests):
            rows = StoredFile.objects.filter(dataset=self._dataset, sha256__in=some).select_related("shard")
            for row in rows:
                if self._is_lost(row.shard):
                    continue
                # One object for each shard: a manifest counts its shards by them.
                shard = shards.setdefault(row.shard_id, PackedShard(row.shard.key, row.shard.sha256, row.shard.size))
                found[row.sha256] = Location(shard, row.offset, row.size)
        return found

    def add(self, shard: PackedShard, files: Mapping[str, tuple[int, int]]) -> None:
        """Where another import stored one of the files at the same moment, the index keeps its place for it.

        Raises ImportLostError where the import is no longer this try's: what it stored may have been swept away.
        """
        with transaction.atomic():
            if not mine(self._import).update(seen_at=timezone.now()):
                raise ImportLostError(self._import)
            row = Shard.objects.create(dataset=self._dataset, key=shard.key, sha256=shard.sha256, size=shard.size)
            rows = (
                StoredFile(shard=row, dataset=self._dataset, sha256=sha256, offset=offset, size=size)
                for sha256, (offset, size) in sorted(files.items())  # in one order, or two imports wait for each other
            )
            while some := list(islice(rows, 1000)):
                StoredFile.objects.bulk_create(some, ignore_conflicts=True)
            self._lost[shard.key] = False
            self._replace_lost(row, files)

    def _is_lost(self, shard: Shard) -> bool:
        """Whether the store no longer has the shard whole: its files are stored anew. Raises StoreError."""
        if shard.key not in self._lost:
            found = get_store().stat(shard.key)
            self._lost[shard.key] = found is None or found.size != shard.size
        return self._lost[shard.key]

    def _replace_lost(self, row: Shard, files: Mapping[str, tuple[int, int]]) -> None:
        """What lay in lost shards lies in this one from now on, and versions that had those hold on to it."""
        lost = [key for key, is_lost in self._lost.items() if is_lost]
        if not lost:
            return
        for some in in_chunks(sorted(files)):
            moved = list(StoredFile.objects.filter(dataset=self._dataset, sha256__in=some, shard__key__in=lost))
            for file in moved:
                file.shard, (file.offset, file.size) = row, files[file.sha256]
            StoredFile.objects.bulk_update(moved, ["shard", "offset", "size"])
        for version in DatasetVersion.everything.filter(shards__key__in=lost).distinct():
            version.shards.add(row)
