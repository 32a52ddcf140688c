"""System checks of the settings: a bad value is an error that says what to write instead."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, register

from trainer.contract.variables import missing_store_variables

TRACKERS = ("http://", "https://", "sqlite:///", "postgresql")
BROKERS = ("sqla+sqlite://", "sqla+postgresql", "redis://", "rediss://", "amqp://", "memory://")


@register
def values_can_be_read(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    return [Error(problem, id="trainyard.E001") for problem in settings.ENV.problems]


@register
def addresses_are_addresses(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    problems: list[CheckMessage] = [
        Error(f"{name} is not an address; write something like http://localhost:8000.", id="trainyard.E002")
        for name in ("PLATFORM_URL", "MLFLOW_UI_URL")
        if not getattr(settings, name).startswith(("http://", "https://"))
    ]
    if settings.MLFLOW_TRACKING_URI != "off" and not settings.MLFLOW_TRACKING_URI.startswith(TRACKERS):
        problems.append(
            Error(
                "MLFLOW_TRACKING_URI is no address; write http://HOST:5000, off, or leave it empty.",
                id="trainyard.E004",
            )
        )
    if not settings.CELERY_BROKER_URL.startswith(BROKERS):
        problems.append(
            Error(
                "CELERY_BROKER_URL names no broker that is supported; write redis://HOST:6379/0, or leave it empty.",
                id="trainyard.E003",
            )
        )
    return problems


@register
def the_store_has_all_it_needs(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    environment = settings.STORE_ENVIRONMENT
    return [
        Error(f"{name} is empty and STORAGE_TYPE is {environment['STORAGE_TYPE']}; set it.", id="trainyard.E005")
        for name in missing_store_variables(environment)
    ]


@register(deploy=True)
def trainers_elsewhere_can_reach_us(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[CheckMessage]:
    if settings.EXECUTOR != "subprocess" and "localhost" in settings.PLATFORM_URL:
        return [
            checks.Warning(
                "PLATFORM_URL is localhost, and trainers run on other machines; write the address they can reach.",
                id="trainyard.W001",
            )
        ]
    return []
