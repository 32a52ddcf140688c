"""`manage.py importdataset`: a folder of labelled images becomes a dataset version."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import Q

from apps.projects.models import Project
from apps.storage.errors import StorageError
from apps.storage.services import import_folder
from trainer.contract.tasks import TRAINED_TASKS
from trainer.dataset import DatasetError
from trainer.store import StoreError


class Command(BaseCommand):
    help = "Check a folder (data.yaml, images/train, images/val, labels/train, labels/val) and freeze it as a version."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("folder", type=Path)
        parser.add_argument("--project", required=True, help="Name or id of the project; made where there is none")
        parser.add_argument("--name", help="Name of the dataset (default: the folder's)")
        parser.add_argument("--task", default=TRAINED_TASKS[0].value, help="What it is labelled for (%(default)s)")

    def handle(self, *args: Any, **options: Any) -> None:
        folder = options["folder"].resolve()
        if not folder.is_dir():
            raise CommandError(f"{folder} is no folder.")
        named = Q(pk=options["project"]) | Q(name=options["project"])
        project = Project.objects.filter(named).first()
        made = project is None
        project = project or Project.objects.create(name=options["project"])
        try:
            version = import_folder(
                folder, project=project, name=options["name"] or folder.name, task_type=options["task"], by=None
            )
        except (StorageError, DatasetError, StoreError, ValueError) as error:
            if made:
                project.delete()
            raise CommandError(str(error)) from error
        self.stdout.write(f"{version} in project {project}: {version.images} images, classes {version.class_names}.")
