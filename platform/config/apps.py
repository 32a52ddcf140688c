from django.apps import AppConfig


class ConfigConfig(AppConfig):
    """The project itself: here so that bad settings are system checks like any other."""

    name = "config"
    label = "trainyard_config"

    def ready(self) -> None:
        from config import checks  # noqa: F401 - registers the checks
