"""`manage.py serve`: the whole platform on one machine."""

import os
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from config import local_services, setting_up


class Command(BaseCommand):
    help = "Run web, worker, scheduler and MLflow's pages on this machine until Ctrl-C. Running trainers go on."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="Address to listen on (default %(default)s)")
        parser.add_argument("--port", type=int, help="Port of the web pages (default: PLATFORM_URL's)")
        parser.add_argument("--no-mlflow", action="store_true", help="Do not serve MLflow's pages")

    def handle(self, *args: Any, **options: Any) -> None:
        port = options["port"] or urlsplit(settings.PLATFORM_URL).port or 8000
        if there := local_services.running_at():
            raise CommandError(f"This installation is running already, at {there}.")
        if not local_services.port_is_free(port, options["host"]):
            raise CommandError(f"Port {port} is taken; stop what uses it, or choose another: make serve PORT=8001")
        mlflow_port = self._mlflow_port(options)
        setting_up.prepare()
        _, password = setting_up.ensure_admin()
        self._introduce(port, mlflow_port, password)
        config = local_services.write_config(host=options["host"], port=port, mlflow_port=mlflow_port, to_files=True)
        command = local_services.supervisord_command(config)
        self.stdout.flush()
        os.execv(command[0], command)  # noqa: S606 - the process manager takes this process's place

    def _mlflow_port(self, options: dict[str, Any]) -> int | None:
        """Only MLflow's pages over a database of ours are served; a tracking server elsewhere serves itself."""
        if options["no_mlflow"] or not settings.MLFLOW_TRACKING_URI.startswith("sqlite"):
            return None
        port = urlsplit(settings.MLFLOW_UI_URL).port or 5000
        if not local_services.port_is_free(port, options["host"]):
            raise CommandError(
                f"Port {port} for MLflow's pages is taken; set MLFLOW_UI_URL=http://localhost:PORT to another one, "
                "or leave MLflow out: make serve ARGS=--no-mlflow"
            )
        return port

    def _introduce(self, port: int, mlflow_port: int | None, password: str | None) -> None:
        known = f"password {password}" if password else "with the password that you gave"
        self.stdout.write(f"Admin   http://localhost:{port}/admin/  (user {setting_up.ADMIN}, {known})")
        self.stdout.write(f"API     http://localhost:{port}/api/docs")
        if mlflow_port:
            self.stdout.write(f"MLflow  http://localhost:{mlflow_port}")
        self.stdout.write(f"Logs    {settings.DATA_DIR / 'log'}")
        self.stdout.write("They answer in a few seconds. Ctrl-C stops all of it; running trainers go on.\n")
