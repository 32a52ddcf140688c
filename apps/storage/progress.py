"""How far an import is, and whether it is still wanted."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.db import DatabaseError, connection
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from apps.storage.errors import WrongStateError
from apps.storage.models import DatasetImport, ImportState, Phase

logger = logging.getLogger(__name__)

# Phase, done, total: what is counted depends on the phase, and a total of 0 is not known yet.
Tell = Callable[[Phase, int, int], None]

_WRITTEN_EVERY_SECONDS = 0.5
_BEAT_SECONDS = 20.0


class ImportLostError(WrongStateError):
    """The import was cancelled, or handed to another worker; whoever is at it stops."""

    def __init__(self, imp: DatasetImport) -> None:
        super().__init__(_("The import of %(name)s was cancelled.") % {"name": imp})


def mine(imp: DatasetImport) -> "QuerySet[DatasetImport]":
    """The row of `imp` while this try is the one that runs."""
    return DatasetImport.objects.filter(pk=imp.pk, state=ImportState.RUNNING, tries=imp.tries)


class Heartbeat:
    """Writes progress into the row, and stops the work of an import that is not wanted.

    It writes at most twice a second, and always as a phase begins and as all of it is done.
    """

    def __init__(self, imp: DatasetImport, also: Tell | None) -> None:
        self._imp, self._also = imp, also
        self._phase: Phase | None = None
        self._written, self._whole = 0.0, False

    def __call__(self, phase: Phase, done: int, total: int) -> None:
        """Raises ImportLostError."""
        if self._also:
            self._also(phase, done, total)
        now, whole = time.monotonic(), 0 < total <= done
        news = phase != self._phase or (whole and not self._whole)
        if not news and now - self._written < _WRITTEN_EVERY_SECONDS:
            return
        self._phase, self._written, self._whole = phase, now, whole
        if not mine(self._imp).update(phase=phase, done=done, total=total, seen_at=timezone.now()):
            raise ImportLostError(self._imp)


@contextmanager
def heartbeat(imp: DatasetImport, also: Tell | None = None) -> Iterator[Heartbeat]:
    """The heartbeat of a running import. A thread keeps it going through steps that have nothing to tell for long."""
    over = threading.Event()
    thread = threading.Thread(target=_keep_alive, args=[imp, over], name="import-heartbeat", daemon=True)
    thread.start()
    try:
        yield Heartbeat(imp, also)
    finally:
        over.set()
        thread.join()


def _keep_alive(imp: DatasetImport, over: threading.Event) -> None:
    try:
        while not over.wait(_BEAT_SECONDS):
            try:
                mine(imp).update(seen_at=timezone.now())
            except DatabaseError as error:  # the next beat may get through, and many may be missed
                logger.warning("The sign of life of import %s was not written: %s", imp.pk, error)
    finally:
        connection.close()
