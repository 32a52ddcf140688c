"""`manage.py demo`: the main job on a fresh machine, through the whole platform."""

import tempfile
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console

from apps.jobs import following, services
from apps.jobs.errors import JobError
from apps.jobs.models import Job
from apps.jobs.states import State
from apps.projects.models import Project
from apps.storage.errors import StorageError
from apps.storage.imports import in_words
from apps.storage.models import DatasetVersion
from apps.storage.sample import draw_sample
from apps.storage.services import import_folder
from config import local_services, setting_up
from trainer.contract.tasks import TaskType
from trainer.dataset.errors import DatasetError
from trainer.store import StoreError

PROJECT, DATASET = "Demo", "shapes"
# From random weights, so that it learns the same with and without a network to fetch published ones from.
TRAINING: dict[str, Any] = {
    "task_type": TaskType.OBJECT_DETECTION.value,
    "model_name": "yolo11n",
    "batch_size": 8,
    "learning_rate": 0.002,
    "image_size": 128,
    "pretrained": "never",
    "hyperparameters": {"optimizer": "AdamW", "mosaic": 0, "warmup_epochs": 1},
}


class Command(BaseCommand):
    help = "Draw a small labelled dataset, train on it through the whole platform, and show what came out."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--epochs", type=int, default=12, help="Epochs to train (default %(default)s)")

    def handle(self, *args: Any, **options: Any) -> None:
        console = Console()
        setting_up.prepare()
        user, password = setting_up.ensure_admin()
        project, _ = Project.objects.get_or_create(name=PROJECT)
        try:
            version = self._dataset(project, user)
        except (StorageError, DatasetError, StoreError, OSError) as error:
            raise CommandError(in_words(error)) from error
        splits = ", ".join(
            f"{count} {split} images with {version.instances[split]} boxes" for split, count in version.images.items()
        )
        console.print(f"Dataset {version}: {splits}.", highlight=False)
        try:
            with local_services.running():
                job = services.submit(
                    project=project, dataset=version, by=user, name="Demo", epochs=options["epochs"], **TRAINING
                )
                job = self._follow(job, user, console)
        except (JobError, local_services.ServicesError) as error:
            raise CommandError(str(error)) from error
        following.report(job, console)
        self._invite(console, password)
        if job.state != State.SUCCEEDED:
            raise CommandError(f"Job {job.pk} {job.get_state_display().lower()}.", returncode=1)

    def _dataset(self, project: Project, user: Any) -> DatasetVersion:
        with tempfile.TemporaryDirectory(prefix="trainyard-demo-") as scratch:
            folder = Path(scratch) / "shapes"
            draw_sample(folder)
            return import_folder(
                folder, project=project, name=DATASET, task_type=TaskType.OBJECT_DETECTION.value, by=user
            )

    def _follow(self, job: Job, user: Any, console: Console) -> Job:
        try:
            return following.follow(job.pk, console)
        except KeyboardInterrupt:
            console.print("Stopping the demo's job first …")
            job.refresh_from_db()
            if not job.ended:
                services.cancel(job, by=user)
            return following.follow(job.pk, console)

    def _invite(self, console: Console, password: str | None) -> None:
        known = f"password {password}" if password else "with the password that you gave"
        console.print("\nOpen the admin: run `make serve`, then http://localhost:8000/admin/")
        console.print(f"Log in as {setting_up.ADMIN}, {known}.", highlight=False)
