"""`manage.py importdataset`: labelled images from a folder, an archive or an address become a dataset version."""

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Q
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from apps.projects.models import Project
from apps.storage.errors import StorageError
from apps.storage.formats import FORMATS
from apps.storage.imports import in_words
from apps.storage.models import TASK_CHOICES, Dataset, DatasetVersion, Phase
from apps.storage.options import VAL_SHARE
from apps.storage.progress import Tell
from apps.storage.services import import_source
from apps.storage.sources import default_name
from trainer.dataset.errors import DatasetError
from trainer.store import StoreError

_FINDINGS_SHOWN = 3  # of each kind
_CLASSES_SHOWN = 10
_IN_BYTES = {Phase.DOWNLOADING, Phase.FETCHING, Phase.UNPACKING, Phase.STORING}
_TASKS = [task for task, _name in TASK_CHOICES]


class Command(BaseCommand):
    help = (
        "Check labelled images and freeze them as a version of a dataset. SOURCE is a folder, an archive (zip, tar, "
        "tar.gz, tar.zst), or an address of one: https://… or s3://bucket/key. Interrupted, it goes on when it is run "
        "again. The exit code is 1 where the data has errors: the version can then be looked at, and not trained on."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("source", metavar="SOURCE")
        parser.add_argument("--project", required=True, help="Name or id of the project; made where there is none")
        parser.add_argument("--name", help="Name of the dataset (default: the source's)")
        parser.add_argument("--task", choices=_TASKS, help="What it is labelled for; needed for a new dataset")
        parser.add_argument("--format", choices=FORMATS, help="How it is laid out (default: detected)")
        parser.add_argument(
            "--val-share", type=float, default=VAL_SHARE, help="Share that validates, if not split (%(default)s)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        console = Console(file=cast("IO[str]", self.stdout._out))
        name = options["name"] or default_name(options["source"])
        try:
            _require_database()
            project, made = _project(options["project"])
            try:
                with shown_progress(console) as tell:
                    outcome = import_source(
                        options["source"],
                        project=project,
                        name=name,
                        task_type=_task_of(project, name, options["task"]),
                        by=None,
                        options={"format": options["format"], "val_share": options["val_share"]},
                        tell=tell,
                    )
            finally:
                if made and not project.datasets.exists():
                    project.delete()
        except (StorageError, DatasetError, StoreError, OSError, DatabaseError, sqlite3.Error) as error:
            raise CommandError(in_words(error)) from error
        except KeyboardInterrupt:
            raise CommandError("Interrupted. Run it again to go on.", returncode=130) from None
        self._report(outcome.version, outcome.made, console)
        if not outcome.version.trainable:
            raise CommandError(f"{outcome.version} has errors: mend them and import again.", returncode=1)

    def _report(self, version: DatasetVersion, made: bool, console: Console) -> None:
        what = "is new" if made else "holds the same already: nothing changed"
        say = _speaker(console)
        say(f"{version} in project {version.dataset.project} {what}.")
        for split, images in version.images.items():
            say(f"  {split}: {images} images, {version.instances.get(split, 0)} labelled objects")
        say(f"  classes: {_listed(version.class_names)}")
        say(f"  {version.files} files, {version.size} bytes, SHA-256 {version.sha256}")
        for count in version.finding_counts.all():
            say(f"{count.number} × {count.get_severity_display().lower()} {count.code}")
            found = version.findings.filter(severity=count.severity, code=count.code)
            for finding in found.order_by("id")[:_FINDINGS_SHOWN]:
                place = f"{finding.path}, line {finding.line}" if finding.line else finding.path
                say(f"    {place}: {finding.message}" if place else f"    {finding.message}")
            if count.number > _FINDINGS_SHOWN:
                say(f"    … and {count.number - _FINDINGS_SHOWN} more")


def _listed(names: list[str]) -> str:
    more = len(names) - _CLASSES_SHOWN
    return ", ".join(names[:_CLASSES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _speaker(console: Console) -> Any:
    """Paths and messages are printed as they are: no markup, no colours, no line breaks."""
    return lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def shown_progress(console: Console) -> Iterator[Tell]:
    """A bar for each phase on a terminal; elsewhere a line as each begins."""
    say = _speaker(console)
    begun: dict[Phase, TaskID] = {}
    if not console.is_terminal:

        def tell_in_lines(phase: Phase, done: int, total: int) -> None:
            if phase not in begun:
                begun[phase] = TaskID(len(begun))
                say(f"{phase.label} …")

        yield tell_in_lines
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:

        def tell(phase: Phase, done: int, total: int) -> None:
            if phase not in begun:
                for task in begun.values():
                    progress.stop_task(task)
                begun[phase] = progress.add_task(str(phase.label), total=None, count="")
            progress.update(begun[phase], completed=done, total=total or None, count=_count(phase, done, total))

        yield tell


def _count(phase: Phase, done: int, total: int) -> str:
    if phase in _IN_BYTES:
        return f"{done / 1e6:.1f} of {total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"
    return f"{done} of {total}" if total else ""


def _project(named: str) -> tuple[Project, bool]:
    found = Project.objects.filter(Q(pk=named) | Q(name=named)).first()
    return (found, False) if found else (Project.objects.create(name=named), True)


def _task_of(project: Project, name: str, asked: str | None) -> str:
    """A dataset has one task for good; a new one has to be told."""
    existing = Dataset.objects.filter(project=project, name=name).values_list("task_type", flat=True).first()
    task = asked or existing
    if task is None:
        raise CommandError(f"{name} is a new dataset: say by --task what it is labelled for: {', '.join(_TASKS)}.")
    return task


def _require_database() -> None:
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        database = settings.DATABASES["default"]["NAME"]
        python, cwd = Path(sys.executable), Path.cwd()
        command = f"{python.relative_to(cwd) if python.is_relative_to(cwd) else python} manage.py migrate"
        raise CommandError(
            f"The database {database} is not up to date. Run `{command}` first; `make serve` does it as well."
        )
