"""The object store that the settings name."""

from dataclasses import replace
from functools import cache

from django.conf import settings

from trainer.contract.variables import store_settings
from trainer.store import LocalStoreSettings, ObjectStore, StoreSettings, open_store


@cache
def get_store() -> ObjectStore:
    return open_store(platform_store_settings())


def platform_store_settings() -> StoreSettings:
    """What trainers are given, and the address for browsers, which concerns the platform alone."""
    shared = store_settings(settings.STORE_ENVIRONMENT)
    if isinstance(shared, LocalStoreSettings):
        return shared
    return replace(shared, public_endpoint=settings.STORAGE_PUBLIC_ENDPOINT or None)


def browser_origins() -> list[str]:
    """Where browsers load the platform's pages from."""
    return list(dict.fromkeys([*settings.CSRF_TRUSTED_ORIGINS, settings.PLATFORM_URL]))
