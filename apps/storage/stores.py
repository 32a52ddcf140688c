"""The object store that the settings name."""

from functools import cache

from django.conf import settings

from trainer.contract.variables import store_settings
from trainer.store import ObjectStore, open_store


@cache
def get_store() -> ObjectStore:
    return open_store(store_settings(settings.STORE_ENVIRONMENT))
