"""Celery tasks. Importing takes as long as the data is large, and has a queue and a worker of its own."""

import logging
import uuid

from celery import shared_task
from kombu.exceptions import KombuError, OperationalError

logger = logging.getLogger(__name__)

# Far beyond any import: the platform's own limit of minutes is for tasks that decide and return.
_LONGEST_IMPORT_SECONDS = 7 * 24 * 3600


@shared_task(name="storage.run_import", time_limit=_LONGEST_IMPORT_SECONDS)
def run_import(import_id: str) -> None:
    from apps.storage import imports

    imports.run_import(uuid.UUID(import_id))


@shared_task(name="storage.sweep")
def sweep() -> None:
    from apps.storage import sweeping

    sweeping.sweep()


def wake_importer(import_id: uuid.UUID, expires_seconds: int = _LONGEST_IMPORT_SECONDS) -> None:
    """A wake-up only makes it faster: the sweep finds what is queued in the database."""
    try:
        run_import.s(str(import_id)).apply_async(expires=expires_seconds)
    except (KombuError, OperationalError, OSError) as error:
        logger.warning("The broker did not take a wake-up (%s); the next sweep sends another.", error)
