"""The executor that the settings name."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from apps.executor.base import Executor
from apps.executor.subprocess import SubprocessExecutor

DEFAULT_TRAINER_COMMAND = (sys.executable, "-m", "trainer")


@cache
def get_executor() -> Executor:
    """The executor of this process. Raises ImproperlyConfigured where EXECUTOR names none."""
    executor = load_factory(executor_setting())()
    if not isinstance(executor, Executor):
        raise ImproperlyConfigured(f"EXECUTOR={executor_setting()!r} returned {executor!r}, which is no Executor.")
    return executor


def reset_executor() -> None:
    """Forget the executor, so that the next call reads the settings again. For tests."""
    get_executor.cache_clear()


def load_factory(name: str) -> Callable[[], object]:
    """The callable that makes the executor called `name`: a short name or a dotted path.

    Raises ImproperlyConfigured where there is none.
    """
    if name in SHORT_NAMES:
        return SHORT_NAMES[name]
    try:
        factory = import_string(name)
    except ImportError as error:
        raise ImproperlyConfigured(f"EXECUTOR={name!r} cannot be imported: {error}") from error
    if not callable(factory):
        raise ImproperlyConfigured(f"EXECUTOR={name!r} is not callable.")
    checked: Callable[[], object] = factory
    return checked


def executor_setting() -> str:
    """EXECUTOR, by default the one that needs no server."""
    return str(getattr(settings, "EXECUTOR", "subprocess"))


def trainer_command() -> tuple[str, ...]:
    """TRAINER_COMMAND, by default this Python with the module `trainer`."""
    return tuple(getattr(settings, "TRAINER_COMMAND", None) or DEFAULT_TRAINER_COMMAND)


def subprocess_from_settings() -> SubprocessExecutor:
    """The executor of this machine, as the settings describe it."""
    return SubprocessExecutor(
        root=Path(settings.ATTEMPTS_ROOT),
        command=trainer_command(),
        # An empty list asks for detection too; CUDA_VISIBLE_DEVICES="" is how to use no GPU at all.
        devices=getattr(settings, "TRAINER_DEVICES", None) or None,
        cpu_slots=getattr(settings, "CPU_SLOTS", 1),
        pythonpath=Path(settings.BASE_DIR),
    )


SHORT_NAMES: dict[str, Callable[[], Executor]] = {"subprocess": subprocess_from_settings}
