"""`manage.py retention`: delete what the projects' rules do not keep, or say what that would be."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import Q
from django.template.defaultfilters import filesizeformat

from apps.jobs import retention
from apps.projects.models import Project
from trainer.store import StoreError


class Command(BaseCommand):
    help = "Delete checkpoints of ended jobs that their projects do not keep, and leftovers. Runs once a day by itself."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--project", help="Name or id of the project (default: all)")
        parser.add_argument("--dry-run", action="store_true", help="Only say what would be deleted, and why")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            removals = retention.plan(_project(options["project"]))
        except StoreError as error:
            raise CommandError(str(error)) from error
        for removal in removals:
            self.stdout.write(f"{filesizeformat(removal.size):>10}  {removal.what}: {removal.why}")
        total = sum(removal.size for removal in removals)
        if options["dry_run"]:
            self.stdout.write(f"{len(removals)} would be removed, {_size(total)}. Nothing was changed.")
            return
        outcome = retention.enforce(removals)
        for removal in outcome.spared:
            self.stdout.write(f"Spared, since it is in use by now: {removal.what}")
        self.stdout.write(f"{len(outcome.removed)} removed, {_size(outcome.freed)} freed.")
        if outcome.failed:
            told = "\n".join(f"{removal.what}: {error}" for removal, error in outcome.failed)
            raise CommandError(f"{len(outcome.failed)} could not be removed; mend that and run this again.\n{told}")


def _size(count: int) -> str:
    return f"{filesizeformat(count)} ({count} bytes)"


def _project(named: str | None) -> Project | None:
    if not named:
        return None
    project = Project.objects.filter(Q(pk=named) | Q(name=named)).first()
    if project is None:
        names = ", ".join(Project.objects.values_list("name", flat=True)[:20]) or "none yet"
        raise CommandError(f"No project {named!r}; there are: {names}.")
    return project
