"""System checks of the object store. They use the network, so that `check --deploy` alone runs them."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004 - Django's own name

from apps.storage.doctor import examine
from apps.storage.stores import browser_origins, platform_store_settings
from trainer.contract.variables import missing_store_variables
from trainer.store import open_store


@register
def the_public_endpoint_is_an_address(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    given = settings.STORAGE_PUBLIC_ENDPOINT
    if not given or given.startswith(("http://", "https://")):
        return []
    return [
        Error("STORAGE_PUBLIC_ENDPOINT is not an address; write https://HOST, or leave it empty.", id="storage.E002")
    ]


@register(Tags.security, deploy=True)
def the_store_does_its_work(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    if missing_store_variables(settings.STORE_ENVIRONMENT):
        return []  # said by another check
    store_settings = platform_store_settings()
    found = examine(open_store(store_settings), store_settings, browser_origins())
    return [
        Error(f"Object store, {finding.step}: {finding.detail}", id="storage.E001")
        if finding.state == "failed"
        else Warning(f"Object store, {finding.step}: {finding.detail}", id="storage.W001")
        for finding in found
        if finding.state != "ok"
    ]
