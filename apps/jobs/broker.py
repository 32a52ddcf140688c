"""Housekeeping of the embedded broker."""

import logging

from django.conf import settings
from sqlalchemy import create_engine, text

logger = logging.getLogger(__name__)


def forget_delivered_messages() -> int:
    """Delete what workers have taken. kombu's SQL transport only marks it, so the table would grow for ever.

    Returns how many rows went; 0 with any other broker, which tidies up after itself.
    """
    url = settings.CELERY_BROKER_URL
    if not url.startswith("sqla+"):
        return 0
    engine = create_engine(
        url.removeprefix("sqla+"), connect_args=settings.CELERY_BROKER_TRANSPORT_OPTIONS.get("connect_args", {})
    )
    with engine.begin() as connection:
        deleted = connection.execute(text("DELETE FROM kombu_message WHERE visible = 0")).rowcount
    engine.dispose()
    return int(deleted)
