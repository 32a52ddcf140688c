"""The executor app."""

from django.apps import AppConfig


class ExecutorConfig(AppConfig):
    """Registers the app's system checks."""

    name = "apps.executor"
    label = "executor"
    verbose_name = "Executor"

    def ready(self) -> None:
        from apps.executor import checks  # noqa: F401 - importing it registers the checks
