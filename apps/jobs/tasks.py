"""Celery tasks: each decides, acts and returns. None waits for training, and any may run twice."""

import logging
from collections.abc import Callable
from typing import Any

from celery import shared_task
from kombu.exceptions import KombuError, OperationalError

logger = logging.getLogger(__name__)


@shared_task(name="jobs.dispatch")
def dispatch() -> None:
    from apps.jobs import scheduling

    scheduling.dispatch()


@shared_task(name="jobs.reconcile")
def reconcile() -> None:
    from apps.jobs import reconciliation

    reconciliation.reconcile()


@shared_task(name="jobs.close_tracking_run")
def close_tracking_run(attempt_id: int) -> None:
    from apps.jobs import tracking

    tracking.close_run_of(attempt_id)


@shared_task(name="jobs.tidy_broker")
def tidy_broker() -> None:
    from apps.jobs import broker

    broker.forget_delivered_messages()


@shared_task(name="jobs.retention", time_limit=3600)
def retention() -> None:
    from apps.jobs import retention as rules

    outcome = rules.enforce(rules.plan())
    logger.info(
        "Retention: %s removed, %s bytes freed, %s failed.", len(outcome.removed), outcome.freed, len(outcome.failed)
    )


def wake_dispatcher() -> None:
    _send(dispatch.delay)


def wake_reconciler() -> None:
    _send(reconcile.delay)


def send_close_tracking_run(attempt_id: int) -> None:
    _send(close_tracking_run.delay, attempt_id)


def _send(delay: Callable[..., Any], *args: Any) -> None:
    """A wake-up only makes things faster: the periodic passes find all work in the database by themselves."""
    try:
        delay(*args)
    except (KombuError, OperationalError, OSError) as error:
        logger.warning("The broker did not take a wake-up (%s); the next periodic pass does the work.", error)
