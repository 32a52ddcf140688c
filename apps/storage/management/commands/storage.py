"""`manage.py storage …`: looking after the object store."""

from typing import IO, Any, cast

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.translation import gettext as _
from rich.console import Console
from rich.markup import escape

from apps.storage.doctor import examine
from apps.storage.stores import browser_origins, platform_store_settings
from trainer.contract.variables import missing_store_variables
from trainer.store import open_store

_MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "failed": "[red]failed[/]"}


class Command(BaseCommand):
    help = "Look after the object store."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser(
            "doctor",
            help="Try all that platform, trainers and browsers ask of the store; the exit code is 1 where it fails",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        {"doctor": self._doctor}[options["action"]]()

    def _doctor(self) -> None:

        missing = missing_store_variables(settings.STORE_ENVIRONMENT)
        if missing:
            raise CommandError(_("Empty, and needed for this kind of store: %s") % ", ".join(missing))
        console = Console(file=cast("IO[str]", self.stdout._out), highlight=False)
        store_settings = platform_store_settings()
        failed = 0
        for finding in examine(open_store(store_settings), store_settings, browser_origins()):
            failed += finding.state == "failed"
            console.print(f"{finding.step:18}{_MARKS[finding.state]}  {escape(finding.detail)}", soft_wrap=True)
        if failed:
            raise CommandError(_("The object store does not do its work: see above for what to mend."))
        console.print(_("The object store does its work."))
