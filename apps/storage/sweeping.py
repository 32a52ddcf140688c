"""What a periodic task puts right: imports whose worker died, uploads that nobody goes on with, and what was left over.

Every step may be repeated and cut off at any moment. A step that fails is written to the log, and the next pass tries
again; the other steps go on.
"""

import logging
import shutil
import time
import uuid
from collections.abc import Callable
from datetime import timedelta

from django.core.cache import cache
from django.db import DatabaseError
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.translation import gettext as _

from apps.storage import tasks
from apps.storage.imports import MAX_TRIES, imports_folder, tidy_up
from apps.storage.models import Dataset, DatasetImport, DatasetVersion, ImportState, Shard, StoredFile
from apps.storage.sources import downloads_folder
from apps.storage.stores import get_store
from apps.storage.uploads import forget_upload
from apps.storage.versions import KEPT_FOR_A_RERUN, drop_rows, sweep_dataset
from trainer.store import StoreError

logger = logging.getLogger(__name__)

SILENT = timedelta(minutes=2)
WAITS_FOR_A_WAKE_UP = timedelta(minutes=1)
ABANDONED = timedelta(days=7)

_AT_ONCE = 50
_WAKE_UP_SECONDS = 55  # less than the time between two sweeps: wake-ups do not pile up behind a long import
_WRITTEN_TO = ("uploads", "datasets", "projects")  # archives, shards, and what trainers store
_ENDED = (ImportState.SUCCEEDED, ImportState.FAILED, ImportState.CANCELLED)


def sweep() -> None:
    for step in (
        requeue_silent,
        wake_waiting,
        give_up_abandoned,
        forget_uploads,
        drop_left_over_rows,
        sweep_datasets,
        abort_unknown_uploads,
        remove_scratch,
    ):
        _attempt(step)


def _attempt(step: Callable[[], None]) -> None:
    try:
        step()
    except (StoreError, OSError, DatabaseError) as error:
        logger.warning("The sweep could not %s: %s", step.__name__.replace("_", " "), error)


def requeue_silent() -> None:
    """An import whose worker has been silent is queued again, or failed where that happened too often."""
    silent = DatasetImport.objects.filter(state=ImportState.RUNNING, seen_at__lt=timezone.now() - SILENT)
    for imp in silent:
        same = DatasetImport.objects.filter(pk=imp.pk, state=ImportState.RUNNING, tries=imp.tries, seen_at=imp.seen_at)
        if imp.upload_key and imp.tries < MAX_TRIES:
            said = _("Its worker went away; it is tried again.")
            if same.update(state=ImportState.QUEUED, message=said):
                tasks.wake_importer(imp.pk)
        elif same.update(state=ImportState.FAILED, message=_why_given_up(imp), ended_at=timezone.now()):
            imp.refresh_from_db()
            tidy_up(imp)


def wake_waiting() -> None:
    """The message that should have woken the importer may be lost; the oldest go first."""
    waiting = DatasetImport.objects.filter(state=ImportState.QUEUED, seen_at__lt=timezone.now() - WAITS_FOR_A_WAKE_UP)
    for imp in waiting.exclude(upload_key="").order_by("created_at")[:_AT_ONCE]:
        tasks.wake_importer(imp.pk, expires_seconds=_WAKE_UP_SECONDS)


def give_up_abandoned() -> None:
    going = DatasetImport.objects.annotate(last=Coalesce("seen_at", "created_at"))
    uploading = going.filter(state=ImportState.UPLOADING)
    # One of these without an upload belongs to a command that was killed before it began.
    never_begun = going.filter(state=ImportState.QUEUED, upload_key="")
    said = _("Nobody went on with it for %(days)s days.") % {"days": ABANDONED.days}
    for found in (uploading, never_begun):
        old = found.filter(last__lt=timezone.now() - ABANDONED)
        old.update(state=ImportState.CANCELLED, message=said, ended_at=timezone.now())


def forget_uploads() -> None:
    """What the store still holds of imports that have ended."""
    for imp in DatasetImport.objects.filter(state__in=_ENDED).exclude(upload_key="")[:_AT_ONCE]:
        forget_upload(imp)


def drop_left_over_rows() -> None:
    """Rows of versions that were never finished, or not wholly deleted."""
    # Looked up first: a version that an import has begun since then is not among them.
    left_over = list(DatasetVersion.everything.filter(complete=False).values_list("pk", "dataset"))
    for pk, dataset in left_over:
        if not DatasetImport.objects.filter(dataset=dataset, state=ImportState.RUNNING).exists():
            drop_rows(DatasetVersion.everything.filter(pk=pk, complete=False))


def sweep_datasets() -> None:
    """Datasets with shards that no version needs, or whose deletion was cut off."""
    emptied = ~Exists(StoredFile.objects.filter(shard=OuterRef("pk")))
    old = Q(created_at__lt=timezone.now() - KEPT_FOR_A_RERUN)
    unused = Shard.objects.filter(versions=None).filter(old | emptied)
    for dataset in Dataset.objects.filter(pk__in=unused.values("dataset"))[:_AT_ONCE]:
        sweep_dataset(dataset)


def abort_unknown_uploads() -> None:
    """What killed processes left half stored, once an hour: it takes room, and no listing of objects shows it."""
    if not cache.add("storage.sweep.unknown-uploads", True, timeout=3600):
        return
    store, old = get_store(), timezone.now() - timedelta(days=1)
    known = set(DatasetImport.objects.filter(state=ImportState.UPLOADING).values_list("upload_id", flat=True))
    for folder in _WRITTEN_TO:
        for pending in list(store.list_uploads(folder)):
            if pending.upload_id not in known and pending.started_at < old:
                store.abort_upload(pending.key, pending.upload_id)
    store.remove_unfinished(old)


def remove_scratch() -> None:
    """Folders of imports that have ended, and downloads that nobody goes on with, on this machine."""
    folder = imports_folder()
    if not folder.is_dir():
        return
    found = {path.name: path for path in folder.iterdir() if path != downloads_folder()}
    ids = {name: pk for name in found if (pk := _uuid(name)) is not None}
    going = DatasetImport.objects.filter(pk__in=ids.values()).exclude(state__in=_ENDED)
    wanted = set(going.values_list("pk", flat=True))
    for name, pk in ids.items():
        if pk not in wanted:
            shutil.rmtree(found[name], ignore_errors=True)
    oldest = time.time() - ABANDONED.total_seconds()
    for download in downloads_folder().glob("*"):
        if max((path.stat().st_mtime for path in download.iterdir()), default=0.0) < oldest:
            shutil.rmtree(download, ignore_errors=True)


def _uuid(name: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(name)
    except ValueError:
        return None


def _why_given_up(imp: DatasetImport) -> str:
    if not imp.upload_key:
        return _("The command that imported it ended early. Run it again: what was stored is not stored twice.")
    said = _(
        "The worker died %(tries)s times while it was at it, last while %(phase)s. Perhaps the machine has too little "
        "memory; the importer's log tells."
    )
    return said % {"tries": imp.tries, "phase": imp.phase or "?"}
