"""`manage.py writedocs`: write the pages that are made from the code."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from config import documentation


class Command(BaseCommand):
    help = "Write .env.example and the generated pages of docs/."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--check", action="store_true", help="Write nothing; fail where a page is out of date")

    def handle(self, *args: Any, **options: Any) -> None:
        stale = []
        for path, text in documentation.pages().items():
            file = settings.BASE_DIR / path
            if file.exists() and file.read_text(encoding="utf-8") == text:
                continue
            stale.append(str(path))
            if not options["check"]:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
                self.stdout.write(f"wrote {path}")
        if stale and options["check"]:
            raise CommandError(f"Out of date: {', '.join(stale)}. Run `make docs`.")
