"""System checks: a wrong setting is named by `manage.py check`, not by the first job."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured

from apps.executor.registry import SHORT_NAMES, executor_setting, load_factory, trainer_command


@register
def check_executor(app_configs: Sequence[AppConfig] | None, **kwargs: object) -> list[CheckMessage]:
    """EXECUTOR must name something that can be loaded."""
    try:
        load_factory(executor_setting())
    except ImproperlyConfigured as error:
        names = ", ".join(repr(name) for name in SHORT_NAMES)
        hint = f"Write {names}, or the dotted path of a callable that returns an Executor."
        return [Error(str(error), hint=hint, id="executor.E001")]
    return []


@register
def check_attempts_root(app_configs: Sequence[AppConfig] | None, **kwargs: object) -> list[CheckMessage]:
    """ATTEMPTS_ROOT must be a folder this process can write to, or can make."""
    if executor_setting() != "subprocess":
        return []
    root = getattr(settings, "ATTEMPTS_ROOT", None)
    hint = "Set ATTEMPTS_ROOT to a folder on a local disk that web and worker can both write to."
    if not root:
        return [Error("ATTEMPTS_ROOT is not set.", hint=hint, id="executor.E002")]
    existing = Path(root).absolute()
    while not existing.exists():
        existing = existing.parent
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return []
    return [Error(f"ATTEMPTS_ROOT={str(root)!r} is not writable.", hint=hint, id="executor.E002")]


@register
def check_trainer_command(app_configs: Sequence[AppConfig] | None, **kwargs: object) -> list[CheckMessage]:
    """TRAINER_COMMAND must begin with a program that exists."""
    if executor_setting() != "subprocess":
        return []
    program = trainer_command()[0]
    if shutil.which(program) is not None:
        return []
    return [
        Error(
            f"TRAINER_COMMAND begins with {program!r}, which was not found.",
            hint=f"Begin it with a program on PATH or an absolute path, such as {sys.executable}.",
            id="executor.E003",
        )
    ]


@register
def check_platform(app_configs: Sequence[AppConfig] | None, **kwargs: object) -> list[CheckMessage]:
    """The subprocess executor rests on Linux's prctl and /proc."""
    if executor_setting() != "subprocess" or sys.platform == "linux":
        return []
    hint = "Run Trainyard on Linux (a container or virtual machine will do), or choose another executor."
    return [Error("EXECUTOR='subprocess' works on Linux only.", hint=hint, id="executor.E004")]
