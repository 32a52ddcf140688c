"""Running an import, and the one place that decides how it ends.

A worker claims an import by compare-and-set and counts the try; whatever it writes afterwards is written for that try
alone, so that a worker which was thought dead and comes back has no say. Errors end an import in words. Those that
may pass by themselves queue it again.
"""

import errno
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext as _

from apps.storage.archives import unpack
from apps.storage.errors import StorageError
from apps.storage.models import Dataset, DatasetImport, ImportState, Phase
from apps.storage.pipeline import Outcome, import_contents
from apps.storage.progress import Heartbeat, ImportLostError, Tell, heartbeat, mine
from apps.storage.stores import get_store
from apps.storage.uploads import forget_upload
from apps.storage.versions import SWEEP_LEASE, sweep_dataset
from trainer.dataset.errors import DatasetError
from trainer.store import CHUNK, StoreError

logger = logging.getLogger(__name__)

MAX_TRIES = 3
_ASKS_AGAIN_SECONDS = 1.0


def imports_folder() -> Path:
    """Where imports work and downloads lie, on the machine of whoever imports."""
    return Path(settings.DATA_DIR / "imports")


def run_import(import_id: uuid.UUID) -> None:
    """Carry out a queued import from its upload to its version. Does nothing where another worker has it."""
    imp = claim(import_id)
    if imp is None:
        return
    try:
        with working(imp) as (scratch, tell):
            import_archive(imp, _fetch(imp, scratch, tell), scratch, tell)
    except (StorageError, DatasetError, StoreError, OSError, DatabaseError) as error:
        logger.info("Import %s did not succeed: %s", imp.pk, error)  # `working` has written it down
    imp.refresh_from_db()
    if imp.ended:
        tidy_up(imp)


def tidy_up(imp: DatasetImport) -> None:
    """Delete what the store holds of an import that has ended and of which nothing came, or not at the first try."""
    try:
        forget_upload(imp)
        if imp.state != ImportState.SUCCEEDED or imp.tries > 1:
            sweep_dataset(imp.dataset)
    except StoreError as error:
        logger.warning("What the store holds of import %s is left to the sweep: %s", imp.pk, error)


def claim(import_id: uuid.UUID) -> DatasetImport | None:
    """Take a queued import; None where it is not queued any more. Waits while its dataset is being swept."""
    give_up = time.monotonic() + SWEEP_LEASE.total_seconds()
    while time.monotonic() < give_up:
        queued = DatasetImport.objects.filter(pk=import_id, state=ImportState.QUEUED)
        with transaction.atomic():
            dataset = Dataset.objects.select_for_update().filter(imports__in=queued).first()
            if dataset is None:
                return None
            now = timezone.now()
            if dataset.sweep_until is None or dataset.sweep_until <= now:
                taken = queued.update(state=ImportState.RUNNING, tries=F("tries") + 1, seen_at=now, message="")
                return DatasetImport.objects.select_related("dataset").get(pk=import_id) if taken else None
        time.sleep(_ASKS_AGAIN_SECONDS)
    return None


def import_archive(imp: DatasetImport, archive: Path, scratch: Path, tell: Tell) -> Outcome:
    """Unpack an archive, whose file is left where it is, and import what is in it."""
    contents = scratch / "contents"
    tell(Phase.UNPACKING, 0, archive.stat().st_size)
    unpack(archive, contents, progress=lambda done, total: tell(Phase.UNPACKING, done, total))
    return import_contents(imp, contents, scratch, tell)


@contextmanager
def working(imp: DatasetImport, also: Tell | None = None) -> Iterator[tuple[Path, Heartbeat]]:
    """A scratch folder and the heartbeat of a claimed import; however the work inside ends, the import ends so.

    Errors go on to the caller once they are written down.
    """
    scratch = imports_folder() / str(imp.pk) / str(imp.tries)
    try:
        shutil.rmtree(scratch.parent, ignore_errors=True)  # what a try that was killed has left
        scratch.mkdir(parents=True)
        with heartbeat(imp, also) as tell:
            yield scratch, tell
    except ImportLostError:
        raise  # it has ended already, or another worker has it
    except (KeyboardInterrupt, SystemExit):
        _end(imp, ImportState.CANCELLED, _("It was interrupted. Import it again: what was stored is not stored twice."))
        raise
    except Exception as error:  # Our own mistakes too: an import must not stay "running" for ever.
        _settle_error(imp, error)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with suppress(OSError):  # another try has it
            scratch.parent.rmdir()


def _fetch(imp: DatasetImport, scratch: Path, tell: Tell) -> Path:
    """The uploaded archive on this machine's disk, under the name that the person knows it by."""
    path = scratch / "upload" / imp.source
    path.parent.mkdir()
    total, done = imp.size or 0, 0
    with get_store().open(imp.upload_key) as source, path.open("wb") as target:
        tell(Phase.FETCHING, 0, total)
        while chunk := source.read(CHUNK):
            target.write(chunk)
            done += len(chunk)
            tell(Phase.FETCHING, done, total)
    return path


def _settle_error(imp: DatasetImport, error: Exception) -> None:
    words = in_words(error)
    passes = isinstance(error, DatabaseError) or (isinstance(error, StoreError) and error.retryable)
    if passes and imp.upload_key and imp.tries < MAX_TRIES:
        try_again = _("It will be tried again in a minute: %(why)s") % {"why": words}
        mine(imp).update(state=ImportState.QUEUED, message=try_again, seen_at=timezone.now())
        return
    if not isinstance(error, StorageError | DatasetError | StoreError | OSError):
        logger.exception("Import %s failed in a way that was not foreseen", imp.pk)
    _end(imp, ImportState.FAILED, words)


def _end(imp: DatasetImport, state: ImportState, message: str) -> None:
    mine(imp).update(state=state, message=message, ended_at=timezone.now(), seen_at=timezone.now())


def in_words(error: BaseException) -> str:
    """What a person is told: what happened, to what, and what to do."""
    if isinstance(error, StorageError | DatasetError | StoreError):
        return str(error)
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _("The disk of %(folder)s is full. Free space there, and import again.") % {
                "folder": settings.DATA_DIR
            }
        place = os.fspath(error.filename) if error.filename else str(settings.DATA_DIR)
        said = _("Cannot read or write %(place)s: %(why)s. Mend that, and import again.")
        return said % {"place": place, "why": error.strerror or error}
    said = _("The platform failed: %(kind)s: %(why)s. Import again; if it stays so, its log has the details.")
    return said % {"kind": type(error).__name__, "why": error}
