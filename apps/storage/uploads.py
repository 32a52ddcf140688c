"""Uploads: an archive on its way from a browser or a script into the store, part by part.

Which parts have arrived is asked of the store, so that an upload goes on wherever the person opens it again. Bytes go
straight to the store where it has a server of its own, and else through the platform (`receive_part`).

Nothing here holds a transaction open while it speaks with the store. What is left of an upload that ended is named by
its row (`upload_key`) until it is deleted; `sweeping` deletes what could not be deleted at once.
"""

import logging
import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from django.contrib.auth.models import AbstractUser
from django.db import transaction
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from apps.projects.rights import Right
from apps.storage import tasks
from apps.storage.errors import InvalidUploadError, WrongStateError
from apps.storage.models import GOING, Dataset, DatasetImport, ImportState
from apps.storage.options import checked_options
from apps.storage.rights import require
from apps.storage.stores import get_store
from trainer.store import MAX_OBJECT_BYTES, StoreError, UploadMissingError, UploadPart, part_size_for

LINK_SECONDS = 12 * 3600
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.bz2", ".tar.xz")
logger = logging.getLogger(__name__)

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")


def start_upload(
    *, dataset: Dataset, filename: str, size: int, by: AbstractUser, options: dict[str, Any] | None = None
) -> DatasetImport:
    """Begin an upload of `size` bytes into `dataset`; parts of `part_size` bytes may follow, the last one shorter.

    `options`: `format` (a name of `apps.storage.formats`; None detects it) and `val_share` (0 to 1; the share that
    becomes the validation split where the data has none).

    Raises:
        NotPermittedError: `by` may not train in the dataset's project.
        InvalidUploadError: with every problem, by field. Nothing was begun.
        StoreError: the store did not begin it; nothing was recorded.
    """
    require(by, Right.TRAIN, dataset)
    filename = PurePosixPath(filename.replace("\\", "/")).name
    chosen, problems = checked_options(options or {})
    problems |= _problems_of(filename, size)
    if problems:
        raise InvalidUploadError(problems)
    imp = DatasetImport.objects.create(
        dataset=dataset,
        created_by_id=by.pk,
        source=filename,
        size=size,
        options=chosen,
        state=ImportState.UPLOADING,
        part_size=part_size_for(size),
    )
    imp.upload_key = f"uploads/{imp.pk}/archive"
    try:
        imp.upload_id = get_store().start_upload(imp.upload_key)
    except StoreError:
        imp.delete()
        raise
    imp.save(update_fields=["upload_key", "upload_id"])
    return imp


def resumable(dataset: Dataset, filename: str, size: int, by: AbstractUser) -> DatasetImport | None:
    """The upload of a file of this name and size that `by` began in `dataset` and did not finish: the newest."""
    mine = DatasetImport.objects.filter(dataset=dataset, created_by_id=by.pk, state=ImportState.UPLOADING)
    return mine.filter(source=filename, size=size).exclude(upload_id="").order_by("-created_at").first()


def part_count(imp: DatasetImport) -> int:
    size, part_size = _sizes(imp)
    return -(-size // part_size)


def size_of_part(imp: DatasetImport, number: int) -> int:
    """The bytes that part `number` (from 1) must have. Raises InvalidUploadError where there is no such part."""
    size, part_size = _sizes(imp)
    last = part_count(imp)
    if not 1 <= number <= last:
        raise InvalidUploadError({"number": [_("Parts are numbered from 1 to %(last)s.") % {"last": last}]})
    return size - part_size * (last - 1) if number == last else part_size


def parts(imp: DatasetImport) -> list[UploadPart]:
    """The parts that the store holds, by number; none once the upload is complete. Raises StoreError."""
    if imp.state != ImportState.UPLOADING:
        return []
    return list(get_store().list_parts(imp.upload_key, imp.upload_id))


def part_urls(imp: DatasetImport, numbers: Iterable[int], *, base_url: str) -> dict[int, str]:
    """Where to PUT these parts, by number: presigned by the store, or the platform's own address below `base_url`.

    A presigned link needs no credentials and must get none; the platform's own address needs the caller's.

    Raises:
        WrongStateError: it is not being uploaded.
        InvalidUploadError: there is no such part.
        StoreError.
    """
    _require_uploading(imp)
    _seen(imp)
    store, urls = get_store(), {}
    for number in numbers:
        size_of_part(imp, number)
        signed = store.presign_part(imp.upload_key, imp.upload_id, number, LINK_SECONDS)
        urls[number] = signed or base_url.rstrip("/") + reverse("api:import-part", args=[imp.pk, number])
    return urls


def receive_part(imp: DatasetImport, number: int, stream: BinaryIO, size: int) -> None:
    """Store part `number` from `stream`, in constant memory. Sent again, it replaces the one there is.

    Raises:
        WrongStateError: it is not being uploaded, or not any more.
        InvalidUploadError: no such part, or `size` is not that of the part.
        StoreError: also where the stream ends early.
        OSError: the sender went away.
    """
    _require_uploading(imp)
    wanted = size_of_part(imp, number)
    if size != wanted:
        said = _("Part %(number)s has %(wanted)s bytes, and %(size)s were announced.")
        raise InvalidUploadError({"size": [said % {"number": number, "wanted": wanted, "size": size}]})
    _seen(imp)
    try:
        get_store().put_part(imp.upload_key, imp.upload_id, number, stream, size)
    except UploadMissingError as error:
        raise WrongStateError(_("The upload of %(name)s is over.") % {"name": imp.source}) from error


def complete_upload(imp: DatasetImport, by: AbstractUser) -> DatasetImport:
    """Put the parts together and queue the import. May be repeated where its answer was lost.

    Raises:
        NotPermittedError, StoreError.
        WrongStateError: it was cancelled, or has ended.
        InvalidUploadError: parts are missing, or have the wrong size; the message names the first of them.
    """
    require(by, Right.TRAIN, imp.dataset)
    imp.refresh_from_db()
    if imp.state in (ImportState.QUEUED, ImportState.RUNNING, ImportState.SUCCEEDED):
        return imp
    _require_uploading(imp)
    key, stored = imp.upload_key, _put_together(imp)
    if stored != imp.size:
        said = _("The store has %(stored)s bytes of %(name)s, and %(size)s were announced. Upload it again.")
        raise InvalidUploadError({"size": [said % {"stored": stored, "name": imp.source, "size": imp.size}]})
    with transaction.atomic():
        uploading = DatasetImport.objects.filter(pk=imp.pk, state=ImportState.UPLOADING)
        if uploading.update(state=ImportState.QUEUED, upload_id="", seen_at=timezone.now()):
            transaction.on_commit(lambda: tasks.wake_importer(imp.pk))
    imp.refresh_from_db()
    if imp.state == ImportState.CANCELLED:
        imp.upload_key = imp.upload_key or key  # whoever cancelled it found nothing at the key yet, and forgot it
        forget_upload(imp)
    return imp


def cancel_import(imp: DatasetImport, by: AbstractUser) -> DatasetImport:
    """Give up an upload or an import. One that runs stops at its next step; nothing is left of it in the store.

    Raises:
        NotPermittedError
        WrongStateError: it has ended.
    """
    require(by, Right.TRAIN, imp.dataset)
    going = DatasetImport.objects.filter(pk=imp.pk, state__in=GOING)
    said = _("Cancelled by %(person)s.") % {"person": by.get_username()}
    moved = going.update(state=ImportState.CANCELLED, message=said, ended_at=timezone.now())
    imp.refresh_from_db()
    if not moved:
        state = imp.get_state_display().lower()
        raise WrongStateError(_("The import of %(name)s has ended: it is %(state)s.") % {"name": imp, "state": state})
    try:
        forget_upload(imp)
    except StoreError as error:
        logger.warning("What the store holds of the cancelled import %s is left to the sweep: %s", imp.pk, error)
    return imp


def forget_upload(imp: DatasetImport) -> None:
    """Delete what the store holds of the upload, complete or not. Raises StoreError; may be repeated.

    An upload is completed before its row says so, so that both have to go whatever the row says.
    """
    if not imp.upload_key:
        return
    store = get_store()
    if imp.upload_id:
        store.abort_upload(imp.upload_key, imp.upload_id)
    store.delete(imp.upload_key)
    DatasetImport.objects.filter(pk=imp.pk).update(upload_key="", upload_id="")


def _seen(imp: DatasetImport) -> None:
    """Somebody is still at it: the sweep gives up uploads that were left alone for days."""
    DatasetImport.objects.filter(pk=imp.pk).update(seen_at=timezone.now())


def _put_together(imp: DatasetImport) -> int | None:
    """Complete the upload in the store; return the object's size in bytes."""
    store = get_store()
    try:
        held = {part.number: part.size for part in store.list_parts(imp.upload_key, imp.upload_id)}
        _require_all(imp, held)
        return store.complete_upload(imp.upload_key, imp.upload_id).size
    except UploadMissingError:
        # Completed by a request whose answer, or whose process, was lost.
        stored = store.stat(imp.upload_key)
        if stored is None:
            raise
        return stored.size


def _require_all(imp: DatasetImport, held: dict[int, int]) -> None:
    last = part_count(imp)
    wrong = [number for number in range(1, last + 1) if held.get(number) != size_of_part(imp, number)]
    if not wrong:
        return
    first = ", ".join(map(str, wrong[:10])) + (" …" if len(wrong) > 10 else "")
    said = _("%(missing)s of %(all)s parts are not there yet: %(first)s. Send them, then complete the upload again.")
    raise InvalidUploadError({"parts": [said % {"missing": len(wrong), "all": last, "first": first}]})


def _require_uploading(imp: DatasetImport) -> None:
    if imp.state != ImportState.UPLOADING:
        state = imp.get_state_display().lower()
        raise WrongStateError(_("%(name)s is not being uploaded: it is %(state)s.") % {"name": imp, "state": state})


def _problems_of(filename: str, size: int) -> dict[str, list[str]]:
    problems: dict[str, list[str]] = {}
    if not filename or len(filename.encode("utf-8", "replace")) > 255 or _UNPRINTABLE.search(filename):
        problems["filename"] = [_("must be a file name of at most 255 bytes: shorten it")]
    elif not filename.lower().endswith(ARCHIVES):
        problems["filename"] = [_("must end as an archive does: %(suffixes)s") % {"suffixes": ", ".join(ARCHIVES)}]
    if not 0 < size <= MAX_OBJECT_BYTES:
        problems["size"] = [_("must be from 1 to %(most)s bytes") % {"most": MAX_OBJECT_BYTES}]
    return problems


def _sizes(imp: DatasetImport) -> tuple[int, int]:
    if imp.size is None or imp.part_size is None:
        raise WrongStateError(_("%(name)s was not uploaded in parts.") % {"name": imp})
    return imp.size, imp.part_size
