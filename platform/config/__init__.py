"""The Django project. platform/ is on the path, so it is imported as `config`."""

from config.celery import app as celery_app

__all__ = ["celery_app"]
