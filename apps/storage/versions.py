"""The verbs on versions: deleting one, and telling two apart."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import Literal

from django.contrib.auth.models import AbstractUser
from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.translation import gettext as _

from apps.projects.rights import Right
from apps.storage.errors import VersionInUseError
from apps.storage.models import (
    Dataset,
    DatasetFinding,
    DatasetImage,
    DatasetVersion,
    ImageClass,
    ImportState,
    Shard,
    StoredFile,
)
from apps.storage.rights import require
from apps.storage.stores import get_store
from trainer.dataset.layout import has_labels
from trainer.dataset.manifest import manifest_key
from trainer.store import StoreError

logger = logging.getLogger(__name__)

Change = Literal["added", "removed", "replaced", "relabelled"]
CHANGES: tuple[Change, ...] = ("added", "removed", "replaced", "relabelled")

_DELETED_AT_ONCE = 1000
SWEEP_LEASE = timedelta(minutes=10)
KEPT_FOR_A_RERUN = timedelta(days=1)


# --- telling two apart ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RenamedClass:
    """A class id whose name differs; None where a version has no such id."""

    class_id: int
    old: str | None
    new: str | None


@dataclass(frozen=True)
class Diff:
    """What `new` has otherwise than `old`, which belong to one dataset.

    `counts` has every one of CHANGES. An image that was both replaced and relabelled counts in both. Where the class
    is a folder (image classification), an image that moved from one to another is relabelled, and neither added nor
    removed.
    """

    old: DatasetVersion
    new: DatasetVersion
    counts: dict[Change, int]
    classes: list[RenamedClass]

    def images(self, change: Change) -> "QuerySet[DatasetImage]":
        """The images of that kind of change, by id: of `new`, but for `removed`, which are of `old`. Not yet read."""
        return changed_images(self.old, self.new, change)


def diff(old: DatasetVersion, new: DatasetVersion) -> Diff:
    """Compare two versions of one dataset, in one query a change. Raises ValueError for versions of two datasets."""
    if old.dataset_id != new.dataset_id:
        raise ValueError(f"{old} and {new} belong to two datasets, which share no files.")
    names = enumerate(zip_longest(old.class_names, new.class_names))
    renamed = [RenamedClass(class_id, before, after) for class_id, (before, after) in names if before != after]
    return Diff(old, new, {change: changed_images(old, new, change).count() for change in CHANGES}, renamed)


def changed_images(old: DatasetVersion, new: DatasetVersion, change: Change) -> "QuerySet[DatasetImage]":
    """The images of one kind of change, as `Diff.images`.

    A dataset stores equal bytes once, so that files are equal where their rows are the same.
    """
    of_old, of_new = DatasetImage.objects.filter(version=old), DatasetImage.objects.filter(version=new)
    namesake = of_old.filter(path=OuterRef("path"))
    came, went = of_new.filter(~Exists(namesake)), of_old.filter(~Exists(of_new.filter(path=OuterRef("path"))))
    # Where the place is the label: the same picture has gone there, and come here.
    moves = not has_labels(new.dataset.task_type)
    moved_in, moved_out = Exists(went.filter(file=OuterRef("file"))), Exists(came.filter(file=OuterRef("file")))
    match change:
        case "added":
            found = came.exclude(moved_in) if moves else came
        case "removed":
            found = went.exclude(moved_out) if moves else went
        case "replaced":
            found = of_new.filter(Exists(namesake.exclude(file=OuterRef("file"))))
        case "relabelled" if moves:
            found = came.filter(moved_in)
        case "relabelled":
            other = namesake.annotate(its=Coalesce("label_id", 0)).exclude(its=Coalesce(OuterRef("label_id"), 0))
            found = of_new.filter(Exists(other))
    return found.order_by("id")


# --- deleting -------------------------------------------------------------------------------------------------------


def delete_version(version: DatasetVersion, by: AbstractUser) -> None:
    """Delete a version: its rows, then what the store holds for it alone.

    It disappears at once; rows and objects that could not be deleted now are deleted later by the sweep. Its number
    is not given to another.

    Raises:
        NotPermittedError: `by` may not manage the dataset's project.
        VersionInUseError: jobs use it; the message names them.
    """
    require(by, Right.MANAGE, version.dataset)
    _hide(version)
    drop_rows(DatasetVersion.everything.filter(pk=version.pk, complete=False))
    try:
        sweep_dataset(version.dataset)
    except StoreError as error:
        logger.warning("What the store held for %s is left to the next sweep: %s", version, error)


def _hide(version: DatasetVersion) -> None:
    """From here on no job can begin to use it: `apps.jobs.services.submit` looks again once its job is written."""
    with transaction.atomic():
        Dataset.objects.select_for_update().get(pk=version.dataset_id)
        DatasetVersion.everything.select_for_update().get(pk=version.pk)
        jobs = list(version.jobs.order_by("-id").values_list("pk", flat=True)[:6])
        if jobs:
            first = ", ".join(map(str, jobs[:5])) + (" …" if len(jobs) > 5 else "")
            raise VersionInUseError(
                _("%(version)s cannot be deleted: jobs were trained on it (%(jobs)s).")
                % {"version": version, "jobs": first}
            )
        Dataset.objects.filter(pk=version.dataset_id, last_number__lt=version.number).update(last_number=version.number)
        DatasetVersion.everything.filter(pk=version.pk).update(complete=False)


def drop_rows(versions: "QuerySet[DatasetVersion]") -> None:
    """Delete these versions, which nobody sees, with all their rows; a batch at a time, since SQLite has one writer."""
    for pk in list(versions.values_list("pk", flat=True)):
        for model in (DatasetFinding, ImageClass, DatasetImage):
            rows = model._base_manager.filter(version=pk).order_by("pk")
            while some := list(rows.values_list("pk", flat=True)[:_DELETED_AT_ONCE]):
                # The rows below them are gone already, so that nothing has to be collected first.
                model._base_manager.filter(pk__gte=some[0], pk__lte=some[-1], version=pk)._raw_delete("default")
        versions.filter(pk=pk).delete()


def sweep_dataset(dataset: Dataset) -> bool:
    """Delete what the store holds of the dataset and no version needs; tell whether that could be done now.

    Files that were stored a short time ago are kept for an import that was interrupted and is repeated. No import of
    the dataset runs meanwhile: it would rely on what is being deleted. Raises StoreError.
    """
    lease = _begin_sweep(dataset)
    if lease is None:
        return False
    deadline = time.monotonic() + SWEEP_LEASE.total_seconds() / 2
    try:
        store = get_store()
        for key in _doomed(dataset):
            if time.monotonic() > deadline:
                return False
            store.delete(key)
            Shard.objects.filter(key=key).delete()
        return True
    finally:
        # Its own lease: after a long standstill another sweep may have one.
        Dataset.objects.filter(pk=dataset.pk, sweep_until=lease).update(sweep_until=None)


def _begin_sweep(dataset: Dataset) -> datetime | None:
    """Keep imports from beginning until a time, where none runs and no rows are left over; `imports.claim` looks."""
    with transaction.atomic():
        locked = Dataset.objects.select_for_update().filter(pk=dataset.pk).first()
        now = timezone.now()
        if locked is None or (locked.sweep_until and locked.sweep_until > now):
            return None
        if locked.imports.filter(state=ImportState.RUNNING).exists() or _left_over(locked).exists():
            return None
        locked.sweep_until = now + SWEEP_LEASE
        locked.save(update_fields=["sweep_until"])
        return locked.sweep_until


def _left_over(dataset: Dataset) -> "QuerySet[DatasetVersion]":
    return DatasetVersion.everything.filter(dataset=dataset, complete=False)


def _doomed(dataset: Dataset) -> Iterator[str]:
    """The keys of shards and manifests that no version needs, those included that no row knows."""
    unused = Shard.objects.filter(dataset=dataset, versions=None)
    old = unused.filter(created_at__lt=timezone.now() - KEPT_FOR_A_RERUN)
    emptied = unused.filter(~Exists(StoredFile.objects.filter(shard=OuterRef("pk"))))
    for pk, key in list((old | emptied).values_list("pk", "key")):
        # The rows of the files go first: nothing finds them any more, whatever becomes of the object.
        StoredFile.objects.filter(shard=pk).delete()
        yield key
    store, known = get_store(), set(dataset.shards.values_list("key", flat=True))
    known |= {manifest_key(str(dataset.pk), sha) for sha in dataset.versions.values_list("sha256", flat=True)}
    for folder in ("shards", "versions"):
        for stored in list(store.list(f"datasets/{dataset.pk}/{folder}")):
            if stored.key not in known:
                yield stored.key
